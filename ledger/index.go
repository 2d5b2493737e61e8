package ledger

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus/registry"
)

// index knows the result of every executed transaction by its hash, for as long
// as its block is kept. It is fed from executed blocks and written with them.
//
// Records, all under ledgerSpace: 't' || hash -> height, code, reason; and
// 'h' || height -> the block's hashes, by which old records are found again.
type index struct {
	store *store

	mu     sync.Mutex
	recent map[[32]byte]struct{}
	ring   [][32]byte
	next   int
}

// recentTransactions is how many executed transactions are remembered in memory
// to refuse copies that peers still gossip. The database knows the rest, and
// the registry's sequence numbers refuse what was accepted.
const recentTransactions = 1 << 16

func newIndex(st *store) *index {
	return &index{store: st, recent: make(map[[32]byte]struct{})}
}

func txKey(hash [32]byte) []byte {
	return append([]byte{ledgerSpace, 't'}, hash[:]...)
}

func heightKey(height uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{ledgerSpace, 'h'}, height)
}

// lookup returns the result of an executed transaction.
func (x *index) lookup(hash [32]byte) (c Committed, ok bool, err error) {
	b, err := get(x.store.db, txKey(hash))
	if err != nil || b == nil {
		return Committed{}, false, err
	}
	if len(b) < 12 {
		return Committed{}, false, fmt.Errorf("index of transactions: the record of %x has %d bytes", hash, len(b))
	}
	return Committed{
		Height: binary.BigEndian.Uint64(b),
		Code:   registry.Code(binary.BigEndian.Uint32(b[8:])),
		Reason: string(b[12:]),
		TxHash: hash,
	}, true, nil
}

// records makes the records of a block, and the keys of those that leave with
// the blocks below retain.
func (x *index) records(done *executed, retain uint64) (puts []registry.KV, deletes [][]byte, err error) {
	if len(done.txs) > 0 {
		hashes := make([]byte, 0, 32*len(done.txs))
		accepted := make(map[[32]byte]bool)
		for _, r := range done.block.Results {
			if r.Code != 0 {
				// The same bytes may have been accepted before; that stands.
				if accepted[r.TxHash] {
					continue
				}
				if was, ok, err := x.lookup(r.TxHash); err != nil {
					return nil, nil, err
				} else if ok && was.Code == 0 && was.Height != done.height {
					continue
				}
			} else {
				accepted[r.TxHash] = true
			}
			b := binary.BigEndian.AppendUint64(make([]byte, 0, 12+len(r.Reason)), done.height)
			b = binary.BigEndian.AppendUint32(b, uint32(r.Code))
			puts = append(puts, registry.KV{Key: txKey(r.TxHash), Value: append(b, r.Reason...)})
			hashes = append(hashes, r.TxHash[:]...)
		}
		puts = append(puts, registry.KV{Key: heightKey(done.height), Value: hashes})
	}
	deletes, err = x.expired(retain)
	return puts, deletes, err
}

// expired returns the keys of records of blocks below retain, some blocks at a
// time.
func (x *index) expired(retain uint64) (deletes [][]byte, err error) {
	if retain == 0 {
		return nil, nil
	}
	it := x.store.db.NewIterator(&util.Range{Start: heightKey(0), Limit: heightKey(retain)}, nil)
	defer it.Release()
	for n := 0; n < 4 && it.Next(); n++ {
		height := binary.BigEndian.Uint64(it.Key()[2:])
		for b := it.Value(); len(b) >= 32; b = b[32:] {
			hash := [32]byte(b[:32])
			if c, ok, err := x.lookup(hash); err != nil {
				return nil, err
			} else if ok && c.Height == height { // else a later block gave it a new one
				deletes = append(deletes, txKey(hash))
			}
		}
		deletes = append(deletes, append([]byte(nil), it.Key()...))
	}
	return deletes, it.Error()
}

// remember puts a block's transactions among the recent ones.
func (x *index) remember(done *executed) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, r := range done.block.Results {
		if _, ok := x.recent[r.TxHash]; ok {
			continue
		}
		x.recent[r.TxHash] = struct{}{}
		if len(x.ring) < recentTransactions {
			x.ring = append(x.ring, r.TxHash)
			continue
		}
		delete(x.recent, x.ring[x.next])
		x.ring[x.next] = r.TxHash
		x.next = (x.next + 1) % recentTransactions
	}
}

// recently reports whether the transaction was executed not long ago.
func (x *index) recently(hash [32]byte) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, ok := x.recent[hash]
	return ok
}
