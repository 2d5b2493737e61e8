// Package eventlog is the registry's log of everything that it accepted: an
// append-only Merkle log (RFC 6962) with inclusion and consistency proofs.
//
// Leaves and the hashes of complete subtrees are kept in a store, the hashes in
// tiles of sixteen, so that a proof in a log of n leaves reads at most
// ceil(log16 n) tiles a side and the log opens without reading its leaves.
//
// Trust: an attacker who controls the store can make the log fail, or build
// proofs that do not verify; he cannot have anyone who knows the root accept a
// leaf that is not in it.
package eventlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// tileLevels is the number of tree levels per tile; a tile has 16 hashes.
const tileLevels = 4

const tileWidth = 1 << tileLevels

// Store is where a log reads what it wrote. Get returns nil and no error for an
// absent key. It is called by several goroutines at once.
type Store interface {
	Get(key []byte) ([]byte, error)
}

// Put is one record that a log wants written.
type Put struct{ Key, Value []byte }

// Log is an append-only log in a store. Prepare and Accept belong to one
// writer; everything else may be called by anyone at any time.
type Log struct {
	store  Store
	prefix string
	head   atomic.Pointer[Head]
	edge   edge // belongs to the writer
}

// Head is the log as it was at one size. It never changes.
type Head struct {
	log  *Log
	size uint64
	root [32]byte
}

// edge holds, for every group of levels, the hashes of the unfinished tile.
type edge [][][32]byte

// Open opens the log of the given size. Its caller keeps the size together with
// what else was written, in one batch.
func Open(store Store, prefix string, size uint64) (*Log, error) {
	l := &Log{store: store, prefix: prefix}
	for group := 0; size>>(tileLevels*group) > 0; group++ {
		nodes := size >> (tileLevels * group)
		have := int(nodes % tileWidth)
		var part [][32]byte
		if have > 0 {
			tile, err := l.tile(group, nodes/tileWidth)
			if err != nil {
				return nil, fmt.Errorf("open event log of %d events: %w", size, err)
			}
			if len(tile) < have {
				return nil, fmt.Errorf("open event log of %d events: a tile holds %d hashes, not %d; the store is damaged", size, len(tile), have)
			}
			part = tile[:have]
		}
		l.edge = append(l.edge, part)
	}
	l.head.Store(&Head{log: l, size: size, root: l.edge.root()})
	return l, nil
}

// Head returns the latest accepted head.
func (l *Log) Head() *Head { return l.head.Load() }

// Size returns the number of leaves.
func (h *Head) Size() uint64 { return h.size }

// Root returns the root hash; that of the empty log is SHA-256 of nothing.
func (h *Head) Root() [32]byte { return h.root }

// root folds the perfect subtrees of the edge, smallest first.
func (e edge) root() [32]byte {
	root, any := [32]byte(rfc6962.DefaultHasher.EmptyRoot()), false
	for _, part := range e {
		// The tile's hashes are cut, from its end, into perfect subtrees.
		for size := 1; len(part) > 0; size *= 2 {
			if len(part)&size == 0 {
				continue
			}
			sub := perfect(part[len(part)-size:])
			part = part[:len(part)-size]
			if any {
				root = node(sub, root)
			} else {
				root, any = sub, true
			}
		}
	}
	return root
}

// perfect hashes 1, 2, 4, 8 or 16 neighbours together.
func perfect(hashes [][32]byte) [32]byte {
	if len(hashes) == 1 {
		return hashes[0]
	}
	mid := len(hashes) / 2
	return node(perfect(hashes[:mid]), perfect(hashes[mid:]))
}

// Event returns leaf index of the log as it was at this head.
func (h *Head) Event(index uint64) ([]byte, error) {
	if index >= h.size {
		return nil, fmt.Errorf("event %d: the log has %d events", index, h.size)
	}
	b, err := h.log.store.Get(h.log.leafKey(index))
	if err != nil {
		return nil, fmt.Errorf("event %d: %w", index, err)
	}
	if b == nil {
		return nil, fmt.Errorf("event %d is missing; the store is damaged", index)
	}
	return b, nil
}

// At returns the head that the log had at an earlier size.
func (h *Head) At(size uint64) (*Head, error) {
	switch {
	case size == h.size:
		return h, nil
	case size > h.size:
		return nil, fmt.Errorf("event log at size %d: the log has %d events", size, h.size)
	case size == 0:
		return &Head{log: h.log, root: [32]byte(rfc6962.DefaultHasher.EmptyRoot())}, nil
	}
	ids := compact.RangeNodes(0, size, nil)
	var root [32]byte
	for i := len(ids) - 1; i >= 0; i-- {
		sub, err := h.log.hash(ids[i])
		if err != nil {
			return nil, fmt.Errorf("event log at size %d: %w", size, err)
		}
		if i == len(ids)-1 {
			root = sub
		} else {
			root = node(sub, root)
		}
	}
	return &Head{log: h.log, size: size, root: root}, nil
}

// Inclusion returns the RFC 6962 proof that leaf index is in the log.
func (h *Head) Inclusion(index uint64) ([][]byte, error) {
	if index >= h.size {
		return nil, fmt.Errorf("prove event %d: the log has %d events", index, h.size)
	}
	nodes, err := proof.Inclusion(index, h.size)
	if err != nil {
		return nil, fmt.Errorf("prove event %d: %w", index, err)
	}
	out, err := h.log.fill(nodes)
	if err != nil {
		return nil, fmt.Errorf("prove event %d: %w", index, err)
	}
	return out, nil
}

// Consistency returns the RFC 6962 proof that the log of oldSize is a prefix of
// this one. It is empty when oldSize is 0 or the size itself.
func (h *Head) Consistency(oldSize uint64) ([][]byte, error) {
	if oldSize > h.size {
		return nil, fmt.Errorf("prove consistency from size %d: the log has %d events", oldSize, h.size)
	}
	if oldSize == 0 || oldSize == h.size {
		return [][]byte{}, nil
	}
	nodes, err := proof.Consistency(oldSize, h.size)
	if err != nil {
		return nil, fmt.Errorf("prove consistency from size %d: %w", oldSize, err)
	}
	out, err := h.log.fill(nodes)
	if err != nil {
		return nil, fmt.Errorf("prove consistency from size %d: %w", oldSize, err)
	}
	return out, nil
}

func (l *Log) fill(nodes proof.Nodes) ([][]byte, error) {
	hashes := make([][]byte, len(nodes.IDs))
	for i, id := range nodes.IDs {
		h, err := l.hash(id)
		if err != nil {
			return nil, err
		}
		hashes[i] = h[:]
	}
	return nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
}

// hash returns the hash of a complete subtree from the one tile that holds it.
func (l *Log) hash(id compact.NodeID) ([32]byte, error) {
	group, within := int(id.Level)/tileLevels, id.Level%tileLevels
	first := id.Index << within // its first hash in the group's lowest level
	tile, err := l.tile(group, first/tileWidth)
	if err != nil {
		return [32]byte{}, err
	}
	lo, n := int(first%tileWidth), 1<<within
	if lo+n > len(tile) {
		return [32]byte{}, fmt.Errorf("tile %d/%d holds %d hashes, not %d; the store is damaged", group, first/tileWidth, len(tile), lo+n)
	}
	return perfect(tile[lo : lo+n]), nil
}

func (l *Log) tile(group int, index uint64) ([][32]byte, error) {
	b, err := l.store.Get(l.tileKey(group, index))
	if err != nil {
		return nil, fmt.Errorf("read tile %d/%d: %w", group, index, err)
	}
	if len(b) == 0 || len(b)%32 != 0 || len(b) > 32*tileWidth {
		return nil, fmt.Errorf("tile %d/%d has %d bytes, the rule is 1 to 16 hashes; the store is damaged", group, index, len(b))
	}
	tile := make([][32]byte, len(b)/32, tileWidth)
	for i := range tile {
		tile[i] = [32]byte(b[32*i:])
	}
	return tile, nil
}

func (l *Log) leafKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, len(l.prefix)+9), l.prefix+"e"...), index)
}

func (l *Log) tileKey(group int, index uint64) []byte {
	b := append(make([]byte, 0, len(l.prefix)+10), l.prefix+"h"...)
	return binary.BigEndian.AppendUint64(append(b, byte(group)), index)
}

// LeafHash returns the RFC 6962 hash of a leaf.
func LeafHash(event []byte) [32]byte {
	return [32]byte(rfc6962.DefaultHasher.HashLeaf(event))
}

// VerifyInclusion checks a proof that event is leaf index of the log with this
// size and root.
func VerifyInclusion(event []byte, index, size uint64, root [32]byte, hashes [][]byte) error {
	if err := checkHashes(hashes); err != nil {
		return fmt.Errorf("inclusion proof of event %d: %w", index, err)
	}
	leaf := LeafHash(event)
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, leaf[:], hashes, root[:]); err != nil {
		return fmt.Errorf("inclusion proof of event %d: %w", index, err)
	}
	return nil
}

// VerifyConsistency checks a proof that the log of oldSize and oldRoot is a
// prefix of the log of newSize and newRoot. oldSize is at least 1.
func VerifyConsistency(oldSize, newSize uint64, oldRoot, newRoot [32]byte, hashes [][]byte) error {
	if oldSize == 0 {
		return errors.New("consistency proof: old size is 0, the rule is at least 1")
	}
	if err := checkHashes(hashes); err != nil {
		return fmt.Errorf("consistency proof: %w", err)
	}
	if err := proof.VerifyConsistency(hasher{rfc6962.DefaultHasher}, oldSize, newSize, hashes, oldRoot[:], newRoot[:]); err != nil {
		return fmt.Errorf("consistency proof: %w", err)
	}
	return nil
}

// hasher is RFC 6962's, without the allocations of the general one for two
// neighbours.
type hasher struct{ *rfc6962.Hasher }

// HashChildren implements merkle.LogHasher. Both have 32 bytes.
func (hasher) HashChildren(left, right []byte) []byte {
	h := node([32]byte(left), [32]byte(right))
	return h[:]
}

func checkHashes(hashes [][]byte) error {
	for i, h := range hashes {
		if len(h) != 32 {
			return fmt.Errorf("hash %d has %d bytes, the rule is 32", i, len(h))
		}
	}
	return nil
}
