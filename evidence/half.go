package evidence

import (
	"fmt"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/tiles"
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
		b.Put(key('c', h.ExchangeID), h.Half)
	}
	if b.Len() == 0 {
		return nil
	}
	return l.index.write(b)
}

// Counterpart returns what PutCounterparts kept of an exchange; nil when it has
// not arrived.
func (l *Log) Counterpart(exchangeID string) ([]byte, error) {
	return l.index.get(key('c', exchangeID))
}

// Delivery is an exchange whose own half of the receipt the counterparty has
// not yet been sent.
type Delivery struct {
	Index      uint64
	ExchangeID string
	Side       evidencepb.Side
}
