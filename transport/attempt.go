package transport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/h1"
)

// call is one call on its way to one of a body's gateways.
type call struct {
	request Request
	body    requestBody
	last    *http.Request // the last that was made; nil: none yet

	declined []*gateway // addresses at which the request was for another gateway
}

// attempt makes the request for one gateway and sends it.
func (c *Client) attempt(ctx context.Context, g *gateway, call *call) (*http.Response, Peer, *failure) {
	// 1. A pool of connections whose keys are all in force in the current view.
	pool, err := g.acquire(c)
	if err != nil {
		return nil, Peer{}, &failure{fault: civibus.AsFault(civibus.ConsumerGateway, err), final: true}
	}
	// 2. The request, for the gateway at the other end of the connection.
	a := &attempt{call: call, ctx: ctx, provider: g.member}
	a.out.Over, a.out.Fresh = a.fill, slices.Contains(call.declined, g)
	// 3. Send, and wait for the head of the answer.
	resp, trip, err := pool.conns.RoundTrip(ctx, &a.out)
	if err == nil {
		return c.answered(ctx, pool, resp, trip)
	}
	// 4. Say what went wrong.
	failed := &failure{sent: trip.Wrote, reused: trip.Stale(), fault: classify(err)}
	switch readErr := a.offered.readError(); {
	case readErr != nil:
		failed.fault, failed.final, failed.reused = bodyFault(readErr), true, false
	case ctx.Err() != nil:
		failed.fault, failed.final, failed.reused = contextFault(ctx), true, false
	case errors.Is(a.unmade, ErrAnother):
		failed.fault, failed.declined = civibus.Faultf(civibus.ConsumerGateway, civibus.FaultNetwork, "the gateway that the request is for was not reached"), true
	case a.unmade != nil:
		failed.fault, failed.final = civibus.AsFault(civibus.ConsumerGateway, a.unmade), true
	}
	return nil, Peer{}, failed
}

// attempt is one attempt to send a call's request.
type attempt struct {
	call     *call
	ctx      context.Context
	provider civibus.MemberID

	out     h1.Request
	offered *offeredBody // nil: the body is in memory, or there is none
	unmade  error        // why there is no request
}

// fill makes the request. Trailers are filled in while the body is sent.
func (a *attempt) fill(conn net.Conn) error {
	req, err := a.call.request(a.ctx, conn.(*peerConn).peer(a.provider))
	if a.unmade = err; err != nil {
		return err
	}
	a.call.last = req
	out := &a.out
	out.Method, out.Target, out.Header, out.Trailer = req.Method, requestTarget(req.URL), req.Header, req.Trailer
	if out.Method == "" {
		out.Method = http.MethodGet
	}
	switch {
	case bodyless(req):
	case inMemory(req):
		out.Body, out.Length, out.InMemory = req.Body, req.ContentLength, true
	default:
		a.offered = a.call.body.offer(req.Body)
		out.Body, out.Length = a.offered, req.ContentLength
		if out.Length == 0 {
			out.Length = -1
		}
	}
	return nil
}

// repeatable reports whether the request may be made and sent again after
// something of it may have reached the other side.
func (l *call) repeatable() bool {
	return l.last != nil && idempotent(l.last.Method) && (bodyless(l.last) || inMemory(l.last))
}

// answered takes an answer, or refuses it together with its connection.
func (c *Client) answered(ctx context.Context, pool *pool, resp *http.Response, trip h1.Trip) (*http.Response, Peer, *failure) {
	peer, failed := checkAnswer(pool, resp, trip)
	if ctx.Err() != nil { // the head came while the connection was being broken
		failed = &failure{fault: contextFault(ctx), sent: true, final: true}
	}
	if failed == nil {
		c.metrics.answered.Inc()
		if resp.Body != http.NoBody {
			resp.Body = &responseBody{resp.Body, c.config.StallTimeout}
		}
		return resp, peer, nil
	}
	failed.reused = trip.Reused && !failed.final && !failed.well
	_ = resp.Body.Close()
	if ctx.Err() == nil && !failed.well {
		pool.retire()
	}
	return nil, Peer{}, failed
}

// requestTarget is the path and query of a URL as they are. net/url puts the
// scheme before an opaque one that looks like an authority.
func requestTarget(u *url.URL) string {
	if u.Scheme != "https" && strings.HasPrefix(u.Opaque, "//") {
		with := *u
		with.Scheme = "https"
		u = &with
	}
	return u.RequestURI()
}

// checkAnswer makes sure that a gateway handler gave the answer, and says whose.
// A refusal by the other side's guard came before any handler saw the request,
// so it counts as not sent: with a key that has changed in the meantime, or at
// another gateway, the request may pass.
func checkAnswer(pool *pool, resp *http.Response, trip h1.Trip) (Peer, *failure) {
	switch resp.Header.Get(refusedHeader) {
	case "":
	case refusedHere:
		return Peer{}, &failure{fault: civibus.Faultf(civibus.ConsumerGateway, civibus.FaultMaintenance, "the provider's gateway cannot serve it at present"), well: true}
	case refusedBusy:
		return Peer{}, &failure{fault: civibus.Faultf(civibus.ConsumerGateway, civibus.FaultNetwork, "the provider's gateway takes no more connections from this body")}
	default:
		return Peer{}, &failure{fault: civibus.Faultf(civibus.ConsumerGateway, civibus.FaultPeer, "the provider's gateway does not accept this body's transport key")}
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return Peer{}, &failure{fault: civibus.Faultf(civibus.ConsumerGateway, civibus.FaultNetwork, "the provider's gateway tried to change the protocol"), sent: true, final: true}
	}
	return trip.Conn.(*peerConn).peer(pool.of.member), nil
}

// classify turns an error of internal/h1, crypto/tls or net into a fault.
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
