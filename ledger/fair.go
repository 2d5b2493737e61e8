package ledger

import (
	"container/heap"
	"hash/maphash"
	"sync"

	"github.com/cometbft/cometbft/types"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// lanes counts who has how many transactions in this node's pool, so that one
// member cannot fill it. The pool drops transactions without saying so; settle
// compares now and then.
type lanes struct {
	mu    sync.Mutex
	owner map[[32]byte]laneID // by the hash of an envelope: the author's lane
	held  map[laneID]int      // transactions of each lane
}

// laneID stands for a member: a hash that is another one in each process, so that
// nobody can choose a member that falls together with another.
type laneID uint64

var laneSeed = maphash.MakeSeed()

// admit counts an envelope and reports true, or reports that its author holds its
// share already: while more than half of the pool (of size places) is taken, a
// member may hold one part of it for each member that has any in it, and one more
// part stays free for the next; never less than share per mille.
func (l *lanes) admit(hash [32]byte, lane laneID, size int, share uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.owner[hash]; ok {
		return true
	}
	if len(l.owner) > size/2 {
		parts := len(l.held) + 1
		if l.held[lane] == 0 {
			parts++
		}
		if l.held[lane] >= max(size/parts, size*int(share)/1000, 1) {
			return false
		}
	}
	if l.owner == nil {
		l.owner, l.held = make(map[[32]byte]laneID), make(map[laneID]int)
	}
	l.owner[hash] = lane
	l.held[lane]++
	return true
}

// remove forgets envelopes that left the pool.
func (l *lanes) remove(hashes ...[32]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, hash := range hashes {
		lane, ok := l.owner[hash]
		if !ok {
			continue
		}
		delete(l.owner, hash)
		if l.held[lane]--; l.held[lane] <= 0 {
			delete(l.held, lane)
		}
	}
}

// hashes are the envelopes that are counted.
func (l *lanes) hashes() [][32]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([][32]byte, 0, len(l.owner))
	for hash := range l.owner {
		out = append(out, hash)
	}
	return out
}

func (l *lanes) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.owner)
}

// settleLanes forgets what was counted before the pool was read and is not in it.
func (a *app) settleLanes() {
	if a.lanes.len() <= a.pool.Load().Size() {
		return
	}
	counted := a.lanes.hashes()
	pool := make(map[[32]byte]bool)
	for _, tx := range a.pool.Load().ReapMaxTxs(-1) {
		pool[tx.Key()] = true
	}
	var gone [][32]byte
	for _, hash := range counted {
		if !pool[hash] {
			gone = append(gone, hash)
		}
	}
	a.lanes.remove(gone...)
}

// admit reports whether the author of a checked envelope may have one more in
// the pool.
func (a *app) admit(hash [32]byte, envelope []byte) bool {
	v := a.view()
	if v == nil {
		return true
	}
	return a.lanes.admit(hash, laneOf(v, envelope), a.cfg.PoolTransactions, v.BlockShare())
}

// laneOf is the lane of the member that signed an envelope, 0 when nobody knows.
func laneOf(v *registry.View, envelope []byte) laneID {
	id := keyIDOf(envelope)
	if len(id) != len(civibus.KeyID{}) || v == nil {
		return 0
	}
	member, _ := v.MemberOf(civibus.KeyID(id))
	return laneID(maphash.Comparable(laneSeed, member))
}

// keyIDOf cuts the signing key's id out of an envelope: field 2 of field 1.
func keyIDOf(envelope []byte) []byte { return byteField(byteField(envelope, 1), 2) }

func byteField(b []byte, field protowire.Number) []byte {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			return nil
		}
		if num == field && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b[n:])
			return v
		}
		b = b[n+m:]
	}
	return nil
}

// takeTurns puts transactions into the order of a block that not all of them fit
// into: the next one is of the member with the fewest bytes so far. Those of one
// member stay in their order.
func takeTurns(v *registry.View, txs [][]byte) [][]byte {
	index := make(map[laneID]*lane)
	var turns laneHeap
	for _, tx := range txs {
		name := laneOf(v, tx)
		l, ok := index[name]
		if !ok {
			l = &lane{place: len(turns)}
			index[name], turns = l, append(turns, l)
		}
		l.txs = append(l.txs, tx)
	}
	out := make([][]byte, 0, len(txs))
	for len(turns) > 0 {
		l := turns[0]
		out = append(out, l.txs[0])
		l.bytes += len(l.txs[0])
		if l.txs = l.txs[1:]; len(l.txs) == 0 {
			heap.Pop(&turns)
		} else {
			heap.Fix(&turns, 0)
		}
	}
	return out
}

// lane is what one member has waiting.
type lane struct {
	txs   [][]byte
	bytes int // taken so far
	place int // of the lane in the pool
}

type laneHeap []*lane

func (h laneHeap) Len() int { return len(h) }
func (h laneHeap) Less(i, j int) bool {
	return h[i].bytes < h[j].bytes || h[i].bytes == h[j].bytes && h[i].place < h[j].place
}
func (h laneHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push adds a lane; nothing does.
func (h *laneHeap) Push(x any) { *h = append(*h, x.(*lane)) }

// Pop takes the last lane away.
func (h *laneHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// waitingFor is all that waits when a block cannot take what is offered for it,
// because the engine offers the oldest only.
func (a *app) waitingFor(offered [][]byte) [][]byte {
	p := a.pool.Load()
	if p == nil || p.Size() <= len(offered) {
		return offered
	}
	all := types.Txs(p.ReapMaxTxs(-1))
	if len(all) <= len(offered) {
		return offered
	}
	return all.ToSliceOfBytes()
}
