// Package httpd makes the HTTP servers of a node, towards the body's own systems
// and towards other bodies, with the limits that net/http leaves open.
//
// Trust: an attacker who can connect can at most hold connections and the
// memory of their buffers: heads are bounded in size and time, idle connections
// end, and a reader that takes nothing is cut off. Bodies have no limit of size
// here; who reads them bounds their progress.
package httpd

import (
	"context"
	"crypto/tls"
	"log"
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
	// TLS is how connections are secured; nil: plain HTTP. See CertificateTLS.
	TLS *tls.Config
	// Connected, when not nil, is called with each connection that is accepted.
	// The context that it returns is that of the connection's requests; closed is
	// called once, when the connection is closed.
	Connected func(context.Context) (ctx context.Context, closed func())
	// Logger gets what net/http complains about. Default: none.
	Logger *slog.Logger
	// ErrorLog gets the same instead, a line each. Default: Logger, as details.
	ErrorLog *log.Logger
}

// CertificateTLS shows one certificate. Client certificates are asked for, not
// verified: rules compare them as a whole.
func CertificateTLS(c tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{c},
		ClientAuth:   tls.RequestClientCert,
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
	}
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
	if o.ErrorLog == nil {
		o.ErrorLog = slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug)
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
		ErrorLog:          o.ErrorLog,
		Protocols:         new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	if o.Connected != nil {
		s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			if t, ok := c.(*tls.Conn); ok {
				c = t.NetConn()
			}
			ctx, c.(*conn).closed = o.Connected(ctx)
			return ctx
		}
	}
	return &Server{options: o, http: s}
}

// Serve accepts connections until Shutdown or Close and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	l = &listener{Listener: l, stall: s.options.StallTimeout, slots: make(chan struct{}, s.options.MaxConns), done: make(chan struct{})}
	if s.options.TLS != nil {
		l = tls.NewListener(l, s.options.TLS)
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
	return &conn{Conn: c, listener: l}, nil
}

// Close stops accepting.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// conn is an accepted connection, on which no write hangs.
type conn struct {
	net.Conn
	listener *listener
	closed   func() // nil: nobody wants to know
	once     sync.Once
}

// Write writes within the stall timeout.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.listener.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Close frees the connection's slot, once.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		<-c.listener.slots
		if c.closed != nil {
			c.closed()
		}
	})
	return err
}
