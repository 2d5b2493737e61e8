package light

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/cometbft/cometbft/types"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

// Config describes a light client. Zero values of optional fields mean the default.
type Config struct {
	// Dir is its data directory. It is created. It may be restored from a backup: what
	// is missing is fetched again, within the trust period.
	Dir string
	// Genesis is the instance's first state.
	Genesis *registry.Genesis
	// FullNodes are provider faces, host:port, of gateways with a ledger node. Those of
	// the registry's view are used besides.
	FullNodes []string
	// TrustPeriod is how long a header is ground for trust. Default 14 days.
	TrustPeriod time.Duration
	// TrustHeight and TrustHash name a header to trust. Height 0: the genesis.
	TrustHeight uint64
	TrustHash   []byte
	// Certificate is what full nodes are shown, who let in registered bodies only.
	Certificate func() (*tls.Certificate, error)
	// Member and ServerCode are this gateway, which is not asked.
	Member     civibus.MemberID
	ServerCode string
	// SnapshotGap is how many blocks a snapshot must save to be fetched. Default 2000.
	SnapshotGap uint64
	// MaxClockDrift is how far a block's time may be ahead of this machine's clock.
	// Default 60 s, as consensus and seals have it.
	MaxClockDrift time.Duration
	// AnswerTimeout bounds the wait for the head of an answer, and for each further
	// part of it; six times as long for the whole. Default 10 s.
	AnswerTimeout time.Duration
	// Poll is how long a full node is waited for to have a new block. Default 8 s.
	Poll time.Duration
	// StaleAfter is how long a full node may withhold a block that another has. Default 15 s.
	StaleAfter time.Duration
	// DropFor is how long a full node that lied is left alone. Default 10 min.
	DropFor time.Duration
	// Heartbeat is how often the instance makes a block at least. Default 45 s.
	Heartbeat time.Duration
	// Dial opens TCP connections. Default: net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Clock, Logger and Metrics are as in ledger.Config.
	Clock   civibus.Clock
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Dir == "" || c.Genesis == nil || c.Certificate == nil {
		errs = append(errs, errors.New("light client: Dir, Genesis and Certificate must be given"))
	}
	for _, a := range c.FullNodes {
		errs = append(errs, splitAddress(a))
	}
	if c.TrustHeight != 0 && len(c.TrustHash) != 32 {
		errs = append(errs, fmt.Errorf("light client: the trusted hash has %d bytes, the rule is 32", len(c.TrustHash)))
	}
	c.TrustPeriod = cmp.Or(c.TrustPeriod, 14*24*time.Hour)
	c.SnapshotGap = cmp.Or(c.SnapshotGap, 2000)
	c.MaxClockDrift = cmp.Or(c.MaxClockDrift, time.Minute)
	c.AnswerTimeout = cmp.Or(c.AnswerTimeout, 10*time.Second)
	c.Poll = cmp.Or(c.Poll, 8*time.Second)
	c.StaleAfter = cmp.Or(c.StaleAfter, 15*time.Second)
	c.DropFor = cmp.Or(c.DropFor, 10*time.Minute)
	c.Heartbeat = cmp.Or(c.Heartbeat, 45*time.Second)
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}

// Client follows the ledger. Its methods may be called by several goroutines at once.
type Client struct {
	cfg     Config
	chainID string
	replica *ledger.Replica
	pool    *pool
	metrics *metrics

	life    context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
	anchors map[int64][]byte // hashes of headers below the trusted one, while blocks are fetched

	mu         sync.Mutex
	trusted    *types.LightBlock
	trustedRaw []byte
	trustKept  bool
	alone      bool      // no second full node confirmed the last header
	caught     bool      // it was at the newest block once
	problem    error     // why there is nothing new
	since      time.Time // of the problem
	fatal      error     // nothing goes on until the operator acts
}

// Open starts a light client. It returns at once; see WaitView and Status.
func Open(ctx context.Context, cfg Config) (_ *Client, err error) {
	c, err := newClient(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if c.metrics, err = newMetrics(cfg.Metrics, c); err != nil {
		return nil, errors.Join(err, c.replica.Close())
	}
	if v := c.replica.View(); v != nil {
		c.pool.update(v)
	}
	c.running.Go(func() { c.run(c.life) })
	return c, nil
}

func newClient(ctx context.Context, cfg Config) (c *Client, err error) {
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	c = withoutReplica(ctx, cfg)
	if c.replica, err = ledger.OpenReplica(cfg.Dir, cfg.Genesis); err != nil {
		return nil, err
	}
	return c, nil
}

// withoutReplica makes a client that verifies headers and executes nothing.
func withoutReplica(ctx context.Context, cfg Config) *Client {
	c := &Client{cfg: cfg, chainID: cfg.Genesis.ChainID, anchors: make(map[int64][]byte)}
	c.pool = &pool{c: c}
	for _, a := range cfg.FullNodes {
		f := newFullNode(c, a)
		f.configured = true
		c.pool.nodes = append(c.pool.nodes, f)
	}
	c.life, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	return c
}

// Close stops it.
func (c *Client) Close(context.Context) error {
	c.stop()
	c.running.Wait()
	c.metrics.detach()
	c.pool.close()
	return c.replica.Close()
}

// run follows the ledger until ctx ends.
func (c *Client) run(ctx context.Context) {
	err := c.root(ctx)
	for err == nil {
		if err = c.round(ctx); err == nil {
			c.setProblem(nil)
			continue
		}
		switch {
		case ctx.Err() != nil:
		case final(err):
		default: // a full node did not do what was asked; there are others, or it is tried again
			c.setProblem(err)
			err = c.rest(ctx, c.restFor())
		}
	}
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	c.fatal = err
	c.mu.Unlock()
	c.cfg.Logger.Error("the registry is not followed any more", slog.Any("error", err))
}

// restFor is how long to wait until a full node may be asked.
func (c *Client) restFor() time.Duration {
	if len(c.pool.usable()) > 0 {
		return 20 * time.Millisecond
	}
	return c.pool.next()
}

func (c *Client) rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// setProblem notes why there is nothing new; nil: there is no reason.
func (c *Client) setProblem(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if (c.problem == nil) != (err == nil) {
		c.since = c.cfg.Clock()
	}
	c.problem = err
}

// View is the registry after the last verified block; nil before there is one.
func (c *Client) View() *registry.View { return c.replica.View() }

// Changed is closed when there is a newer view.
func (c *Client) Changed() <-chan struct{} { return c.replica.Changed() }

// WaitView waits until done says true of a view.
func (c *Client) WaitView(ctx context.Context, done func(*registry.View) bool) error {
	return c.replica.WaitView(ctx, done)
}

// Checkpoint is the text of the registry's checkpoint at an event-log size.
func (c *Client) Checkpoint(size uint64) (string, error) { return c.replica.Checkpoint(size) }

// Cosign is refused: who does not vote does not witness.
func (c *Client) Cosign(context.Context, uint64) (string, error) { return "", ledger.ErrNoWitness }

// ListenAddress is empty: no peer connects.
func (c *Client) ListenAddress() string { return "" }

// NodeID is empty: it is no ledger node.
func (c *Client) NodeID() string { return "" }

// HeaderHash is the hash of the last trusted header, if that is the one of height.
func (c *Client) HeaderHash(height uint64) ([]byte, error) {
	if lb := c.trust(); lb != nil && lb.Height > 0 && lb.Height == int64(height) {
		return lb.Hash(), nil
	}
	return nil, fmt.Errorf("header %d: %w", height, ledger.ErrPruned)
}

// Status is what it knows about itself. Peers are full nodes.
func (c *Client) Status() ledger.Status {
	known, usable, liars, names := c.pool.count()
	s := ledger.Status{ChainID: c.chainID, Peers: usable, PeersWanted: known, Healthy: true, Waiting: c.replica.Awaited()}
	now := c.cfg.Clock()
	if v := c.View(); v != nil {
		s.Height, s.AppHash, s.BlockTime = v.Height(), v.AppHash(), v.Time()
		s.BlockAge = max(now.Sub(s.BlockTime), 0)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.CatchingUp = !c.caught
	report := func(fatal bool, format string, args ...any) {
		s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
		s.Healthy = s.Healthy && !fatal
	}
	if c.fatal != nil {
		report(true, "the registry is not followed any more: %v", c.fatal)
	}
	if silence := 2*c.cfg.Heartbeat + c.cfg.StaleAfter; s.Height > 0 && s.BlockAge > silence {
		report(true, "no block for %s; there should be one every %s", s.BlockAge.Round(time.Second), c.cfg.Heartbeat)
	}
	if c.problem != nil && now.Sub(c.since) > c.cfg.StaleAfter || c.problem != nil && s.Height == 0 {
		report(usable == 0, "full nodes: %v", c.problem)
	}
	if c.alone && c.caught {
		report(false, "no second full node confirms what the first one shows; add one to ledger.full_nodes")
	}
	if liars > 0 {
		report(false, "full nodes that lied and are left alone: %v; what they said is in %s/lies", names, c.cfg.Dir)
	}
	if c.trusted != nil && c.trusted.Height > 0 && c.fatal == nil {
		if left := c.trusted.Time.Add(c.cfg.TrustPeriod).Sub(now); left < c.cfg.TrustPeriod/4 {
			report(false, "what is trusted expires in %s unless new blocks come; then a new trust_height and trust_hash are needed", left.Round(time.Minute))
		}
	}
	return s
}

// trustedHash says what is trusted, for the log.
func (c *Client) trustedHash() slog.Attr {
	lb := c.trust()
	return slog.Group("trusted", slog.Int64("height", lb.Height), slog.String("hash", hex.EncodeToString(lb.Hash())))
}
