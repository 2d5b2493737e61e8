package evidence

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/syndtr/goleveldb/leveldb"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/archive"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/tiles"
	"github.com/civibus/civibus/internal/shred"
)

const (
	erasureTag = "civibus/erasure/v1" // first line of a note
	maxGround  = 200                  // characters of a ground
	maxErased  = 10_000               // records of one erasure

	keepLook = 50 * time.Millisecond // between two looks whether a backup is done
)

// Erasure is what is left of records that were erased.
type Erasure struct {
	Number uint64    `json:"number"` // of the log's erasures, from 1
	Time   time.Time `json:"time"`
	Ground string    `json:"ground"`           // by which law; nothing of a person
	Leaves []uint64  `json:"leaves"`           // of the records; they stay in the Merkle log
	Others []string  `json:"others,omitempty"` // what else was erased, such as "instance ID"; nothing of a person
	Size   uint64    `json:"size"`             // of the log when they were erased, and its root
	Root   []byte    `json:"root"`
	Note   string    `json:"note,omitempty"` // all of that as a C2SP signed note of the log key
}

// erasing is an erasure under way: what is needed to complete it after a crash.
type erasing struct {
	Erasure
	Keys   []uint64 `json:"keys"`
	Index  [][]byte `json:"index"` // keys of the index to be deleted
	Bodies []string `json:"bodies"`
}

// text is what is signed; spec/evidence.md section 9 is normative.
func (e *Erasure) text(origin string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\nnumber %d\ntime %s\nlog %d %s\nground %s\n", erasureTag, origin, e.Number,
		e.Time.Format(time.RFC3339), e.Size, base64.StdEncoding.EncodeToString(e.Root), e.Ground)
	for _, leaf := range e.Leaves {
		fmt.Fprintf(&b, "leaf %d\n", leaf)
	}
	for _, other := range e.Others {
		fmt.Fprintf(&b, "%s\n", other)
	}
	return b.String()
}

// ParseErasure reads the note of an erasure in the log of origin. With a key the
// signature must be the key's; without, it is not checked.
func ParseErasure(text []byte, origin string, key *civibus.PublicKey) (Erasure, error) {
	bad := func(format string, args ...any) (Erasure, error) {
		return Erasure{}, fmt.Errorf("erasure note: "+format, args...)
	}
	body, _, ok := strings.Cut(string(text), "\n\n")
	if key != nil {
		vkey, err := tiles.VerifierKey(origin, *key)
		if err != nil {
			return bad("%w", err)
		}
		v, err := note.NewVerifier(vkey)
		if err != nil {
			return bad("%w", err)
		}
		signed, err := note.Open(text, note.VerifierList(v))
		if err != nil {
			return bad("it is not signed by the log's key: %w", err)
		}
		for _, s := range signed.Sigs { // one form of it, and no other that reads as the same
			if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
				return bad("its signature: %w", err)
			}
		}
	}
	lines := strings.Split(body, "\n")
	if !ok || len(lines) < 7 || lines[0] != erasureTag || lines[1] != origin {
		return bad("the rule is %q, %q, number, time, log, ground and leaves, one each line", erasureTag, origin)
	}
	e := Erasure{Note: string(text)}
	var when, root string
	_, err := fmt.Sscanf(strings.Join(lines[2:5], "\n"), "number %d\ntime %s\nlog %d %s", &e.Number, &when, &e.Size, &root)
	if err == nil {
		e.Time, err = time.Parse(time.RFC3339, when)
	}
	if err == nil {
		e.Root, err = base64.StdEncoding.DecodeString(root)
	}
	if err != nil {
		return bad("%w", err)
	}
	e.Ground, ok = strings.CutPrefix(lines[5], "ground ")
	for _, l := range lines[6:] {
		if n, err := strconv.ParseUint(strings.TrimPrefix(l, "leaf "), 10, 64); err == nil {
			e.Leaves = append(e.Leaves, n)
		} else {
			e.Others = append(e.Others, l)
		}
	}
	if err := checkErasure(e.Leaves, e.Others, e.Ground); err != nil {
		return bad("%w", err)
	}
	if !ok || e.text(origin) != body+"\n" {
		return bad("its lines are not in the form of the rule")
	}
	return e, nil
}

// CheckNote checks what NoteErasure would be asked for.
func CheckNote(others []string, ground string) error { return checkErasure(nil, others, ground) }

// checkErasure checks what is asked for.
func checkErasure(leaves []uint64, others []string, ground string) error {
	if i := slices.IndexFunc(others, func(o string) bool { return !otherForm.MatchString(o) }); i >= 0 {
		return fmt.Errorf("%.80q is to be erased, the rule is a kind and an identifier that says nothing of the person", others[i])
	}
	switch n := utf8.RuneCountInString(ground); {
	case n < 1 || n > maxGround || !utf8.ValidString(ground) || strings.ContainsFunc(ground, unicode.IsControl):
		return fmt.Errorf("the ground has %d characters, the rule is 1 to %d on one line: the act and provision, and nothing of the person", n, maxGround)
	case len(leaves)+len(others) < 1 || len(leaves)+len(others) > maxErased:
		return fmt.Errorf("%d records are to be erased, the rule is 1 to %d at once", len(leaves)+len(others), maxErased)
	}
	return nil
}

// Erase erases the records of leaves: record, salt, what is kept beside, archived
// bodies and the other body's half, by destroying the keys that they are sealed with,
// in every copy of the log. It leaves a signed note. When it returns without an error,
// that is durable. Leaves, and the receipts of all other records, verify as before.
//
// Copies of the erasure keys of before open what was erased until they are replaced.
func (l *Log) Erase(ctx context.Context, leaves []uint64, ground string) (Erasure, error) {
	return l.erase(ctx, leaves, nil, ground)
}

// otherForm is that of what else was erased.
var otherForm = regexp.MustCompile(`^(instance|request|topic) [0-9A-Za-z._~%/-]{1,200}$`)

// NoteErasure makes and keeps the signed note of what another store of the body has
// erased, each "instance ID", "request ID" or "topic ID": after it is gone there, and
// before that is acknowledged.
func (l *Log) NoteErasure(ctx context.Context, others []string, ground string) (Erasure, error) {
	return l.erase(ctx, nil, others, ground)
}

func (l *Log) erase(ctx context.Context, leaves []uint64, others []string, ground string) (Erasure, error) {
	leaves = slices.Compact(slices.Sorted(slices.Values(leaves)))
	if err := checkErasure(leaves, others, ground); err != nil {
		return Erasure{}, err
	}
	if err := l.waitKeep(ctx); err != nil {
		return Erasure{}, err
	}
	defer l.keep.Unlock()
	if err := l.unusable(); err != nil {
		return Erasure{}, err
	}
	// 1. One that was cut off comes first.
	if err := l.eraseAgain(ctx); err != nil {
		return Erasure{}, err
	}
	// 2. What there is of the records.
	e := erasing{Erasure: Erasure{Time: l.cfg.Clock().UTC().Truncate(time.Second), Ground: ground, Leaves: leaves, Others: others}}
	_, size, root := l.Checkpoint()
	e.Size, e.Root = size, root[:]
	for _, leaf := range leaves {
		if err := l.gather(&e, leaf); err != nil {
			return Erasure{}, err
		}
	}
	if err := l.index.last([]byte{'n'}, func(k, _ []byte) error { e.Number = binary.BigEndian.Uint64(k[1:]); return nil }); err != nil {
		return Erasure{}, err
	}
	e.Number++
	// 3. It is completed whatever happens from here on.
	intent, err := json.Marshal(&e)
	if err != nil {
		return Erasure{}, err
	}
	if err := l.index.set(key('m', "erasing"), intent); err != nil {
		return Erasure{}, err
	}
	if err := l.complete(ctx, &e); err != nil {
		return Erasure{}, fmt.Errorf("the erasure was begun and is completed later: %w", err)
	}
	return e.Erasure, nil
}

// waitKeep waits for a backup that is under way, and takes its lock.
func (l *Log) waitKeep(ctx context.Context) error {
	tick := time.NewTicker(keepLook)
	defer tick.Stop()
	for !l.keep.TryLock() {
		select {
		case <-tick.C:
		case <-l.stop:
			return errClosed
		case <-ctx.Done():
			return fmt.Errorf("a backup is being made, and nothing is erased meanwhile; ask again when it is done: %w", context.Cause(ctx))
		}
	}
	return nil
}

// gather adds to an erasure what there is of a leaf's record.
func (l *Log) gather(e *erasing, leaf uint64) error {
	if leaf >= e.Size {
		return fmt.Errorf("leaf %d: the rule is one under the last checkpoint, which has %d; a record is under one a few seconds after its exchange", leaf, e.Size)
	}
	if n, err := l.index.get(key('e', leaf)); err != nil || n != nil {
		return errors.Join(err, fmt.Errorf("leaf %d: %w", leaf, ErrErased))
	}
	pos, ok, err := l.index.position(leaf)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("leaf %d: %w", leaf, ErrExpired)
	}
	payload, err := l.wal.Read(pos)
	if err != nil {
		return err
	}
	if !isSealed(payload) {
		return fmt.Errorf("leaf %d: its record was kept before records were sealed one by one, it goes with the others of its time at the end of record_retention", leaf)
	}
	entry, err := l.reading().entry(leaf)
	if err != nil {
		return err
	}
	var r evidencepb.Record
	if err := proto.Unmarshal(entry.Record, &r); err != nil {
		return fmt.Errorf("leaf %d: its record is not readable: %w", leaf, err)
	}
	sealed, err := shred.Number(payload)
	if err != nil {
		return err
	}
	e.Keys = append(e.Keys, sealed)
	// The other body's half, of whichever of the exchange's entries it is.
	half, err := l.index.get(key('c', r.GetExchangeId()))
	if err != nil {
		return err
	}
	if len(half) > 0 && half[0] == sealedHalf {
		if sealed, err = shred.Number(half[1:]); err != nil {
			return err
		}
		e.Keys = append(e.Keys, sealed)
	}
	e.Index = append(e.Index, key('c', r.GetExchangeId()), key('d', leaf),
		slices.Concat(exchangeKey(r.GetExchangeId()), []byte{byte(r.GetSide())}, number(pos.Seq)))
	for _, b := range []*evidencepb.Body{r.GetRequestBody(), r.GetResponseBody()} {
		if b.GetArchive() == "" {
			continue
		}
		n, isSealed, err := archive.Number(filepath.Join(l.cfg.Dir, archiveDir), b.GetArchive())
		if archive.IsMissing(err) {
			continue // at the end of its retention
		}
		if err != nil {
			return fmt.Errorf("leaf %d: %w", leaf, err)
		}
		if isSealed {
			e.Keys = append(e.Keys, n)
		}
		e.Bodies = append(e.Bodies, b.GetArchive())
	}
	return nil
}

// eraseAgain completes an erasure that was cut off.
func (l *Log) eraseAgain(ctx context.Context) error {
	intent, err := l.index.get(key('m', "erasing"))
	if err != nil || intent == nil {
		return err
	}
	var e erasing
	if err := json.Unmarshal(intent, &e); err != nil {
		return fmt.Errorf("evidence index: an erasure under way: %w", err)
	}
	return l.complete(ctx, &e)
}

// complete does what an erasure consists of; done again, it does what is left.
func (l *Log) complete(ctx context.Context, e *erasing) error {
	// 1. The keys: from here on no copy opens.
	l.besides.forget(e.Leaves)
	if err := l.keys.Destroy(e.Keys...); err != nil {
		return err
	}
	// 2. The bodies.
	for _, name := range e.Bodies {
		if err := archive.Remove(filepath.Join(l.cfg.Dir, archiveDir), name); err != nil {
			return err
		}
	}
	// 3. The note, and the traces in the index.
	signer, err := tiles.NewNoteSigner(l.cfg.Origin, l.cfg.Signer)
	if err != nil {
		return err
	}
	signed, err := note.Sign(&note.Note{Text: e.text(l.cfg.Origin)}, signer)
	if err != nil {
		return fmt.Errorf("sign the erasure note: %w", err)
	}
	e.Note = string(signed)
	kept, err := json.Marshal(e.Erasure)
	if err != nil {
		return err
	}
	b := new(leveldb.Batch)
	for _, k := range e.Index {
		b.Delete(k)
	}
	for _, leaf := range e.Leaves {
		b.Put(key('e', leaf), number(e.Number))
	}
	b.Put(key('n', e.Number), kept)
	b.Delete(key('m', "erasing"))
	if err := l.index.write(b); err != nil {
		return err
	}
	// 4. Out of the index's files too. The erasure holds without this.
	if err := l.index.compact(slices.Concat(e.Index, [][]byte{key('m', "erasing")})); err != nil {
		l.cfg.Logger.WarnContext(ctx, "evidence: what an erasure deleted from the index stays in its files until they are written anew", "error", err)
	}
	l.cfg.Logger.InfoContext(ctx, "evidence: records were erased", "erasure", e.Number, "records", len(e.Leaves))
	return nil
}

// compact writes anew those files of the index that hold what was deleted under keys.
func (x *index) compact(keys [][]byte) error {
	if err := x.ready(); err != nil {
		return err
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.db.Purge(keys)
}

// Erasures returns at most limit erasures from a number on, in their order.
func (l *Log) Erasures(from uint64, limit int) ([]Erasure, error) {
	return l.reading().erasures(from, limit)
}

// Erasures returns at most limit erasures from a number on, in their order.
func (r *Reader) Erasures(from uint64, limit int) ([]Erasure, error) {
	return r.reading.erasures(from, limit)
}

func (r reading) erasures(from uint64, limit int) (out []Erasure, err error) {
	err = r.index.each([]byte{'n'}, key('n', from), func(_, v []byte) (bool, error) {
		if len(out) == limit {
			return false, nil
		}
		var e Erasure
		if err := json.Unmarshal(v, &e); err != nil {
			return false, fmt.Errorf("evidence index: an erasure: %w", err)
		}
		out = append(out, e)
		return true, nil
	})
	return out, err
}

// ErasureOf returns the erasure that a leaf's record went by.
func (l *Log) ErasureOf(leaf uint64) (e Erasure, ok bool, err error) {
	n, err := l.index.number(key('e', leaf))
	if err != nil || n == 0 {
		return e, false, err
	}
	found, err := l.Erasures(n, 1)
	if err != nil || len(found) == 0 {
		return e, false, err
	}
	return found[0], true, nil
}

// ErasureKeys tells where the erasure keys are and how often keys were destroyed.
func (l *Log) ErasureKeys() (file string, generation uint64) {
	return l.cfg.ErasureKeys, l.keys.Generation()
}
