// Package h1 is an HTTP/1.1 client connection that works on its caller's
// goroutine, and a pool of such connections to one address.
//
// A request with no body, or with a short one in memory, costs one write, the
// reads of its answer and no goroutine: net/http's client has two goroutines for
// each connection, and hands every request and answer over between them. A longer
// body is written by a goroutine of its own, so that an answer that comes before
// the request's end is seen. Nothing is ever sent twice: whether a request that
// failed may be repeated is the caller's question, and a Trip holds what he needs
// to answer it.
//
// Trust: who is at the other end of a connection can at most give a wrong answer,
// or none, to the request he got. Heads, interim answers, trailers and waits are
// bounded; an answer whose end can be read in two ways is refused; and what comes
// when nothing was asked ends the connection, so that it answers nothing.
package h1

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Config says how an address is reached. All of it but Handshake, Opened and
// Closed must be given.
type Config struct {
	// Host is the Host field of each request, HOST or HOST:PORT.
	Host string
	// Dial opens a connection.
	Dial func(context.Context) (net.Conn, error)
	// Handshake makes the connection secure, and returns what to speak over,
	// which must write to and read from the one it was given. Default: plain.
	Handshake func(context.Context, net.Conn) (net.Conn, error)
	// Opened is told how long Dial and Handshake took when they have succeeded.
	Opened func(time.Duration)
	// Closed is called once for each connection that Dial opened, when it closes.
	Closed func()
	// DialTimeout bounds Dial and Handshake together.
	DialTimeout time.Duration
	// AnswerTimeout bounds the wait from the end of the request to the end of
	// the answer's head.
	AnswerTimeout time.Duration
	// StallTimeout bounds the wait for each piece of an answer's body, and for
	// the other side to take each piece of a request.
	StallTimeout time.Duration
	// IdleTimeout is how long a connection is kept without use.
	IdleTimeout time.Duration
	// MaxConns bounds the connections; requests beyond it wait for one.
	MaxConns int
	// MaxHeadBytes bounds the head of an answer, together with the interim
	// answers (1xx) before it.
	MaxHeadBytes int
}

// Request is what goes out. The pool changes nothing in it.
type Request struct {
	// Over, if given, is told the connection that the request will go over, as
	// Dial or Handshake returned it, before anything else of the request is looked
	// at: it may make the rest of it. If it fails, nothing is sent and the
	// connection is kept.
	Over func(net.Conn) error
	// Fresh asks for a new connection, where there may be one more: the idle ones
	// lead somewhere else.
	Fresh bool
	// Method is the method, Target the request target as it goes on the wire.
	Method, Target string
	// Header is sent except for Host, Content-Length, Transfer-Encoding, Trailer
	// and Expect, which are the connection's, and for empty User-Agent fields.
	Header http.Header
	// Skip, if given, names further fields of Header that are not sent.
	Skip func(name string) bool
	// UserAgent, if not empty, is sent besides.
	UserAgent string
	// Body is the body; nil for none. It is closed in any case, when no more of
	// it will be read or when the request has failed, and perhaps both, perhaps
	// by another goroutine than the one that reads it.
	Body io.ReadCloser
	// Length is the length of Body, -1 if it is not known.
	Length int64
	// InMemory says that reading Body never waits and that it ends.
	InMemory bool
	// Trailer has the names of the fields that follow a body of unknown length;
	// their values are looked up when it has ended.
	Trailer http.Header
}

// Trip says how far a request got.
type Trip struct {
	// Conn is the connection that it went over, as Dial or Handshake returned
	// it; nil when it got none.
	Conn net.Conn
	// Reused says that the connection had carried a request before.
	Reused bool
	// Wrote says that something may have reached the other side.
	Wrote bool
	// Broke says that the connection ended before anything of the answer came.
	Broke bool
}

// Stale reports whether the request may have failed only because the other side
// no longer wanted to keep the connection.
func (t Trip) Stale() bool { return t.Reused && t.Broke }

// Pool is the connections to one address. It is safe for concurrent use.
type Pool struct {
	config Config

	mu      sync.Mutex
	idle    []*conn      // the last is the one used last
	waiting []chan *conn // each gets a connection or, with nil, the right to open one
	open    int          // connections that are there or being opened
	sweeper *time.Timer  // nil while nothing is idle
	closed  bool
}

// NewPool makes a pool.
func NewPool(config Config) *Pool {
	config.Host = withoutZone(config.Host)
	return &Pool{config: config}
}

// RoundTrip sends a request and returns the answer when its head is there. The
// caller reads the answer's body to its end or closes it; its trailers are there
// at the end. A body that stalls fails with os.ErrDeadlineExceeded. When ctx ends
// before the answer's body does, the connection breaks.
func (p *Pool) RoundTrip(ctx context.Context, req *Request) (*http.Response, Trip, error) {
	// 1. A connection that is there, or a new one.
	c, reused, err := p.take(ctx, req.Fresh)
	if err != nil {
		req.close()
		return nil, Trip{}, err
	}
	trip := Trip{Conn: c.secure, Reused: reused}
	if req.Over != nil {
		if err := req.Over(c.secure); err != nil {
			p.put(c)
			req.close()
			return nil, trip, err
		}
	}
	// 2. Send, and wait for the head of the answer, unless the caller goes away.
	before := c.wire.written.Load()
	stop := context.AfterFunc(ctx, c.wire.breakOff)
	answer, err := c.exchange(req)
	trip.Wrote, trip.Broke = c.wire.written.Load() > before, c.lost
	if err != nil {
		stop()
		p.drop(c)
		req.close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, trip, err
	}
	// 3. The body gives the connection back.
	answer.body.stop = stop
	if answer.body.framing == none {
		answer.body.finish(true)
	}
	return &answer.Response, trip, nil
}

// Connect opens a connection and closes it again, to see whether that is
// possible.
func (p *Pool) Connect(ctx context.Context) error {
	c, err := p.dial(ctx)
	if err == nil {
		c.close()
	}
	return err
}

func (r *Request) close() {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}
