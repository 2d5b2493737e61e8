package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"

	"github.com/civibus/civibus/registry"
)

// Replica is the registry of a directory, brought forward by whoever verifies the
// blocks: package light. It has no engine. Begin, Restore, Execute and Commit are
// called by one goroutine, all else by anybody.
type Replica struct {
	dir     string
	genesis *registry.Genesis
	mark    [32]byte // application hash of the genesis

	lock    *os.File
	store   *store
	index   *index
	waiters waiters
	machine atomic.Pointer[registry.Machine]
	pending *executed

	mu      sync.Mutex
	news    chan struct{}
	closing chan struct{}
	closed  bool
}

// trustKey holds what the owner of a replica trusts, see Replica.Trusted.
var trustKey = []byte{ledgerSpace, 'v'}

// OpenReplica opens or creates a replica. A new one has no view until Begin or
// Restore.
func OpenReplica(dir string, g *registry.Genesis) (_ *Replica, err error) {
	r := &Replica{dir: dir, genesis: g, news: make(chan struct{}), closing: make(chan struct{})}
	trial, err := registry.Open(registry.NewMemoryStore())
	if err != nil {
		return nil, fmt.Errorf("ledger genesis: %w", err)
	}
	if r.mark, err = trial.Init(g); err != nil {
		return nil, fmt.Errorf("ledger genesis: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("ledger directory: %w", err)
	}
	if r.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.release())
		}
	}()
	// A crash between the two renames of Restore leaves the old registry aside.
	if _, err := os.Stat(r.path("registry")); errors.Is(err, os.ErrNotExist) {
		if err := os.Rename(r.path("registry.old"), r.path("registry")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if err := errors.Join(os.RemoveAll(r.path("registry.new")), os.RemoveAll(r.path("registry.old"))); err != nil {
		return nil, err
	}
	return r, r.open()
}

func (r *Replica) path(name string) string { return filepath.Join(r.dir, name) }

func (r *Replica) open() (err error) {
	if r.store, err = openStore(r.path("registry")); err != nil {
		return err
	}
	r.index = newIndex(r.store)
	machine, err := registry.Open(r.store)
	if err != nil {
		return fmt.Errorf("open the registry in %s: %w", r.dir, err)
	}
	have, err := get(r.store.db, genesisKey)
	if err != nil {
		return fmt.Errorf("read the genesis mark: %w", err)
	}
	if machine.View() != nil && string(have) != string(r.mark[:]) {
		return fmt.Errorf("ledger directory %s: it was started with another genesis (%s, configured is %s); use the instance's genesis file or an empty directory",
			r.dir, shortHex(have), shortHex(r.mark[:]))
	}
	r.machine.Store(machine)
	return nil
}

// Begin starts the registry from the genesis.
func (r *Replica) Begin() error {
	r.store.stage([]registry.KV{{Key: genesisKey, Value: r.mark[:]}}, nil)
	if _, err := r.machine.Load().Init(r.genesis); err != nil {
		return fmt.Errorf("start the registry from its genesis: %w", err)
	}
	err := r.store.flush()
	r.announce()
	return err
}

// Restore replaces the registry by a snapshot's, whose application hash the caller
// has verified, with what is trusted from then on. A false snapshot changes nothing.
func (r *Replica) Restore(m *Manifest, load func(i int) ([]byte, error), trusted []byte) (err error) {
	// 1. Beside the one that is there.
	fresh := r.path("registry.new")
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	st, err := openStore(fresh)
	if err != nil {
		return err
	}
	if _, err = importChunks(m, load, st); err == nil {
		st.stage([]registry.KV{{Key: genesisKey, Value: r.mark[:]}, {Key: trustKey, Value: trusted}}, nil)
		err = st.flush()
	}
	if err = errors.Join(err, st.close()); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	// 2. In its place.
	if err := r.store.close(); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(r.path("registry"), r.path("registry.old")), os.Rename(fresh, r.path("registry")), syncDir(r.dir)); err != nil {
		return err
	}
	if err := r.open(); err != nil {
		return err
	}
	r.announce()
	return os.RemoveAll(r.path("registry.old"))
}

// Execute runs a verified block on top of the committed state; Commit keeps it.
func (r *Replica) Execute(height uint64, t time.Time, txs [][]byte, evidence []abci.Misbehavior) (appHash [32]byte, err error) {
	var proved []registry.Misbehaviour
	for _, m := range evidence {
		e := registry.Misbehaviour{Height: uint64(m.Height)}
		copy(e.Address[:], m.Validator.Address)
		proved = append(proved, e)
	}
	block, err := r.machine.Load().Execute(height, t, txs, proved)
	if err != nil {
		return appHash, fmt.Errorf("execute block %d: %w", height, err)
	}
	r.pending = &executed{height, txs, block}
	return block.AppHash, nil
}

// Commit makes the executed block durable with the results of its transactions and
// what is trusted now (nil: as before), in one write; then everybody who waits is told.
func (r *Replica) Commit(trusted []byte) error {
	done := r.pending
	if done == nil {
		return errors.New("commit: no block was executed")
	}
	r.pending = nil
	retain := uint64(0)
	if done.height > MinRetainBlocks {
		retain = done.height - MinRetainBlocks
	}
	puts, deletes, err := r.index.records(done, retain)
	if err != nil {
		return fmt.Errorf("index block %d: %w", done.height, err)
	}
	if trusted != nil {
		puts = append(puts, registry.KV{Key: trustKey, Value: trusted})
	}
	r.store.stage(puts, deletes)
	if err := r.machine.Load().Commit(); err != nil {
		return fmt.Errorf("commit block %d: %w", done.height, err)
	}
	if err := r.store.flush(); err != nil {
		return fmt.Errorf("commit block %d: %w", done.height, err)
	}
	r.announce()
	for _, res := range done.block.Results {
		r.waiters.settle(res.TxHash, Committed{Code: res.Code, Reason: res.Reason, Height: done.height, TxHash: res.TxHash})
	}
	return nil
}

// Trusted is what the owner trusts, nil at first.
func (r *Replica) Trusted() ([]byte, error) { return get(r.store.db, trustKey) }

// Trust keeps what the owner trusts.
func (r *Replica) Trust(b []byte) error {
	r.store.stage([]registry.KV{{Key: trustKey, Value: b}}, nil)
	return r.store.flush()
}

func (r *Replica) announce() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.news)
	r.news = make(chan struct{})
}

// View is the registry after the last committed block; nil before there is one.
func (r *Replica) View() *registry.View { return r.machine.Load().View() }

// Changed is closed when there is a newer view.
func (r *Replica) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.news
}

// Closing is closed when the replica closes.
func (r *Replica) Closing() <-chan struct{} { return r.closing }

// WaitView waits until done says true of a view.
func (r *Replica) WaitView(ctx context.Context, done func(*registry.View) bool) error {
	for {
		changed := r.Changed()
		if v := r.View(); v != nil && done(v) {
			return nil
		}
		select {
		case <-changed:
		case <-r.closing:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("wait for the registry: %w", context.Cause(ctx))
		}
	}
}

// Check tells whether a transaction could be accepted on the committed view.
func (r *Replica) Check(envelope []byte) registry.Result { return r.machine.Load().Check(envelope) }

// Result is what a committed block made of a transaction.
func (r *Replica) Result(hash [32]byte) (Committed, bool, error) { return r.index.lookup(hash) }

// Await returns a channel that gets the result of a transaction when a block has it;
// forget ends that.
func (r *Replica) Await(hash [32]byte) (result <-chan Committed, forget func()) {
	ch := r.waiters.add(hash)
	return ch, func() { r.waiters.remove(hash, ch) }
}

// Awaited is the number of transactions that are waited for.
func (r *Replica) Awaited() int { return r.waiters.len() }

// Checkpoint is the text of the registry's checkpoint at an event-log size, as
// Node.Checkpoint.
func (r *Replica) Checkpoint(size uint64) (string, error) {
	text, _, _, err := checkpointOf(r.View(), size)
	return text, err
}

// Close closes the replica; what waits ends with ErrClosed.
func (r *Replica) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	close(r.closing)
	r.mu.Unlock()
	return r.release()
}

func (r *Replica) release() error {
	var errs []error
	if r.store != nil {
		errs = append(errs, r.store.close())
	}
	if r.lock != nil {
		errs = append(errs, r.lock.Close())
	}
	return errors.Join(errs...)
}
