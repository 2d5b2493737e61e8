package service

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/h1"
	"github.com/civibus/civibus/internal/rawurl"
)

// Call sends one request to the service and returns its answer, whose body the
// caller closes. rawPath is the service path as it was received, "" or starting
// with "/"; rawQuery is what followed the "?". length is the body's length, -1
// if it is not known; the body is sent for POST, PUT and PATCH only, is not read
// otherwise, and may be read until the answer's body is closed. The answer's header holds end-to-end fields only; its length is in
// ContentLength. Errors, those of reading the answer's body included, are
// *civibus.Fault.
func (s *Set) Call(ctx context.Context, id civibus.ServiceID, method, rawPath, rawQuery string, header http.Header, body io.Reader, length int64) (*http.Response, error) {
	// 1. Where the service is.
	u, err := s.find(id)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	resp, err := u.call(ctx, method, rawPath, rawQuery, header, body, length)
	// 2. Count and report.
	if err != nil {
		fault := civibus.AsFault(civibus.ProviderGateway, err)
		s.metrics.observe(id, &u.counts, string(fault.Code), time.Since(start))
		s.config.Logger.WarnContext(ctx, "service failed", "service", id.String(), "code", string(fault.Code), "err", fault.Err)
		return nil, fault
	}
	s.metrics.observe(id, &u.counts, answered, time.Since(start))
	return resp, nil
}

func (u *upstream) call(ctx context.Context, method, rawPath, rawQuery string, header http.Header, body io.Reader, length int64) (*http.Response, error) {
	// 1. The request.
	target, err := u.target(rawPath, rawQuery)
	if err != nil {
		return nil, err
	}
	req, err := newRequest(method, target, header, body, length)
	if err != nil {
		return nil, err
	}
	// 2. The head of the answer.
	resp, err := u.roundTrip(ctx, req)
	if err == nil && ctx.Err() != nil { // it came while the connection was being broken
		_ = resp.Body.Close()
		err = ctx.Err()
	}
	if err != nil {
		req.over()
		return nil, classify(ctx, err, req.streamed)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		_ = resp.Body.Close()
		return nil, civibus.Faultf(civibus.ProviderGateway, civibus.FaultNetwork, "the service tried to change the protocol")
	}
	// 3. What of it is the consumer's.
	stripHop(resp.Header)
	resp.Trailer = nil
	if resp.Body != http.NoBody {
		resp.Body = &answerBody{resp.Body, u.StallTimeout}
	}
	return resp, nil
}

// target appends the service path to the base, as X-Road does: raw, and one
// slash where both have one.
func (u *upstream) target(rawPath, rawQuery string) (*url.URL, error) {
	if climbs(rawPath) {
		return nil, civibus.Faultf(civibus.ProviderGateway, civibus.FaultBadRequest, "the path leaves the service by \"..\"")
	}
	if rawPath != "" && rawPath[0] != '/' {
		return nil, civibus.Faultf(civibus.ProviderGateway, civibus.FaultBadRequest, "the path must be empty or start with \"/\"")
	}
	base := u.base.EscapedPath()
	if strings.HasSuffix(base, "/") && strings.HasPrefix(rawPath, "/") {
		base = base[:len(base)-1]
	}
	target, err := rawurl.New(u.base.Scheme, u.base.Host, base+rawPath, rawQuery)
	if err != nil {
		fault := civibus.Faultf(civibus.ProviderGateway, civibus.FaultBadRequest, "the path or query holds a character that must be percent-encoded")
		fault.Err = err
		return nil, fault
	}
	return target, nil
}

// climbs reports whether dot segments would lead above the service's base. The
// policy refuses them too; here they would reach what is not the service at all.
func climbs(rawPath string) bool {
	if !strings.Contains(rawPath, ".") && !strings.Contains(rawPath, "%") {
		return false
	}
	path := rawPath
	for range 2 { // services may decode once more than they should
		if decoded, err := url.PathUnescape(path); err == nil {
			path = decoded
		}
	}
	depth := 0
	for _, segment := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == '\\' }) {
		name, _, _ := strings.Cut(segment, ";") // servlet containers cut parameters off
		switch name {
		case ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// request is one request to the service.
type request struct {
	method   string
	target   *url.URL
	header   http.Header   // the caller's: fields of one connection are not for the service
	whole    *bytes.Reader // the body, if it is in memory
	streamed *sentBody     // the body, if it is not
	length   int64         // of the body, -1 if it is not known
}

// newRequest makes the request to the service.
func newRequest(method string, target *url.URL, header http.Header, body io.Reader, length int64) (*request, error) {
	req := &request{method: method, target: target, header: header}
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		if body == nil || length == 0 {
			break
		}
		req.length = length
		if b, ok := body.(*bytes.Reader); ok && length > 0 {
			req.whole = b
		} else {
			req.streamed = &sentBody{from: body}
		}
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions, http.MethodTrace:
	default:
		return nil, civibus.Faultf(civibus.ProviderGateway, civibus.FaultBadRequest, "the method is not one of DELETE GET HEAD OPTIONS PATCH POST PUT TRACE")
	}
	return req, nil
}

// body returns a body to send, nil for none. One in memory can be had again.
func (r *request) body() io.ReadCloser {
	switch {
	case r.streamed != nil:
		return r.streamed
	case r.whole != nil:
		rest := *r.whole // the caller's reader stays where it is
		return io.NopCloser(&rest)
	}
	return nil
}

func (r *request) over() {
	if r.streamed != nil {
		r.streamed.over.Store(true)
	}
}

// repeatable reports whether a request that a kept connection did not carry may
// be sent over another one: nothing of it went out, or it changes nothing.
func (r *request) repeatable(trip h1.Trip) bool {
	if r.streamed != nil || !trip.Stale() {
		return false
	}
	if !trip.Wrote {
		return true
	}
	switch r.method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// userAgent is this gateway's; the consumer's is not passed on.
const userAgent = "civibus"

// roundTrip sends the request over a connection or to the adapter.
func (u *upstream) roundTrip(ctx context.Context, r *request) (*http.Response, error) {
	if u.adapter != nil {
		return u.adapter.roundTrip(ctx, r)
	}
	out := h1.Request{Method: r.method, Target: r.target.RequestURI(), UserAgent: userAgent, Length: r.length, InMemory: r.whole != nil}
	if out.Header, out.Skip = r.header, hopField; len(r.header["Connection"]) > 0 {
		out.Header, out.Skip = EndToEnd(r.header), nil
	}
	for {
		out.Body = r.body()
		resp, trip, err := u.conns.RoundTrip(ctx, &out)
		if err == nil || ctx.Err() != nil || !r.repeatable(trip) {
			return resp, err
		}
	}
}

// sentBody tells a failure to read the consumer's body from one to write it.
type sentBody struct {
	from    io.Reader
	failure atomic.Pointer[error]
	over    atomic.Bool // the call has failed: read no more of it
}

// Read reads the consumer's body.
func (b *sentBody) Read(p []byte) (int, error) {
	if b.over.Load() {
		return 0, errors.New("the call is over")
	}
	n, err := b.from.Read(p)
	if err != nil && err != io.EOF {
		b.failure.CompareAndSwap(nil, &err)
	}
	return n, err
}

// cause is why reading the consumer's body failed, if it did.
func (b *sentBody) cause() *error {
	if b == nil {
		return nil
	}
	return b.failure.Load()
}

// Close does not close the body, which is the caller's, but tells one that wants
// to know that no more of it will be read.
func (b *sentBody) Close() error {
	if from, ok := b.from.(interface{ NoLongerRead() }); ok {
		from.NoLongerRead()
	}
	return nil
}

// answerBody is the service's body. Its errors are faults.
type answerBody struct {
	io.ReadCloser
	stall time.Duration
}

// Read reads the body.
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	fault := civibus.Faultf(civibus.ProviderGateway, civibus.FaultIO, "the service's answer was cut")
	if errors.Is(err, os.ErrDeadlineExceeded) {
		fault = civibus.Faultf(civibus.ProviderGateway, civibus.FaultTimeout, "the service's answer stalled for %s", b.stall)
	}
	fault.Err = err
	return n, fault
}
