// Package testnet runs several bodies of one instance in this process: each with
// its own keys, data directory, gateway and validator, with real loopback sockets
// and mutual TLS between them. Tests and "civibus demo" share it.
//
// Trust: nothing here is for production: one process holds the keys of all
// bodies. An attacker who controls it is all of them.
package testnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry"
)

// PortsPerBody is how many consecutive ports a body takes when the first is
// fixed: consumer face, provider face, ledger, metrics, in this order.
const PortsPerBody = 4

// serverCode names the one gateway of every body.
const serverCode = "gateway-1"

// BodySpec describes one body of the network.
type BodySpec struct {
	Class string
	Code  string
	Name  string
	// Services are the body's systems as its configuration names them.
	Services []node.ServiceConfig
	// Light bodies run no ledger node: they follow the others'.
	Light bool
}

// Options describe a network. Zero values mean the default.
type Options struct {
	// Dir holds the bodies' folders. Required. It must be new or empty.
	Dir string
	// Instance is the instance's name. Default: DEMO.
	Instance string
	// Bodies are its founders. Default: four bodies without services.
	Bodies []BodySpec
	// FirstPort fixes the ports: PortsPerBody for each body in order. 0: free ones.
	FirstPort int
	// Logger takes the nodes' logs. Default: discarded.
	Logger *slog.Logger
	// Genesis changes the genesis before it is used.
	Genesis func(g *registry.Genesis)
	// Configure changes the configuration of body i before it is used.
	Configure func(i int, c *node.Config)
	// Hop stands between the TLS of body i's provider face and its gateway, to
	// listen and to tamper.
	Hop func(i int, next http.Handler) http.Handler
	// Clock is body i's clock. Default: time.Now.
	Clock func(i int) civibus.Clock
	// RetainBlocks, when not 0, is how many blocks each body keeps, however few.
	RetainBlocks uint64
	// StartTimeout bounds the start. Default: 30 s.
	StartTimeout time.Duration
}

// Network is a running network.
type Network struct {
	Dir     string
	ChainID string
	Bodies  []*Body
}

// Body is one body of a network.
type Body struct {
	ID         civibus.MemberID
	Name       string
	Dir        string
	ConfigFile string
	Config     node.Config

	opts      node.Options
	listeners [4]net.Listener // consumer, provider, ledger, metrics: held until the first start

	mu   sync.Mutex
	node *node.Node
	stop context.CancelFunc
	done chan error
}

// DefaultBodies are four bodies of a fictitious state.
func DefaultBodies() []BodySpec {
	return []BodySpec{
		{Class: "GOV", Code: "1001", Name: "Population Office (fictitious)"},
		{Class: "GOV", Code: "1002", Name: "Business Register (fictitious)"},
		{Class: "GOV", Code: "1003", Name: "Land Survey (fictitious)"},
		{Class: "MUN", Code: "2001", Name: "Town of Exampleton (fictitious)"},
	}
}

// New founds a network, starts all bodies at the same time and waits until they
// take exchanges.
func New(ctx context.Context, o Options) (*Network, error) {
	n, err := Found(o)
	if err != nil {
		return nil, err
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 30 * time.Second
	}
	if err := n.Start(ctx, o.StartTimeout); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Found makes the bodies' keys, the genesis and the configurations, and takes the
// ports, but starts nothing.
func Found(o Options) (_ *Network, err error) {
	if o.Dir == "" {
		return nil, errors.New("test network: the directory is missing")
	}
	// Configurations take relative paths from their own folder.
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, fmt.Errorf("test network: %w", err)
	}
	if o.Instance == "" {
		o.Instance = "DEMO"
	}
	if o.Bodies == nil {
		o.Bodies = DefaultBodies()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	n := &Network{Dir: o.Dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()

	// 1. Each body's ports and keys.
	now := time.Now()
	cards := make([]node.Body, len(o.Bodies))
	for i, spec := range o.Bodies {
		b := &Body{ID: civibus.MemberID{Instance: o.Instance, Class: spec.Class, Code: spec.Code}, Name: spec.Name, Dir: filepath.Join(o.Dir, "body-"+strconv.Itoa(i+1))}
		n.Bodies = append(n.Bodies, b)
		if err := b.takePorts(o.FirstPort, i); err != nil {
			return nil, err
		}
		cards[i], err = node.NewBody(node.BodyOptions{
			Member: b.ID, Name: b.Name, KeysDir: filepath.Join(b.Dir, "keys"), ServerCode: serverCode,
			Provider: b.listeners[1].Addr().String(), Ledger: b.listeners[2].Addr().String(), Now: now,
		})
		if err != nil {
			return nil, err
		}
		if spec.Light {
			cards[i].Ledger = ""
			cards[i].Keys = slices.DeleteFunc(cards[i].Keys, func(k registry.GenesisKey) bool {
				return k.Purpose == civibus.ValidatorKey.String() || k.Purpose == civibus.WitnessKey.String()
			})
		}
	}

	// 2. The genesis that they share.
	genesis, err := node.Found("", now, cards)
	if err != nil {
		return nil, err
	}
	if o.Genesis != nil {
		o.Genesis(genesis)
	}
	n.ChainID = genesis.ChainID
	text, err := genesis.TOML()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(o.Dir, "genesis.toml")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return nil, fmt.Errorf("write genesis: %w", err)
	}

	// 3. Each body's configuration, as a file that civibus commands can use.
	for i, b := range n.Bodies {
		if err := b.configure(i, o, file, cards); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (b *Body) takePorts(first, i int) error {
	for p := range b.listeners {
		port := 0
		if first > 0 {
			port = first + i*PortsPerBody + p
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return fmt.Errorf("take port %d for body %d: %w; choose another first port, of which %d in a row are free", port, i+1, err, PortsPerBody*(i+1))
		}
		b.listeners[p] = l
	}
	return nil
}

func (b *Body) configure(i int, o Options, genesis string, cards []node.Body) error {
	c := node.Config{Member: b.ID.String(), ServerCode: serverCode, Services: o.Bodies[i].Services}
	c.DataDir = filepath.Join(b.Dir, "data")
	c.Keys.Dir = filepath.Join(b.Dir, "keys")
	c.Ledger.Genesis = genesis
	c.Ledger.Listen = b.listeners[2].Addr().String()
	for j, card := range cards {
		if j == i || card.Ledger == "" {
			continue
		}
		if o.Bodies[i].Light {
			c.Ledger.FullNodes = append(c.Ledger.FullNodes, card.Gateways[0].Address)
		} else {
			c.Ledger.Peers = append(c.Ledger.Peers, card.Ledger)
		}
	}
	if o.Bodies[i].Light {
		c.Ledger.Mode = "light"
	}
	c.Consumer.Listen = b.listeners[0].Addr().String()
	c.Consumer.PlainHTTP = "loopback"
	c.Provider.Listen = b.listeners[1].Addr().String()
	c.Metrics.Listen = b.listeners[3].Addr().String()
	// Quick, because somebody waits for it.
	c.Ledger.BlockPause = node.Duration(50 * time.Millisecond)
	c.Evidence.BatchAge = node.Duration(50 * time.Millisecond)
	c.Evidence.CheckpointInterval = node.Duration(100 * time.Millisecond)
	c.Evidence.AnchorInterval = node.Duration(250 * time.Millisecond)
	c.Evidence.Reserve = node.Size(16 << 20)
	if o.Configure != nil {
		o.Configure(i, &c)
	}
	b.ConfigFile = filepath.Join(b.Dir, "civibus.toml")
	if err := os.WriteFile(b.ConfigFile, []byte(node.Commented(c)), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	var err error
	if b.Config, err = node.LoadConfig(b.ConfigFile); err != nil {
		return fmt.Errorf("configuration of body %d: %w", i+1, err)
	}
	b.opts = node.Options{Logger: o.Logger, RetainBlocks: o.RetainBlocks}
	if o.Clock != nil {
		b.opts.Clock = o.Clock(i)
	}
	if o.Hop != nil {
		b.opts.Hop = func(next http.Handler) http.Handler { return o.Hop(i, next) }
	}
	return nil
}

// Start starts all bodies that do not run and waits until they take exchanges.
func (n *Network) Start(ctx context.Context, timeout time.Duration) error {
	var wg sync.WaitGroup
	errs := make([]error, len(n.Bodies))
	for i, b := range n.Bodies {
		wg.Go(func() { errs[i] = b.Start(ctx, timeout) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close stops all bodies at the same time.
func (n *Network) Close() error {
	var wg sync.WaitGroup
	errs := make([]error, len(n.Bodies))
	for i, b := range n.Bodies {
		wg.Go(func() { errs[i] = b.Stop() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Start starts the body, or starts it again, and waits until it takes exchanges.
func (b *Body) Start(ctx context.Context, timeout time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.node != nil {
		return nil
	}
	ready := make(chan struct{})
	opts := b.opts
	opts.Ready = func() { close(ready) }
	opts.Consumer, opts.Provider, opts.Metrics = b.listeners[0], b.listeners[1], b.listeners[3]
	if held := b.listeners[2]; held != nil {
		opts.LedgerRoom = func() { _ = held.Close() } // the port passes to the ledger
	}
	nd, err := node.New(b.Config, opts)
	if err != nil {
		return err
	}
	b.listeners = [4]net.Listener{}
	// The node lives longer than the call that starts it.
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- nd.Run(run) }()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-ready:
		b.node, b.stop, b.done = nd, stop, done
		return nil
	case err := <-done:
		stop()
		if err == nil {
			err = errors.New("it stopped")
		}
		return fmt.Errorf("start %s: %w", b.ID, err)
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timer.C:
		err = fmt.Errorf("not ready after %v: %v", timeout, nd.Admin().Status().Components)
	}
	stop()
	return fmt.Errorf("start %s: %w", b.ID, errors.Join(err, <-done))
}

// Stop stops the body and waits until it has closed everything.
func (b *Body) Stop() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, l := range b.listeners {
		if l != nil {
			_ = l.Close() // never used
			b.listeners[i] = nil
		}
	}
	if b.node == nil {
		return nil
	}
	b.stop()
	err := <-b.done
	b.node = nil
	if err != nil {
		return fmt.Errorf("stop %s: %w", b.ID, err)
	}
	return nil
}

// Node returns the running node, nil when it does not run.
func (b *Body) Node() *node.Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.node
}

// ConsumerURL is where the body's systems call.
func (b *Body) ConsumerURL() string { return "http://" + b.Config.Consumer.Listen }

// ProviderAddress is where other bodies connect.
func (b *Body) ProviderAddress() string { return b.Config.Provider.Listen }

// Admin returns a client of the body's administration socket.
func (b *Body) Admin() *admin.Client { return admin.NewClient(b.Config.Admin.Socket) }

// Client names a subsystem of the body.
func (b *Body) Client(subsystem string) civibus.ClientID {
	return civibus.ClientID{MemberID: b.ID, Subsystem: subsystem}
}

// Service names a service of the body.
func (b *Body) Service(subsystem, service string) civibus.ServiceID {
	return civibus.ServiceID{ClientID: b.Client(subsystem), Service: service}
}
