package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/civibus/civibus"
	"github.com/prometheus/client_golang/prometheus"
)

// ClientConfig says how a body reaches other bodies' gateways. Only View and
// Certificate must be given.
type ClientConfig struct {
	// View returns the current registry view.
	View func() View
	// Certificate returns the body's newest transport certificate in force.
	Certificate func() (*tls.Certificate, error)
	// Clock tells the time for back-off. Default: time.Now.
	Clock civibus.Clock
	// DialTimeout bounds resolving, connecting and the TLS handshake together,
	// for one address. Default 3 s.
	DialTimeout time.Duration
	// AnswerTimeout bounds the wait from the end of the request to the head of
	// the answer, which is how long the other body's service may think. Default 60 s.
	AnswerTimeout time.Duration
	// StallTimeout bounds how long a body may make no progress at all, in either
	// direction. Default 30 s.
	StallTimeout time.Duration
	// IdleTimeout closes unused connections. It must be shorter than the other
	// side's, so that it is the client who closes. Default 30 s.
	IdleTimeout time.Duration
	// MaxConns bounds the connections to one gateway; calls beyond it wait.
	// Default 256.
	MaxConns int
	// MaxHeaderBytes bounds the head of an answer. Default 64 KiB.
	MaxHeaderBytes int64
	// BackOff is how long an address is skipped after its first failure; it
	// doubles with each further one, up to 30 s. Default 500 ms.
	BackOff time.Duration
	// Dial opens TCP connections. Default: net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Logger gets failures. Default: none.
	Logger *slog.Logger
	// Metrics gets the client's metrics. Default: none.
	Metrics prometheus.Registerer
}

func (c *ClientConfig) defaults() error {
	if c.View == nil || c.Certificate == nil {
		return errors.New("transport client: View and Certificate must be given")
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.DialTimeout, 3*time.Second)
	setDefault(&c.AnswerTimeout, 60*time.Second)
	setDefault(&c.StallTimeout, 30*time.Second)
	setDefault(&c.IdleTimeout, 30*time.Second)
	setDefault(&c.BackOff, 500*time.Millisecond)
	setDefault(&c.MaxConns, 256)
	setDefault(&c.MaxHeaderBytes, 64<<10)
	return nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Client calls other bodies' gateways. It is safe for concurrent use.
type Client struct {
	config  ClientConfig
	metrics clientMetrics

	mu      sync.Mutex
	members map[civibus.MemberID]*memberState
	closed  bool
}

// NewClient makes a client. Close it when done.
func NewClient(config ClientConfig) (*Client, error) {
	if err := config.defaults(); err != nil {
		return nil, err
	}
	metrics, err := newClientMetrics(config.Metrics)
	if err != nil {
		return nil, err
	}
	return &Client{config: config, metrics: metrics, members: make(map[civibus.MemberID]*memberState)}, nil
}

// Close closes the idle connections and makes further calls fail. Calls under
// way end on their own.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, m := range c.members {
		for _, g := range m.gateways {
			g.close()
		}
	}
}

// Request makes a request for the gateway of the other body that it will go to,
// once there is a connection to it: to.Key is the transport key that the gateway
// showed there. The URL needs a path and query only; they are sent as they are
// (an opaque URL too). It is called once for each attempt and returns a request
// with a body of its own, which is closed when the attempt is over; of a body that
// can be read once only, all of them may read, since no attempt reads from it
// after another did. An error ends the call, but for ErrAnother.
type Request func(ctx context.Context, to Peer) (*http.Request, error)

// ErrAnother is what a Request returns that is for another gateway of the body than
// the one that it is offered: the next one gets it, or a new connection to the same
// address, if the registry lists several there: it is a balancer's then.
var ErrAnother = errors.New("the request is for another gateway")

// Do sends a request to one of provider's gateways, or of its host's, and returns
// the answer and who gave it. Request and response bodies stream, trailers pass in both
// directions. The caller closes the response body.
//
// serverCode, when not empty, is the code of the only gateway to use
// (X-Road-Security-Server). Otherwise the one that answered last comes first and
// the others follow; those that failed a short while ago are skipped.
//
// A request of which nothing was sent is made anew for the next gateway. Once
// something may have been sent it is only made again if its method is idempotent
// and its body is at hand (none, or GetBody and ContentLength are set). Errors are
// *civibus.Fault.
func (c *Client) Do(ctx context.Context, provider civibus.MemberID, serverCode string, request Request) (*http.Response, Peer, error) {
	// 1. Where the provider's gateways are.
	candidates, err := c.candidates(provider, serverCode)
	if err != nil {
		return nil, Peer{}, err
	}
	var failures failures
	call := call{request: request}
	for i := 0; i < len(candidates); {
		// 2. One attempt at one gateway.
		g := candidates[i]
		resp, peer, failed := c.attempt(ctx, g, &call)
		if failed == nil {
			c.succeeded(g)
			return resp, peer, nil
		}
		// 3. May it be tried again, and where? A kept connection that broke says
		// nothing about the gateway: the same one is asked once more.
		failures.add(g.address, failed)
		if failed.declined {
			call.declined = append(call.declined, g)
			if !behindBalancer(g, candidates, call.declined) {
				i++
			}
			continue
		}
		c.metrics.attempts.WithLabelValues(string(failed.fault.Code)).Inc()
		if !failed.reused {
			c.failed(ctx, g, failed)
			i++
		}
		if failed.final || ctx.Err() != nil || (failed.sent || call.body.spent()) && !call.repeatable() {
			break
		}
	}
	return nil, Peer{}, failures.fault(provider)
}

// behindBalancer reports whether another connection to the address may lead to
// another gateway: the registry lists several there, and it was not tried often.
func behindBalancer(g *gateway, candidates, declined []*gateway) bool {
	count := func(list []*gateway) (n int) {
		for _, other := range list {
			if other == g {
				n++
			}
		}
		return n
	}
	listed := count(candidates)
	return listed > 1 && count(declined) < 4*listed
}

func idempotent(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete, civibus.MethodSubscribe:
		return true
	}
	return false
}

// failure is why one attempt did not bring an answer.
type failure struct {
	fault  *civibus.Fault
	sent   bool // something of the request may have reached the other side
	reused bool // the connection had been used before, and broke or was refused
	final  bool // another gateway would not help

	declined bool // the request is for another gateway
	well     bool // the gateway is well, but serves another member only
}

// failures collects the failures of one call.
type failures struct {
	errs  []error
	worst *civibus.Fault
	tried int
}

func (f *failures) add(address string, failed *failure) {
	f.tried++
	f.errs = append(f.errs, &attemptError{address, failed.fault})
	if f.worst == nil || failed.final || rank(failed.fault.Code) > rank(f.worst.Code) {
		f.worst = failed.fault
	}
}

// fault is what the caller is told: the gravest reason of those met.
func (f *failures) fault(provider civibus.MemberID) *civibus.Fault {
	out := civibus.Faultf(civibus.ConsumerGateway, f.worst.Code, "%s (body %s, %d attempts)", f.worst.Message, provider, f.tried)
	if f.tried == 1 {
		out.Message = f.worst.Message + " (body " + provider.String() + ")"
	}
	out.Err = errors.Join(f.errs...)
	return out
}

// rank orders faults by how much they say: a body that shows a wrong key must
// not be hidden behind one that does not answer.
func rank(code civibus.FaultCode) int {
	switch code {
	case civibus.FaultPeer:
		return 5
	case civibus.FaultIO:
		return 4
	case civibus.FaultTimeout:
		return 3
	case civibus.FaultNetwork:
		return 2
	case civibus.FaultUnknownHost:
		return 1
	}
	return 0
}

type attemptError struct {
	address string
	fault   *civibus.Fault
}

func (e *attemptError) Error() string {
	if e.fault.Err != nil {
		return e.address + ": " + e.fault.Error() + ": " + e.fault.Err.Error()
	}
	return e.address + ": " + e.fault.Error()
}

func (e *attemptError) Unwrap() error { return e.fault }
