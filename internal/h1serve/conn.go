package h1serve

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// What a connection is doing.
const (
	idle   int32 = iota // nothing, or a handshake: Shutdown may close it
	active              // a request has begun to come
	ended               // it is closed
)

// readBuffer is enough for a head and a short body as a rule.
const readBuffer = 4 << 10

// lingering is how long a connection that ends in the middle of a request is
// read on, so that the answer is not lost with what was not read.
const lingering = 500 * time.Millisecond

// conn is a connection of a client.
type conn struct {
	server *Server
	net    net.Conn
	tls    *tls.ConnectionState
	remote string
	ctx    context.Context // of all requests
	in     *bufio.Reader   // reads through Read
	state  atomic.Int32

	idleUntil time.Time

	mu       sync.Mutex
	deadline time.Time          // of the next read; zero: the stall timeout holds
	applied  time.Time          // what the network knows of
	reading  bool               // a read is under way
	cancel   context.CancelFunc // of the request under way; nil: there is none
	broken   bool               // the client is gone
	watch    watch
}

func newConn(s *Server, raw net.Conn) *conn {
	c := &conn{server: s, net: raw, ctx: s.ConnContext(context.Background(), raw)}
	c.in = bufio.NewReaderSize(c, readBuffer)
	return c
}

// serve answers requests until the connection ends.
func (c *conn) serve() {
	defer c.server.forget(c)
	defer c.net.Close()
	if a := c.net.RemoteAddr(); a != nil {
		c.remote = a.String()
	}
	if !c.handshake() {
		return
	}
	c.setReadDeadline(time.Now().Add(c.server.HeadTimeout)) // for the first request
	for {
		// 1. The first byte of a request: from here on Shutdown waits for its answer.
		if _, err := c.in.Peek(1); err != nil || !c.state.CompareAndSwap(idle, active) {
			return
		}
		// 2. Its head, and 3. its answer.
		if !c.respond() {
			return
		}
		// 4. The next one, unless the server stops.
		if c.state.Store(idle); c.server.closing.Load() {
			return
		}
		c.idleUntil = coarse(c.idleUntil, c.server.IdleTimeout)
		c.setReadDeadline(c.idleUntil)
	}
}

// handshake makes a TLS connection ready.
func (c *conn) handshake() bool {
	t, ok := c.net.(*tls.Conn)
	if !ok {
		return true
	}
	c.mu.Lock()
	c.apply(time.Now().Add(c.server.HeadTimeout))
	c.mu.Unlock()
	if err := t.HandshakeContext(c.ctx); err != nil {
		var plain tls.RecordHeaderError
		if errors.As(err, &plain) && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader) {
			_, _ = io.WriteString(plain.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		}
		c.server.Complain(Handshake, c.remote, err)
		return false
	}
	state := t.ConnectionState()
	c.tls = &state
	return true
}

// looksLikeHTTP reports whether a TLS record's head is that of a request.
func looksLikeHTTP(head [5]byte) bool {
	switch string(head[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		return true
	}
	return false
}

// readHead reads a request's head. One empty line before it is none.
func (c *conn) readHead(ctx context.Context) (*http.Request, error) {
	var until time.Time
	wait := func() {
		if until.IsZero() {
			until = time.Now().Add(c.server.HeadTimeout)
			c.setReadDeadline(until)
		}
	}
	text, err := readSection(c.in, c.server.MaxHeadBytes, wait)
	if err == nil && text == "" {
		text, err = readSection(c.in, c.server.MaxHeadBytes, wait)
	}
	if err != nil {
		return nil, err
	}
	r := http.Request{RemoteAddr: c.remote, TLS: c.tls}
	if refused := parseHead(text, &r); refused != nil {
		return nil, refused
	}
	return r.WithContext(ctx), nil
}

// refuse answers a head that no handler gets, unless the client is gone.
func (c *conn) refuse(err error) {
	var refused *refusal
	switch {
	case errors.As(err, &refused):
	case err == errTooLong:
		refused = &refusal{http.StatusRequestHeaderFieldsTooLarge, "head too long"}
	default:
		return
	}
	text := fmt.Sprintf("%d %s: %s", refused.status, http.StatusText(refused.status), refused.reason)
	_, _ = fmt.Fprintf(c.net, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		refused.status, http.StatusText(refused.status), len(text), text)
	c.linger()
}

// exchange is what is kept of a request while it is answered. It is never used
// again, because a handler may have left it to others.
type exchange struct {
	answer answer
	body   body
}

// respond has a request answered and reports whether another may follow.
func (c *conn) respond() (more bool) {
	// 1. The request, with a context that ends with it.
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	r, err := c.readHead(ctx)
	if err != nil {
		c.refuse(err)
		return false
	}
	x := &exchange{}
	x.answer.init(c, r)
	r.Body = http.NoBody
	if r.ContentLength != 0 {
		x.body.init(c, r)
		x.answer.body, r.Body = &x.body, &x.body
	}
	c.begin(cancel, r.ContentLength == 0)

	// 2. The handler.
	ok := c.call(&x.answer, r)
	x.body.closed.Store(true)
	c.finish(x.answer.body)

	// 3. The end of the answer, without which the client knows that it was cut.
	if !ok {
		x.answer.abort()
		return false
	}
	more = x.answer.finish()
	if b := x.answer.body; b != nil && b.err != io.EOF {
		c.linger()
		return false
	}
	return more && !c.gone()
}

// call calls the handler and reports whether it came back.
func (c *conn) call(w *answer, r *http.Request) (ok bool) {
	defer func() {
		if ok {
			return
		}
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			c.server.Complain(Panic, c.remote, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	c.server.Handler.ServeHTTP(w, r)
	return true
}

// linger ends the connection in the middle of a request: the client may send on
// before it reads the answer, which a closed connection would make it lose.
func (c *conn) linger() {
	if half, ok := c.net.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = c.net.SetReadDeadline(time.Now().Add(lingering))
	_, _ = io.CopyN(io.Discard, c.net, 16*maxDrain)
}
