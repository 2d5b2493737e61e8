//go:build linux

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry/registrypb"
)

// The ports of every body, each on its own machine.
const (
	providerPort = "5500"
	ledgerPort   = "26656"
	consumerURL  = "http://127.0.0.1:8080"
)

// AnswerTimeout is the one timeout of the issue: the longest that a body waits for
// another's answer. Shorter than the default, so that tests need not wait long.
const AnswerTimeout = 10 * time.Second

// Options describe a network. Zero values mean the default.
type Options struct {
	// Binary is the civibus command. Required.
	Binary string
	// Bodies is how many there are, each with a validator. Default: 4.
	Bodies int
	// Relayed puts a relay between all machines, which can do to links what this
	// kernel cannot.
	Relayed bool
	// DiskOf is the body whose data is on a disk of its own, in memory, of DiskBytes.
	// 0 bytes: none has one.
	DiskOf    int
	DiskBytes int64
	// Configure changes the configuration of body i before it is used.
	Configure func(i int, c *node.Config)
}

// Network is bodies on machines of their own.
type Network struct {
	Space  *Space
	Bodies []*Body
	Relay  *Relay // nil unless Relayed
	Dir    string

	options Options
	load    *Load
	watch   *watch
}

// Body is one body of a network.
type Body struct {
	Index   int
	ID      civibus.MemberID
	Machine *Machine
	Dir     string
	Config  node.Config

	network *Network

	disk *Process // holds the body's own disk, nil if it has none

	mu      sync.Mutex
	process *Process
}

// New founds a network as its operators would, starts all bodies and publishes a
// service of each that all others may call. Close it in any case.
func New(ctx context.Context, o Options) (_ *Network, err error) {
	if o.Bodies == 0 {
		o.Bodies = 4
	}
	n := &Network{options: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	// Short, since the path of a Unix socket is limited.
	if n.Dir, err = os.MkdirTemp("", "civibus-net-"); err != nil {
		return n, err
	}
	// 1. The machines, and what stands between them.
	if n.Space, err = NewSpace(); err != nil {
		return n, err
	}
	for i := range o.Bodies {
		m, err := n.Space.Machine("body"+strconv.Itoa(i), netip.AddrFrom4([4]byte{192, 0, 2, byte(11 + i)}))
		if err != nil {
			return n, err
		}
		id := civibus.MemberID{Instance: "TEST", Class: "GOV", Code: fmt.Sprintf("BODY%d", i)}
		n.Bodies = append(n.Bodies, &Body{Index: i, ID: id, Machine: m, Dir: filepath.Join(n.Dir, "body"+strconv.Itoa(i)), network: n})
	}
	if o.Relayed {
		if n.Relay, err = newRelay(n); err != nil {
			return n, err
		}
	}
	// 2. Keys, genesis, configurations.
	if err := n.found(); err != nil {
		return n, err
	}
	// 3. The systems behind the gateways, and the gateways.
	if o.DiskBytes > 0 {
		if err := n.Bodies[o.DiskOf].mount(o.DiskBytes); err != nil {
			return n, err
		}
	}
	for _, b := range n.Bodies {
		if err := errors.Join(b.Machine.Serve(), b.Start()); err != nil {
			return n, err
		}
	}
	if err := n.Await(ctx, n.Bodies...); err != nil {
		return n, err
	}
	// 4. What is watched from the first block on, and who may call whom.
	n.watch = newWatch(n)
	return n, n.publish(ctx)
}

// found makes each body's keys and public file, the genesis of these files, and
// the configurations.
func (n *Network) found() error {
	founders := make([]node.Founder, len(n.Bodies))
	for i, b := range n.Bodies {
		body, err := node.NewBody(node.BodyOptions{
			Member: b.ID, Name: "Body " + strconv.Itoa(i), KeysDir: filepath.Join(b.Dir, "keys"), ServerCode: "gateway-1",
			Provider: b.address(providerPort), Ledger: b.address(ledgerPort), Now: time.Now(),
		})
		if err != nil {
			return err
		}
		founders[i] = node.Founder{File: b.Dir, Body: body}
	}
	genesis, err := node.FoundNetwork("", time.Now(), founders)
	if err != nil {
		return err
	}
	text, err := genesis.TOML()
	if err != nil {
		return err
	}
	for i, b := range n.Bodies {
		c := node.Config{Member: b.ID.String(), Services: []node.ServiceConfig{{ID: "register/echo", URL: "http://" + SystemAddress}}}
		c.Ledger.Listen = net.JoinHostPort(b.Machine.Address.String(), ledgerPort)
		c.Provider.Listen = net.JoinHostPort(b.Machine.Address.String(), providerPort)
		c.Consumer.PlainHTTP = "loopback"
		c.Consumer.Timeout = node.Duration(AnswerTimeout)
		for j, f := range founders {
			if j != i {
				c.Ledger.Peers = append(c.Ledger.Peers, f.Body.Ledger)
			}
		}
		// Quick, because somebody waits for it.
		c.Ledger.BlockPause = node.Duration(100 * time.Millisecond)
		c.Evidence.BatchAge = node.Duration(100 * time.Millisecond)
		c.Evidence.CheckpointInterval = node.Duration(200 * time.Millisecond)
		c.Evidence.AnchorInterval = node.Duration(500 * time.Millisecond)
		c.Evidence.Reserve = node.Size(16 << 20)
		if n.options.Configure != nil {
			n.options.Configure(i, &c)
		}
		err := errors.Join(
			os.WriteFile(filepath.Join(b.Dir, "genesis.toml"), text, 0o644),
			os.WriteFile(b.configFile(), []byte(node.Commented(c)), 0o600))
		if err != nil {
			return err
		}
		if b.Config, err = node.LoadConfig(b.configFile()); err != nil {
			return err
		}
	}
	return nil
}

// publish registers what the exchanges of the load need: a portal of each body,
// and a service of each that the portals of all others may call.
func (n *Network) publish(ctx context.Context) error {
	portal := func(b *Body) []*registrypb.Tx {
		return []*registrypb.Tx{
			{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: b.client("portal").String(), Name: "Portal"}}},
			{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: b.client("register").String(), Name: "Register"}}},
			{Body: &registrypb.Tx_SetService{SetService: &registrypb.SetService{Id: b.service().String(), Type: registrypb.ServiceType_SERVICE_TYPE_REST, Title: "Echo"}}},
		}
	}
	rights := func(b *Body) (txs []*registrypb.Tx) {
		for _, other := range n.Bodies {
			if other != b {
				txs = append(txs, &registrypb.Tx{Body: &registrypb.Tx_GrantRight{GrantRight: &registrypb.GrantRight{
					Service: b.service().String(), Subject: &registrypb.GrantRight_Client{Client: other.client("portal").String()},
					Purpose: "test", LegalBasis: "https://law.example/act/1 (fictitious)",
				}}})
			}
		}
		return txs
	}
	return errors.Join(n.change(ctx, portal), n.change(ctx, rights))
}

// change has every body submit changes, one after the other, all bodies at once.
func (n *Network) change(ctx context.Context, of func(*Body) []*registrypb.Tx) error {
	errs := make([]error, len(n.Bodies))
	var group sync.WaitGroup
	for i, b := range n.Bodies {
		group.Go(func() {
			for _, tx := range of(b) {
				if _, err := b.Admin().Change(ctx, tx); err != nil && errs[i] == nil {
					errs[i] = fmt.Errorf("%s: %w", b.ID, err)
				}
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (b *Body) client(subsystem string) civibus.ClientID {
	return civibus.ClientID{MemberID: b.ID, Subsystem: subsystem}
}

func (b *Body) service() civibus.ServiceID {
	return civibus.ServiceID{ClientID: b.client("register"), Service: "echo"}
}

// address is where others reach a port of the body: the relay, if there is one.
func (b *Body) address(port string) string {
	if b.network.Relay != nil {
		return net.JoinHostPort(b.network.Relay.address(b).String(), port)
	}
	return net.JoinHostPort(b.Machine.Address.String(), port)
}

func (b *Body) configFile() string { return filepath.Join(b.Dir, "civibus.toml") }

func (b *Body) logFile() string { return filepath.Join(b.Dir, "log.txt") }

// Admin is a client of the body's administration socket.
func (b *Body) Admin() *admin.Client { return admin.NewClient(b.Config.Admin.Socket) }

// Command runs a civibus command at the body.
func (b *Body) Command(ctx context.Context, args ...string) *exec.Cmd {
	c := b.Machine.Command(ctx, b.network.options.Binary, args...)
	if b.disk != nil {
		c = exec.CommandContext(ctx, "nsenter", append([]string{"--mount", "--target", b.disk.pid(), "env", "--chdir=" + b.Dir}, c.Args...)...)
	}
	c.Dir = b.Dir
	return c
}

// mount gives the body's data a disk of its own. It is in a mount namespace that
// one process holds, so that nobody else has it mounted, and is gone with it.
func (b *Body) mount(bytes int64) (err error) {
	const script = `mkdir -p "$1" && mount -t tmpfs -o size="$2" civibus-test "$1" && echo mounted && exec sleep infinity`
	hold := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", b.Config.DataDir, strconv.FormatInt(bytes, 10))
	log := filepath.Join(b.Dir, "disk.txt")
	if b.disk, err = Start(hold, log); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := Until(ctx, func() bool { return strings.Contains(tail(log, 1), "mounted") || !b.disk.Running() }); err != nil || !b.disk.Running() {
		return fmt.Errorf("mount a disk for %s: %w %s", b.ID, err, tail(log, 3))
	}
	return nil
}

// Path is where this process finds a file of the body: below the holder of its disk
// if it has one of its own.
func (b *Body) Path(file string) string {
	if b.disk != nil {
		return filepath.Join("/proc", b.disk.pid(), "root", file)
	}
	return file
}

// Start starts the body's node. It does not wait.
func (b *Body) Start() error { return b.StartAs(b.Command(context.Background(), "run")) }

// StartAs starts another program as the body's node.
func (b *Body) StartAs(c *exec.Cmd) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.process != nil && b.process.Running() {
		return fmt.Errorf("%s runs already", b.ID)
	}
	c.Dir = b.Dir
	p, err := Start(c, b.logFile())
	if err == nil {
		b.process = p
	}
	return err
}

// Process is the body's node, nil before the first start.
func (b *Body) Process() *Process {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.process
}

// Kill ends the node with SIGKILL.
func (b *Body) Kill() { b.Process().Kill() }

// Pause stops the node's process where it is, Resume lets it go on.
func (b *Body) Pause() error { return b.Process().Signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (b *Body) Resume() error { return b.Process().Signal(syscall.SIGCONT) }

// Status is the node's status, an error if it does not answer within a second.
func (b *Body) Status(ctx context.Context) (admin.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return b.Admin().Status(ctx)
}

// Await waits until bodies take exchanges.
func (n *Network) Await(ctx context.Context, bodies ...*Body) error {
	for _, b := range bodies {
		var last error
		err := Until(ctx, func() bool {
			if !b.Process().Running() {
				last = fmt.Errorf("it ended: %w", b.Process().err)
				return true
			}
			s, err := b.Status(ctx)
			last = err
			if err == nil && !s.Ready {
				last = fmt.Errorf("%v", s.Components)
			}
			return last == nil
		})
		if err = errors.Join(err, last); err != nil {
			return fmt.Errorf("%s takes no exchanges: %w; its log ends with\n%s", b.ID, err, tail(b.logFile(), 15))
		}
	}
	return nil
}

// Until asks again and again, until done says true or ctx ends.
func Until(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Tell prints how the nodes are and the ends of their logs. A node that runs and
// does not answer is made to print what its goroutines do and ends.
func (n *Network) Tell(printf func(format string, args ...any)) {
	for _, b := range n.Bodies {
		s, err := b.Status(context.Background())
		if err != nil && b.Process().Running() {
			_ = b.Process().Signal(syscall.SIGQUIT) // it may have ended
		}
		printf("%s: height %d, %d peers, %v, %v %v; its log ends with\n%s", b.ID, s.Ledger.Height, s.Ledger.Peers, s.Ledger.Problems, s.Components, err, tail(b.logFile(), 12))
	}
}

// Close kills what still runs and removes everything. CIVIBUS_FAULT_KEEP in the
// environment keeps the bodies' folders, with their logs.
func (n *Network) Close() error {
	if n.load != nil {
		n.load.Stop()
	}
	if n.watch != nil {
		n.watch.stop()
	}
	for _, b := range n.Bodies {
		for _, p := range []*Process{b.Process(), b.disk} {
			if p != nil {
				p.Kill()
			}
		}
	}
	if n.Relay != nil {
		n.Relay.close()
	}
	var err error
	if n.Space != nil {
		err = n.Space.Close()
	}
	if os.Getenv("CIVIBUS_FAULT_KEEP") != "" {
		return err
	}
	return errors.Join(err, os.RemoveAll(n.Dir))
}
