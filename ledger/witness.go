package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/syndtr/goleveldb/leveldb/opt"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/ldb"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// Errors of Checkpoint and Cosign.
var (
	// ErrNotExecuted: this node has not executed a block after which the event log
	// has that size.
	ErrNotExecuted = errors.New("no block executed at this node left the registry's event log at that size")
	// ErrNoWitness: this node does not cosign.
	ErrNoWitness = errors.New("this node has no witness key")
	// ErrConflict: this node signed another root for the size before. It never
	// signs both.
	ErrConflict = errors.New("this node cosigned another root for that size before; the registry's history changed under it")
)

// Checkpoint is the text of the registry's checkpoint at an event-log size: C2SP
// tlog-checkpoint without signatures. The log must have had that size after a
// block that this node executed.
func (n *Node) Checkpoint(size uint64) (string, error) {
	text, _, _, err := n.checkpoint(size)
	return text, err
}

// checkpoint also returns the root and the height of the block.
func (n *Node) checkpoint(size uint64) (text string, root [32]byte, height uint64, err error) {
	return checkpointOf(n.View(), size)
}

// checkpointOf makes the checkpoint of a view's event log at an earlier size.
func checkpointOf(v *registry.View, size uint64) (text string, root [32]byte, height uint64, err error) {
	if v == nil || size == 0 || size > v.EventSize() {
		return "", root, 0, fmt.Errorf("checkpoint at size %d: %w", size, ErrNotExecuted)
	}
	leaf, err := v.Event(size - 1)
	if err != nil {
		return "", root, 0, fmt.Errorf("checkpoint at size %d: %w", size, err)
	}
	var event registrypb.Event
	if err := proto.Unmarshal(leaf, &event); err != nil {
		return "", root, 0, fmt.Errorf("checkpoint at size %d: %w", size, err)
	}
	if event.GetBlockCommitted() == nil { // in the middle of a block
		return "", root, 0, fmt.Errorf("checkpoint at size %d: %w", size, ErrNotExecuted)
	}
	if root, err = v.EventRootAt(size); err != nil {
		return "", root, 0, fmt.Errorf("checkpoint at size %d: %w", size, err)
	}
	return CheckpointText(RegistryOrigin(v.ChainID()), size, root), root, event.Height, nil
}

// Cosign returns this node's cosignature line (C2SP tlog-cosignature) for the
// registry's checkpoint at an event-log size and, if it has an ML-DSA-44 witness
// key in force, a second line by that. The same size gets the same line of a key
// for ever.
func (n *Node) Cosign(ctx context.Context, size uint64) (string, error) {
	if n.cfg.Witness == nil {
		return "", ErrNoWitness
	}
	if guard, _, _ := n.signer.up(); guard != nil {
		return "", fmt.Errorf("cosign: %w", ErrGuarded)
	}
	text, root, height, err := n.checkpoint(size)
	if err != nil {
		return "", err
	}
	v, signer := n.View(), civibus.CurrentSigner(n.cfg.Witness)
	key, err := witnessKey(v, signer.Key().ID, height)
	if err != nil {
		return "", err
	}
	name := WitnessName(v.ChainID(), key.Member)
	line, fresh, err := n.witness.cosign(ctx, signer, name, text, size, root)
	if fresh {
		n.metrics.cosignatures.Inc()
	}
	if err != nil || n.cfg.SecondWitness == nil {
		return line, err
	}
	second := n.cfg.SecondWitness()
	if second == nil {
		return line, nil
	}
	// The second key may be younger than the block, which the first one vouches
	// for alone then.
	if own, err := witnessKey(v, second.Key().ID, height); err != nil || own.Member != key.Member {
		return line, nil
	}
	more, _, err := n.witness.cosign(ctx, second, name, text, size, root)
	return line + more, err
}

// witnessKey returns a witness key that is in force at a height.
func witnessKey(v *registry.View, id civibus.KeyID, height uint64) (civibus.RegisteredKey, error) {
	key, ok := v.Key(id)
	switch {
	case !ok:
		return key, fmt.Errorf("cosign: witness key %s is not registered; register it with purpose witness", id)
	case key.Purpose != civibus.WitnessKey:
		return key, fmt.Errorf("cosign: key %s has purpose %s, the rule is witness", id, key.Purpose)
	case !key.InForce(height):
		return key, fmt.Errorf("cosign: witness key %s is not in force at height %d", id, height)
	}
	return key, nil
}

// witnessChain binds the witness key to the chain's history as of now, before the
// guard comes down: what the key signed before, and its journal may not know of,
// is below, and the chain has it as it was agreed on.
func (n *Node) witnessChain() error {
	v := n.View()
	if n.witness == nil || v == nil || v.EventSize() == 0 {
		return nil
	}
	return n.witness.bind(civibus.CurrentSigner(n.cfg.Witness).Key().ID, v.EventSize(), v.EventRoot())
}

// witness signs checkpoints and keeps a journal of what it signed, outside the
// registry's database so that it survives when that is rebuilt.
//
// Journal record: size (8 bytes) || key id (32 bytes) -> root (32 bytes) || line.
// The record is durable with an empty line before the key is used, so that after
// a crash the root is known to which the key may be bound.
type witness struct {
	clock civibus.Clock
	db    *ldb.DB

	mu sync.Mutex
}

func openWitness(dir string, signer civibus.Signer, clock civibus.Clock) (*witness, error) {
	if signer == nil {
		return nil, nil
	}
	db, err := ldb.Open(dir, opt.Options{WriteBuffer: 1 << 20, BlockCacheCapacity: 1 << 20, OpenFilesCacheCapacity: 16})
	if err != nil {
		return nil, fmt.Errorf("open the witness's journal %s: %w", dir, err)
	}
	return &witness{clock: clock, db: db}, nil
}

func (w *witness) close() error {
	if w == nil {
		return nil
	}
	return w.db.Close()
}

func (w *witness) key(id civibus.KeyID, size uint64) []byte {
	return append(binary.BigEndian.AppendUint64(nil, size), id[:]...)
}

// signed returns what the journal holds for a size.
func (w *witness) signed(id civibus.KeyID, size uint64) (root [32]byte, line string, ok bool, err error) {
	b, err := get(w.db, w.key(id, size))
	if err != nil || b == nil {
		return root, "", false, err
	}
	if len(b) < 32 {
		return root, "", false, fmt.Errorf("witness's journal: the record of size %d has %d bytes", size, len(b))
	}
	return [32]byte(b[:32]), string(b[32:]), true, nil
}

func (w *witness) cosign(ctx context.Context, signer civibus.Signer, name, text string, size uint64, root [32]byte) (line string, fresh bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := signer.Key().ID

	// 1. What was signed stays.
	was, line, ok, err := w.signed(id, size)
	if err != nil {
		return "", false, err
	}
	if ok && was != root {
		return "", false, fmt.Errorf("cosign size %d: %w", size, ErrConflict)
	}
	if line != "" {
		return line, false, nil
	}

	// 2. Bind the size to the root before the key is used.
	if !ok {
		if err := w.put(id, size, root); err != nil {
			return "", false, err
		}
	}

	// 3. Sign, and keep the line.
	if line, err = sign(ctx, signer, name, text, w.clock().Truncate(time.Second)); err != nil {
		return "", false, fmt.Errorf("cosign size %d: %w", size, err)
	}
	if err := w.db.Put(w.key(id, size), append(root[:], line...), nil); err != nil {
		return "", false, fmt.Errorf("witness's journal: %w", err)
	}
	return line, true, nil
}

// bind has the key sign no other root than this one for a size.
func (w *witness) bind(id civibus.KeyID, size uint64, root [32]byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	was, _, ok, err := w.signed(id, size)
	switch {
	case err != nil:
		return err
	case ok && was != root:
		return fmt.Errorf("bind size %d: %w", size, ErrConflict)
	case ok:
		return nil
	}
	return w.put(id, size, root)
}

// put notes durably that a size is bound to a root.
func (w *witness) put(id civibus.KeyID, size uint64, root [32]byte) error {
	if err := w.db.Put(w.key(id, size), root[:], &opt.WriteOptions{Sync: true}); err != nil {
		return fmt.Errorf("witness's journal: %w", err)
	}
	return nil
}

// check compares the last checkpoints that were cosigned with what the registry
// holds now. A difference means that the registry was rebuilt with another
// history, and nothing may be cosigned.
func (w *witness) check(v *registry.View) error {
	if w == nil || v == nil {
		return nil
	}
	it := w.db.NewIterator(nil, nil)
	defer it.Release()
	for ok, n := it.Last(), 0; ok && n < 2; ok, n = it.Prev(), n+1 {
		if len(it.Key()) < 8 || len(it.Value()) < 32 {
			continue
		}
		size := binary.BigEndian.Uint64(it.Key())
		if size > v.EventSize() {
			continue // still catching up
		}
		root, err := v.EventRootAt(size)
		if err != nil {
			return fmt.Errorf("root at size %d: %w", size, err)
		}
		if root != [32]byte(it.Value()[:32]) {
			return fmt.Errorf("size %d: %w", size, ErrConflict)
		}
	}
	return it.Error()
}
