package ledger

import (
	"errors"
	"fmt"
	"sync"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/filter"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus/internal/ldb"
	"github.com/civibus/civibus/registry"
)

// The first byte of a key in the registry's database says whose it is.
const (
	registrySpace = 'r' // the registry's own keys
	ledgerSpace   = 'l' // the index of transactions and checkpoints
)

// store keeps the registry's state and the ledger's own index in one goleveldb,
// so that a block's state and the results of its transactions become durable in
// one atomic, synced write.
type store struct {
	db   *ldb.DB
	sync bool // writes are durable when they return; off in fuzzing only

	mu     sync.Mutex
	staged []registry.KV // ledger records for the next write
	purged [][]byte

	writing sync.Mutex
	batch   leveldb.Batch
}

var _ registry.Store = (*store)(nil)

// openStore opens or creates the database in dir.
func openStore(dir string) (*store, error) {
	db, err := ldb.Open(dir, opt.Options{
		Filter:                 filter.NewBloomFilter(10), // most lookups are for what is not there
		Compression:            opt.NoCompression,         // most of it is hashes
		WriteBuffer:            16 << 20,
		CompactionTableSize:    8 << 20, // fewer and longer merges while much is written
		CompactionTotalSize:    64 << 20,
		DisableSeeksCompaction: true, // looking up what is not there is no reason to merge
		CompactionL0Trigger:    8,
		WriteL0SlowdownTrigger: 16,
		WriteL0PauseTrigger:    24,
		BlockCacheCapacity:     8 << 20,
		OpenFilesCacheCapacity: 128,
	})
	if err != nil {
		if ldb.Damaged(err) != nil {
			return nil, fmt.Errorf("registry database %s is damaged: %w; move it away, and the blocks are executed again", dir, err)
		}
		return nil, fmt.Errorf("open registry database %s: %w", dir, err)
	}
	return &store{db: db, sync: true}, nil
}

func (s *store) close() error { return s.db.Close() }

func spaced(space byte, key []byte) []byte {
	out := make([]byte, 1+len(key))
	out[0] = space
	copy(out[1:], key)
	return out
}

// Get returns the value of a registry key, or nil when it is absent.
func (s *store) Get(key []byte) ([]byte, error) { return get(s.db, spaced(registrySpace, key)) }

func get(db *ldb.DB, key []byte) ([]byte, error) {
	v, err := db.Get(key, nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return nil, nil
	}
	if err == nil && v == nil {
		v = []byte{}
	}
	return v, err
}

// Iterate calls fn for every registry key with prefix, in ascending order.
func (s *store) Iterate(prefix []byte, fn func(key, value []byte) error) error {
	it := s.db.NewIterator(util.BytesPrefix(spaced(registrySpace, prefix)), nil)
	defer it.Release()
	for it.Next() {
		if err := fn(it.Key()[1:], it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
}

// Write applies the registry's changes and what was staged in one synced batch.
func (s *store) Write(puts []registry.KV, deletes [][]byte) error {
	s.mu.Lock()
	staged, purged := s.staged, s.purged
	s.staged, s.purged = nil, nil
	s.mu.Unlock()

	// One batch serves all blocks: one that grows is copied again and again, which took
	// one twentieth of a busy ledger's time.
	s.writing.Lock()
	defer s.writing.Unlock()
	batch := &s.batch
	batch.Reset()
	key := []byte{registrySpace}
	for _, k := range deletes {
		key = append(key[:1], k...)
		batch.Delete(key)
	}
	for _, kv := range puts {
		key = append(key[:1], kv.Key...)
		batch.Put(key, kv.Value)
	}
	for _, k := range purged {
		batch.Delete(k)
	}
	for _, kv := range staged {
		batch.Put(kv.Key, kv.Value)
	}
	err := s.db.Write(batch, &opt.WriteOptions{Sync: s.sync})
	if len(batch.Dump()) > keptBatch {
		s.batch = leveldb.Batch{}
	}
	return err
}

// keptBatch is the longest batch whose memory is kept, in bytes.
const keptBatch = 16 << 20

// stage keeps ledger records for the next Write.
func (s *store) stage(puts []registry.KV, deletes [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.staged = append(s.staged, puts...)
	s.purged = append(s.purged, deletes...)
}

// flush writes what is still staged.
func (s *store) flush() error {
	s.mu.Lock()
	empty := len(s.staged) == 0 && len(s.purged) == 0
	s.mu.Unlock()
	if empty {
		return nil
	}
	return s.Write(nil, nil)
}
