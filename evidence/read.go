package evidence

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	fproof "github.com/transparency-dev/formats/proof"

	"github.com/civibus/civibus/evidence/tiles"
	"github.com/civibus/civibus/evidence/wal"
	"github.com/civibus/civibus/internal/shred"
)

// ErrExpired says that a record has been deleted at the end of its retention.
var ErrExpired = errors.New("the record has been deleted at the end of its retention")

// ErrErased says that a record was erased; a signed note says so (Log.Erasures).
var ErrErased = errors.New("the record has been erased")

// reading is the reading half of a log, shared by Log and Reader.
type reading struct {
	index *index
	read  func(wal.Position) ([]byte, error)
	keys  *shred.Keys // nil: they are not there
}

// entry reads the entry at a leaf index.
func (r reading) entry(index uint64) (Entry, error) {
	pos, ok, err := r.index.position(index)
	if err != nil {
		return Entry{}, err
	}
	if !ok {
		expired, err := r.index.number(key('m', "expired"))
		if err != nil {
			return Entry{}, err
		}
		_, leaves, err := r.index.state()
		if err != nil {
			return Entry{}, err
		}
		if index < leaves && expired > 0 {
			return Entry{}, fmt.Errorf("entry %d: %w", index, ErrExpired)
		}
		return Entry{}, fmt.Errorf("entry %d: the log has %d", index, leaves)
	}
	e, err := r.at(pos)
	e.Integrated, e.Index = true, index
	return e, err
}

// at reads the entry at a position.
func (r reading) at(pos wal.Position) (Entry, error) {
	payload, err := r.read(pos)
	if errors.Is(err, wal.ErrGone) {
		return Entry{}, fmt.Errorf("entry %d: %w", pos.Seq, ErrExpired)
	}
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Seq: pos.Seq}
	payload, err = unseal(r.keys, payload)
	if errors.Is(err, shred.ErrDestroyed) {
		return Entry{}, fmt.Errorf("entry %d: %w", pos.Seq, ErrErased)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("entry %d: %w", pos.Seq, err)
	}
	if e.Salt, e.Record, e.Beside, err = split(payload); err != nil {
		return Entry{}, fmt.Errorf("entry %d: %w", pos.Seq, err)
	}
	return e, nil
}

// find reads the stored entries of an exchange.
func (r reading) find(exchangeID string) ([]Entry, error) {
	if len(exchangeID) > maxExchangeID {
		return nil, nil
	}
	prefix := exchangeKey(exchangeID)
	var indexes []uint64
	if err := r.index.each(prefix, nil, func(k, v []byte) (bool, error) {
		if _, _, _, err := parseExchangeKey(k); err != nil || len(v) != 8 {
			return false, fmt.Errorf("evidence index: the entry %x is not readable", k)
		}
		indexes = append(indexes, binary.BigEndian.Uint64(v))
		return true, nil
	}); err != nil {
		return nil, err
	}
	var out []Entry
	for _, index := range indexes {
		e, err := r.entry(index)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// entries goes through integrated entries; deleted ones are left out.
func (r reading) entries(ctx context.Context, from, to uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for index := from; index < to; index++ {
			if err := ctx.Err(); err != nil {
				yield(Entry{}, err)
				return
			}
			e, err := r.entry(index)
			if isGone(err) {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// isGone reports whether a record was deleted as it should be.
func isGone(err error) bool { return errors.Is(err, ErrExpired) || errors.Is(err, ErrErased) }

func (l *Log) reading() reading { return reading{l.index, l.wal.Read, l.keys} }

// Find returns every entry of an exchange that is kept, in the order in which
// they were made: one for each side that this body had in it in the normal case,
// more when a request was repeated under the same id. It is nil when there is
// none. An entry is found as soon as Append has returned.
func (l *Log) Find(exchangeID string) ([]Entry, error) {
	// An entry that is stored between the two looks is seen by both.
	l.mu.Lock()
	waiting := append([]*pending(nil), l.byID[exchangeID]...)
	l.mu.Unlock()
	out, err := l.reading().find(exchangeID)
	if err != nil {
		return nil, err
	}
	seen := map[uint64]bool{}
	for _, e := range out {
		seen[e.Seq] = true
	}
	for _, p := range waiting {
		if seen[p.pos.Seq] {
			continue
		}
		e, err := l.reading().at(p.pos)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// Entry returns the entry at a leaf index.
func (l *Log) Entry(index uint64) (Entry, error) { return l.reading().entry(index) }

// Entries goes through the integrated entries from..to (to excluded); those
// whose record has been deleted are left out. It ends with the first error.
func (l *Log) Entries(ctx context.Context, from, to uint64) iter.Seq2[Entry, error] {
	return l.reading().entries(ctx, from, min(to, l.tree.Tree().Size()))
}

// Checkpoint returns the last checkpoint.
func (l *Log) Checkpoint() (note []byte, size uint64, root [32]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.checkpoint.Note, l.checkpoint.Size, l.checkpoint.Root
}

// Inclusion proves the leaf at index in the tree of the first size leaves.
func (l *Log) Inclusion(index, size uint64) ([][]byte, error) {
	return l.tree.Tree().Inclusion(index, size)
}

// Consistency proves that the tree of newSize leaves extends that of oldSize.
func (l *Log) Consistency(oldSize, newSize uint64) ([][]byte, error) {
	return l.tree.Tree().Consistency(oldSize, newSize)
}

// TLogProof returns the C2SP tlog-proof text of the leaf at index in an
// anchored checkpoint.
func (l *Log) TLogProof(index uint64, in Anchored) ([]byte, error) {
	hashes, err := l.Inclusion(index, in.Size)
	if err != nil {
		return nil, err
	}
	p := fproof.TLogProof{Index: index, Checkpoint: in.Note}
	for _, h := range hashes {
		p.Hashes = append(p.Hashes, tiles.Hash(h))
	}
	return p.Marshal(), nil
}
