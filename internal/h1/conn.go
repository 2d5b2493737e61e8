package h1

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	readBuffer  = 8 << 10
	keepScratch = 16 << 10
	// maxShort bounds the bodies that are written before the answer is looked
	// for. Buffers of the operating system hold as much, so that the write does
	// not wait for a reader on the other side.
	maxShort = 64 << 10
	// lateAnswer is how long an answer is waited for when the request could not
	// be written to its end: what the other side said before it closed is there
	// already.
	lateAnswer = 100 * time.Millisecond
	// lateRequest is how long a request may go on after the end of its answer
	// without losing the connection.
	lateRequest = 50 * time.Millisecond
)

// conn is one connection. Whoever took it from the pool has it to himself.
type conn struct {
	pool    *Pool
	wire    *wire
	secure  net.Conn // what is spoken over: the wire or TLS on it
	layered bool     // it is TLS
	in      *bufio.Reader
	scratch []byte
	one     [1]byte
	since   time.Time // of the end of the last exchange

	broken  bool    // not to be used again
	reading error   // what reading ended with
	heard   bool    // something of the answer was read
	lost    bool    // the connection ended before that
	patient bool    // each read waits for the stall timeout
	sending *stream // the request body on its way; nil: it was sent whole

	mu     sync.Mutex
	headed bool // the head of the answer is there
}

// Read is the source of c.in.
func (c *conn) Read(p []byte) (int, error) {
	if c.patient {
		if err := c.wire.SetReadDeadline(time.Now().Add(c.pool.config.StallTimeout)); err != nil {
			return 0, err
		}
	}
	n, err := c.secure.Read(p)
	c.heard = c.heard || n > 0
	if err != nil {
		c.reading = err
	}
	return n, err
}

// usable reports whether an idle connection may carry another request: not old,
// not closed by the other side, and nothing came that nobody asked for.
func (c *conn) usable() bool {
	if time.Since(c.since) >= c.pool.config.IdleTimeout {
		return false
	}
	if c.layered && !c.nothingDecrypted() {
		return false
	}
	return c.wire.idle()
}

// nothingDecrypted reports whether TLS has neither data nor an alert of the
// other side in memory.
func (c *conn) nothingDecrypted() bool {
	c.wire.quiet = true
	defer func() { c.wire.quiet = false }()
	n, err := c.secure.Read(c.one[:])
	return n == 0 && errors.Is(err, errQuiet{})
}

// close says goodbye where that is in order, and closes.
func (c *conn) close() {
	if c.broken {
		_ = c.wire.Close()
		return
	}
	_ = c.secure.Close()
}

// exchange sends a request and reads the head of the answer. After an error the
// connection is broken.
func (c *conn) exchange(req *Request) (*answer, error) {
	c.broken, c.heard, c.lost, c.headed, c.patient, c.sending = true, false, false, false, false, nil
	// 1. The head, and a short body with it.
	out, err := appendHead(c.scratch[:0], &c.pool.config, req)
	if err != nil {
		return nil, err
	}
	whole := req.Body == nil || req.InMemory && req.Length >= 0 && req.Length <= maxShort
	if whole && req.Body != nil {
		if out, err = appendBody(out, req); err != nil {
			return nil, err
		}
	}
	_, err = c.secure.Write(out)
	if cap(out) <= keepScratch {
		c.scratch = out
	}
	// 2. A long body, by somebody else.
	if err == nil && !whole {
		if err = c.wire.SetReadDeadline(time.Time{}); err != nil {
			return nil, err
		}
		c.sending = c.send(req)
	} else {
		c.answerWithin(c.patience(err))
	}
	// 3. The answer.
	a, reason := c.readAnswer(req.Method)
	c.setHeaded()
	if reason != nil {
		return nil, c.failure(err, reason)
	}
	a.body.reusable = a.body.reusable && err == nil
	c.patient = true
	return a, nil
}

// patience is how long the answer is waited for after the request was written,
// with or without an error.
func (c *conn) patience(err error) time.Duration {
	if err != nil {
		return lateAnswer
	}
	return c.pool.config.AnswerTimeout
}

// answerWithin bounds the wait for the head of the answer, unless it is there.
func (c *conn) answerWithin(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.headed {
		_ = c.wire.SetReadDeadline(time.Now().Add(d)) // on a closed connection reading fails
	}
}

func (c *conn) setHeaded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headed = true
}

// failure says why there is no answer: because of what went wrong with the
// request, or because of what came back.
func (c *conn) failure(writing, reading error) error {
	if c.sending != nil {
		select {
		case <-c.sending.done:
			writing = c.sending.err
		default:
		}
	}
	var body *bodyError
	first := reading
	if writing != nil {
		first = writing
	}
	c.lost = !c.heard && !timedOut(first) && !errors.As(first, &body)
	switch {
	case writing == nil:
		return reading
	case body != nil, timedOut(reading):
		return writing
	}
	// The other side's alert says more than that it closed afterwards.
	return errors.Join(reading, writing)
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// bodyError is a request body that could not be had.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "h1: request body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// appendBody appends the whole of a body in memory.
func appendBody(out []byte, req *Request) ([]byte, error) {
	start := len(out)
	want := int(req.Length)
	if room := start + want + 1; cap(out) < room { // a byte more, to see the end
		out = append(make([]byte, 0, room), out...)
	}
	n, err := io.ReadFull(req.Body, out[start:start+want+1])
	switch {
	case err == nil || n < want && (err == io.EOF || err == io.ErrUnexpectedEOF):
		return nil, &bodyError{fmt.Errorf("it has %d bytes or more, %d were announced", n, want)}
	case n < want:
		return nil, &bodyError{err}
	}
	req.close()
	return out[:start+want], nil
}
