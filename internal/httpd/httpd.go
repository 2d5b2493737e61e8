// Package httpd makes the HTTP servers of a node, towards the body's own systems
// and towards other bodies: internal/h1serve with TLS, a bound on connections and
// writes that do not hang.
//
// Trust: an attacker who can connect can at most hold connections and the
// memory of their buffers: heads are bounded in size and time, idle connections
// end, and a client that takes nothing of an answer or sends nothing of a body is
// cut off. Bodies have no limit of size here.
package httpd

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus/internal/h1serve"
	"github.com/civibus/civibus/internal/rawio"
	"github.com/civibus/civibus/internal/tlsprofile"
)

// Options are a server's limits. Zero values mean the defaults.
type Options struct {
	// HeaderTimeout bounds the TLS handshake and a request's head. Default 10 s.
	HeaderTimeout time.Duration
	// IdleTimeout closes unused connections. Default 120 s.
	IdleTimeout time.Duration
	// StallTimeout bounds how long a client may take nothing of an answer, or send
	// nothing of a body. Default 30 s.
	StallTimeout time.Duration
	// MaxHeaderBytes bounds a request's head. Default 64 KiB.
	MaxHeaderBytes int
	// MaxConns bounds the open connections; further ones wait. Default 4096.
	MaxConns int
	// MaxConnsPerHost bounds the open connections of one address; further ones are
	// closed at once. Default: half of MaxConns, so that no host takes all.
	MaxConnsPerHost int
	// TLS is how connections are secured; nil: plain HTTP. See CertificateTLS.
	TLS *tls.Config
	// Connected, when not nil, is called with each connection that is accepted.
	// The context that it returns is that of the connection's requests; closed is
	// called once, when the connection is closed.
	Connected func(context.Context) (ctx context.Context, closed func())
	// Logger gets what goes wrong with connections. Default: none.
	Logger *slog.Logger
	// Complain gets the same instead. Default: Logger gets it; what clients may do
	// as details.
	Complain func(event h1serve.Event, remote string, err error)
}

// CertificateTLS shows one certificate. Client certificates are asked for, not
// verified: rules compare them as a whole.
func CertificateTLS(c tls.Certificate) *tls.Config {
	config := tlsprofile.New()
	config.Certificates = []tls.Certificate{c}
	config.ClientAuth = tls.RequestClientCert
	return config
}

func (o *Options) defaults() {
	setDefault(&o.HeaderTimeout, 10*time.Second)
	setDefault(&o.IdleTimeout, 120*time.Second)
	setDefault(&o.StallTimeout, 30*time.Second)
	setDefault(&o.MaxHeaderBytes, 64<<10)
	setDefault(&o.MaxConns, 4096)
	setDefault(&o.MaxConnsPerHost, max(1, o.MaxConns/2))
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Complain == nil {
		log := o.Logger
		o.Complain = func(event h1serve.Event, remote string, err error) {
			level := slog.LevelDebug
			if event == h1serve.Panic {
				level = slog.LevelError
			}
			log.Log(context.Background(), level, "connection failed", "at", string(event), "remote", remote, "err", err)
		}
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
	http    *h1serve.Server
}

// New makes a server for a handler.
func New(handler http.Handler, o Options) *Server {
	o.defaults()
	return &Server{options: o, http: h1serve.New(h1serve.Options{
		Handler:      handler,
		HeadTimeout:  o.HeaderTimeout,
		IdleTimeout:  o.IdleTimeout,
		StallTimeout: o.StallTimeout,
		MaxHeadBytes: o.MaxHeaderBytes,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if o.Connected == nil {
				return ctx
			}
			if t, ok := c.(*tls.Conn); ok {
				c = t.NetConn()
			}
			ctx, c.(*conn).closed = o.Connected(ctx)
			return ctx
		},
		Complain: o.Complain,
	})}
}

// Serve accepts connections until Shutdown or Close and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	l = &listener{Listener: l, stall: s.options.StallTimeout, slots: make(chan struct{}, s.options.MaxConns), done: make(chan struct{}),
		perHost: s.options.MaxConnsPerHost, hosts: make(map[netip.Addr]int)}
	if s.options.TLS != nil {
		l = tls.NewListener(l, s.options.TLS)
	}
	return s.http.Serve(l)
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

	perHost int
	mu      sync.Mutex
	hosts   map[netip.Addr]int // open connections
}

// enter counts a connection of a host, and says whether it may have one more.
func (l *listener) enter(host netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hosts[host] >= l.perHost {
		return false
	}
	l.hosts[host]++
	return true
}

func (l *listener) leave(host netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hosts[host]--; l.hosts[host] <= 0 {
		delete(l.hosts, host)
	}
}

// hostOf is a connection's other address; a Unix socket has none of its own, and
// all its connections count as one host's.
func hostOf(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// Accept waits for a slot and then for a connection of a host that may have one.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			return nil, err
		}
		host := hostOf(c)
		if l.enter(host) {
			return &conn{Conn: rawio.Wrap(c), listener: l, host: host}, nil
		}
		c.Close()
	}
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
	host     netip.Addr
	closed   func() // nil: nobody wants to know
	once     sync.Once
	until    atomic.Int64 // the write deadline, in Unix nanoseconds; 0: not known
}

// Write writes within the stall timeout, or up to a quarter more: a deadline
// that has as much left is not set anew.
func (c *conn) Write(p []byte) (int, error) {
	now := time.Now()
	if c.until.Load() < now.Add(c.listener.stall).UnixNano() {
		until := now.Add(c.listener.stall + c.listener.stall/4)
		if err := c.Conn.SetWriteDeadline(until); err != nil {
			return 0, err
		}
		c.until.Store(until.UnixNano())
	}
	return c.Conn.Write(p)
}

// SetWriteDeadline sets a deadline until the next write.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.until.Store(0)
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline sets both deadlines, that of writes until the next write.
func (c *conn) SetDeadline(t time.Time) error {
	c.until.Store(0)
	return c.Conn.SetDeadline(t)
}

// CloseWrite tells the client that nothing more comes.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close frees the connection's slot, once.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.listener.leave(c.host)
		<-c.listener.slots
		if c.closed != nil {
			c.closed()
		}
	})
	return err
}
