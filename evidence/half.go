package evidence

import (
	"errors"
	"fmt"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/tiles"
	"github.com/civibus/civibus/internal/shred"
)

// CheckpointOf reads an evidence log's checkpoint note. With a key its
// signature must be the key's; without, it is not checked.
func CheckpointOf(note []byte, origin string, key *civibus.PublicKey) (size uint64, root [32]byte, err error) {
	cp, err := tiles.ParseCheckpoint(note, origin, key)
	return cp.Size, cp.Root, err
}

// FirstSigned returns a checkpoint note with its first signature alone.
func FirstSigned(note []byte) []byte { return tiles.First(note) }

// VerifyInclusion checks that a leaf (see Leaf) is at index in the log of a size
// with a root.
func VerifyInclusion(leaf []byte, index, size uint64, root [32]byte, hashes [][]byte) error {
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, rfc6962.DefaultHasher.HashLeaf(leaf), hashes, root[:]); err != nil {
		return fmt.Errorf("leaf %d is not in the log of size %d: %w", index, size, err)
	}
	return nil
}

// Appended returns how many entries were appended since the log began.
func (l *Log) Appended() uint64 { return l.wal.Next() }

// Counterpart is what PutCounterparts keeps of one exchange.
type Counterpart struct {
	ExchangeID string
	Half       []byte
}

// PutCounterparts keeps the counterparty's halves of exchanges' receipts, all
// with one wait for the disk; a later half replaces an earlier one.
func (l *Log) PutCounterparts(halves []Counterpart) error {
	b := new(leveldb.Batch)
	for _, h := range halves {
		if h.ExchangeID == "" || len(h.ExchangeID) > maxExchangeID {
			return fmt.Errorf("counterparty's receipt: the exchange id has %d bytes, the rule is 1 to %d", len(h.ExchangeID), maxExchangeID)
		}
		b.Put(key('c', h.ExchangeID), l.keys.Seal(append(make([]byte, 0, 1+shred.Overhead+len(h.Half)), sealedHalf)[:1+shred.HeadSize], h.Half, halfMark))
	}
	if b.Len() == 0 {
		return nil
	}
	return l.index.write(b)
}

// sealedHalf begins a half that is sealed; one of before halves were sealed begins with
// a field of its message, and field 0 does not exist. Its mark is halfMark.
const (
	sealedHalf = 0
	halfMark   = 2
)

// Counterpart returns what PutCounterparts kept of an exchange; nil when it has
// not arrived.
func (l *Log) Counterpart(exchangeID string) ([]byte, error) {
	v, err := l.index.get(key('c', exchangeID))
	if err != nil || len(v) == 0 || v[0] != sealedHalf {
		return v, err
	}
	half, err := l.keys.Open(v[1:], halfMark)
	if errors.Is(err, shred.ErrDestroyed) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the other body's half of %s: %w", exchangeID, err)
	}
	return half, nil
}

// Delivery is an exchange whose own half of the receipt the counterparty has
// not yet been sent.
type Delivery struct {
	Index      uint64
	ExchangeID string
	Side       evidencepb.Side
}
