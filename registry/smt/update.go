package smt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// Change sets a key's value or, when Value is nil, removes the key.
type Change struct {
	Key   string
	Value []byte
}

// pruneStep bounds the old versions removed with one update, so that a window
// made smaller does not make one block slow.
const pruneStep = 8

// entry is a change as the tree sees it.
type entry struct {
	key, val [32]byte
	remove   bool
}

// Update is the next version, computed but not yet stored.
type Update struct {
	tree    *Tree
	version *Version
	nextID  uint64
	oldest  uint64
	pages   []newlyMade
	stale   []uint64 // pages of the version before that this one does without
	puts    []Put
	deletes [][]byte
}

type newlyMade struct {
	id   uint64
	page *page
}

// Version returns the version that the update makes. Its proofs can be had
// after Accept.
func (u *Update) Version() *Version { return u.version }

// Writes returns what must be written in one atomic batch before Accept.
func (u *Update) Writes() (puts []Put, deletes [][]byte) { return u.puts, u.deletes }

// Prepare computes the version that follows the latest one. The last change of
// a key counts. Nothing is stored, and the tree stays as it is, until what
// Writes returns is written and Accept called.
func (t *Tree) Prepare(changes []Change) (*Update, error) {
	latest := t.Latest()
	u := &Update{tree: t, nextID: t.nextID, oldest: t.oldest}
	// 1. The changes in the order of the tree.
	entries := sortEntries(changes)
	// 2. Only changed paths are read, hashed and made anew.
	root, err := u.apply(latest.root, 0, entries)
	if err != nil {
		return nil, fmt.Errorf("update state tree: %w", err)
	}
	u.version = &Version{tree: t, number: latest.number + 1, root: root}
	// 3. The new pages, the root, what became stale, and the pruning of what
	// leaves the window.
	for _, n := range u.pages {
		u.puts = append(u.puts, Put{t.pageKey(n.id), n.page.encode()})
	}
	u.puts = append(u.puts, Put{t.numberKey('r', u.version.number), appendSlot(nil, root)})
	if len(u.stale) > 0 {
		u.puts = append(u.puts, Put{t.staleKey(u.version.number), encodeIDs(u.stale)})
	}
	if err := u.prune(); err != nil {
		return nil, fmt.Errorf("update state tree: %w", err)
	}
	meta := binary.BigEndian.AppendUint64(nil, u.version.number)
	meta = binary.BigEndian.AppendUint64(meta, u.nextID)
	meta = binary.BigEndian.AppendUint64(meta, u.oldest)
	u.puts = append(u.puts, Put{t.metaKey(), meta})
	return u, nil
}

// Accept makes a written update the latest version.
func (t *Tree) Accept(u *Update) {
	t.nextID, t.oldest = u.nextID, u.oldest
	// Pages of earlier versions are asked for by proofs only, which read them again.
	for _, id := range u.stale {
		t.cache.drop(id)
	}
	for _, n := range u.pages {
		t.cache.put(n.id, n.page)
	}
	t.latest.Store(u.version)
}

func sortEntries(changes []Change) []entry {
	entries := make([]entry, len(changes))
	for i, c := range changes {
		entries[i] = entry{key: KeyHash(c.Key), remove: c.Value == nil}
		if c.Value != nil {
			entries[i].val = ValueHash(c.Value)
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return bytes.Compare(a.key[:], b.key[:]) })
	out := entries[:0]
	for i, e := range entries {
		if i+1 < len(entries) && entries[i+1].key == e.key {
			continue // a later change of the same key counts
		}
		out = append(out, e)
	}
	return out
}

// apply returns the subtree old, whose root is depth nibbles down, after the
// entries, all of which belong into it.
func (u *Update) apply(old slot, depth int, entries []entry) (slot, error) {
	if len(entries) == 0 {
		return old, nil
	}
	if old.kind != inner {
		return u.grow(old, depth, entries), nil
	}
	p, err := u.tree.load(old)
	if err != nil {
		return slot{}, err
	}
	slots, changed := p.slots(), false
	for len(entries) > 0 {
		n, count := group(entries, depth)
		s, err := u.apply(slots[n], depth+1, entries[:count])
		if err != nil {
			return slot{}, err
		}
		if s != slots[n] {
			slots[n], changed = s, true
		}
		entries = entries[count:]
	}
	if !changed {
		return old, nil
	}
	u.stale = append(u.stale, old.id)
	return u.seal(&slots), nil
}

// grow applies entries where there was nothing or one leaf.
func (u *Update) grow(old slot, depth int, entries []entry) slot {
	live := make([]entry, 0, len(entries)+1)
	kept := old.kind == empty // whether the old leaf is already accounted for
	for _, e := range entries {
		if !kept {
			switch bytes.Compare(old.key[:], e.key[:]) {
			case 0:
				kept = true
			case -1:
				live, kept = append(live, entry{key: old.key, val: old.val}), true
			}
		}
		if !e.remove {
			live = append(live, e)
		}
	}
	if !kept {
		live = append(live, entry{key: old.key, val: old.val})
	}
	return u.build(depth, live)
}

// build makes a subtree out of nothing.
func (u *Update) build(depth int, live []entry) slot {
	switch len(live) {
	case 0:
		return slot{}
	case 1:
		return leafSlot(live[0].key, live[0].val)
	}
	var slots [fanout]slot
	for len(live) > 0 {
		n, count := group(live, depth)
		slots[n] = u.build(depth+1, live[:count])
		live = live[count:]
	}
	return u.seal(&slots)
}

// seal makes the subtree with these children: a lone leaf takes the place of
// its page.
func (u *Update) seal(slots *[fanout]slot) slot {
	p := newPage(slots)
	if p.occupied == 0 {
		return slot{}
	}
	if s, ok := p.lone(0, fanout); ok {
		return s
	}
	id := u.nextID
	u.nextID++
	u.pages = append(u.pages, newlyMade{id, p})
	return slot{kind: inner, id: id, hash: p.hash(0, fanout)}
}

// group returns the nibble of the first entry at depth and how many entries
// share it.
func group(entries []entry, depth int) (n byte, count int) {
	n = nibble(&entries[0].key, depth)
	for count = 1; count < len(entries) && nibble(&entries[count].key, depth) == n; count++ {
	}
	return n, count
}

func nibble(key *[32]byte, depth int) byte {
	return key[depth/2] >> (4 * (1 - depth%2)) & 15
}

// prune removes what only versions before the window need. A page that became
// stale with version w is needed by versions before w.
func (u *Update) prune() error {
	for range pruneStep {
		if u.oldest+u.tree.opts.Keep > u.version.number {
			return nil
		}
		next := u.oldest + 1 // becomes the oldest one
		ids, err := u.staleWith(next)
		if err != nil {
			return err
		}
		for _, id := range ids {
			u.deletes = append(u.deletes, u.tree.pageKey(id))
		}
		u.deletes = append(u.deletes, u.tree.staleKey(next), u.tree.numberKey('r', u.oldest))
		u.oldest = next
	}
	return nil
}

func (u *Update) staleWith(version uint64) ([]uint64, error) {
	if version == u.version.number { // not stored yet
		u.puts = slices.DeleteFunc(u.puts, func(p Put) bool { return bytes.Equal(p.Key, u.tree.staleKey(version)) })
		return u.stale, nil
	}
	b, err := u.tree.store.Get(u.tree.staleKey(version))
	if err != nil {
		return nil, fmt.Errorf("read stale pages of version %d: %w", version, err)
	}
	if len(b)%8 != 0 {
		return nil, fmt.Errorf("stale pages of version %d: the record has %d bytes, the rule is a multiple of 8; the store is damaged", version, len(b))
	}
	ids := make([]uint64, len(b)/8)
	for i := range ids {
		ids[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return ids, nil
}

func encodeIDs(ids []uint64) []byte {
	b := make([]byte, 0, 8*len(ids))
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	return b
}
