package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	mempl "github.com/cometbft/cometbft/mempool"
	"github.com/cometbft/cometbft/types"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/civibus/civibus/registry"
)

const (
	// appVersion is part of every block header.
	appVersion = 1
	// maxEnvelopeBytes is the greatest envelope that is gossiped. The registry's
	// own limit (Params.MaxTxBytes) is lower and is checked before.
	maxEnvelopeBytes = 1 << 20
)

// app is the ABCI application: the thin layer between CometBFT and
// registry.Machine. CometBFT calls it on four connections at once, each of which
// calls one method at a time.
type app struct {
	cfg       Config
	log       *slog.Logger
	store     *store
	metrics   *metrics
	index     *index
	waiters   waiters
	snapshots *snapshots
	pool      atomic.Pointer[pool]
	syncing   func() bool // set before blocks arrive from peers
	observe   func(height uint64, at time.Time, commit abci.CommitInfo) error
	genesis   [32]byte // application hash of the configured genesis
	peers     atomic.Pointer[peerList]
	lanes     lanes
	cleared   sync.Map // hashes that Submit checked a moment ago, on their way into the pool

	machine  atomic.Pointer[registry.Machine]
	closing  chan struct{}
	adopting bool // see adoptingKey

	mu       sync.Mutex
	news     chan struct{} // closed at the next commit
	executed *executed     // between FinalizeBlock and Commit
	failure  *engineFailure
	lastTime time.Time // by the clock, when the last block was committed
}

type executed struct {
	height uint64
	txs    [][]byte
	block  *registry.Block
}

type pool struct{ mempl.Mempool }

var _ abci.Application = (*app)(nil)

// newApp opens the registry in st. A fresh one waits for InitChain or a snapshot.
func newApp(cfg Config, st *store, m *metrics) (*app, error) {
	a := &app{
		cfg: cfg, log: cfg.Logger, store: st, metrics: m, index: newIndex(st),
		closing: make(chan struct{}), news: make(chan struct{}), lastTime: cfg.Clock(),
		syncing: func() bool { return false },
		observe: func(uint64, time.Time, abci.CommitInfo) error { return nil },
	}
	a.snapshots = newSnapshots(a)
	trial, err := registry.Open(registry.NewMemoryStore())
	if err != nil {
		return nil, fmt.Errorf("ledger genesis: %w", err)
	}
	if a.genesis, err = trial.Init(cfg.Genesis); err != nil {
		return nil, fmt.Errorf("ledger genesis: %w", err)
	}
	machine, err := registry.Open(st)
	if err != nil {
		return nil, fmt.Errorf("open the registry in %s: %w", cfg.Dir, err)
	}
	a.machine.Store(machine)
	a.loadPeers()
	if machine.View() != nil {
		if err := a.checkGenesis(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// checkGenesis refuses a directory that was started with another genesis.
func (a *app) checkGenesis() error {
	have, err := get(a.store.db, genesisKey)
	if err != nil {
		return fmt.Errorf("read the genesis mark: %w", err)
	}
	if have == nil {
		a.store.stage([]registry.KV{{Key: genesisKey, Value: a.genesis[:]}}, nil)
		return a.store.flush()
	}
	if !bytes.Equal(have, a.genesis[:]) {
		return fmt.Errorf("ledger directory %s: it was started with another genesis (%s, configured is %s); use the instance's genesis file or an empty directory",
			a.cfg.Dir, shortHex(have), shortHex(a.genesis[:]))
	}
	return nil
}

var genesisKey = []byte{ledgerSpace, 'g'}

func (a *app) view() *registry.View { return a.machine.Load().View() }

func (a *app) changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.news
}

// close ends every Submit that waits.
func (a *app) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.closing:
	default:
		close(a.closing)
	}
}

// engineFailed records that this node cannot go on. The first cause stays.
func (a *app) engineFailed(f engineFailure) {
	a.mu.Lock()
	first := a.failure == nil
	if first {
		a.failure = &f
	}
	a.mu.Unlock()
	if first {
		a.log.Error("the ledger halted at this node", slog.Bool("diverged", f.diverged), slog.Bool("upgrade", f.upgrade), slog.String("cause", f.detail))
	}
}

func (a *app) failed() *engineFailure {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failure
}

// guard turns a panic or an error of the state machine into a recorded failure.
// The engine stops consensus on an error, which the watchdog reports; while it
// syncs blocks it would take the whole process down, and with it a gateway that
// could go on with the view it has, so there its goroutine is ended instead.
func (a *app) guard(during string, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%s: panic: %v\n%s", during, r, debug.Stack())
	}
	if *err == nil {
		return
	}
	failure := engineFailure{detail: (*err).Error()}
	var unknown *registry.UnknownUpgradeError
	var halt *HaltError
	switch {
	case errors.As(*err, &unknown):
		failure = engineFailure{upgrade: true, cause: unknown, detail: upgradeNotice(unknown.Name, unknown.Height)}
	case errors.As(*err, &halt):
		failure = engineFailure{upgrade: true, cause: halt, detail: halt.Error()}
	}
	a.engineFailed(failure)
	if a.syncing() {
		runtime.Goexit()
	}
}

// checkUpgrade refuses to start where the next block is for another version: the
// engine would try and fail. The error is a *registry.UnknownUpgradeError.
func (a *app) checkUpgrade() error {
	v := a.view()
	if v == nil {
		return nil
	}
	if h := a.cfg.HaltHeight; h > 0 && v.Height()+1 >= h {
		return fmt.Errorf("open the ledger in %s: %w", a.cfg.Dir, &HaltError{Height: h})
	}
	name, height, ok := v.Upgrade()
	if !ok || height > v.Height()+1 || registry.KnowsUpgrade(name) {
		return nil
	}
	return fmt.Errorf("open the ledger in %s: %s: %w", a.cfg.Dir, upgradeNotice(name, height), &registry.UnknownUpgradeError{Name: name, Height: height})
}

// HaltError says that the node stopped before the block at Height because its
// configuration says so (HaltHeight).
type HaltError struct{ Height uint64 }

// Error says what to do.
func (e *HaltError) Error() string {
	return fmt.Sprintf("this node stops before block %d, which ledger.halt_height says; install the version that is to go on, remove the setting or set a greater height, and start it in the same directory", e.Height)
}

// Halted returns why this node makes no more blocks, nil while it does: a
// *HaltError, a *registry.UnknownUpgradeError, or what failed.
func (n *Node) Halted() error {
	f := n.app.failed()
	switch {
	case f == nil:
		return nil
	case f.cause != nil:
		return f.cause
	}
	return fmt.Errorf("%w: %s", ErrHalted, firstLine(f.detail))
}

// upgradeNotice tells the operator what to do.
func upgradeNotice(name string, height uint64) string {
	return fmt.Sprintf("the instance upgrades to %q at height %d, which this version of civibus does not know; install the version whose release notes name the upgrade %q and start it in the same directory", name, height, name)
}

// ---- connection: query -----------------------------------------------------

// Info tells the engine which block the registry has; it replays the rest.
func (a *app) Info(context.Context, *abci.RequestInfo) (*abci.ResponseInfo, error) {
	m := a.machine.Load()
	res := &abci.ResponseInfo{Data: "civibus", AppVersion: appVersion}
	if m.View() != nil && m.Height() > 0 {
		hash := m.AppHash()
		res.LastBlockHeight, res.LastBlockAppHash = int64(m.Height()), hash[:]
	}
	return res, nil
}

// Query answers the engine's question whether a peer may connect. There are no
// other queries: readers use View.
func (a *app) Query(_ context.Context, req *abci.RequestQuery) (*abci.ResponseQuery, error) {
	if id, ok := strings.CutPrefix(req.Path, "/p2p/filter/id/"); ok {
		select {
		case <-a.closing:
			// The engine would keep a peer that comes while it stops connected
			// for ever, and the peer would count this node as present.
			return &abci.ResponseQuery{Code: 1, Log: "this node is closing"}, nil
		default:
		}
		if a.peers.Load().permitted[id] {
			return &abci.ResponseQuery{}, nil
		}
		a.metrics.refusedPeers.Inc()
		return &abci.ResponseQuery{Code: 1, Log: "the node is neither in the registry nor among the configured peers"}, nil
	}
	if strings.HasPrefix(req.Path, "/p2p/filter/addr/") {
		return &abci.ResponseQuery{}, nil
	}
	return &abci.ResponseQuery{Code: 1, Log: "unknown path"}, nil
}

// ---- connection: mempool ---------------------------------------------------

// CheckTx tells whether a transaction is worth gossiping and proposing.
func (a *app) CheckTx(_ context.Context, req *abci.RequestCheckTx) (*abci.ResponseCheckTx, error) {
	return a.checkAll([]*abci.RequestCheckTx{req})[0], nil
}

// checkAll is CheckTx for many.
func (a *app) checkAll(reqs []*abci.RequestCheckTx) []*abci.ResponseCheckTx {
	// 1. What no block has and Submit has not checked just now.
	hashes := make([][32]byte, len(reqs))
	results := make([]registry.Result, len(reqs))
	var places []int
	var envelopes [][]byte
	for i, req := range reqs {
		hashes[i] = registry.TxHash(req.Tx)
		if _, ok := a.cleared.LoadAndDelete(hashes[i]); ok {
			continue
		}
		if a.index.recently(hashes[i]) {
			results[i] = registry.Result{Code: codeExecuted, Reason: "executed already"}
		} else {
			places, envelopes = append(places, i), append(envelopes, req.Tx)
		}
	}
	for i, r := range a.check(envelopes...) {
		results[places[i]] = r
	}
	// 2. In their order, its author's share.
	answers := make([]*abci.ResponseCheckTx, len(reqs))
	for i, r := range results {
		if r.Code == 0 && !a.admit(hashes[i], reqs[i].Tx) {
			a.metrics.overShare.Inc()
			r = registry.Result{Code: codeShare, Reason: "its author has its share of the waiting transactions already"}
		}
		answers[i] = &abci.ResponseCheckTx{Code: uint32(r.Code), Log: r.Reason}
	}
	return answers
}

// codeExecuted is CheckTx's answer for a transaction that is in a block already.
// It is no result code of the registry and never leaves the engine.
const codeExecuted registry.Code = 1 << 16

// check asks the registry about transactions that no block has.
func (a *app) check(envelopes ...[]byte) (results []registry.Result) {
	defer func() {
		// No input may take a node down, whatever the state machine does with it.
		if r := recover(); r != nil {
			a.log.Error("panic while checking a transaction", slog.Any("panic", r), slog.String("stack", string(debug.Stack())))
			results = a.checkEach(envelopes)
		}
	}()
	m := a.machine.Load()
	if m.View() == nil {
		return same(registry.Result{Code: codePanic, Reason: "the registry is not there yet"}, len(envelopes))
	}
	return m.CheckAll(envelopes)
}

// checkEach is check after a panic: one after the other, so that it is refused who
// is at fault.
func (a *app) checkEach(envelopes [][]byte) []registry.Result {
	if len(envelopes) == 1 {
		return same(registry.Result{Code: codePanic, Reason: "the transaction could not be checked"}, 1)
	}
	results := make([]registry.Result, len(envelopes))
	for i, e := range envelopes {
		results[i] = a.check(e)[0]
	}
	return results
}

func same(r registry.Result, n int) []registry.Result {
	return slices.Repeat([]registry.Result{r}, n)
}

// codePanic refuses a transaction for this node's own reasons.
const codePanic registry.Code = 1<<16 + 1

// codeShare keeps a transaction out of the pool for now: its author has too many
// in it. Like codeExecuted it never leaves the engine.
const codeShare registry.Code = 1<<16 + 2

// InsertTx serves the engine's other kind of mempool and is never called.
func (a *app) InsertTx(context.Context, *abci.RequestInsertTx) (*abci.ResponseInsertTx, error) {
	return &abci.ResponseInsertTx{Code: 1}, nil
}

// ReapTxs serves the engine's other kind of mempool and is never called.
func (a *app) ReapTxs(context.Context, *abci.RequestReapTxs) (*abci.ResponseReapTxs, error) {
	return &abci.ResponseReapTxs{}, nil
}

// ---- connection: consensus -------------------------------------------------

// InitChain starts the registry from the genesis. It is called again after a
// restart for as long as there is no block.
func (a *app) InitChain(_ context.Context, req *abci.RequestInitChain) (res *abci.ResponseInitChain, err error) {
	defer a.guard("genesis", &err)
	m := a.machine.Load()
	if m.View() == nil {
		a.store.stage([]registry.KV{{Key: genesisKey, Value: a.genesis[:]}}, nil)
		if _, err := m.Init(a.cfg.Genesis); err != nil {
			return nil, fmt.Errorf("start the registry from its genesis: %w", err)
		}
		if err := a.store.flush(); err != nil {
			return nil, err
		}
		a.loadPeers()
		a.announce()
	}
	hash := m.AppHash()
	return &abci.ResponseInitChain{AppHash: hash[:]}, nil
}

// PrepareProposal drops what no honest node would put in a block and keeps to the
// byte limit; where not everything fits, the members take turns. A transaction that was valid when it came and is no longer stays in:
// the block gives it its result, and it leaves everybody's pool.
func (a *app) PrepareProposal(_ context.Context, req *abci.RequestPrepareProposal) (*abci.ResponsePrepareProposal, error) {
	offered := req.Txs
	if all := a.waitingFor(offered); len(all) > len(offered) || types.ComputeProtoSizeForTxs(types.ToTxs(all)) > req.MaxTxBytes {
		offered = takeTurns(a.view(), all)
	}
	txs := make([][]byte, 0, len(req.Txs))
	var size int64
	for _, tx := range offered {
		cost := types.ComputeProtoSizeForTxs([]types.Tx{tx})
		if size+cost > req.MaxTxBytes {
			break
		}
		if !a.decodable(tx) {
			if p := a.pool.Load(); p != nil {
				_ = p.RemoveTxByKey(types.Tx(tx).Key()) // absent is as good
			}
			continue
		}
		size += cost
		txs = append(txs, tx)
	}
	return &abci.ResponsePrepareProposal{Txs: txs}, nil
}

// ProcessProposal refuses a block with a transaction that cannot be decoded or is
// too large: no honest proposer makes one. It looks at nothing but the bytes and
// committed parameters, so that all honest nodes answer alike.
func (a *app) ProcessProposal(_ context.Context, req *abci.RequestProcessProposal) (*abci.ResponseProcessProposal, error) {
	for _, tx := range req.Txs {
		if !a.decodable(tx) {
			a.metrics.refusedProposals.Inc()
			return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_REJECT}, nil
		}
	}
	return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_ACCEPT}, nil
}

// decodable reports whether b has the outer form of an envelope: two byte fields,
// tx and signature, each once, and a permitted size.
func (a *app) decodable(b []byte) bool {
	limit := maxEnvelopeBytes
	if v := a.view(); v != nil {
		if l := int(v.Params().MaxTxBytes); l > 0 {
			limit = l
		}
	}
	if len(b) == 0 || len(b) > limit {
		return false
	}
	var seen [3]bool
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.BytesType || (num != 1 && num != 2) || seen[num] {
			return false
		}
		seen[num] = true
		_, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return false
		}
		b = b[n+m:]
	}
	return seen[1] && seen[2]
}

// FinalizeBlock executes a decided block. What is wrong with a transaction is its
// result; an error here would halt every node.
func (a *app) FinalizeBlock(_ context.Context, req *abci.RequestFinalizeBlock) (res *abci.ResponseFinalizeBlock, err error) {
	defer a.guard("execute block", &err)
	if h := a.cfg.HaltHeight; h > 0 && uint64(req.Height) >= h {
		return nil, &HaltError{Height: h}
	}
	if err := a.observe(uint64(req.Height), req.Time, req.DecidedLastCommit); err != nil {
		return nil, fmt.Errorf("execute block %d: %w", req.Height, err)
	}
	var evidence []registry.Misbehaviour
	for _, m := range req.Misbehavior {
		e := registry.Misbehaviour{Height: uint64(m.Height)}
		copy(e.Address[:], m.Validator.Address)
		evidence = append(evidence, e)
		a.metrics.misbehaviour.Inc()
		a.log.Error("a validator misbehaved and every node has the proof", slog.String("kind", m.Type.String()),
			slog.String("validator", fmt.Sprintf("%X", m.Validator.Address)), slog.Int64("height", m.Height))
	}
	m := a.machine.Load()
	before := m.View()
	block, err := m.Execute(uint64(req.Height), req.Time, req.Txs, evidence)
	if err != nil {
		return nil, fmt.Errorf("execute block %d: %w", req.Height, err)
	}
	if len(block.Results) != len(req.Txs) {
		return nil, fmt.Errorf("execute block %d: %d results for %d transactions", req.Height, len(block.Results), len(req.Txs))
	}
	updates, err := a.validatorUpdates(before, block.Events)
	if err != nil {
		return nil, fmt.Errorf("execute block %d: %w", req.Height, err)
	}
	a.mu.Lock()
	a.executed = &executed{uint64(req.Height), req.Txs, block}
	a.mu.Unlock()
	res = &abci.ResponseFinalizeBlock{
		AppHash: bytes.Clone(block.AppHash[:]), TxResults: make([]*abci.ExecTxResult, len(block.Results)), ValidatorUpdates: updates,
	}
	for i, r := range block.Results {
		res.TxResults[i] = &abci.ExecTxResult{Code: uint32(r.Code)}
	}
	return res, nil
}

// Commit makes the block durable, with the index of its transactions, in one
// write; then everybody who waits is told.
func (a *app) Commit(context.Context, *abci.RequestCommit) (res *abci.ResponseCommit, err error) {
	defer a.guard("commit block", &err)
	a.mu.Lock()
	done := a.executed
	a.executed = nil
	a.mu.Unlock()
	if done == nil {
		return nil, errors.New("commit: no block was executed")
	}
	m := a.machine.Load()
	retain := a.retainHeight(done.height)
	puts, deletes, err := a.index.records(done, retain)
	if err != nil {
		return nil, fmt.Errorf("index block %d: %w", done.height, err)
	}
	a.store.stage(puts, deletes)
	a.told()
	if err := m.Commit(); err != nil {
		return nil, fmt.Errorf("commit block %d: %w", done.height, err)
	}
	if err := a.store.flush(); err != nil {
		return nil, fmt.Errorf("commit block %d: %w", done.height, err)
	}
	a.index.remember(done)
	for _, r := range done.block.Results {
		a.lanes.remove(r.TxHash)
	}
	a.refreshPeers(done.block.Events)
	a.announce()
	for _, r := range done.block.Results {
		a.metrics.transactions.WithLabelValues(r.Code.String()).Inc()
		a.waiters.settle(r.TxHash, Committed{Code: r.Code, Reason: r.Reason, Height: done.height, TxHash: r.TxHash})
	}
	a.snapshots.committed(done.height)
	return &abci.ResponseCommit{RetainHeight: int64(retain)}, nil
}

// retainHeight is the first height whose block is kept; 0 keeps all.
func (a *app) retainHeight(height uint64) uint64 {
	if a.cfg.RetainBlocks == 0 || height <= a.cfg.RetainBlocks {
		return 0
	}
	return height - a.cfg.RetainBlocks + 1
}

// announce tells readers that there is a newer view.
func (a *app) announce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lastTime = a.cfg.Clock()
	close(a.news)
	a.news = make(chan struct{})
}

// ExtendVote adds nothing to votes: cosignatures are made after execution.
func (a *app) ExtendVote(context.Context, *abci.RequestExtendVote) (*abci.ResponseExtendVote, error) {
	return &abci.ResponseExtendVote{}, nil
}

// VerifyVoteExtension accepts the empty extension.
func (a *app) VerifyVoteExtension(_ context.Context, req *abci.RequestVerifyVoteExtension) (*abci.ResponseVerifyVoteExtension, error) {
	if len(req.VoteExtension) != 0 {
		return &abci.ResponseVerifyVoteExtension{Status: abci.ResponseVerifyVoteExtension_REJECT}, nil
	}
	return &abci.ResponseVerifyVoteExtension{Status: abci.ResponseVerifyVoteExtension_ACCEPT}, nil
}
