// Package demo is what "civibus demo" shows: four bodies of a fictitious state,
// three systems that know nothing of the bus, exchanges between them, receipts
// that verify offline, and four attacks that are really made on the wire and
// really refused.
//
// Trust: nothing here is for production: one process holds the keys of all
// bodies, all data is invented, and everything listens on loopback. An attacker
// on this machine can at most play with it too.
package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/civibus/civibus/internal/demostack"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
)

// The bodies, by their place in the network.
const (
	populationOffice = iota
	businessRegister
	permitAuthority
	town
)

// Options say how the demo runs.
type Options struct {
	// Dir is where everything is kept. Required; it must be new or empty.
	Dir string
	// FirstPort fixes the ports: testnet.PortsPerBody for each of the four
	// bodies, then two for the systems. 0: free ones.
	FirstPort int
	// Upstream is the base URL of a further service to offer; empty: none.
	Upstream string
	// OpenAPI is a file with its description; empty: none.
	OpenAPI string
	// Started is when the process started, from which times are counted.
	Started time.Time
	// Report gets each step as it is done.
	Report func(Step)
	// Logger takes the nodes' logs. Default: discarded.
	Logger *slog.Logger
}

// The kinds of steps.
const (
	KindStart    = "start"
	KindRegister = "register"
	KindExchange = "exchange"
	KindReceipt  = "receipt"
	KindAttack   = "attack"
)

// Step is one thing that the demo did and what should have come of it.
type Step struct {
	Kind     string  `json:"kind"`
	Name     string  `json:"name"`
	Client   string  `json:"client,omitempty"`
	Service  string  `json:"service,omitempty"`
	Request  string  `json:"request,omitempty"` // method and path
	Status   int     `json:"status,omitempty"`
	Millis   float64 `json:"ms"`
	Seconds  float64 `json:"at_seconds"` // since the process started
	Exchange string  `json:"exchange,omitempty"`
	Receipt  string  `json:"receipt,omitempty"` // file
	Detail   string  `json:"detail,omitempty"`  // what was answered, found or refused, and why
	OK       bool    `json:"ok"`                // it went as it should
}

// Demo is a running demo.
type Demo struct {
	Network *testnet.Network
	// FirstReceipt is when the first receipt was verified, since the process started.
	FirstReceipt time.Duration
	// Failed counts the steps that did not go as they should.
	Failed int
	Steps  int

	opts     Options
	stacks   []interface{ Close() error }
	services []offered
	tap      *tap
	policy   string // file
	receipts string // folder
}

// Run starts the bodies and the systems and plays the script. The caller closes
// the demo, also after an error.
func Run(ctx context.Context, o Options) (*Demo, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return &Demo{}, err
	}
	o.Dir = dir
	d := &Demo{opts: o, tap: &tap{}, receipts: filepath.Join(o.Dir, "receipts"), policy: filepath.Join(o.Dir, "policy.txt")}
	if err := os.MkdirAll(d.receipts, 0o755); err != nil {
		return d, fmt.Errorf("demo: %w", err)
	}

	// 1. The systems that know nothing of the bus, and four bodies.
	if err := d.start(ctx); err != nil {
		return d, err
	}
	// 2. What the bodies agree on.
	if err := d.register(ctx); err != nil {
		return d, err
	}
	// 3. Exchanges, and their receipts.
	done, err := d.exchanges(ctx)
	if err != nil {
		return d, err
	}
	receipts, err := d.prove(ctx, done)
	if err != nil {
		return d, err
	}
	// 4. What must not work.
	return d, d.attacks(ctx, done, receipts)
}

// Close stops everything.
func (d *Demo) Close() error {
	var errs []error
	if d.Network != nil {
		errs = append(errs, d.Network.Close())
	}
	for i := len(d.stacks) - 1; i >= 0; i-- {
		errs = append(errs, d.stacks[i].Close())
	}
	return errors.Join(errs...)
}

// Policy is the file with which the receipts verify.
func (d *Demo) Policy() string { return d.policy }

// report tells a step that began at a time.
func (d *Demo) report(began time.Time, s Step) {
	now := time.Now()
	s.Millis = float64(now.Sub(began).Microseconds()) / 1000
	s.Seconds = now.Sub(d.opts.Started).Seconds()
	d.Steps++
	if !s.OK {
		d.Failed++
	}
	if d.opts.Report != nil {
		d.opts.Report(s)
	}
}

func (d *Demo) start(ctx context.Context) error {
	began := time.Now()
	port := func(n int) string {
		if d.opts.FirstPort == 0 {
			return "127.0.0.1:0"
		}
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(d.opts.FirstPort+4*testnet.PortsPerBody+n))
	}
	population, err := demostack.StartPopulation(ctx, port(0))
	if err != nil {
		return err
	}
	d.stacks = append(d.stacks, population)
	business, err := demostack.StartBusiness(ctx, port(1))
	if err != nil {
		return err
	}
	d.stacks = append(d.stacks, business)
	drop := filepath.Join(d.opts.Dir, "permits")
	permits, err := demostack.StartPermits(ctx, drop, 20*time.Millisecond)
	if err != nil {
		return err
	}
	d.stacks = append(d.stacks, permits)

	mapping := filepath.Join(d.opts.Dir, "business-register.toml")
	if err := os.WriteFile(mapping, []byte(businessMapping), 0o644); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	bodies := testnet.DefaultBodies()
	bodies[permitAuthority].Name = "Permit Authority (fictitious)"
	bodies[populationOffice].Services = []node.ServiceConfig{{ID: "population/register", URL: population.URL, OpenAPI: population.URL + "/openapi.json"}}
	bodies[businessRegister].Services = []node.ServiceConfig{{ID: "business/companies", Adapter: "soap", URL: business.URL + "/soap", Mapping: mapping}}
	bodies[permitAuthority].Services = []node.ServiceConfig{{ID: "permits/requests", Adapter: "files", Dir: drop, Wait: node.Duration(10 * time.Second), ContentType: "text/csv"}}
	if d.opts.Upstream != "" {
		bodies[permitAuthority].Services = append(bodies[permitAuthority].Services, node.ServiceConfig{ID: "own/service", URL: d.opts.Upstream, OpenAPI: d.opts.OpenAPI})
	}
	d.Network, err = testnet.New(ctx, testnet.Options{
		Dir: filepath.Join(d.opts.Dir, "bodies"), Bodies: bodies, FirstPort: d.opts.FirstPort, Logger: d.opts.Logger,
		Configure: func(_ int, c *node.Config) { c.Consumer.AskProvider = true },
		Hop: func(i int, next http.Handler) http.Handler {
			if i == populationOffice {
				return d.tap.listen(next)
			}
			return next
		},
	})
	if err != nil {
		return err
	}
	d.report(began, Step{Kind: KindStart, Name: "four bodies and three systems", Detail: "each body has its own keys, data directory, gateway and validator", OK: true})
	return nil
}

func (d *Demo) readPolicy() ([]byte, error) { return os.ReadFile(d.policy) }
