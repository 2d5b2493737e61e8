package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus/registry/eventlog"
	"github.com/civibus/civibus/registry/smt"
)

const (
	// keepVersions is how many changed versions of the state stay provable.
	keepVersions = 64
	// rememberedSignatures bounds the cache of good signatures inside transactions: by
	// keys that show their possession, and on checkpoints by another key than the
	// envelope's.
	rememberedSignatures = 1 << 15
	// rememberedBytes bounds the envelopes that are remembered decoded, together with
	// whether their own signature is good.
	rememberedBytes = 24 << 20
)

// The first byte of every key says what is under it. The tree's and the log's
// own keys follow their prefixes.
const (
	storeMeta   = "m"
	storeState  = "s" // + state key: its value
	storeTree   = "t"
	storeLog    = "l"
	storeAnchor = "a" // + origin, 0, size: index of the log_anchored event
	storeBlock  = "b" // + height: size of the event log after that block
)

// Machine executes blocks over a Store. Check, View, ViewAt, AppHash and Height
// may be called by anyone at any time; Init, Execute and Commit are called by
// one at a time, in that order.
type Machine struct {
	store      Store
	signatures *signatureCache
	prepared   *preparedCache
	view       atomic.Pointer[View]

	mu      sync.Mutex // guards what follows
	tree    *smt.Tree
	log     *eventlog.Log
	pending *pending
	recent  []*View // the last keepVersions changed ones, oldest first
}

// pending is an executed block that is not committed.
type pending struct {
	view    *View
	puts    []KV
	deletes [][]byte
	tree    *smt.Update      // nil: nothing changed
	log     *eventlog.Update // nil: nothing changed
}

// Open opens the registry in store. A store that is empty needs Init before
// anything else; until then View is nil.
func Open(store Store) (*Machine, error) {
	m := &Machine{store: store, signatures: newSignatureCache(rememberedSignatures), prepared: newPreparedCache(rememberedBytes)}
	meta, err := readMeta(store)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	if m.tree, err = smt.Open(store, smt.Options{Prefix: storeTree, Keep: keepVersions}); err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	if m.log, err = eventlog.Open(store, storeLog, meta.events); err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	if !meta.present {
		if m.tree.Latest().Number() != 0 {
			return nil, errors.New("open registry: the store holds a state tree but no meta record; it is damaged, restore it from a snapshot")
		}
		return m, nil
	}
	st, err := loadState(store)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	v := &View{state: st, store: store, height: meta.height, now: meta.now, tree: m.tree.Latest(), events: m.log.Head()}
	v.appHash = ComputeAppHash(v.StateRoot(), v.EventRoot(), v.EventSize())
	if v.appHash != meta.appHash {
		return nil, fmt.Errorf("open registry: the stored state has application hash %x, its meta record says %x; the store is damaged, restore it from a snapshot", v.appHash, meta.appHash)
	}
	m.view.Store(v)
	m.recent = []*View{v}
	return m, nil
}

// loadState decodes the state. Notarisations stay where they are.
func loadState(store Store) (*state, error) {
	st := newState()
	st.uncounted = true
	for _, prefix := range []string{
		paramsKey, memberPrefix, keyPrefix, subsystemPrefix, servicePrefix, rightPrefix, groupPrefix, groupMemberPrefix, logPrefix, sequencePrefix,
		validatorPrefix, nodesPrefix, votesPrefix, proposalPrefix, votePrefix, delegationPrefix, hostingPrefix, upgradePrefix, misbehaviorPrefix,
		chainPrefix, processPrefix, rolePrefix, instancePrefix, rulePrefix, evidenceTypePrefix, topicPrefix, usagePrefix,
	} {
		err := store.Iterate(stateStoreKey(prefix), func(key, value []byte) error {
			return st.loadValue(string(key[len(storeState):]), value)
		})
		if err != nil {
			return nil, fmt.Errorf("load state: %w", err)
		}
	}
	if st.params.ChainID == "" {
		return nil, errors.New("load state: the instance's parameters are missing; the store is damaged")
	}
	st.recount()
	return st, nil
}

// View returns the committed state, an immutable snapshot; nil before Init.
func (m *Machine) View() *View { return m.view.Load() }

// ViewAt returns the state as it was after the block at height, if that is the
// committed height or among the last 64 versions that changed anything since
// this Machine was opened.
func (m *Machine) ViewAt(height uint64) (*View, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.view.Load()
	if v == nil || height > v.height {
		return nil, false
	}
	if height == v.height {
		return v, true
	}
	for i := len(m.recent) - 1; i >= 0; i-- {
		if m.recent[i].height <= height {
			return m.recent[i], true
		}
	}
	return nil, false
}

// AppHash returns the committed application hash, zero before Init.
func (m *Machine) AppHash() [32]byte {
	if v := m.view.Load(); v != nil {
		return v.appHash
	}
	return [32]byte{}
}

// Height returns the committed height, 0 before the first block.
func (m *Machine) Height() uint64 {
	if v := m.view.Load(); v != nil {
		return v.height
	}
	return 0
}

// Commit makes the executed block durable, in one atomic write, and visible. If
// it fails nothing of the block is visible; whether the store has it shows when
// it is opened again.
func (m *Machine) Commit() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pending
	if p == nil {
		return errors.New("commit registry: no block is executed")
	}
	if err := m.store.Write(p.puts, p.deletes); err != nil {
		return fmt.Errorf("commit registry at height %d: %w", p.view.height, err)
	}
	m.pending = nil
	if p.tree != nil {
		m.tree.Accept(p.tree)
		m.log.Accept(p.log)
		m.recent = append(m.recent, p.view)
		if len(m.recent) > keepVersions {
			m.recent = append([]*View{}, m.recent[1:]...)
		}
	}
	m.view.Store(p.view)
	return nil
}

// ComputeAppHash binds the state and the event log together.
func ComputeAppHash(stateRoot, eventRoot [32]byte, eventSize uint64) [32]byte {
	b := append([]byte(appHashDomain), stateRoot[:]...)
	b = append(b, eventRoot[:]...)
	return TxHash(binary.BigEndian.AppendUint64(b, eventSize))
}

// meta is what the store says about itself.
type meta struct {
	present bool
	height  uint64
	now     time.Time
	events  uint64
	appHash [32]byte
}

const (
	metaVersion   = 1
	metaImporting = 2 // an import that did not finish
)

func (x meta) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{metaVersion}, x.height)
	b = binary.BigEndian.AppendUint64(b, uint64(x.now.UnixNano()))
	b = binary.BigEndian.AppendUint64(b, x.events)
	return append(b, x.appHash[:]...)
}

func readMeta(store Store) (meta, error) {
	b, err := store.Get([]byte(storeMeta))
	switch {
	case err != nil:
		return meta{}, fmt.Errorf("read meta record: %w", err)
	case b == nil:
		return meta{}, nil
	case len(b) == 1 && b[0] == metaImporting:
		return meta{}, errors.New("the store holds an import that did not finish; delete it and import again")
	case len(b) != 57 || b[0] != metaVersion:
		return meta{}, fmt.Errorf("the meta record is of another version or damaged (%d bytes)", len(b))
	}
	return meta{
		present: true,
		height:  binary.BigEndian.Uint64(b[1:]),
		now:     time.Unix(0, int64(binary.BigEndian.Uint64(b[9:]))).UTC(),
		events:  binary.BigEndian.Uint64(b[17:]),
		appHash: [32]byte(b[25:]),
	}, nil
}

func stateStoreKey(key string) []byte { return []byte(storeState + key) }

func anchorStoreKey(origin string, size uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(storeAnchor+origin), 0), size)
}

func blockStoreKey(height uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(storeBlock), height)
}
