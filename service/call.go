package service

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus"
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
		s.metrics.observe(id, string(fault.Code), time.Since(start))
		s.config.Logger.WarnContext(ctx, "service failed", "service", id.String(), "code", string(fault.Code), "err", fault.Err)
		return nil, fault
	}
	s.metrics.observe(id, "answered", time.Since(start))
	return resp, nil
}

func (u *upstream) call(ctx context.Context, method, rawPath, rawQuery string, header http.Header, body io.Reader, length int64) (*http.Response, error) {
	target, err := u.target(rawPath, rawQuery)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req, sent, err := newRequest(ctx, method, target, header, body, length)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp, err := u.http.RoundTrip(req)
	if err == nil && ctx.Err() != nil { // net/http may still deliver a head that came while it hung up
		_ = resp.Body.Close()
		err = ctx.Err()
	}
	if err != nil {
		sent.over.Store(true)
		fault := classify(ctx, err, sent)
		cancel(nil)
		return nil, fault
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		_ = resp.Body.Close()
		cancel(nil)
		return nil, civibus.Faultf(civibus.ProviderGateway, civibus.FaultNetwork, "the service tried to change the protocol")
	}
	resp.Header = EndToEnd(resp.Header)
	resp.Trailer = nil
	resp.Body = newAnswerBody(resp.Body, u.StallTimeout, cancel)
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

// newRequest makes the request to the service.
func newRequest(ctx context.Context, method string, target *url.URL, header http.Header, body io.Reader, length int64) (*http.Request, *sentBody, error) {
	sent := &sentBody{}
	req := (&http.Request{
		Method: method, URL: target, Host: target.Host, Header: EndToEnd(header),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		if body == nil || length == 0 {
			break // net/http says Content-Length: 0
		}
		sent.from = body
		req.Body, req.ContentLength = sent, length
		inMemory(req, body)
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions, http.MethodTrace:
	default:
		return nil, nil, civibus.Faultf(civibus.ProviderGateway, civibus.FaultBadRequest, "the method is not one of DELETE GET HEAD OPTIONS PATCH POST PUT TRACE")
	}
	// The consumer's own is not passed on, and net/http would name itself.
	req.Header.Set("User-Agent", "civibus")
	return req, sent, nil
}

// inMemory gives net/http a body in memory as what it is: it then puts head and
// body in one write, and can send both again over a new connection when the kept
// one turned out closed before anything was written.
func inMemory(req *http.Request, body io.Reader) {
	b, ok := body.(*bytes.Reader)
	if !ok {
		return
	}
	rest := *b // the caller's reader stays where it is
	again := func() (io.ReadCloser, error) {
		copied := rest
		return io.NopCloser(&copied), nil
	}
	req.Body, _ = again() // never fails
	req.GetBody = again
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

// Close does not close the body, which is the caller's, but tells one that wants
// to know that no more of it will be read.
func (b *sentBody) Close() error {
	if from, ok := b.from.(interface{ NoLongerRead() }); ok {
		from.NoLongerRead()
	}
	return nil
}

// answerBody passes the service's body on and ends one that stalls.
type answerBody struct {
	body   io.ReadCloser
	stall  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
	late   atomic.Bool
}

var errStalled = errors.New("the body made no progress")

func newAnswerBody(body io.ReadCloser, stall time.Duration, cancel context.CancelCauseFunc) *answerBody {
	b := &answerBody{body: body, stall: stall, cancel: cancel}
	b.timer = time.AfterFunc(stall, func() {
		b.late.Store(true)
		cancel(errStalled)
	})
	b.timer.Stop()
	return b
}

// Read reads within the stall timeout. Errors are faults.
func (b *answerBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.stall)
	n, err := b.body.Read(p)
	b.timer.Stop()
	if err == nil || err == io.EOF {
		return n, err
	}
	fault := civibus.Faultf(civibus.ProviderGateway, civibus.FaultIO, "the service's answer was cut")
	if b.late.Load() {
		fault = civibus.Faultf(civibus.ProviderGateway, civibus.FaultTimeout, "the service's answer stalled for %s", b.stall)
	}
	fault.Err = err
	return n, fault
}

// Close ends the call.
func (b *answerBody) Close() error {
	err := b.body.Close()
	b.timer.Stop()
	b.cancel(nil)
	return err
}
