package transport

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/civibus/civibus"
)

// bodyless reports whether a request has no body.
func bodyless(req *http.Request) bool { return req.Body == nil || req.Body == http.NoBody }

// inMemory reports whether reading a request's body never waits.
func inMemory(req *http.Request) bool { return req.GetBody != nil && req.ContentLength > 0 }

// requestBody is the body of one call as its attempts see it: each has its own
// reader, but what they read from may be there once only. So it is read by one
// attempt at most, the last.
type requestBody struct {
	mu      sync.Mutex
	current *offeredBody
	read    bool // some attempt read from it
}

// offer hands the body to one attempt, which ends the one before.
func (b *requestBody) offer(body io.ReadCloser) *offeredBody {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = &offeredBody{of: b, body: body}
	return b.current
}

// spent reports whether an attempt read from the body. After it, the attempt
// under way reads no more.
func (b *requestBody) spent() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = nil
	return b.read
}

// offeredBody is what one attempt reads.
type offeredBody struct {
	of      *requestBody
	body    io.ReadCloser
	closed  bool
	failure error // what reading the caller's body gave
}

// Read reads the caller's body.
func (o *offeredBody) Read(p []byte) (int, error) {
	b := o.of
	b.mu.Lock()
	if b.current != o || o.closed {
		b.mu.Unlock()
		return 0, errors.New("the attempt is over")
	}
	b.read = true
	b.mu.Unlock()
	n, err := o.body.Read(p)
	if err != nil && err != io.EOF {
		b.mu.Lock()
		o.failure = err
		b.mu.Unlock()
	}
	return n, err
}

// Close ends the attempt's use of the body.
func (o *offeredBody) Close() error {
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	if o.closed {
		return nil
	}
	o.closed = true
	return o.body.Close()
}

// readError is what reading the caller's body failed with. A nil one has not.
func (o *offeredBody) readError() error {
	if o == nil {
		return nil
	}
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	return o.failure
}

// responseBody is an answer's body. Its errors are faults.
type responseBody struct {
	io.ReadCloser
	stall time.Duration
}

// Read reads the body.
func (r *responseBody) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	fault := civibus.Faultf(civibus.ConsumerGateway, civibus.FaultIO, "the answer's body was cut")
	if errors.Is(err, os.ErrDeadlineExceeded) {
		fault = civibus.Faultf(civibus.ConsumerGateway, civibus.FaultTimeout, "the answer's body stalled for %s", r.stall)
	}
	fault.Err = err
	return n, fault
}
