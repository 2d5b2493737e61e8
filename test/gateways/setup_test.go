package gateways

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry/registrypb"
)

// patience bounds every wait: other work may slow this machine down.
const patience = 90 * time.Second

// process is one gateway, a process of its own.
type process struct {
	t        *testing.T
	name     string
	program  string
	config   string
	consumer string // host:port
	provider string
	admin    *admin.Client

	mu  sync.Mutex
	cmd *exec.Cmd
}

// start starts it, or starts it again.
func (p *process) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.config+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(p.program, "run", "--config", p.config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.cmd = cmd
	p.mu.Unlock()
}

// kill is kill -9.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Kill() // it may have ended by itself
		_ = p.cmd.Wait()         // "signal: killed"
		p.cmd = nil
	}
}

// ready waits until it takes exchanges.
func (p *process) ready() {
	p.t.Helper()
	eventually(p.t, p.name+" takes exchanges", func() bool {
		s, err := p.admin.Status(p.t.Context())
		return err == nil && s.Ready
	})
}

// tail is the end of its log.
func (p *process) tail() string {
	text, _ := os.ReadFile(p.config + ".log") // nothing to tell, then
	return string(text[max(0, len(text)-3000):])
}

// world is two bodies with two gateways each.
type world struct {
	t              *testing.T
	program        string
	town, office   *testnet.Body
	consumers      [2]*process // of the town
	providers      [2]*process // of the office
	calls          atomic.Int64
	free           int // next free port
	service, asker string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, program: filepath.Join(t.TempDir(), "civibus")}
	if out, err := exec.Command("go", "build", "-o", w.program, "github.com/civibus/civibus/cmd/civibus").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.calls.Add(1)
		_, _ = io.Copy(rw, io.MultiReader(bytes.NewBufferString(r.Method+" "), r.Body))
	}))
	t.Cleanup(upstream.Close)

	// 1. Two bodies found an instance, each with a validator beside its first gateway.
	services := []node.ServiceConfig{{ID: "register/persons", URL: upstream.URL}}
	w.free = freePorts(t, 24)
	n, err := testnet.Found(testnet.Options{Dir: t.TempDir(), FirstPort: w.port(2 * testnet.PortsPerBody), Bodies: []testnet.BodySpec{
		{Class: "MUN", Code: "TOWN", Name: "Town (fictitious)"}, {Class: "GOV", Code: "OFFICE", Name: "Office (fictitious)", Services: services},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil { // the ports are the processes'
		t.Fatal(err)
	}
	w.town, w.office = n.Bodies[0], n.Bodies[1]
	for i, b := range n.Bodies {
		p := &process{t: t, name: b.ID.Code + "/gateway-1", program: w.program, config: b.ConfigFile,
			consumer: b.Config.Consumer.Listen, provider: b.Config.Provider.Listen, admin: b.Admin()}
		[]*[2]*process{&w.consumers, &w.providers}[i][0] = p
		w.run(p)
	}
	w.consumers[0].ready()
	w.providers[0].ready()

	// 2. What may be called.
	desk, persons := w.town.Client("desk"), w.office.Service("register", "persons")
	w.asker, w.service = desk.String(), persons.String()
	for _, changes := range [][]testnet.Change{
		{w.town.Subsystem("desk", "Front desk"), w.office.Subsystem("register", "Register")},
		{w.office.Publish(civibus.Service{ID: persons, Type: civibus.REST, Title: "Persons"})},
		{w.office.Grant(civibus.AccessRight{Service: persons, Client: desk, Purpose: "test", LegalBasis: "none, this is a test"})},
	} {
		if _, err := n.Register(t.Context(), changes...); err != nil {
			t.Fatal(err)
		}
	}

	// 3. A second gateway for each, as docs/operate/gateways.md has it.
	w.consumers[1] = w.second(w.town, w.consumers[0], "")
	w.providers[1] = w.second(w.office, w.providers[0], fmt.Sprintf("\n[[services]]\nid = \"register/persons\"\nurl = %q\n", upstream.URL))
	for _, p := range []*process{w.consumers[1], w.providers[1]} {
		w.run(p)
		p.ready()
	}
	return w
}

// run starts a process that ends with the test.
func (w *world) run(p *process) {
	w.t.Cleanup(func() {
		p.kill()
		if w.t.Failed() {
			w.t.Logf("%s:\n%s", p.name, p.tail())
		}
	})
	p.start()
}

// second makes and registers a body's second gateway by the commands.
func (w *world) second(b *testnet.Body, first *process, services string) *process {
	w.t.Helper()
	dir := filepath.Join(b.Dir, "second")
	provider, consumer := w.address(), w.address()
	w.command("gateway", "new", "--member", b.ID.String(), "--code", "gateway-2", "--log", "2", "--genesis", b.Config.Ledger.Genesis, "--dir", dir,
		"--provider", provider, "--consumer", consumer, "--metrics", "off", "--full-node", w.town.ProviderAddress(), "--full-node", w.office.ProviderAddress())
	config := filepath.Join(dir, "civibus.toml")
	text, err := os.ReadFile(config)
	if err == nil {
		err = os.WriteFile(config, append(text, services...), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.command("gateway", "add", filepath.Join(dir, "gateway.toml"), "--config", first.config)
	w.command("gateway", "add", filepath.Join(dir, "gateway.toml"), "--config", first.config) // changes nothing
	return &process{t: w.t, name: b.ID.Code + "/gateway-2", program: w.program, config: config, consumer: consumer, provider: provider,
		admin: admin.NewClient(filepath.Join(dir, "data", "admin.sock"))}
}

func (w *world) command(args ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, w.program, args...).CombinedOutput(); err != nil {
		w.t.Fatalf("civibus %v: %v\n%s", args, err, out)
	}
}

// behind has the registry say that both gateways of the office are at one address.
func (w *world) behind(address string) {
	w.t.Helper()
	set := &registrypb.SetMember{Id: w.office.ID.String(), Name: w.office.Name}
	for _, code := range []string{"gateway-1", "gateway-2"} {
		set.Gateways = append(set.Gateways, &registrypb.Gateway{Code: code, Address: address})
	}
	if _, err := w.providers[0].admin.Change(w.t.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetMember{SetMember: set}}); err != nil {
		w.t.Fatal(err)
	}
	for _, p := range w.consumers {
		eventually(w.t, p.name+" knows the balancer", func() bool {
			m, err := p.admin.Member(w.t.Context(), w.office.ID.String())
			return err == nil && len(m.Gateways) == 2 && m.Gateways[0].Address == address && m.Gateways[1].Address == address
		})
	}
}

// balancer is a TCP balancer: each connection goes to the next backend in turn that
// takes it.
func balancer(t *testing.T, backends ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var next atomic.Int64
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			front, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer front.Close()
				for range backends {
					back, err := net.Dial("tcp", backends[int(next.Add(1))%len(backends)])
					if err != nil {
						continue
					}
					defer back.Close()
					go func() {
						_, _ = io.Copy(back, front)
						_ = back.Close()
					}()
					_, _ = io.Copy(front, back)
					return
				}
			}()
		}
	}()
	return l.Addr().String()
}

// port takes so many ports in a row.
func (w *world) port(n int) int {
	w.free += n
	return w.free - n
}

func (w *world) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(w.port(1))) }

// freePorts finds ports in a row that are free now and that no connection of
// others takes meanwhile: they are below those that the system gives out.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	for range 100 {
		first := 10000 + rand.IntN(20000)
		var held []net.Listener
		for p := first; p < first+n; p++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
			if err != nil {
				break
			}
			held = append(held, l)
		}
		for _, l := range held {
			_ = l.Close()
		}
		if len(held) == n {
			return first
		}
	}
	t.Fatal("no ports are free")
	return 0
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// hint is what a refusal of the administration says to do.
func hint(err error) string {
	var p *admin.Problem
	if errors.As(err, &p) {
		return p.Hint
	}
	return ""
}
