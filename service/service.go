// Package service is the provider's side of an exchange: it calls the body's own
// systems over plain HTTP or HTTPS, as they are today, and reads their
// descriptions.
//
// What reaches the service is what the consumer sent: method, path and query
// byte for byte, end-to-end headers, and the body for POST, PUT and PATCH. What
// comes back is what the service answered, redirects and errors included. Only
// the fields that belong to one connection stay behind.
//
// Trust: an attacker who controls an upstream can at most answer wrongly for
// that service; heads, descriptions and waits are bounded, compressed bodies are
// not unpacked, redirects are not followed, and nothing is buffered.
package service

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/h1"
	"github.com/civibus/civibus/internal/tlsprofile"
	"github.com/prometheus/client_golang/prometheus"
)

// Upstream says where one service of this body is. Exactly one of URL and
// Handler is given.
type Upstream struct {
	// Service is the service's identifier in the registry.
	Service civibus.ServiceID
	// URL is the base to which the service path is appended, http or https,
	// without query, its host name in ASCII. One slash is dropped where both have
	// one.
	URL string
	// Handler answers in this process instead: an adapter of link/.
	Handler http.Handler
	// OpenAPI is where the OpenAPI 3 description is: a URL, the path of a file,
	// or "self:/PATH" for a path at the service itself. Empty: the service has none.
	OpenAPI string
	// CA is a PEM file with the authorities that may issue the service's
	// certificate. Default: those of the system.
	CA string
	// ClientCertificate and ClientKey are PEM files with which this gateway
	// shows itself to the service. The key file must be readable by its owner only.
	ClientCertificate string
	ClientKey         string
	// ConnectTimeout bounds resolving, connecting and the TLS handshake. Default 5 s.
	ConnectTimeout time.Duration
	// AnswerTimeout bounds the wait from the end of the request to the head of
	// the answer. Default 60 s.
	AnswerTimeout time.Duration
	// StallTimeout bounds how long a body may make no progress at all. Default 30 s.
	StallTimeout time.Duration
	// MaxConns bounds the connections to the service; calls beyond it wait.
	// Default 128.
	MaxConns int
	// MaxHeaderBytes bounds the head of an answer. Default 64 KiB.
	MaxHeaderBytes int64
	// HealthPath, if given, is fetched by the health check, which then wants a
	// status below 500. Otherwise it only connects.
	HealthPath string
}

// Config is what the upstreams of a body have in common.
type Config struct {
	// Logger gets failures. Default: none.
	Logger *slog.Logger
	// Metrics gets the calls' metrics. Default: none.
	Metrics prometheus.Registerer
}

// Set is the upstreams of a body. It is safe for concurrent use.
type Set struct {
	config  Config
	metrics metrics

	mu        sync.RWMutex
	upstreams map[civibus.ServiceID]*upstream
}

// upstream is an Upstream made ready.
type upstream struct {
	Upstream
	base    *url.URL
	config  *tls.Config
	conns   *h1.Pool          // nil: an adapter in this process
	adapter *handlerTransport // nil: a service of its own

	counts counts
}

// NewSet makes a set. Close it when done.
func NewSet(upstreams []Upstream, config Config) (*Set, error) {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(config.Metrics)
	if err != nil {
		return nil, err
	}
	s := &Set{config: config, metrics: m}
	if err := s.Replace(upstreams); err != nil {
		return nil, err
	}
	return s, nil
}

// Replace changes the upstreams. Either all of the new ones count or, on an
// error, nothing changes. Calls under way end on the old ones.
func (s *Set) Replace(upstreams []Upstream) error {
	next := make(map[civibus.ServiceID]*upstream, len(upstreams))
	var problems []error
	for _, u := range upstreams {
		if _, ok := next[u.Service]; ok {
			problems = append(problems, fmt.Errorf("upstream %s: it is given twice", u.Service))
			continue
		}
		ready, err := prepare(u)
		if err != nil {
			problems = append(problems, fmt.Errorf("upstream %s: %w", u.Service, err))
			continue
		}
		next[u.Service] = ready
	}
	if len(problems) > 0 {
		stop(next)
		return errors.Join(problems...)
	}
	s.mu.Lock()
	old := s.upstreams
	s.upstreams = next
	s.mu.Unlock()
	stop(old)
	return nil
}

// Close closes the idle connections. Calls under way end on their own.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	stop(s.upstreams)
	s.upstreams = nil
}

func stop(upstreams map[civibus.ServiceID]*upstream) {
	for _, u := range upstreams {
		if u.conns != nil {
			u.conns.Close()
		}
	}
}

// Has reports whether the service has an upstream.
func (s *Set) Has(id civibus.ServiceID) bool {
	_, err := s.find(id)
	return err == nil
}

func (s *Set) find(id civibus.ServiceID) (*upstream, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if u, ok := s.upstreams[id]; ok {
		return u, nil
	}
	return nil, civibus.Faultf(civibus.ProviderGateway, civibus.FaultNoUpstream, "service %s has no address at the provider", id)
}

// prepare checks an Upstream and makes its connection pool.
func prepare(u Upstream) (*upstream, error) {
	setDefault(&u.ConnectTimeout, 5*time.Second)
	setDefault(&u.AnswerTimeout, 60*time.Second)
	setDefault(&u.StallTimeout, 30*time.Second)
	setDefault(&u.MaxConns, 128)
	setDefault(&u.MaxHeaderBytes, 64<<10)
	if (u.URL == "") == (u.Handler == nil) {
		return nil, errors.New("the rule is exactly one of a URL and a handler")
	}
	if u.HealthPath != "" && !strings.HasPrefix(u.HealthPath, "/") {
		return nil, fmt.Errorf("health path %q: the rule is that it starts with \"/\"", u.HealthPath)
	}
	config, err := u.tls()
	if err != nil {
		return nil, err
	}
	if u.Handler != nil {
		base := &url.URL{Scheme: "http", Host: "adapter.invalid"}
		return &upstream{Upstream: u, base: base, config: config, adapter: &handlerTransport{u.Handler, u.StallTimeout}}, nil
	}
	base, err := parseBase(u.URL)
	if err != nil {
		return nil, err
	}
	ready := &upstream{Upstream: u, base: base, config: config}
	ready.conns = ready.pool(base)
	return ready, nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

func parseBase(s string) (*url.URL, error) {
	base, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("URL %q: %w", s, errors.Unwrap(err))
	}
	switch {
	case base.Scheme != "http" && base.Scheme != "https":
		return nil, fmt.Errorf("URL %q: scheme %q, the rule is http or https", s, base.Scheme)
	case base.Host == "" || base.Opaque != "":
		return nil, fmt.Errorf("URL %q: the rule is http(s)://HOST[:PORT][/PATH]", s)
	case base.User != nil:
		return nil, fmt.Errorf("URL of host %q holds a user name: secrets do not belong in URLs; use a client certificate", base.Host)
	case base.RawQuery != "" || base.ForceQuery || base.Fragment != "":
		return nil, fmt.Errorf("URL %q: the rule is no query and no fragment", s)
	case strings.ContainsFunc(base.Host, func(r rune) bool { return r >= utf8.RuneSelf }):
		return nil, fmt.Errorf("URL %q: the rule is a host name in ASCII: write the xn-- form of an international one", s)
	}
	return base, nil
}

func (u Upstream) tls() (*tls.Config, error) {
	config := tlsprofile.Upstream()
	if u.CA != "" {
		pem, err := os.ReadFile(u.CA)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s: it holds no PEM certificate", u.CA)
		}
	}
	if (u.ClientCertificate == "") != (u.ClientKey == "") {
		return nil, errors.New("the rule is a client certificate and its key, or neither")
	}
	if u.ClientKey != "" {
		info, err := os.Stat(u.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("client key file: %w", err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			return nil, fmt.Errorf("client key file %s has mode %04o, the rule is 0600: chmod 600 %s", u.ClientKey, info.Mode().Perm(), u.ClientKey)
		}
		pair, err := tlsprofile.LoadPair(u.ClientCertificate, u.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("client certificate %s with key %s: they do not load as a PEM pair", u.ClientCertificate, u.ClientKey)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
