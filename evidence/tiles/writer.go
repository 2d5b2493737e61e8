package tiles

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/storage/posix"
	"k8s.io/klog/v2"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/pqnote"
)

// silence turns Tessera's own log off. It is the process's klog, which cannot
// be given to one of several logs, and what it says is also in the errors.
var silence = sync.OnceFunc(func() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) })

// never keeps Tessera from publishing checkpoints by itself: it skips those
// that are younger than the interval.
const never = 100 * 365 * 24 * time.Hour

// flushAge is how long Tessera waits for a batch to become full. A batch is
// handed over within it, and one that is full does not wait.
const flushAge = 50 * time.Millisecond

// Writer appends to a log on disk. Only one goroutine may use it at a time; the
// Tree may be read by any.
type Writer struct {
	dir    string
	origin string
	signer civibus.Signer
	second Second
	add    tessera.AddFn
	batch  int
	cancel context.CancelFunc
	tree   *Tree
	last   Checkpoint
}

// Second returns the ML-DSA-44 key that signs checkpoints beside the first one
// now, nil if there is none, and the time.
type Second func() (civibus.Signer, time.Time)

// OpenWriter opens or makes the log in dir, whose checkpoints are signed under
// origin, for batches of at most batch leaves. second may be nil.
func OpenWriter(ctx context.Context, dir, origin string, signer civibus.Signer, second Second, batch int) (*Writer, error) {
	s, err := NewNoteSigner(origin, signer)
	if err != nil {
		return nil, err
	}
	silence()
	w := &Writer{dir: dir, origin: origin, signer: signer, second: second, batch: batch}
	left, err := filepath.Glob(filepath.Join(dir, layout.CheckpointPath+".tmp*"))
	if err != nil {
		return nil, fmt.Errorf("open Merkle log: %w", err)
	}
	for _, name := range left { // of a crash while a checkpoint was written
		if err := os.Remove(name); err != nil {
			return nil, fmt.Errorf("open Merkle log: %w", err)
		}
	}
	// 1. Tessera, with its own publisher and garbage collection off.
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return nil, fmt.Errorf("open Merkle log: %w", err)
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w.cancel = cancel
	appender, _, reader, err := tessera.NewAppender(background, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(s).
		WithBatching(uint(batch), flushAge).
		WithCheckpointInterval(never).
		WithCheckpointRepublishInterval(0).
		WithGarbageCollectionInterval(0))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open Merkle log: %w", err)
	}
	w.add = appender.Add
	// 2. The tree as it is on disk.
	size, err := reader.IntegratedSize(ctx)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open Merkle log: %w", err)
	}
	w.tree = NewTree(dir, size)
	// 3. It must be what the last checkpoint said.
	if err := w.checkLast(origin, signer.Key()); err != nil {
		cancel()
		return nil, err
	}
	return w, nil
}

// checkLast reads the last checkpoint and compares the tree with it.
func (w *Writer) checkLast(origin string, key civibus.PublicKey) error {
	raw, err := os.ReadFile(filepath.Join(w.dir, layout.CheckpointPath))
	if errors.Is(err, fs.ErrNotExist) && w.tree.Size() == 0 {
		_, err := w.Publish()
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: read checkpoint: %w", ErrDamaged, err)
	}
	// Another key may have signed it: log keys are rotated.
	if w.last, err = ParseCheckpoint(raw, origin, nil); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, filepath.Join(w.dir, layout.CheckpointPath), err)
	}
	if w.last.Size > w.tree.Size() {
		return fmt.Errorf("%w: the checkpoint has %d entries and the tree %d: part of the directory comes from an older backup", ErrDamaged, w.last.Size, w.tree.Size())
	}
	if err := w.extends(); err != nil {
		return err
	}
	if _, err = w.root(); err != nil {
		return err
	}
	// A new log key signs what the old one had signed: the registry takes
	// checkpoints only from keys in force.
	if _, err := ParseCheckpoint(raw, origin, &key); err != nil {
		_, err := w.Publish()
		return err
	}
	return nil
}

// extends checks that the tree begins with the last checkpoint's.
func (w *Writer) extends() error {
	root, err := w.tree.Root(w.last.Size)
	if err != nil {
		return err
	}
	if root != w.last.Root {
		return fmt.Errorf("%w: the tree's root at size %d is %x, the last checkpoint says %x", ErrDamaged, w.last.Size, root, w.last.Root)
	}
	return nil
}

// root returns the tree's root, which must be what Tessera noted.
func (w *Writer) root() (Hash, error) {
	root, err := w.tree.Root(w.tree.Size())
	if err != nil {
		return Hash{}, err
	}
	size, noted, err := readTreeState(w.dir)
	if err != nil {
		return Hash{}, err
	}
	if size != w.tree.Size() || noted != root {
		return Hash{}, fmt.Errorf("%w: the tiles give size %d and root %x, the tree's state says %d and %x", ErrDamaged, w.tree.Size(), root, size, noted)
	}
	return root, nil
}

// readTreeState reads Tessera's note of the integrated tree.
func readTreeState(dir string) (uint64, Hash, error) {
	var state struct {
		Size uint64 `json:"size"`
		Root []byte `json:"root"`
	}
	name := filepath.Join(dir, ".state", "treeState")
	raw, err := os.ReadFile(name)
	if err != nil {
		return 0, Hash{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := json.Unmarshal(raw, &state); err != nil || len(state.Root) != 32 {
		return 0, Hash{}, fmt.Errorf("%w: %s is not a tree state", ErrDamaged, name)
	}
	return state.Size, Hash(state.Root), nil
}

// Tree returns the tree for reading.
func (w *Writer) Tree() *Tree { return w.tree }

// Last returns the last checkpoint.
func (w *Writer) Last() Checkpoint { return w.last }

// Add appends leaves and returns their indexes when they are durable and part
// of the tree. After an error some of them may be: call Refresh and look.
func (w *Writer) Add(ctx context.Context, leaves [][]byte) ([]uint64, error) {
	if len(leaves) > w.batch {
		return nil, fmt.Errorf("append to Merkle log: %d leaves, the rule is at most %d", len(leaves), w.batch)
	}
	futures := make([]tessera.IndexFuture, len(leaves))
	for i, leaf := range leaves {
		futures[i] = w.add(ctx, tessera.NewEntry(leaf))
	}
	out := make([]uint64, len(leaves))
	var errs error
	for i, f := range futures {
		index, err := f()
		if err != nil {
			errs = err // all of one batch fail alike
			continue
		}
		out[i] = index.Index
	}
	if errs != nil {
		return nil, fmt.Errorf("append to Merkle log: %w", errs)
	}
	from := w.tree.Size()
	seen := make([]bool, len(out))
	for _, index := range out {
		if index < from || index-from >= uint64(len(out)) || seen[index-from] {
			return nil, fmt.Errorf("append to Merkle log: index %d for a batch of %d at %d", index, len(out), from)
		}
		seen[index-from] = true
	}
	w.tree.Grow(from + uint64(len(out)))
	return out, nil
}

// Refresh reads the size of the tree on disk.
func (w *Writer) Refresh() error {
	size, _, err := readTreeState(w.dir)
	if err != nil {
		return err
	}
	w.tree.Grow(size)
	return nil
}

// Publish signs a checkpoint of the whole tree, after checking that it extends
// the last one.
func (w *Writer) Publish() (Checkpoint, error) {
	if err := w.extendsOrFirst(); err != nil {
		return Checkpoint{}, err
	}
	root, err := w.root()
	if err != nil {
		return Checkpoint{}, err
	}
	raw, err := w.Sign(w.tree.Size(), root)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("sign checkpoint: %w", err)
	}
	if err := writeFile(filepath.Join(w.dir, layout.CheckpointPath), raw); err != nil {
		return Checkpoint{}, fmt.Errorf("publish checkpoint: %w", err)
	}
	w.last = Checkpoint{Note: raw, Size: w.tree.Size(), Root: root}
	return w.last, nil
}

func (w *Writer) extendsOrFirst() error {
	if w.last.Note == nil {
		return nil
	}
	return w.extends()
}

// Sign makes the checkpoint note of a tree that is to be published, or that was
// published or anchored, with the log keys in force now. An origin that is too
// long for the second signature's format gets the first alone.
func (w *Writer) Sign(size uint64, root Hash) ([]byte, error) {
	s, err := NewNoteSigner(w.origin, w.signer)
	if err != nil {
		return nil, err
	}
	note, err := SignCheckpoint(s, size, root)
	if err != nil || w.second == nil || !pqnote.Fits(w.origin, w.origin) {
		return note, err
	}
	second, now := w.second()
	if second == nil {
		return note, nil
	}
	line, err := pqnote.Sign(context.Background(), w.origin, second, now, pqnote.Checkpoint{Origin: w.origin, Size: size, Root: root})
	return append(note, line...), err
}

// Collect removes partial tiles and bundles whose full ones are under the last
// checkpoint, from leaf index from on, and returns where to go on next time.
func (w *Writer) Collect(from uint64) (uint64, error) {
	for ; from+tileWidth <= w.last.Size; from += tileWidth {
		index := from / tileWidth
		paths := []string{layout.EntriesPath(index, 0), layout.TilePath(0, index, 0)}
		for level := uint64(1); index%tileWidth == tileWidth-1; level++ {
			index /= tileWidth
			paths = append(paths, layout.TilePath(level, index, 0))
		}
		for _, p := range paths {
			if err := os.RemoveAll(filepath.Join(w.dir, filepath.FromSlash(p)) + ".p"); err != nil {
				return from, fmt.Errorf("remove partial tiles: %w", err)
			}
		}
	}
	return from, nil
}

// Close ends the writer. Nothing may be under way.
func (w *Writer) Close() { w.cancel() }

// IsFull reports whether err comes from a full disk or quota. Tessera does not
// wrap all of its errors, so that the text has to be looked at as well.
func IsFull(err error) bool {
	if err == nil {
		return false
	}
	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) {
			return true
		}
	}
	return false
}

// writeFile replaces a file durably.
func writeFile(name string, data []byte) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, filepath.Base(name)+".tmp*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// State returns the size and root that the log in dir notes for its tree.
func State(dir string) (uint64, Hash, error) { return readTreeState(dir) }

// ReadCheckpoint returns the checkpoint of the log in dir, unparsed, and its file.
func ReadCheckpoint(dir string) (raw []byte, file string, err error) {
	file = filepath.Join(dir, layout.CheckpointPath)
	raw, err = os.ReadFile(file)
	return raw, file, err
}
