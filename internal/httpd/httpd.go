// Package httpd makes the HTTP servers that face a body's own systems, with the
// limits that net/http leaves open.
//
// Trust: an attacker who can connect can at most hold connections and the
// memory of their buffers: heads are bounded in size and time, idle connections
// end, and a reader that takes nothing is cut off. Bodies have no limit of size
// here; who reads them bounds their progress.
package httpd

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Options are a server's limits. Zero values mean the defaults.
type Options struct {
	// HeaderTimeout bounds the TLS handshake and a request's head. Default 10 s.
	HeaderTimeout time.Duration
	// IdleTimeout closes unused connections. Default 120 s.
	IdleTimeout time.Duration
	// StallTimeout bounds how long a client may take nothing of an answer. Default 30 s.
	StallTimeout time.Duration
	// MaxHeaderBytes bounds a request's head. Default 64 KiB.
	MaxHeaderBytes int
	// MaxConns bounds the open connections; further ones wait. Default 4096.
	MaxConns int
	// TLS is the server's certificate; nil: plain HTTP. Client certificates are
	// asked for, not verified: rules compare them as a whole.
	TLS *tls.Certificate
	// Logger gets what net/http complains about. Default: none.
	Logger *slog.Logger
}

func (o *Options) defaults() {
	setDefault(&o.HeaderTimeout, 10*time.Second)
	setDefault(&o.IdleTimeout, 120*time.Second)
	setDefault(&o.StallTimeout, 30*time.Second)
	setDefault(&o.MaxHeaderBytes, 64<<10)
	setDefault(&o.MaxConns, 4096)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Server is a hardened HTTP/1.1 server.
type Server struct {
	options Options
	http    *http.Server
}

// New makes a server for a handler.
func New(handler http.Handler, o Options) *Server {
	o.defaults()
	s := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: o.HeaderTimeout,
		IdleTimeout:       o.IdleTimeout,
		MaxHeaderBytes:    o.MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	return &Server{options: o, http: s}
}

// Serve accepts connections until Shutdown or Close and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	l = &listener{Listener: l, stall: s.options.StallTimeout, slots: make(chan struct{}, s.options.MaxConns), done: make(chan struct{})}
	if s.options.TLS != nil {
		l = tls.NewListener(l, &tls.Config{
			Certificates: []tls.Certificate{*s.options.TLS},
			ClientAuth:   tls.RequestClientCert,
			MinVersion:   tls.VersionTLS12,
			NextProtos:   []string{"http/1.1"},
		})
	}
	if err := s.http.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// Shutdown stops accepting and lets the requests under way end.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Close breaks all connections.
func (s *Server) Close() error { return s.http.Close() }

// listener bounds the number of connections and their stalls.
type listener struct {
	net.Listener
	stall time.Duration
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

// Accept waits for a slot and then for a connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &conn{Conn: c, stall: l.stall, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close stops accepting.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// conn does not let a write hang.
type conn struct {
	net.Conn
	stall time.Duration
	free  func()
}

// Write writes within the stall timeout.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Close frees the connection's slot.
func (c *conn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
