package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus"
)

// attempt sends the request to one gateway.
func (c *Client) attempt(ctx context.Context, g *gateway, req *http.Request, body *requestBody) (*http.Response, Peer, *failure) {
	// 1. A pool of connections whose keys are all in force in the current view.
	pool, err := g.acquire(c)
	if err != nil {
		return nil, Peer{}, &failure{fault: civibus.AsFault(civibus.ConsumerGateway, err), final: true}
	}
	// 2. Watch which connection carries the request and whether anything was written.
	var carrier carrier
	attemptCtx, cancel := context.WithCancelCause(ctx)
	out := outgoing(httptrace.WithClientTrace(attemptCtx, &httptrace.ClientTrace{GotConn: carrier.got}), g.address, req)
	offered := body.offer()
	switch {
	case body.again != nil:
		if out.Body, err = body.again(); err != nil {
			cancel(nil)
			pool.release()
			return nil, Peer{}, &failure{fault: bodyFault(err), final: true}
		}
	case body.body != nil:
		out.Body = offered
	}
	// 3. Send, and wait for the head of the answer.
	resp, err := pool.http.RoundTrip(out)
	if err == nil {
		offered.keep(resp.Header.Get(refusedHeader) == "")
		peer, failed := c.checkAnswer(pool, resp)
		if ctx.Err() != nil { // net/http may still deliver a head that came while it hung up
			failed = &failure{fault: contextFault(ctx), sent: true, final: true}
		}
		if failed == nil {
			c.metrics.attempts.WithLabelValues("ok").Inc()
			resp.Body = c.responseBody(resp.Body, cancel, pool.release)
			return resp, peer, nil
		}
		failed.reused = carrier.reused.Load() && !failed.final
		_ = resp.Body.Close()
		cancel(nil)
		if ctx.Err() == nil {
			pool.retire()
		}
		pool.release()
		return nil, Peer{}, failed
	}
	cancel(nil)
	pool.release()
	// 4. Say what went wrong.
	failed := &failure{sent: carrier.wrote(), reused: carrier.reused.Load(), fault: classify(err)}
	switch readErr := offered.readError(); {
	case readErr != nil:
		failed.fault, failed.final, failed.reused = bodyFault(readErr), true, false
	case ctx.Err() != nil:
		failed.fault, failed.final, failed.reused = contextFault(ctx), true, false
	}
	return nil, Peer{}, failed
}

// outgoing makes the request that goes to address. Maps are shared with req, as
// trailers are filled in while the body is sent.
func outgoing(ctx context.Context, address string, req *http.Request) *http.Request {
	out := req.WithContext(ctx)
	u := *req.URL
	u.Scheme, u.Host, u.User = "https", address, nil
	out.URL, out.Host, out.RequestURI = &u, address, ""
	// net/http repeats requests on its own when it thinks them replayable. A
	// sealed request is not: its nonce may be spent. So it gets no way to rewind
	// the body, no Idempotency-Key that it would recognise (the name goes out in
	// lower case), and, where there is no body, an empty one that it does not know.
	out.GetBody = nil
	if out.Body == nil || out.Body == http.NoBody {
		switch out.Method {
		case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
			out.Body, out.ContentLength, out.TransferEncoding = emptyBody{}, -1, []string{"identity"}
		}
	}
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key", "Expect"} {
		if values, ok := out.Header[name]; ok {
			out.Header = maps.Clone(out.Header)
			delete(out.Header, name)
			if name != "Expect" {
				out.Header[lower(name)] = values
			}
		}
	}
	return out
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// emptyBody sends nothing, not even a length.
type emptyBody struct{}

func (emptyBody) Read([]byte) (int, error)         { return 0, io.EOF }
func (emptyBody) Close() error                     { return nil }
func (emptyBody) WriteTo(io.Writer) (int64, error) { return 0, nil }

// checkAnswer makes sure that a gateway handler gave the answer, and says whose.
// A refusal by the other side's guard came before any handler saw the request,
// so it counts as not sent: with a key that has changed in the meantime, or at
// another gateway, the request may pass.
func (c *Client) checkAnswer(pool *pool, resp *http.Response) (Peer, *failure) {
	key, err := leafKey(*resp.TLS)
	if err != nil {
		return Peer{}, &failure{fault: peerFault(err), sent: true, final: true}
	}
	switch resp.Header.Get(refusedHeader) {
	case "":
	case refusedBusy:
		return Peer{}, &failure{fault: civibus.Faultf(civibus.ConsumerGateway, civibus.FaultNetwork, "the provider's gateway takes no more connections from this body")}
	default:
		return Peer{}, &failure{fault: civibus.Faultf(civibus.ConsumerGateway, civibus.FaultPeer, "the provider's gateway does not accept this body's transport key")}
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return Peer{}, &failure{fault: civibus.Faultf(civibus.ConsumerGateway, civibus.FaultNetwork, "the provider's gateway tried to change the protocol"), sent: true, final: true}
	}
	return Peer{Member: pool.of.member, Key: key}, nil
}

// carrier notes the connection that a request went over.
type carrier struct {
	conn   atomic.Pointer[clientConn]
	before atomic.Int64
	reused atomic.Bool
}

func (c *carrier) got(info httptrace.GotConnInfo) {
	t, ok := info.Conn.(*tls.Conn)
	if !ok {
		return
	}
	if conn, ok := t.NetConn().(*clientConn); ok {
		c.before.Store(conn.written.Load())
		c.reused.Store(info.Reused)
		c.conn.Store(conn)
	}
}

// wrote reports whether anything was written since the request got the
// connection. A closing alert counts too, which errs on the safe side.
func (c *carrier) wrote() bool {
	conn := c.conn.Load()
	return conn != nil && conn.written.Load() > c.before.Load()
}

// clientConn is a TCP connection that counts what is written and does not let a
// write hang.
type clientConn struct {
	net.Conn
	stall   time.Duration
	written atomic.Int64
	onClose func()
	closed  atomic.Bool
}

// Write writes within the stall timeout.
func (c *clientConn) Write(p []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	return n, err
}

// Close closes the connection and counts it out, once.
func (c *clientConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.onClose()
	}
	return c.Conn.Close()
}

// responseBody passes an answer's body on; it ends a body that stalls and gives
// the pool back at the end.
type responseBody struct {
	body   io.ReadCloser
	cancel context.CancelCauseFunc
	stall  time.Duration
	timer  *time.Timer
	ended  atomic.Bool
	finish func()
	late   atomic.Bool
}

func (c *Client) responseBody(body io.ReadCloser, cancel context.CancelCauseFunc, finish func()) io.ReadCloser {
	r := &responseBody{body: body, cancel: cancel, stall: c.config.StallTimeout, finish: finish}
	r.timer = time.AfterFunc(r.stall, func() {
		r.late.Store(true)
		cancel(errStalled)
	})
	r.timer.Stop()
	return r
}

var errStalled = errors.New("the body made no progress")

// Read reads within the stall timeout. Errors are faults.
func (r *responseBody) Read(p []byte) (int, error) {
	if r.ended.Load() {
		return 0, io.EOF
	}
	r.timer.Reset(r.stall)
	n, err := r.body.Read(p)
	r.timer.Stop()
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF:
		r.end()
		return n, io.EOF
	case r.late.Load():
		fault := civibus.Faultf(civibus.ConsumerGateway, civibus.FaultTimeout, "the answer's body stalled for %s", r.stall)
		fault.Err = err
		return n, fault
	}
	fault := civibus.Faultf(civibus.ConsumerGateway, civibus.FaultIO, "the answer's body was cut")
	fault.Err = err
	return n, fault
}

// Close ends the exchange on this connection.
func (r *responseBody) Close() error {
	err := r.body.Close()
	r.end()
	return err
}

func (r *responseBody) end() {
	if r.ended.CompareAndSwap(false, true) {
		r.timer.Stop()
		r.cancel(nil)
		r.finish()
	}
}

// classify turns an error of net/http, crypto/tls or net into a fault.
func classify(err error) *civibus.Fault {
	var fault *civibus.Fault
	var dns *net.DNSError
	var op *net.OpError
	var netErr net.Error
	switch {
	case errors.As(err, &fault):
		return fault
	case errors.As(err, &dns) && !dns.IsTimeout:
		fault = civibus.Faultf(civibus.ConsumerGateway, civibus.FaultUnknownHost, "the address of the provider's gateway cannot be resolved")
	case errors.As(err, &op) && op.Op == "remote error":
		fault = civibus.Faultf(civibus.ConsumerGateway, civibus.FaultPeer, "the provider's gateway refused the TLS connection; is this body's transport key in force?")
	case errors.As(err, &netErr) && netErr.Timeout(), errors.Is(err, context.DeadlineExceeded):
		fault = civibus.Faultf(civibus.ConsumerGateway, civibus.FaultTimeout, "the provider's gateway did not answer in time")
	default:
		fault = civibus.Faultf(civibus.ConsumerGateway, civibus.FaultNetwork, "the provider's gateway cannot be reached or broke the connection")
	}
	fault.Err = err
	return fault
}

func peerFault(err error) *civibus.Fault {
	fault := civibus.Faultf(civibus.ConsumerGateway, civibus.FaultPeer, "the gateway at the provider's address did not show a transport key of the provider")
	fault.Err = err
	return fault
}

// bodyFault is for a caller's body that could not be read to its end.
func bodyFault(err error) *civibus.Fault {
	var fault *civibus.Fault
	if errors.As(err, &fault) {
		return fault
	}
	fault = civibus.Faultf(civibus.ConsumerGateway, civibus.FaultIO, "the request's body could not be read to its end")
	fault.Err = err
	return fault
}

func contextFault(ctx context.Context) *civibus.Fault {
	fault := civibus.Faultf(civibus.ConsumerGateway, civibus.FaultIO, "the caller went away")
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		fault = civibus.Faultf(civibus.ConsumerGateway, civibus.FaultTimeout, "the time allowed for the call is over")
	}
	fault.Err = context.Cause(ctx)
	return fault
}
