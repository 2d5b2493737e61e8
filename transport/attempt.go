package transport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/h1"
)

// attempt sends the request to one gateway. body is the request's body if that
// is not in memory.
func (c *Client) attempt(ctx context.Context, g *gateway, req *http.Request, body *requestBody) (*http.Response, Peer, *failure) {
	// 1. A pool of connections whose keys are all in force in the current view.
	pool, err := g.acquire(c)
	if err != nil {
		return nil, Peer{}, &failure{fault: civibus.AsFault(civibus.ConsumerGateway, err), final: true}
	}
	// 2. The request. Trailers are filled in while the body is sent.
	out := h1.Request{Method: req.Method, Target: requestTarget(req.URL), Header: req.Header, Trailer: req.Trailer, Length: req.ContentLength}
	if out.Method == "" {
		out.Method = http.MethodGet
	}
	var offered *offeredBody
	switch {
	case body != nil:
		offered = body.offer()
		out.Body = offered
		if out.Length == 0 {
			out.Length = -1
		}
	case inMemory(req):
		if out.Body, err = req.GetBody(); err != nil {
			return nil, Peer{}, &failure{fault: bodyFault(err), final: true}
		}
		out.InMemory = true
	}
	// 3. Send, and wait for the head of the answer.
	resp, trip, err := pool.conns.RoundTrip(ctx, &out)
	if err == nil {
		return c.answered(ctx, pool, resp, trip, offered)
	}
	// 4. Say what went wrong.
	failed := &failure{sent: trip.Wrote, reused: trip.Stale(), fault: classify(err)}
	switch readErr := offered.readError(); {
	case readErr != nil:
		failed.fault, failed.final, failed.reused = bodyFault(readErr), true, false
	case ctx.Err() != nil:
		failed.fault, failed.final, failed.reused = contextFault(ctx), true, false
	}
	return nil, Peer{}, failed
}

// answered takes an answer, or refuses it together with its connection.
func (c *Client) answered(ctx context.Context, pool *pool, resp *http.Response, trip h1.Trip, offered *offeredBody) (*http.Response, Peer, *failure) {
	refused := resp.Header.Get(refusedHeader) != ""
	if !refused {
		offered.keep()
	}
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
		return Peer{}, &failure{fault: civibus.Faultf(civibus.ConsumerGateway, civibus.FaultMaintenance, "the provider's host cannot serve it at present"), well: true}
	case refusedBusy:
		return Peer{}, &failure{fault: civibus.Faultf(civibus.ConsumerGateway, civibus.FaultNetwork, "the provider's gateway takes no more connections from this body")}
	default:
		return Peer{}, &failure{fault: civibus.Faultf(civibus.ConsumerGateway, civibus.FaultPeer, "the provider's gateway does not accept this body's transport key")}
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return Peer{}, &failure{fault: civibus.Faultf(civibus.ConsumerGateway, civibus.FaultNetwork, "the provider's gateway tried to change the protocol"), sent: true, final: true}
	}
	return Peer{Member: pool.of.member, Key: trip.Conn.(*peerConn).key}, nil
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
