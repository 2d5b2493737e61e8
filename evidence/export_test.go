package evidence

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/wal"
)

// ExchangeKey is the prefix of an exchange's entries in the index.
func ExchangeKey(id string) []byte { return exchangeKey(id) }

// EntryKey is the key of one of them.
func EntryKey(id string, side evidencepb.Side, seq uint64) []byte {
	return append(append(exchangeKey(id), byte(side)), number(seq)...)
}

// ParseExchangeKey reads an EntryKey.
func ParseExchangeKey(k []byte) (string, evidencepb.Side, uint64, error) { return parseExchangeKey(k) }

// EncodePosition makes the value of a leaf in the index.
func EncodePosition(p wal.Position) []byte { return encodePosition(p) }

// DecodePosition reads it.
func DecodePosition(b []byte) (wal.Position, error) { return decodePosition(b) }

// BeginErasure begins the erasure of a leaf and cuts it off: before its keys are
// destroyed, or after.
func BeginErasure(l *Log, leaf uint64, ground string, destroy bool) error {
	_, size, root := l.Checkpoint()
	e := erasing{Erasure: Erasure{Number: 1, Time: l.cfg.Clock().UTC().Truncate(time.Second), Ground: ground, Leaves: []uint64{leaf}, Size: size, Root: root[:]}}
	if err := l.gather(&e, leaf); err != nil {
		return err
	}
	intent, err := json.Marshal(&e)
	if err == nil {
		err = l.index.set(key('m', "erasing"), intent)
	}
	if err == nil && destroy {
		err = l.keys.Destroy(e.Keys...)
	}
	return err
}

// Remembered notes n leaves, of which every k-th has something beside it, and returns
// what is known of a stretch.
func Remembered(n, k int, from, to uint64) (known uint64, with []uint64) {
	var b besides
	for i := 0; i < n; i += 1000 {
		var batch []stored
		for j := i; j < min(n, i+1000); j++ {
			p := &pending{}
			if j%k == 0 {
				p.beside, p.content = true, make([]byte, 4<<10)
			}
			batch = append(batch, stored{p, uint64(j)})
		}
		b.note(batch)
		sum := 0
		for _, c := range b.content {
			sum += len(c)
		}
		if sum != b.bytes || sum > besidesBytes {
			panic(fmt.Sprintf("%d bytes are remembered, %d are counted, the rule is at most %d", sum, b.bytes, besidesBytes))
		}
	}
	return b.within(from, to)
}

// RememberedLeaves is of how many leaves it is remembered at least.
const RememberedLeaves = besidesKept
