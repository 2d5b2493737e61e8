package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	abci "github.com/cometbft/cometbft/abci/types"
	cs "github.com/cometbft/cometbft/consensus"
	cmtnode "github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus/internal/schema"
	"github.com/civibus/civibus/registry"
)

// Node is one running node of the ledger. Its methods may be called by several
// goroutines at once.
type Node struct {
	cfg     Config
	nodeID  string
	lock    *os.File
	store   *store
	app     *app
	engine  *cmtnode.Node
	dbs     *engineDBs
	witness *witness
	metrics *metrics
	watch   *watchdog

	life    context.Context // ends when the node closes
	stop    context.CancelFunc
	running sync.WaitGroup // goroutines of this package
	inside  sync.RWMutex   // held for reading while the engine's databases are read
	closed  atomic.Bool
	signer  *signer
	vouched *vouched // while the node begins with a snapshot
}

// Open starts a node. It returns when the node runs, which may be before it has
// caught up with its peers; see Status and WaitView. A node that begins with a
// snapshot has it when Open returns.
func Open(ctx context.Context, cfg Config) (*Node, error) {
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return nil, err
	}
	n, err := open(ctx, cfg)
	if errors.Is(err, errNoStateSync) {
		cfg.Logger.Warn("the node begins with the first block instead of a snapshot", slog.Any("reason", err))
		cfg.StateProvider = nil
		n, err = open(ctx, cfg)
	}
	return n, err
}

func open(ctx context.Context, cfg Config) (_ *Node, err error) {
	n := &Node{cfg: cfg, dbs: &engineDBs{}}
	n.life, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, n.release())
		}
	}()

	// 1. The directory is ours alone.
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "engine"), 0o700); err != nil {
		return nil, fmt.Errorf("ledger directory: %w", err)
	}
	if n.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	if _, err := schema.Check(cfg.Dir, schemaName, schemaKnown); err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}

	// 2. The registry as it was committed last, and the witness's journal.
	if n.store, err = openStore(filepath.Join(cfg.Dir, "registry")); err != nil {
		return nil, err
	}
	if n.metrics, err = newMetrics(cfg.Metrics); err != nil {
		return nil, err
	}
	if err := n.dropAdopted(); err != nil {
		return nil, fmt.Errorf("open the ledger in %s: %w", cfg.Dir, err)
	}
	if n.app, err = newApp(cfg, n.store, n.metrics); err != nil {
		return nil, err
	}
	fresh, err := n.beginsFresh()
	if err != nil {
		return nil, fmt.Errorf("open the ledger in %s: %w", cfg.Dir, err)
	}
	if err := n.app.checkUpgrade(); err != nil {
		return nil, err
	}
	if n.witness, err = openWitness(filepath.Join(cfg.Dir, "witness"), cfg.Witness, cfg.Clock); err != nil {
		return nil, err
	}

	// 3. The engine replays what the registry has not executed yet, then runs.
	if err := n.startEngine(ctx, fresh); err != nil {
		return nil, err
	}
	// 4. The watchdog, because the engine says that it is fine when it is not. While the
	// node begins with a snapshot it only dials.
	watch := newWatchdog(n)
	if fresh {
		if err := n.awaitStateSync(ctx, watch); err != nil {
			return nil, err
		}
	}
	run := n.life
	n.watch = watch
	n.running.Go(func() { n.watch.run(run) })
	n.app.snapshots.node = n
	n.running.Go(func() { n.app.snapshots.run(run) })
	if err := n.metrics.attach(n); err != nil {
		return nil, fmt.Errorf("ledger metrics: %w", err)
	}
	return n, nil
}

// The layout of a ledger directory, which its file SCHEMA names.
const (
	schemaName  = "civibus-ledger"
	schemaKnown = 1
)

// startEngine makes and starts the CometBFT node. A fresh one begins with a snapshot.
func (n *Node) startEngine(ctx context.Context, fresh bool) (err error) {
	conf, err := EngineConfig(n.cfg)
	if err != nil {
		return err
	}
	var options []cmtnode.Option
	if fresh {
		n.stateSyncConfig(conf)
		n.vouched = &vouched{StateProvider: n.cfg.StateProvider, ended: make(chan struct{})}
		options = append(options, cmtnode.StateProvider(n.vouched))
	}
	doc, err := EngineGenesis(n.cfg.Genesis)
	if err != nil {
		return err
	}
	nodeKey, err := openNodeKey(n.cfg.NodeKey, filepath.Join(n.cfg.Dir, "engine", "node_key.json"))
	if err != nil {
		return err
	}
	n.nodeID = string(nodeKey.ID())
	if !n.app.lists(n.nodeID) {
		// The engine takes a connection that is refused after the handshake for one that
		// was made and lost, and dials again at once. The watchdog dials with pauses.
		conf.P2P.PersistentPeers = ""
	}
	if n.signer, err = openSigner(n.cfg, n.dbs.nextValidators); err != nil {
		return err
	}
	n.signer.lifted = n.witnessChain
	n.app.observe = n.signer.observe

	// The engine panics on some kinds of damage, such as a registry whose hash is
	// not the one that the blocks agree on.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("start the ledger's engine in %s: %v", n.cfg.Dir, r)
		}
	}()
	logger := engineLogger{out: n.cfg.Logger, onFail: n.app.engineFailed}
	n.dbs.check = n.checkEngine
	n.dbs.onDamage = func(err error) { n.app.engineFailed(engineFailure{cause: err, detail: err.Error()}) }
	application := abci.Application(n.app)
	if n.cfg.dishonest != nil {
		application = n.cfg.dishonest(application)
	}
	n.engine, err = cmtnode.NewNodeWithContext(ctx, conf, n.signer, nodeKey,
		newClients(application, n.app),
		func() (*types.GenesisDoc, error) { return doc, nil },
		n.dbs.provide, engineMetrics(n.cfg.EngineMetrics), logger, options...)
	if err != nil {
		return fmt.Errorf("open the ledger in %s: %w", n.cfg.Dir, err)
	}
	n.app.pool.Store(&pool{n.engine.Mempool()})
	n.app.syncing = func() bool { return n.consensus().WaitSync() }
	if err := n.engine.Start(); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("listen for other ledger nodes: %w; change ledger.listen in the configuration or end what uses it", err)
		}
		return fmt.Errorf("start the ledger's engine: %w", err)
	}
	return nil
}

// Close stops the node. Submits that wait return ErrClosed.
func (n *Node) Close(ctx context.Context) error {
	if n.closed.Swap(true) {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- n.release() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("close the ledger: %w", context.Cause(ctx))
	}
}

// release undoes Open as far as it got.
func (n *Node) release() error {
	var errs []error
	if n.app != nil {
		n.app.close()
	}
	if n.stop != nil {
		n.stop()
	}
	n.running.Wait()
	n.inside.Lock()
	defer n.inside.Unlock()
	if n.metrics != nil {
		n.metrics.detach()
	}
	if n.engine != nil {
		if n.engine.IsRunning() {
			errs = append(errs, n.engine.Stop())
		} else if bus := n.engine.EventBus(); bus.IsRunning() {
			errs = append(errs, bus.Stop()) // the engine was made but did not start
		}
		if apps := n.engine.ProxyApp(); apps != nil && apps.IsRunning() {
			errs = append(errs, apps.Stop())
		}
	}
	errs = append(errs, n.dbs.close())
	if n.witness != nil {
		errs = append(errs, n.witness.close())
	}
	if n.store != nil {
		errs = append(errs, n.store.close())
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Close())
	}
	return errors.Join(errs...)
}

// enter keeps the engine's databases open until leave; false when the node is
// closing.
func (n *Node) enter() bool {
	n.inside.RLock()
	select {
	case <-n.app.closing:
		n.inside.RUnlock()
		return false
	default:
		return true
	}
}

func (n *Node) leave() { n.inside.RUnlock() }

// untilClosed returns a context that ends with ctx or when the node closes.
func (n *Node) untilClosed(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(n.life, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// ListenAddress is the host:port at which peers reach this node.
func (n *Node) ListenAddress() string { return n.cfg.ListenAddress }

// NodeID names the node to its peers, who list it as "id@host:port".
func (n *Node) NodeID() string { return n.nodeID }

// View is the registry as this node committed it last: immutable, at one height.
func (n *Node) View() *registry.View { return n.app.view() }

// Changed is closed when there is a newer view than the one that View returned
// before the call or returns at it.
func (n *Node) Changed() <-chan struct{} { return n.app.changed() }

// WaitView waits until done says true of a view.
func (n *Node) WaitView(ctx context.Context, done func(*registry.View) bool) error {
	for {
		changed := n.Changed()
		if v := n.View(); v != nil && done(v) {
			return nil
		}
		select {
		case <-changed:
		case <-n.app.closing:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("wait for the registry: %w", context.Cause(ctx))
		}
	}
}

// Waiting is the number of transactions that wait for a block at this node.
func (n *Node) Waiting() int { return n.app.pool.Load().Size() }

func (n *Node) consensus() *cs.Reactor { return n.engine.ConsensusReactor() }

func (n *Node) peers() []p2p.Peer {
	var out []p2p.Peer
	n.engine.Switch().Peers().ForEach(func(p p2p.Peer) { out = append(out, p) })
	return out
}
