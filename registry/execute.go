package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/eventlog"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/registry/smt"
)

// Block is what became of a block.
type Block struct {
	Results []Result // one per envelope, in order
	Events  [][]byte // what was appended to the event log, encoded
	AppHash [32]byte
}

// Check tells whether an envelope is worth proposing: whether it is well
// formed, signed by a key in force, in sequence after the committed state and
// within the rules that do not depend on what else is in the block. It can be
// called by many at once. Good signatures are remembered for Execute.
func (m *Machine) Check(envelope []byte) Result {
	v := m.view.Load()
	if v == nil {
		return unavailable(envelope)
	}
	p := m.decode(v.state, envelope, m.prepared.get)
	return m.check(v, &p)
}

func unavailable(envelope []byte) Result {
	return Result{Unavailable, "the registry has no genesis yet", TxHash(envelope)}
}

func (m *Machine) check(v *View, p *prepared) Result {
	x := m.txn(v.state, v.height+1, v.now, nil)
	x.checking = true
	_, r := x.run(p)
	if r != nil && r.code.checked() {
		return Result{r.code, r.reason, p.hash}
	}
	m.prepared.put(p)
	return Result{TxHash: p.hash}
}

func (m *Machine) txn(st *state, height uint64, now time.Time, notarised map[[32]byte]bool) *txn {
	return &txn{state: st, store: m.store, signatures: m.signatures, height: height, now: now, notarised: notarised}
}

// run admits and handles a prepared transaction.
func (x *txn) run(p *prepared) ([]record, *refusal) {
	if p.refusal != nil {
		return nil, p.refusal
	}
	x.hash, x.facts = p.hash, &p.facts
	if r := x.known(p.tx); r != nil {
		return nil, r
	}
	if r := x.admit(p); r != nil {
		return nil, r
	}
	records, r := x.handle(p.tx)
	if x.checking { // keeps and withinQuota refuse with codes that Check does not
		return records, r
	}
	if r == nil {
		r = x.keeps(records)
	}
	if r == nil {
		r = x.withinQuota(records)
	}
	if r != nil {
		return nil, r
	}
	return records, nil
}

// decode does what needs nothing but the envelope and the parameters, or asks
// remembered for it.
func (m *Machine) decode(st *state, envelope []byte, remembered func(hash [32]byte) *prepared) prepared {
	p := prepared{hash: TxHash(envelope)}
	if uint64(len(envelope)) > uint64(st.params.MaxTxBytes) {
		p.refusal = refuse(TooLarge, "the envelope has %d bytes, the rule is at most %d", len(envelope), st.params.MaxTxBytes)
		return p
	}
	if known := remembered(p.hash); known != nil {
		return *known
	}
	var err error
	if p.tx, p.raw, p.signature, err = decodeEnvelope(envelope); err != nil {
		p.refusal = refuse(BadEncoding, "%v", err)
	}
	return p
}

// Execute runs a block on top of the committed state. Nothing of it is visible
// or durable before Commit; executing again replaces the block. An error means
// that this node cannot go on, never that a transaction is bad.
//
// evidence is what the ledger proved of validators since the last block.
func (m *Machine) Execute(height uint64, t time.Time, envelopes [][]byte, evidence []Misbehaviour) (*Block, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = nil
	base := m.view.Load()
	if base == nil {
		return nil, errors.New("execute block: the registry has no genesis yet")
	}
	if height != base.height+1 && (base.height != 0 || height == 0) {
		return nil, fmt.Errorf("execute block at height %d: the committed height is %d", height, base.height)
	}
	// 1. What was to happen at this height, and what the ledger proved.
	b := m.newBlock(base, height, t)
	if err := b.before(evidence); err != nil {
		return nil, fmt.Errorf("execute block at height %d: %w", height, err)
	}
	// 2. Decoding and signatures, side by side.
	ready := m.prepareAll(base, b.state.params.Protocol, height, t, envelopes)
	// 3. One transaction after the other.
	out := &Block{Results: make([]Result, len(envelopes))}
	for i := range ready {
		r, err := b.add(&ready[i])
		if err != nil {
			return nil, fmt.Errorf("execute block at height %d, transaction %d: %w", height, i, err)
		}
		out.Results[i] = r
	}
	// 4. What follows from them: decided proposals, ended voting power.
	if err := b.after(); err != nil {
		return nil, fmt.Errorf("execute block at height %d: %w", height, err)
	}
	// 5. The new roots.
	if err := b.finish(); err != nil {
		return nil, fmt.Errorf("execute block at height %d: %w", height, err)
	}
	m.pending = b.pending
	out.Events, out.AppHash = b.events, b.pending.view.appHash
	return out, nil
}

// prepareAll decodes envelopes and verifies signatures on all processors. What
// it finds out is a matter of bytes, so the order does not matter.
func (m *Machine) prepareAll(base *View, protocol uint32, height uint64, t time.Time, envelopes [][]byte) []prepared {
	ready := make([]prepared, len(envelopes))
	one := func(i int) {
		ready[i] = m.decode(base.state, envelopes[i], m.prepared.take)
		if ready[i].refusal == nil {
			m.warm(base, protocol, height, t, &ready[i])
		}
	}
	workers := min(runtime.GOMAXPROCS(0), len(envelopes)/4)
	if workers < 2 {
		for i := range envelopes {
			one(i)
		}
		return ready
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(envelopes); i = int(next.Add(1)) - 1 {
				one(i)
			}
		})
	}
	wg.Wait()
	return ready
}

// warm verifies a transaction's signatures as far as the keys are known before
// the block, by the block's protocol. The rest is verified in its turn.
func (m *Machine) warm(base *View, protocol uint32, height uint64, t time.Time, p *prepared) {
	if p.signed && p.tx.GetAddKey() == nil && (p.tx.GetAnchorLog() == nil || p.checkpoint != nil) {
		return // Check found out what there is to find out
	}
	key := base.state.key(civibus.KeyID(p.tx.KeyId))
	if key == nil {
		return
	}
	if !p.signedBy(m.signatures, key, protocol) {
		p.badSignature = true
		return
	}
	switch b := p.tx.Body.(type) {
	case *registrypb.Tx_AnchorLog:
		x := m.txn(base.state, height, t, nil)
		x.facts, x.key = &p.facts, key
		if x.author = base.state.member(key.Member); x.author != nil {
			_, _ = x.openCheckpoint(b.AnchorLog.Checkpoint)
		}
	case *registrypb.Tx_AddKey:
		a := b.AddKey
		if public, err := parseSPKI(a.Spki); err == nil {
			m.signatures.verify(&public, possessionMessage(base.state.params.ChainID, a.Member, civibus.Purpose(a.Purpose), a.Spki), a.Possession)
		}
	}
}

// blockRun is a block while it is executed.
type blockRun struct {
	machine   *Machine
	base      *View
	state     *state
	height    uint64
	now       time.Time
	notarised map[[32]byte]bool
	changes   []smt.Change
	places    map[string]int // state key: its place in changes
	index     []KV           // what is written besides the state
	events    [][]byte
	accepted  int
	pending   *pending

	votedOn    map[uint64]bool // proposals with new votes
	electorate bool            // a weight changed
}

func (m *Machine) newBlock(base *View, height uint64, t time.Time) *blockRun {
	b := &blockRun{
		machine: m, base: base, state: base.state.copy(), height: height, now: time.Unix(0, t.UnixNano()).UTC(),
		notarised: make(map[[32]byte]bool), places: make(map[string]int), votedOn: make(map[uint64]bool),
	}
	b.state.dropEnded()
	if b.now.Before(base.now) { // the registry's time never goes back
		b.now = base.now
	}
	return b
}

// add runs one transaction and, if it is accepted, puts what it produces.
func (b *blockRun) add(p *prepared) (Result, error) {
	x := b.machine.txn(b.state, b.height, b.now, b.notarised)
	records, r := x.run(p)
	if x.err != nil {
		return Result{}, x.err
	}
	if r != nil {
		return Result{r.code, r.reason, p.hash}, nil
	}
	q, _ := b.state.sequences.Get(x.keyID)
	q.last = p.tx.Sequence
	if p.tx.GetNotarise() != nil && b.state.params.Protocol > 0 {
		q.notarised++
	}
	for _, rec := range records {
		if i, ok := rec.(instanceRecord); ok {
			q.started += i.charge
		}
	}
	b.state.sequences.Set(x.keyID, q)
	b.change(sequencePrefix+x.keyID, q.encode())
	author := x.author.ID.String()
	for _, rec := range records {
		b.put(rec, cause{txHash: p.hash[:], author: author})
	}
	b.accepted++
	return Result{TxHash: p.hash}, nil
}

// put makes a record part of the state and of the event log.
func (b *blockRun) put(r record, c cause) {
	value := r.encode()
	b.notice(r)
	r.put(b.state)
	b.change(r.stateKey(), value)
	switch r := r.(type) {
	case notarisationRecord:
		b.notarised[r.Digest] = true
	case logRecord:
		at := b.base.EventSize() + uint64(len(b.events))
		b.index = append(b.index, KV{anchorStoreKey(r.Origin, r.Size), binary.BigEndian.AppendUint64(nil, at)})
	case rightRecord, instanceRecord:
	default:
		b.state.directory++
	}
	body := value
	if i, ok := r.(instanceRecord); ok {
		body = i.eventBody(value)
	}
	b.events = append(b.events, encodeEvent(b.height, len(b.events), c, r.eventField(), body))
}

// change notes the new value of a state key; the last one in the block counts.
func (b *blockRun) change(key string, value []byte) {
	if i, ok := b.places[key]; ok {
		b.changes[i].Value = value
		return
	}
	b.places[key] = len(b.changes)
	b.changes = append(b.changes, smt.Change{Key: key, Value: value})
}

// finish computes the roots and collects what Commit writes.
func (b *blockRun) finish() error {
	if len(b.changes) > 0 {
		return b.finishChanged(b.accepted)
	}
	// A block that changes nothing leaves everything but height and time, so that the ledger
	// may leave out such blocks.
	v := *b.base
	v.height, v.now = b.height, b.now
	b.pending = &pending{view: &v, puts: []KV{b.meta(&v)}}
	return nil
}

func (b *blockRun) finishChanged(transactions int) error {
	v := &View{state: b.state, store: b.machine.store, height: b.height, now: b.now}
	b.pending = &pending{view: v}
	tree, err := b.machine.tree.Prepare(b.changes)
	if err != nil {
		return err
	}
	v.tree = tree.Version()
	b.events = append(b.events, encodeEvent(b.height, len(b.events), cause{}, blockCommittedField, encodeBlockCommitted(b.now, v.StateRoot(), transactions)))
	log := b.machine.log.Prepare(b.events)
	v.events = log.Head()
	v.appHash = ComputeAppHash(v.StateRoot(), v.EventRoot(), v.EventSize())
	b.pending.tree, b.pending.log = tree, log
	b.collect(v, tree, log)
	return nil
}

// collect gathers the one batch in which the block becomes durable.
func (b *blockRun) collect(v *View, tree *smt.Update, log *eventlog.Update) {
	treePuts, deletes := tree.Writes()
	logPuts := log.Writes()
	puts := make([]KV, 0, len(b.changes)+len(b.index)+len(treePuts)+len(logPuts)+2)
	for _, c := range b.changes {
		puts = append(puts, KV{stateStoreKey(c.Key), c.Value})
	}
	puts = append(puts, b.index...)
	for _, p := range treePuts {
		puts = append(puts, KV(p))
	}
	for _, p := range logPuts {
		puts = append(puts, KV(p))
	}
	puts = append(puts, KV{blockStoreKey(b.height), binary.BigEndian.AppendUint64(nil, v.EventSize())})
	b.pending.puts, b.pending.deletes = append(puts, b.meta(v)), deletes
}

func (b *blockRun) meta(v *View) KV {
	return KV{[]byte(storeMeta), meta{height: v.height, now: v.now, events: v.EventSize(), appHash: v.appHash}.encode()}
}
