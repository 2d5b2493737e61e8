package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/h1serve"
	"github.com/civibus/civibus/internal/httpd"
	"github.com/civibus/civibus/internal/tlsprofile"
)

const (
	refusedPeer = "peer_not_trusted"
	refusedBusy = "busy"
	refusedHere = "member_not_served_here"
)

// ServerConfig says how a body is reached by other bodies. Only View,
// Certificate and Handler must be given; limits that are not have the defaults
// of httpd.Options.
type ServerConfig struct {
	// View returns the current registry view.
	View func() View
	// Certificate returns the body's newest transport certificate in force.
	Certificate func() (*tls.Certificate, error)
	// Handler gets the requests of pinned peers; PeerFrom tells whose they are.
	Handler http.Handler
	// MaxConns bounds all connections; further ones wait to be accepted.
	MaxConns int
	// MaxConnsPerPeer bounds the connections of one body. Default 512.
	MaxConnsPerPeer int
	// HeaderTimeout bounds the TLS handshake and the head of a request.
	HeaderTimeout time.Duration
	// IdleTimeout closes unused connections. It must be longer than the other
	// side's, so that it is the client who closes.
	IdleTimeout time.Duration
	// StallTimeout bounds how long a body may make no progress at all, in either
	// direction. Default 30 s.
	StallTimeout time.Duration
	// MaxHeaderBytes bounds the head of a request.
	MaxHeaderBytes int
	// Logger gets refusals. Default: none.
	Logger *slog.Logger
	// Metrics gets the server's metrics. Default: none.
	Metrics prometheus.Registerer
}

// Server answers other bodies.
type Server struct {
	config  ServerConfig
	metrics serverMetrics
	http    *httpd.Server

	mu    sync.Mutex
	peers map[civibus.MemberID]int // connections that have made a request
}

// NewServer makes a server.
func NewServer(config ServerConfig) (*Server, error) {
	if config.View == nil || config.Certificate == nil || config.Handler == nil {
		return nil, errors.New("transport server: View, Certificate and Handler must be given")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&config.MaxConnsPerPeer, 512)
	metrics, err := newServerMetrics(config.Metrics)
	if err != nil {
		return nil, err
	}
	s := &Server{config: config, metrics: metrics, peers: make(map[civibus.MemberID]int)}
	s.http = httpd.New(http.HandlerFunc(s.guard), httpd.Options{
		HeaderTimeout:  config.HeaderTimeout,
		IdleTimeout:    config.IdleTimeout,
		StallTimeout:   config.StallTimeout,
		MaxHeaderBytes: config.MaxHeaderBytes,
		MaxConns:       config.MaxConns,
		TLS:            s.tls(),
		Connected:      s.connected,
		Complain:       s.complain,
	})
	return s, nil
}

// ServerTLS returns a TLS configuration that lets in only holders of a transport
// key in force and shows the newest certificate. A server that uses it without
// Server must check PeerOf at every request.
func ServerTLS(view func() View, certificate func() (*tls.Certificate, error)) *tls.Config {
	config := tlsprofile.New()
	config.ClientAuth = tls.RequireAnyClientCert
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() }
	config.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := PeerOf(view(), &state)
		return err
	}
	return config
}

// tls is ServerTLS, and notes which certificate is shown on which connection.
func (s *Server) tls() *tls.Config {
	config := ServerTLS(s.config.View, s.config.Certificate)
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		certificate, err := s.config.Certificate()
		if conn, ok := hello.Context().Value(connKey{}).(*serverConn); ok && err == nil {
			conn.own = keyOf(certificate.Leaf)
		}
		return certificate, err
	}
	return config
}

// PeerOf says who is at the other end of a TLS connection, as the view has it.
func PeerOf(view View, state *tls.ConnectionState) (Peer, error) {
	if state == nil {
		return Peer{}, errors.New("the connection is not TLS")
	}
	key, err := leafKey(*state)
	if err != nil {
		return Peer{}, err
	}
	return identify(view, key)
}

// Serve accepts connections on a TCP listener until Shutdown or Close. It
// returns nil after either.
func (s *Server) Serve(listener net.Listener) error { return s.http.Serve(listener) }

// Shutdown stops accepting, lets the requests under way end, and returns.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Close breaks all connections.
func (s *Server) Close() error { return s.http.Close() }

// guard lets a request through when the key of its connection is in force now.
func (s *Server) guard(w http.ResponseWriter, r *http.Request) {
	conn, ok := r.Context().Value(connKey{}).(*serverConn)
	if !ok {
		s.refuse(w, http.StatusForbidden, refusedPeer) // it came by no server of ours
		return
	}
	peer, err := conn.identify(s.config.View(), r.TLS)
	if err != nil {
		s.config.Logger.WarnContext(r.Context(), "request of a peer that is not trusted", "remote", r.RemoteAddr, "err", err)
		s.refuse(w, http.StatusForbidden, refusedPeer)
		return
	}
	if !s.admit(conn, peer.Member) {
		s.config.Logger.WarnContext(r.Context(), "peer has too many connections", "member", peer.Member.String(), "limit", s.config.MaxConnsPerPeer)
		s.refuse(w, http.StatusServiceUnavailable, refusedBusy)
		return
	}
	// The peer goes by the connection, not by a copy of the request: trailers are
	// filled in on the request as it was made.
	conn.peer.Store(&peer)
	s.config.Handler.ServeHTTP(w, r)
}

// NotServedHere answers a request to a member that this gateway cannot serve now: it
// starts or stops, or cannot serve that hosted one. The other gateway takes it as not seen by any handler.
func NotServedHere(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set(refusedHeader, refusedHere)
	http.Error(w, refusedHere, http.StatusServiceUnavailable)
}

// refuse answers without any gateway handler, and closes the connection.
func (s *Server) refuse(w http.ResponseWriter, status int, reason string) {
	s.metrics.refused.WithLabelValues(reason).Inc()
	w.Header().Set("Connection", "close")
	w.Header().Set(refusedHeader, reason)
	http.Error(w, reason, status)
}

// serverConn is what is known of a connection.
type serverConn struct {
	own      civibus.KeyID // that this side showed
	key      civibus.KeyID // that the other side proved to hold, once known
	known    bool
	peer     atomic.Pointer[Peer] // of the request under way
	admitted atomic.Bool
	member   civibus.MemberID // guarded by Server.mu, as is gone
	gone     bool
}

// identify says who is at the other end, as the view has it. Which keys the two
// hold does not change.
func (c *serverConn) identify(view View, state *tls.ConnectionState) (peer Peer, err error) {
	if c.known {
		peer, err = identify(view, c.key)
	} else {
		peer, err = PeerOf(view, state)
		c.key, c.known = peer.Key, err == nil
	}
	peer.Own = c.own
	return peer, err
}

// connected counts a connection that was accepted.
func (s *Server) connected(ctx context.Context) (context.Context, func()) {
	conn := &serverConn{}
	s.metrics.open.Inc()
	return context.WithValue(ctx, connKey{}, conn), func() { s.closed(conn) }
}

// admit counts a connection for its body at the first request, when the body
// has proved that it holds the key.
func (s *Server) admit(conn *serverConn, member civibus.MemberID) bool {
	if conn.admitted.Load() {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers[member] >= s.config.MaxConnsPerPeer || conn.gone {
		return false
	}
	s.peers[member]++
	conn.member = member
	conn.admitted.Store(true)
	return true
}

// closed uncounts it.
func (s *Server) closed(conn *serverConn) {
	s.metrics.open.Dec()
	s.mu.Lock()
	defer s.mu.Unlock()
	conn.gone = true
	if conn.admitted.Load() {
		if s.peers[conn.member]--; s.peers[conn.member] == 0 {
			delete(s.peers, conn.member)
		}
	}
}

// complain counts and logs connections that fail, mostly in their handshakes.
func (s *Server) complain(event h1serve.Event, remote string, err error) {
	if event == h1serve.Handshake {
		s.metrics.refused.WithLabelValues("handshake").Inc()
	}
	s.config.Logger.Warn("connection of another body failed", "at", string(event), "remote", remote, "err", err)
}
