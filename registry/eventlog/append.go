package eventlog

import "crypto/sha256"

// Update is the log with more leaves, computed but not yet stored.
type Update struct {
	log  *Log
	head *Head
	edge edge
	puts []Put
}

// Head returns the head that the update makes. Its proofs can be had after
// Accept.
func (u *Update) Head() *Head { return u.head }

// Writes returns what must be written, in one atomic batch with the new size,
// before Accept.
func (u *Update) Writes() []Put { return u.puts }

// Prepare computes the log with more leaves. Nothing is stored, and the log
// stays as it is, until what Writes returns is written and Accept called.
func (l *Log) Prepare(events [][]byte) *Update {
	size := l.Head().size
	u := &Update{log: l, edge: make(edge, len(l.edge))}
	u.puts = make([]Put, 0, len(events)+len(events)/(tileWidth-1)+len(u.edge)+1)
	for i, part := range l.edge { // the log's own edge is not touched
		u.edge[i] = append(make([][32]byte, 0, tileWidth), part...)
	}
	for i, e := range events {
		u.puts = append(u.puts, Put{l.leafKey(size + uint64(i)), e})
		u.add(0, LeafHash(e), size+uint64(i))
	}
	size += uint64(len(events))
	if len(events) > 0 {
		u.flushEdge(size)
	}
	u.head = &Head{log: l, size: size, root: u.edge.root()}
	return u
}

// Accept makes a written update the log's state.
func (l *Log) Accept(u *Update) {
	l.edge = u.edge
	l.head.Store(u.head)
}

// add appends a complete node of the group's lowest level. A tile that fills is
// written, and its root goes one group up.
func (u *Update) add(group int, hash [32]byte, index uint64) {
	if group == len(u.edge) {
		u.edge = append(u.edge, make([][32]byte, 0, tileWidth))
	}
	u.edge[group] = append(u.edge[group], hash)
	if len(u.edge[group]) < tileWidth {
		return
	}
	u.putTile(group, index/tileWidth)
	sub := perfect(u.edge[group])
	u.edge[group] = u.edge[group][:0]
	u.add(group+1, sub, index/tileWidth)
}

// flushEdge writes the unfinished tiles.
func (u *Update) flushEdge(size uint64) {
	for group, part := range u.edge {
		if len(part) > 0 {
			u.putTile(group, (size>>(tileLevels*group))/tileWidth)
		}
	}
}

func (u *Update) putTile(group int, index uint64) {
	b := make([]byte, 0, 32*tileWidth)
	for _, h := range u.edge[group] {
		b = append(b, h[:]...)
	}
	u.puts = append(u.puts, Put{u.log.tileKey(group, index), b})
}

// node hashes two neighbours (RFC 6962 section 2.1) without the allocations of
// the general hasher.
func node(left, right [32]byte) [32]byte {
	var b [65]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[33:], right[:])
	return sha256.Sum256(b[:])
}
