package smt

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// fanout is the number of children of a page: four levels of the binary tree.
const fanout = 16

type kind uint8

const (
	empty kind = iota
	leaf
	inner
)

// slot is one subtree as its parent knows it: nothing, a lone leaf, or a page.
type slot struct {
	kind kind
	id   uint64   // inner: where the page is stored
	hash [32]byte // the subtree's hash
	key  [32]byte // leaf: the key hash
	val  [32]byte // leaf: the value hash
}

func leafSlot(key, val [32]byte) slot {
	return slot{kind: leaf, hash: leafHash(key, val), key: key, val: val}
}

// page is an inner subtree of four binary levels. It is never changed.
type page struct {
	occupied uint16 // bit i: child i is not empty
	children []slot // the occupied ones
}

// slots spreads the children over their places.
func (p *page) slots() (s [fanout]slot) {
	next := 0
	for i := range fanout {
		if p.occupied>>i&1 == 1 {
			s[i] = p.children[next]
			next++
		}
	}
	return s
}

// newPage packs the occupied slots.
func newPage(s *[fanout]slot) *page {
	p := &page{}
	for i := range s {
		if s[i].kind != empty {
			p.occupied |= 1 << i
		}
	}
	p.children = make([]slot, 0, bits.OnesCount16(p.occupied))
	for i := range s {
		if s[i].kind != empty {
			p.children = append(p.children, s[i])
		}
	}
	return p
}

// span returns the occupied children among lo..hi-1.
func (p *page) span(lo, hi int) uint16 {
	return p.occupied & (uint16(1)<<hi - 1) &^ (uint16(1)<<lo - 1)
}

// child returns the slot of child i.
func (p *page) child(i int) slot {
	if p.occupied>>i&1 == 0 {
		return slot{}
	}
	return p.children[bits.OnesCount16(p.span(0, i))]
}

// lone returns the leaf of the children lo..hi-1 if it is the only one there.
func (p *page) lone(lo, hi int) (slot, bool) {
	m := p.span(lo, hi)
	if bits.OnesCount16(m) != 1 {
		return slot{}, false
	}
	s := p.child(bits.TrailingZeros16(m))
	return s, s.kind == leaf
}

// hash returns the hash of the binary subtree over the children lo..hi-1.
func (p *page) hash(lo, hi int) [32]byte {
	if p.span(lo, hi) == 0 {
		return [32]byte{}
	}
	if s, ok := p.lone(lo, hi); ok {
		return s.hash
	}
	if hi-lo == 1 {
		return p.child(lo).hash
	}
	mid := (lo + hi) / 2
	return innerHash(p.hash(lo, mid), p.hash(mid, hi))
}

// appendSlot encodes a slot: its kind, then a leaf's key and value hashes or a
// page's id and hash.
func appendSlot(b []byte, s slot) []byte {
	b = append(b, byte(s.kind))
	switch s.kind {
	case leaf:
		b = append(b, s.key[:]...)
		b = append(b, s.val[:]...)
	case inner:
		b = binary.BigEndian.AppendUint64(b, s.id)
		b = append(b, s.hash[:]...)
	}
	return b
}

func cutSlot(b []byte) (slot, []byte, error) {
	if len(b) == 0 {
		return slot{}, nil, fmt.Errorf("it ends before a slot")
	}
	k, b := kind(b[0]), b[1:]
	switch {
	case k == empty:
		return slot{}, b, nil
	case k == leaf && len(b) >= 64:
		return leafSlot([32]byte(b), [32]byte(b[32:])), b[64:], nil
	case k == inner && len(b) >= 40:
		return slot{kind: inner, id: binary.BigEndian.Uint64(b), hash: [32]byte(b[8:])}, b[40:], nil
	}
	return slot{}, nil, fmt.Errorf("slot of kind %d with %d bytes left", k, len(b))
}

func (p *page) encode() []byte {
	size := 2
	for i := range p.children {
		size += 41
		if p.children[i].kind == leaf {
			size += 24
		}
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, size), p.occupied)
	for _, c := range p.children {
		b = appendSlot(b, c)
	}
	return b
}

func decodePage(b []byte) (*page, error) {
	if len(b) < 2 {
		return nil, fmt.Errorf("it has %d bytes", len(b))
	}
	p := &page{occupied: binary.BigEndian.Uint16(b)}
	b = b[2:]
	p.children = make([]slot, 0, bits.OnesCount16(p.occupied))
	for range bits.OnesCount16(p.occupied) {
		s, rest, err := cutSlot(b)
		if err != nil {
			return nil, err
		}
		if s.kind == empty {
			return nil, fmt.Errorf("an occupied slot is empty")
		}
		p.children, b = append(p.children, s), rest
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%d bytes follow its last slot", len(b))
	}
	return p, nil
}
