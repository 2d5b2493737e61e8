package evidence

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/archive"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/tiles"
	"github.com/civibus/civibus/evidence/wal"
	"github.com/civibus/civibus/internal/shred"
)

// FsckOptions says how thoroughly and with which keys Fsck works.
type FsckOptions struct {
	// PublicKeys are the log keys, present and past; without any, signatures are
	// not checked.
	PublicKeys []civibus.PublicKey
	// ArchiveKey is the file with the archive key; default as in Config.
	ArchiveKey string
	// ErasureKeys is the file with the erasure keys; default as in Config.
	ErasureKeys string
	// SkipArchive leaves the archived bodies unread.
	SkipArchive bool
	// BodyRetention as in Config: bodies older than this need not be there.
	BodyRetention time.Duration
	// Clock tells the time; default time.Now.
	Clock civibus.Clock
	// Progress, when set, is told what is being checked.
	Progress func(step string, done, total uint64)
}

// Problem is one finding of Fsck.
type Problem struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"` // -1 when the file as a whole is meant
	What   string `json:"what"`
	Fix    string `json:"fix"`
}

// Report is the outcome of Fsck.
type Report struct {
	Origin   string    `json:"origin"`
	Size     uint64    `json:"size"`    // leaves in the Merkle log
	Records  uint64    `json:"records"` // records that match their leaves
	Expired  uint64    `json:"expired"` // leaves whose record is beyond its retention
	Erased   uint64    `json:"erased"`  // records that were erased, as notes say
	Pending  uint64    `json:"pending"` // records not yet in the Merkle log
	Bodies   uint64    `json:"bodies"`  // archived bodies decrypted and compared
	Anchors  uint64    `json:"anchors"` // anchored checkpoints that match the rebuilt tree
	Notes    []string  `json:"notes"`   // what is unusual but not wrong
	Problems []Problem `json:"problems"`
}

// OK reports whether nothing is wrong.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

const (
	fixBackup = "restore the file from a backup; nothing was changed"
	fixIndex  = "restore the index from a backup taken with the rest of the directory; nothing was changed"
	fixKeys   = "put the newest copy of the erasure keys in its place; nothing was changed"
	fixLog    = "keep a copy of the directory for investigation and restore all of it from one backup; nothing was changed"
)

// Fsck checks the closed log in dir against itself and changes nothing: frames
// of the write-ahead log, the whole tree rebuilt from its entries against every
// tile and checkpoint, records and salts against leaves, archived bodies
// against records, and anchored checkpoints against the tree. The error is about
// the check itself; what is wrong with the log is in the report.
func Fsck(ctx context.Context, dir string, opts FsckOptions) (*Report, error) {
	opts.ArchiveKey = cmp.Or(opts.ArchiveKey, filepath.Join(dir, "archive.key"))
	opts.ErasureKeys = cmp.Or(opts.ErasureKeys, filepath.Join(dir, keysFile))
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Progress == nil {
		opts.Progress = func(string, uint64, uint64) {}
	}
	if _, err := os.Stat(filepath.Join(dir, lockFile)); err != nil {
		return nil, fmt.Errorf("check evidence log: %s holds none: %w", dir, err)
	}
	lock, err := lockDir(dir, os.O_RDONLY) // nothing is written: the log may be on a read-only medium
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	f := &fsck{dir: dir, opts: opts, report: &Report{}}
	defer f.close()
	for _, step := range []func(context.Context) error{f.checkIndex, f.checkTree, f.checkRecords} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return f.report, nil
}

// fsck is a check under way.
type fsck struct {
	dir     string
	opts    FsckOptions
	report  *Report
	index   *index // nil when it cannot be read
	next    uint64
	leaves  uint64
	expired uint64
	tree    *tiles.Tree
	archive *archive.Archive
	keys    *shred.Keys // nil: they are not there
	noted   uint64      // records that were erased by the notes
	keyless bool        // that the erasure keys are not there has been reported
	noKey   bool        // the archive key cannot be read, and that has been reported
}

func (f *fsck) close() {
	if f.index != nil {
		f.index.close()
	}
}

func (f *fsck) problem(file string, offset int64, fix, format string, args ...any) {
	f.report.Problems = append(f.report.Problems, Problem{File: file, Offset: offset, What: fmt.Sprintf(format, args...), Fix: fix})
}

// checkIndex opens the index and reads its totals.
func (f *fsck) checkIndex(context.Context) error {
	f.opts.Progress("index", 0, 1)
	name := filepath.Join(f.dir, indexDir)
	x, err := openIndex(name, true)
	if err != nil {
		f.problem(name, -1, fixIndex, "the index cannot be opened: %v", err)
		return nil
	}
	f.index = x
	origin, err := x.get(key('m', "origin"))
	if err == nil {
		f.report.Origin = string(origin)
		f.next, f.leaves, err = x.state()
	}
	if err == nil {
		f.expired, err = x.number(key('m', "expired"))
	}
	if err != nil {
		f.problem(name, -1, fixIndex, "%v", err)
	}
	if err := x.each([]byte{'e'}, nil, func(_, _ []byte) (bool, error) { f.noted++; return true, nil }); err != nil {
		f.problem(name, -1, fixIndex, "%v", err)
	}
	f.report.Expired = f.expired
	if f.keys, err = readKeys(f.opts.ErasureKeys); err != nil {
		f.keyless = true
		f.problem(f.opts.ErasureKeys, -1, fixKeys, "%v", err)
	}
	return nil
}

// checkTree rebuilds the tree and compares tiles, checkpoint and anchors.
func (f *fsck) checkTree(ctx context.Context) error {
	dir := filepath.Join(f.dir, treeDir)
	size, root, err := tiles.State(dir)
	if err != nil {
		f.problem(filepath.Join(dir, ".state", "treeState"), -1, fixLog, "%v", err)
		return nil
	}
	f.report.Size = size
	if size < f.leaves {
		f.problem(dir, -1, fixLog, "the tree has %d entries, but %d were stored", size, f.leaves)
	}
	f.tree = tiles.NewTree(dir, size)
	// 1. Which checkpoints have to fit?
	checkpoints := f.readCheckpoints(dir)
	wanted := make([]uint64, 0, len(checkpoints))
	for _, cp := range checkpoints {
		if cp.Size > size {
			f.problem(cp.file, -1, fixLog, "a checkpoint of %d entries exists, the tree has %d", cp.Size, size)
			continue
		}
		wanted = append(wanted, cp.Size)
	}
	// 2. Rebuild.
	roots, err := tiles.Rebuild(ctx, dir, size, wanted, func(index uint64, leaf []byte) error {
		if index%65536 == 0 {
			f.opts.Progress("tree", index, size)
		}
		if len(leaf) != 33 || leaf[0] != leafVersion {
			f.problem(dir, -1, fixLog, "leaf %d is %x, the rule is 01 and 32 bytes", index, leaf)
		}
		return nil
	}, func(d tiles.Damage) { f.problem(d.File, d.Offset, fixBackup, "%s", d.What) })
	if err != nil {
		return err
	}
	// 3. Compare.
	if got, ok := roots[size]; ok && got != root {
		f.problem(filepath.Join(dir, ".state", "treeState"), -1, fixLog, "the entries give the root %x, the tree's state says %x", got, root)
	}
	for _, cp := range checkpoints {
		got, ok := roots[cp.Size]
		if ok && got != cp.Root {
			f.problem(cp.file, -1, fixLog, "the entries give the root %x at size %d, the %s says %x", got, cp.Size, cp.what, cp.Root)
		} else if ok && cp.anchored {
			f.report.Anchors++
		}
	}
	return nil
}

// namedCheckpoint is a checkpoint with its place.
type namedCheckpoint struct {
	tiles.Checkpoint
	file     string
	what     string
	anchored bool
}

// readCheckpoints reads the published and the anchored checkpoints.
func (f *fsck) readCheckpoints(dir string) []namedCheckpoint {
	var out []namedCheckpoint
	parse := func(raw []byte, file, what string, anchored bool) {
		cp, err := f.parseCheckpoint(raw)
		if err != nil {
			f.problem(file, -1, fixBackup, "%s: %v", what, err)
			return
		}
		out = append(out, namedCheckpoint{cp, file, what, anchored})
	}
	raw, file, err := tiles.ReadCheckpoint(dir)
	if err != nil {
		f.problem(file, -1, fixBackup, "the checkpoint cannot be read: %v", err)
	} else {
		parse(raw, file, "checkpoint", false)
	}
	if f.index == nil {
		return out
	}
	name := filepath.Join(f.dir, indexDir)
	if err := f.index.eachAnchor(0, func(a Anchored) bool {
		parse(a.Note, name, fmt.Sprintf("anchored checkpoint of size %d", a.Size), true)
		return true
	}); err != nil {
		f.problem(name, -1, fixIndex, "%v", err)
	}
	return out
}

// parseCheckpoint checks a checkpoint's signature if there are keys.
func (f *fsck) parseCheckpoint(raw []byte) (tiles.Checkpoint, error) {
	if len(f.opts.PublicKeys) == 0 {
		return tiles.ParseCheckpoint(raw, f.report.Origin, nil)
	}
	var err error
	for _, k := range f.opts.PublicKeys {
		var cp tiles.Checkpoint
		if cp, err = tiles.ParseCheckpoint(raw, f.report.Origin, &k); err == nil {
			return cp, nil
		}
	}
	return tiles.Checkpoint{}, fmt.Errorf("it is signed by none of the log's keys: %w", err)
}

// checkRecords goes through the write-ahead log and compares every record with
// index, leaf and archive.
func (f *fsck) checkRecords(ctx context.Context) error {
	dir := filepath.Join(f.dir, walDir)
	_, torn, err := wal.Check(dir, f.next, func(pos wal.Position, payload []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if pos.Seq%4096 == 0 {
			f.opts.Progress("records", pos.Seq, f.next)
		}
		f.checkRecord(filepath.Join(dir, fmt.Sprintf("%020d.wal", pos.Segment)), pos, payload)
		return nil
	}, func(d *wal.DamageError) { f.problem(d.File, d.Offset, fixBackup, "entry %d: %s", d.Seq, d.What) })
	if err != nil {
		f.problem(dir, -1, fixBackup, "%v", err)
		return ctx.Err()
	}
	if torn != "" {
		f.report.Notes = append(f.report.Notes, torn)
	}
	if want := f.leaves - min(f.expired, f.leaves); f.index != nil && f.report.Records+f.report.Erased < want && f.report.OK() {
		f.problem(dir, -1, fixBackup, "%d records are kept, %d should be", f.report.Records+f.report.Erased, want)
	}
	if f.index != nil && f.report.Erased > f.noted && f.keys != nil {
		f.report.Notes = append(f.report.Notes, fmt.Sprintf("%d records were erased and %d are in the notes: the erasure keys are newer than the rest, or an erasure was cut off and is completed at the next start", f.report.Erased, f.noted))
	}
	return nil
}

// checkRecord compares one record with the index, its leaf and its bodies.
func (f *fsck) checkRecord(file string, pos wal.Position, payload []byte) {
	payload, err := unseal(f.keys, payload)
	switch {
	case errors.Is(err, shred.ErrDestroyed):
		if pos.Seq >= f.expired {
			f.report.Erased++
		}
		return
	case errors.Is(err, errNoKeys):
		if !f.keyless {
			f.keyless = true
			f.problem(f.opts.ErasureKeys, -1, fixKeys, "entry %d and others are sealed, and the erasure keys are not there", pos.Seq)
		}
		return
	}
	var p *pending
	if err == nil {
		p, err = newPending(payload)
	}
	if err != nil {
		f.problem(file, pos.Offset, fixBackup, "entry %d: %v", pos.Seq, err)
		return
	}
	if f.index == nil || pos.Seq < f.expired {
		return
	}
	at, err := f.index.get(append(append(exchangeKey(p.exchange), byte(p.side)), number(pos.Seq)...))
	name := filepath.Join(f.dir, indexDir)
	switch {
	case err != nil:
		f.problem(name, -1, fixIndex, "entry %d: %v", pos.Seq, err)
		return
	case at == nil && pos.Seq >= f.next:
		f.report.Pending++
		return
	case len(at) != 8:
		f.problem(name, -1, fixIndex, "entry %d (at byte %d of %s) is not in the index", pos.Seq, pos.Offset, file)
		return
	}
	leaf := binary.BigEndian.Uint64(at)
	if back, ok, err := f.index.position(leaf); err != nil || !ok || back != pos {
		f.problem(name, -1, fixIndex, "leaf %d should lead to entry %d and leads to %+v (%v)", leaf, pos.Seq, back, err)
		return
	}
	if f.tree == nil {
		return
	}
	want, err := f.tree.LeafHash(leaf)
	if err != nil {
		return // the damaged tile has been reported by checkTree
	}
	if got := rfc6962.DefaultHasher.HashLeaf(p.leaf[:]); !bytes.Equal(got, want[:]) {
		f.problem(file, pos.Offset, fixBackup, "entry %d gives the leaf hash %x, leaf %d of the Merkle log has %x: the record or its salt was changed", pos.Seq, got, leaf, want)
		return
	}
	f.report.Records++
	_, record, _, _ := split(payload) // newPending has read it
	f.checkBodies(file, pos, record)
}

// checkBodies decrypts the archived bodies of a record.
func (f *fsck) checkBodies(file string, pos wal.Position, record []byte) {
	if f.opts.SkipArchive {
		return
	}
	var r evidencepb.Record
	if err := proto.Unmarshal(record, &r); err != nil {
		return // newPending has read it
	}
	for _, b := range []*evidencepb.Body{r.GetRequestBody(), r.GetResponseBody()} {
		if b.GetArchive() == "" {
			continue
		}
		f.checkBody(file, pos, b)
	}
}

// checkBody decrypts one archived body.
func (f *fsck) checkBody(file string, pos wal.Position, b *evidencepb.Body) {
	dir := filepath.Join(f.dir, archiveDir)
	if f.archive == nil {
		if f.noKey {
			return
		}
		a, err := archive.OpenReader(dir, f.opts.ArchiveKey, f.keys)
		if err != nil {
			f.noKey = true
			f.problem(f.opts.ArchiveKey, -1, "restore the archive key; without it no archived body can be read", "%v", err)
			return
		}
		f.archive = a
	}
	path := filepath.Join(dir, filepath.FromSlash(b.GetArchive())+".body")
	size, digest, err := f.archive.Check(b.GetArchive())
	switch {
	case archive.IsMissing(err) && f.opts.BodyRetention > 0 && archive.Expired(b.GetArchive(), f.opts.Clock().Add(-f.opts.BodyRetention)):
	case err != nil:
		f.problem(path, -1, fixBackup, "the body of entry %d (%s): %v", pos.Seq, file, err)
	case uint64(size) != b.GetSize() || !bytes.Equal(digest[:], b.GetSha256()):
		f.problem(path, -1, fixBackup, "the body is not the one that entry %d (%s) describes", pos.Seq, file)
	default:
		f.report.Bodies++
	}
}
