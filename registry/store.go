package registry

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
)

// Store is the only thing through which the registry touches the outside: an
// ordered key-value store with atomic, durable writes. The ledger brings one on
// disk; NewMemoryStore is one for tests.
//
// All methods may be called by several goroutines at once.
type Store interface {
	// Get returns the value of key, or nil and no error when there is none.
	// The caller does not change what it gets.
	Get(key []byte) ([]byte, error)
	// Iterate calls fn for every key with the prefix, in ascending order of
	// the keys' bytes, until fn returns an error, which it returns. The slices
	// are valid during the call only.
	Iterate(prefix []byte, fn func(key, value []byte) error) error
	// Write applies all puts and deletes or, whatever happens, none of them,
	// and returns when they are durable.
	Write(puts []KV, deletes [][]byte) error
}

// KV is one pair to be written.
type KV struct{ Key, Value []byte }

// memoryStore is a Store that lives and dies with the process.
type memoryStore struct {
	mu sync.RWMutex
	m  map[string][]byte
}

// NewMemoryStore makes an empty Store in memory.
func NewMemoryStore() Store { return &memoryStore{m: make(map[string][]byte)} }

func (s *memoryStore) Get(key []byte) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[string(key)], nil
}

func (s *memoryStore) Iterate(prefix []byte, fn func(key, value []byte) error) error {
	s.mu.RLock()
	var keys []string
	for k := range s.m {
		if strings.HasPrefix(k, string(prefix)) {
			keys = append(keys, k)
		}
	}
	s.mu.RUnlock()
	slices.Sort(keys)
	for _, k := range keys {
		v, err := s.Get([]byte(k))
		if err != nil {
			return err
		}
		if v == nil { // deleted meanwhile
			continue
		}
		if err := fn([]byte(k), v); err != nil {
			return err
		}
	}
	return nil
}

func (s *memoryStore) Write(puts []KV, deletes [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kv := range puts {
		if kv.Value == nil {
			return errors.New("memory store: a put has no value, the rule is a non-nil value")
		}
		s.m[string(kv.Key)] = bytes.Clone(kv.Value)
		if s.m[string(kv.Key)] == nil {
			s.m[string(kv.Key)] = []byte{}
		}
	}
	for _, k := range deletes {
		delete(s.m, string(k))
	}
	return nil
}
