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

// requestBody lets a body that can be read once be offered to several attempts
// as long as none of them has read from it. The methods of a nil one do nothing.
type requestBody struct {
	body io.ReadCloser

	mu      sync.Mutex
	current *offeredBody
	read    bool // some attempt read from it
	closed  bool
}

// streamedBody returns the body of a request unless it has none or holds it in
// memory, where every attempt gets it anew.
func streamedBody(req *http.Request) *requestBody {
	if req.Body == nil || req.Body == http.NoBody || inMemory(req) {
		return nil
	}
	return &requestBody{body: req.Body}
}

func inMemory(req *http.Request) bool { return req.GetBody != nil && req.ContentLength > 0 }

// offer returns the body for one attempt, which ends the one before.
func (b *requestBody) offer() *offeredBody {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = &offeredBody{of: b}
	return b.current
}

// spent reports whether an attempt read from the body. After it, the attempt
// under way reads no more.
func (b *requestBody) spent() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = nil
	return b.read
}

// finish closes the body.
func (b *requestBody) finish() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = nil
	b.close()
}

func (b *requestBody) close() {
	if !b.closed {
		b.closed = true
		_ = b.body.Close()
	}
}

// offeredBody is what one attempt reads.
type offeredBody struct {
	of      *requestBody
	kept    bool  // the attempt has brought an answer: closing is closing
	ended   bool  // the attempt closed it
	failure error // what reading the caller's body gave
}

// Read reads the caller's body.
func (o *offeredBody) Read(p []byte) (int, error) {
	b := o.of
	b.mu.Lock()
	if b.current != o || b.closed {
		b.mu.Unlock()
		return 0, errors.New("the attempt is over")
	}
	b.read = true
	b.mu.Unlock()
	n, err := b.body.Read(p)
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
	o.ended = true
	if o.kept {
		o.of.close()
	}
	return nil
}

// keep says that this attempt is the one that counts.
func (o *offeredBody) keep() {
	if o == nil {
		return
	}
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	o.kept = true
	if o.ended {
		o.of.close()
	}
}

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
