// Package h1serve serves HTTP/1.1 to an http.Handler with one goroutine for each
// connection.
//
// net/http starts a goroutine for each request, which reads ahead to notice a
// client that goes away and is called back with a deadline in the past; it parses
// a head into a string for each name and value, and copies an answer's fields
// before it writes them. Here a client is looked after only once its call takes
// long (see watch), a head is one string, an answer leaves in one write if it is
// short, and deadlines are set when a read or a write may really wait.
//
// What a handler may count on is what net/http promises of HTTP/1.1, less these:
// no Hijack, no interim answers of its own, no guess of a Content-Type, no
// trailers but those declared. A request that can be read in two ways is refused.
//
// Trust: an attacker who can connect can at most hold a connection with the
// memory of its buffers, for as long as the timeouts say. Heads, trailers and
// chunk framing are bounded and read strictly; what follows a request whose end
// is not certain is never read as another request.
package h1serve

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options are a server's handler and limits. All but the functions must be given.
type Options struct {
	// Handler answers.
	Handler http.Handler
	// HeadTimeout bounds the TLS handshake and the wait for a whole head.
	HeadTimeout time.Duration
	// IdleTimeout bounds the wait for a further request; up to a quarter more.
	IdleTimeout time.Duration
	// StallTimeout bounds the wait for each piece of a body, unless the handler
	// sets a deadline; up to a quarter more.
	StallTimeout time.Duration
	// MaxHeadBytes bounds a request's head.
	MaxHeadBytes int
	// ConnContext, when not nil, makes the context of a connection's requests.
	ConnContext func(context.Context, net.Conn) context.Context
	// Complain, when not nil, is told of failed handshakes, of handlers that
	// panic and of connections that cannot be accepted.
	Complain func(event Event, remote string, err error)
}

// Event is what a server complains about.
type Event string

// Events.
const (
	Handshake Event = "TLS handshake"
	Panic     Event = "handler"
	Accept    Event = "accept"
)

// Server serves one handler on any number of listeners.
type Server struct {
	Options

	closing  atomic.Bool
	sweeping atomic.Bool
	end      chan struct{} // closed when closing
	drained  chan struct{} // closed when closing and no connection is left

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
}

// New makes a server.
func New(o Options) *Server {
	if o.Complain == nil {
		o.Complain = func(Event, string, error) {}
	}
	if o.ConnContext == nil {
		o.ConnContext = func(ctx context.Context, _ net.Conn) context.Context { return ctx }
	}
	return &Server{Options: o, end: make(chan struct{}), drained: make(chan struct{}),
		listeners: make(map[net.Listener]struct{}), conns: make(map[*conn]struct{})}
}

// Serve accepts connections until Shutdown or Close and then returns nil. It
// closes the listener.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closing.Load() {
		s.mu.Unlock()
		return nil
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	pause := 5 * time.Millisecond
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
			s.start(c)
			continue
		case s.closing.Load():
			return nil
		case !temporary(err):
			return err
		}
		s.Complain(Accept, l.Addr().String(), err)
		select {
		case <-time.After(pause):
		case <-s.end:
			return nil
		}
		pause = min(2*pause, time.Second)
	}
}

// temporary reports whether connections can be accepted later, such as when
// there are no more file descriptors: those who leave free some.
func temporary(err error) bool {
	var number syscall.Errno
	return errors.As(err, &number) && number.Temporary()
}

// start serves a connection in a goroutine of its own.
func (s *Server) start(raw net.Conn) {
	c := newConn(s, raw)
	s.mu.Lock()
	closing := s.closing.Load()
	if !closing {
		s.conns[c] = struct{}{}
	}
	s.mu.Unlock()
	if closing {
		_ = raw.Close()
		return
	}
	go c.serve()
}

// forget takes a connection that has ended off the list.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.checkDrained()
}

func (s *Server) checkDrained() {
	if !s.closing.Load() || len(s.conns) > 0 {
		return
	}
	select {
	case <-s.drained:
	default:
		close(s.drained)
	}
}

// stop closes the listeners, and the connections for which end says so.
func (s *Server) stop(end func(*conn) bool) {
	s.mu.Lock()
	if s.closing.CompareAndSwap(false, true) {
		close(s.end)
	}
	for l := range s.listeners {
		_ = l.Close()
	}
	var ended []*conn
	for c := range s.conns {
		if end(c) {
			ended = append(ended, c)
		}
	}
	s.checkDrained()
	s.mu.Unlock()
	for _, c := range ended {
		c.lost()
		_ = c.net.Close()
	}
}

// Shutdown stops accepting, closes the connections on which there is no request
// and returns when the others have ended, or with ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop(func(c *conn) bool { return c.state.CompareAndSwap(idle, ended) })
	select {
	case <-s.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close stops accepting and breaks all connections.
func (s *Server) Close() error {
	s.stop(func(c *conn) bool { return c.state.Swap(ended) != ended })
	return nil
}
