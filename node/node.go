package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/events"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/internal/httpd"
	"github.com/civibus/civibus/internal/obs"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/once"
	"github.com/civibus/civibus/process"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/service"
	"github.com/civibus/civibus/transport"
	"github.com/civibus/civibus/usage"
)

// shutdownGrace is how long exchanges under way may take to end when the node
// is asked to stop.
const shutdownGrace = 10 * time.Second

// Options are what a node's surroundings give it besides its configuration. Zero
// values mean the default.
type Options struct {
	// Logger takes the node's log. Default: discarded.
	Logger *slog.Logger
	// Clock tells the time. Default: time.Now.
	Clock civibus.Clock
	// Ready is called once, when the node takes exchanges.
	Ready func()
	// Consumer, Provider and Metrics are listeners that are open already, instead
	// of the configured addresses. The node closes them.
	Consumer, Provider, Metrics net.Listener
	// Dial opens the connections to other bodies. Default: net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Hop, when not nil, stands between the TLS of the provider face and the
	// gateway: tests listen and tamper there, as whoever broke a TLS terminator
	// could.
	Hop func(http.Handler) http.Handler
	// LedgerRoom, when not nil, is called right before the ledger takes its
	// address, so that whoever held the port for it can let it go.
	LedgerRoom func()
	// RetainBlocks, when not 0, is how many blocks the ledger keeps, which may be fewer
	// than a configuration may say: tests cross the border of what is kept.
	RetainBlocks uint64
}

// Node is one body's node.
type Node struct {
	cfg    Config
	opts   Options
	member civibus.MemberID
	log    *slog.Logger
	clock  civibus.Clock

	ring    *keys.Ring
	genesis *registry.Genesis
	metrics *prometheus.Registry
	started time.Time

	// What Run composes, in this order. Read through current, which is nil until
	// all of it stands.
	ledger    replicaRef
	current   atomic.Pointer[rooms]
	addresses atomic.Pointer[addresses]
	ready     atomic.Bool
	awaited   atomic.Pointer[string] // what the start waits for
	health    atomic.Pointer[ledger.Status]
	submitter submitter
	receipts  *receiptMaker
	once      atomic.Pointer[once.Runtime]    // nil: the body neither asks for evidence nor gives it
	process   atomic.Pointer[process.Runtime] // nil: the body plays no roles

	deliveries deliveries // of half receipts, under way from other bodies
	lanes      lanes      // of half receipts, under way to other bodies

	// The members that this node hosts, and what their parts count; and the host of
	// a node that is itself a hosted member's.
	hosted        []*hosted
	hostedMetrics *prometheus.Registry
	host          *Node
}

// rooms are the parts that exist once the registry holds the body's keys.
type rooms struct {
	evidence  *evidence.Log
	replay    *seal.ReplayJournal
	transport *transport.Client
	services  *service.Set
	gateway   *gateway.Gateway
	events    *events.Room // nil: none here
	keeper    *usage.Keeper
	usage     *usage.Store
}

// addresses are where the node listens.
type addresses struct {
	consumer, provider, metrics string
}

// New makes a node from a configuration that has its defaults and is valid (see
// LoadConfig). It opens the keys and reads the genesis; Run does the rest.
func New(cfg Config, opts Options) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	member, err := civibus.ParseMemberID(cfg.Member)
	if err != nil {
		return nil, err
	}
	genesis, err := ReadGenesis(cfg.Ledger.Genesis)
	if err != nil {
		return nil, err
	}
	if genesis.Instance != member.Instance {
		return nil, fmt.Errorf("genesis %s is of instance %q, member %s of %q; use the genesis of the member's instance", cfg.Ledger.Genesis, genesis.Instance, cfg.Member, member.Instance)
	}
	ring, err := cfg.Keys.Open()
	if err != nil {
		return nil, fmt.Errorf("open the body's keys: %w", err)
	}
	taken, err := takeEngineKeys(ring, cfg.Keys.Dir, opts.Clock())
	if err != nil {
		return nil, fmt.Errorf("open the body's keys: %w", errors.Join(err, ring.Close()))
	}
	for _, file := range taken {
		opts.Logger.Info("a key is kept with the body's other keys from now on; its file in the ledger's format was removed", "file", file)
	}
	n := &Node{
		cfg: cfg, opts: opts, member: member, clock: opts.Clock, ring: ring, genesis: genesis,
		log:     opts.Logger.With("member", cfg.Member),
		metrics: obs.NewRegistry(Version()), hostedMetrics: prometheus.NewRegistry(),
	}
	for i := range cfg.Hosted {
		n.hosted = append(n.hosted, n.newHosted(i))
	}
	n.receipts = newReceiptMaker(n)
	n.ageMetrics()
	return n, nil
}

// Run runs the node until ctx ends, then lets exchanges under way end and closes
// everything. It returns nil after an ordered stop. The order is that of
// ARCHITECTURE.md: what an exchange needs stands before the faces open. A node
// that is killed at any moment starts again from what is on its disk.
func (n *Node) Run(ctx context.Context) (err error) {
	n.started = n.clock()
	if err := os.MkdirAll(n.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	var closers closers
	defer func() { err = errors.Join(err, closers.close()) }()
	closers.add("keys", func(context.Context) error { return n.ring.Close() })
	group, run := errgroup.WithContext(ctx)

	// 1. Monitoring first, so that whoever watches sees the start.
	lis, err := n.listen(&closers)
	if err != nil {
		return err
	}
	n.serveMetrics(lis, &closers, group)
	group.Go(func() error { n.watchKeys(run); return nil })

	// 2. The administration interface, which can say what the node waits for.
	if err := n.serveAdmin(&closers, group); err != nil {
		return err
	}

	// 3. The ledger, and with it the registry view.
	led, err := n.openLedger(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	closers.add("ledger", led.Close)
	n.ledger.Store(led)
	group.Go(func() error { return n.watchLedger(run) })

	// 4. The registry must hold the body's keys before anything is signed.
	if err := n.awaitKeys(run, led); err != nil {
		return stopped(ctx, err)
	}

	// 5. Evidence, seals, transport, services, gateway.
	r, err := n.compose(ctx, &closers)
	if err != nil {
		return err
	}
	n.current.Store(r)

	// 6. Background work: anchors, and receipts to the other bodies; and the members
	//    that are hosted here, each with such rooms of its own.
	n.background(run, r, group)

	for _, h := range n.hosted {
		group.Go(func() error { h.run(run); return nil })
	}
	n.awaitHosted(run)

	// 7. The faces open.
	if err := n.serveFaces(run, lis, r, &closers, group); err != nil {
		return err
	}
	n.awaitLedger(run)
	if run.Err() == nil {
		n.ready.Store(true)
		n.log.InfoContext(ctx, "ready", "consumer", n.addresses.Load().consumer, "provider", n.addresses.Load().provider,
			"height", led.View().Height(), "took", n.clock().Sub(n.started).Round(time.Millisecond))
		notify("READY=1")
		if n.opts.Ready != nil {
			n.opts.Ready()
		}
	}

	// 8. Until the end, ours or that of a part.
	<-run.Done()
	n.ready.Store(false)
	notify("STOPPING=1")
	n.log.InfoContext(ctx, "stopping")
	err = closers.closeFaces()
	return stopped(ctx, errors.Join(group.Wait(), err))
}

// stopped makes the end of ctx no error.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return nil
	}
	return err
}

// view returns the newest registry view, nil before there is one.
func (n *Node) view() *registry.View {
	if led := n.ledger.Load(); led != nil {
		return led.View()
	}
	return nil
}

// ConsumerURL returns where the body's systems call; empty before Run listens.
func (n *Node) ConsumerURL() string {
	a := n.addresses.Load()
	if a == nil {
		return ""
	}
	if n.cfg.Consumer.TLSCertificate != "" {
		return "https://" + a.consumer
	}
	return "http://" + a.consumer
}

// ProviderAddress returns where other bodies connect; empty before Run listens.
func (n *Node) ProviderAddress() string {
	if a := n.addresses.Load(); a != nil {
		return a.provider
	}
	return ""
}

// MetricsURL returns where metrics and health are served; empty if they are not.
func (n *Node) MetricsURL() string {
	if a := n.addresses.Load(); a != nil && a.metrics != "" {
		return "http://" + a.metrics
	}
	return ""
}

// Admin returns what the administration interface works on, for use in process.
func (n *Node) Admin() admin.Backend { return backend{n} }

// evidenceDir is where the evidence log is.
func (c Config) evidenceDir() string {
	return filepath.Join(c.DataDir, "evidence", fmt.Sprint(c.Evidence.Log))
}

// EvidenceDir is where the evidence log of this configuration is, for civibus
// log fsck.
func (c Config) EvidenceDir() string { return c.evidenceDir() }

// listeners are the open faces.
type listeners struct{ consumer, provider, metrics net.Listener }

func (n *Node) listen(closers *closers) (l listeners, err error) {
	open := func(given net.Listener, name, address string) (net.Listener, error) {
		if given == nil {
			if given, err = net.Listen("tcp", address); err != nil {
				return nil, fmt.Errorf("listen for the %s: %w; change its address in the configuration or end what uses it", name, err)
			}
		}
		closers.add(name, func(context.Context) error { _ = given.Close(); return nil }) // closed by its server already, as a rule
		return given, nil
	}
	if l.consumer, err = open(n.opts.Consumer, "consumer face", n.cfg.Consumer.Listen); err != nil {
		return l, err
	}
	if l.provider, err = open(n.opts.Provider, "provider face", n.cfg.Provider.Listen); err != nil {
		return l, err
	}
	a := addresses{consumer: l.consumer.Addr().String(), provider: l.provider.Addr().String()}
	if n.opts.Metrics != nil || n.cfg.Metrics.Listen != "off" {
		if l.metrics, err = open(n.opts.Metrics, "metrics", n.cfg.Metrics.Listen); err != nil {
			return l, err
		}
		a.metrics = l.metrics.Addr().String()
	}
	n.addresses.Store(&a)
	return l, nil
}

func (n *Node) serveMetrics(l listeners, closers *closers, group *errgroup.Group) {
	if l.metrics == nil {
		return
	}
	srv := httpd.New(obs.Handler(prometheus.Gatherers{n.metrics, n.hostedMetrics}, n.healthPage), httpd.Options{MaxConns: 64, Logger: n.log.With("room", "metrics")})
	closers.add("metrics server", srv.Shutdown)
	closers.faces("metrics server", srv.Shutdown)
	group.Go(func() error { return srv.Serve(l.metrics) })
}

// closers are what must be closed, the last opened first. Faces are closed before
// all else, so that no exchange begins that could not be recorded.
type closers struct {
	face, rest []closer
}

type closer struct {
	name  string
	close func(context.Context) error
}

func (c *closers) add(name string, f func(context.Context) error) {
	c.rest = append(c.rest, closer{name, f})
}

func (c *closers) faces(name string, f func(context.Context) error) {
	c.face = append(c.face, closer{name, f})
}

func (c *closers) closeFaces() error {
	list := c.face
	c.face = nil
	return closeAll(list)
}

func (c *closers) close() error {
	err := c.closeFaces()
	list := c.rest
	c.rest = nil
	return errors.Join(err, closeAll(list))
}

func closeAll(list []closer) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	var errs []error
	for i := len(list) - 1; i >= 0; i-- {
		if err := list[i].close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", list[i].name, err))
		}
	}
	return errors.Join(errs...)
}

// AwaitView waits until done says true of the registry view.
func (n *Node) AwaitView(ctx context.Context, done func(*registry.View) bool) error {
	led := n.ledger.Load()
	if led == nil {
		return errors.New("the ledger does not run yet")
	}
	return led.WaitView(ctx, done)
}
