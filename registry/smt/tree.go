package smt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/civibus/civibus/registry/registrypb"
)

// NodeStore is where a tree reads what it wrote. Get returns nil and no error
// for an absent key. It is called by several goroutines at once.
type NodeStore interface {
	Get(key []byte) ([]byte, error)
}

// Put is one record that a tree wants written.
type Put struct{ Key, Value []byte }

// Options are a tree's settings.
type Options struct {
	// Prefix starts every key that the tree reads and writes.
	Prefix string
	// Keep is how many versions stay readable, the latest included; at least 1.
	Keep uint64
	// CachePages bounds the pages kept in memory. 0: 65,536, some 50 MB when
	// the tree is that large.
	CachePages int
}

// ErrPruned says that a version is older than the kept window.
var ErrPruned = errors.New("the version is older than the kept window")

// Tree is a versioned sparse Merkle tree in a store. Prepare and Accept belong
// to one writer; everything else may be called by anyone at any time.
type Tree struct {
	store  NodeStore
	opts   Options
	cache  *cache
	latest atomic.Pointer[Version]
	// What follows belongs to the writer.
	nextID uint64
	oldest uint64 // oldest version that is still stored
}

// Version is the tree as it was after one update. It never changes.
type Version struct {
	tree   *Tree
	number uint64
	root   slot
}

// Open opens the tree in store. A store without one is the empty tree at
// version 0.
func Open(store NodeStore, opts Options) (*Tree, error) {
	if opts.Keep == 0 {
		opts.Keep = 1
	}
	if opts.CachePages <= 0 {
		opts.CachePages = 1 << 16
	}
	t := &Tree{store: store, opts: opts, cache: newCache(opts.CachePages), nextID: 1}
	meta, err := store.Get(t.metaKey())
	if err != nil {
		return nil, fmt.Errorf("open state tree: %w", err)
	}
	if meta == nil {
		t.latest.Store(&Version{tree: t})
		return t, nil
	}
	if len(meta) != 24 {
		return nil, fmt.Errorf("open state tree: its meta record has %d bytes, the rule is 24; the store is damaged", len(meta))
	}
	number := binary.BigEndian.Uint64(meta)
	t.nextID = binary.BigEndian.Uint64(meta[8:])
	t.oldest = binary.BigEndian.Uint64(meta[16:])
	root, err := t.readRoot(number)
	if err != nil {
		return nil, fmt.Errorf("open state tree: %w", err)
	}
	t.latest.Store(&Version{tree: t, number: number, root: root})
	return t, nil
}

// Latest returns the latest accepted version.
func (t *Tree) Latest() *Version { return t.latest.Load() }

// At returns an earlier version, or ErrPruned.
func (t *Tree) At(number uint64) (*Version, error) {
	latest := t.Latest()
	switch {
	case number == latest.number:
		return latest, nil
	case number > latest.number:
		return nil, fmt.Errorf("state tree version %d: the latest is %d", number, latest.number)
	case number+t.opts.Keep <= latest.number:
		return nil, fmt.Errorf("state tree version %d: %w", number, ErrPruned)
	case number == 0:
		return &Version{tree: t}, nil
	}
	root, err := t.readRoot(number)
	if err != nil {
		return nil, fmt.Errorf("state tree version %d: %w", number, err)
	}
	return &Version{tree: t, number: number, root: root}, nil
}

// Number returns the version's number; versions count updates.
func (v *Version) Number() uint64 { return v.number }

// Root returns the root hash.
func (v *Version) Root() [32]byte { return v.root.hash }

// Get returns the hash of the key's value.
func (v *Version) Get(key string) (valueHash [32]byte, ok bool, err error) {
	_, s, err := v.walk(KeyHash(key), nil)
	if err != nil {
		return valueHash, false, fmt.Errorf("state tree: look up %q: %w", key, err)
	}
	if s.kind == leaf && s.key == KeyHash(key) {
		return s.val, true, nil
	}
	return valueHash, false, nil
}

// Prove returns the proof that key has a value with the returned hash or, when
// present is false, that it has none.
func (v *Version) Prove(key string) (proof *registrypb.StateProof, valueHash [32]byte, present bool, err error) {
	keyHash := KeyHash(key)
	p := &registrypb.StateProof{}
	depth, s, err := v.walk(keyHash, func(level int, sibling [32]byte) {
		if level%8 == 0 {
			p.Bitmap = append(p.Bitmap, 0)
		}
		if sibling != ([32]byte{}) {
			p.Bitmap[level/8] |= 1 << (7 - level%8)
			p.Siblings = append(p.Siblings, sibling[:])
		}
	})
	if err != nil {
		return nil, valueHash, false, fmt.Errorf("state tree: prove %q: %w", key, err)
	}
	p.Depth = uint32(depth)
	switch {
	case s.kind == empty:
		return p, valueHash, false, nil
	case s.key == keyHash:
		return p, s.val, true, nil
	}
	p.OtherKeyHash, p.OtherValueHash = s.key[:], s.val[:]
	return p, valueHash, false, nil
}

// walk goes down the key's path to the terminal node, a leaf or nothing, and
// tells visit, if it is not nil, the sibling at each level.
func (v *Version) walk(keyHash [32]byte, visit func(level int, sibling [32]byte)) (depth int, s slot, err error) {
	s = v.root
	for s.kind == inner {
		p, err := v.tree.load(s)
		if err != nil {
			return 0, slot{}, err
		}
		lo, hi := 0, fanout
		for hi-lo > 1 {
			if lone, ok := p.lone(lo, hi); ok {
				return depth, lone, nil
			}
			if p.span(lo, hi) == 0 {
				return depth, slot{}, nil
			}
			mid := (lo + hi) / 2
			otherLo, otherHi := mid, hi
			if bit(keyHash[:], depth) {
				otherLo, otherHi = lo, mid
				lo = mid
			} else {
				hi = mid
			}
			if visit != nil {
				visit(depth, p.hash(otherLo, otherHi))
			}
			depth++
		}
		s = p.child(lo)
	}
	return depth, s, nil
}

// load returns the page that s stands for, from memory or from the store. What
// comes from the store is believed only if it has the hash that its parent
// holds.
func (t *Tree) load(s slot) (*page, error) {
	if p := t.cache.get(s.id); p != nil {
		return p, nil
	}
	b, err := t.store.Get(t.pageKey(s.id))
	if err != nil {
		return nil, fmt.Errorf("read page %d: %w", s.id, err)
	}
	if b == nil {
		return nil, fmt.Errorf("page %d: %w", s.id, ErrPruned)
	}
	p, err := decodePage(b)
	if err != nil {
		return nil, fmt.Errorf("page %d is damaged: %w", s.id, err)
	}
	if p.hash(0, fanout) != s.hash {
		return nil, fmt.Errorf("page %d is damaged: it does not have the hash that its parent holds", s.id)
	}
	t.cache.put(s.id, p)
	return p, nil
}

func (t *Tree) readRoot(number uint64) (slot, error) {
	b, err := t.store.Get(t.numberKey('r', number))
	if err != nil {
		return slot{}, fmt.Errorf("read root of version %d: %w", number, err)
	}
	if b == nil {
		return slot{}, fmt.Errorf("root of version %d is missing; the store is damaged", number)
	}
	s, rest, err := cutSlot(b)
	if err == nil && len(rest) != 0 {
		err = errors.New("bytes follow it")
	}
	if err != nil {
		return slot{}, fmt.Errorf("root of version %d is damaged: %w", number, err)
	}
	return s, nil
}

func (t *Tree) metaKey() []byte          { return []byte(t.opts.Prefix + "m") }
func (t *Tree) pageKey(id uint64) []byte { return t.numberKey('n', id) }
func (t *Tree) staleKey(v uint64) []byte { return t.numberKey('x', v) }
func (t *Tree) numberKey(sort byte, n uint64) []byte {
	b := make([]byte, 0, len(t.opts.Prefix)+9)
	b = append(append(b, t.opts.Prefix...), sort)
	return binary.BigEndian.AppendUint64(b, n)
}
