package service

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/civibus/civibus/internal/h1"
)

// pool makes the connections to an address: the upstream's, or that of its
// description. The proxies of the environment are not for a body's own systems.
func (u *upstream) pool(to *url.URL) *h1.Pool {
	host, port := to.Hostname(), to.Port()
	secure := to.Scheme == "https"
	if port == "" {
		port = "80"
		if secure {
			port = "443"
		}
	}
	dialer := &net.Dialer{KeepAlive: 15 * time.Second}
	config := h1.Config{
		Host: to.Host,
		Dial: func(ctx context.Context) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
			if err != nil {
				return nil, fmt.Errorf("connect: %w", err)
			}
			return conn, nil
		},
		DialTimeout:   u.ConnectTimeout,
		AnswerTimeout: u.AnswerTimeout,
		StallTimeout:  u.StallTimeout,
		IdleTimeout:   30 * time.Second,
		MaxConns:      u.MaxConns,
		MaxHeadBytes:  int(u.MaxHeaderBytes),
	}
	if secure {
		named := u.config.Clone()
		named.ServerName = host
		config.Handshake = func(ctx context.Context, conn net.Conn) (net.Conn, error) {
			out := tls.Client(conn, named)
			if err := out.HandshakeContext(ctx); err != nil {
				return nil, fmt.Errorf("TLS handshake: %w", err)
			}
			return out, nil
		}
	}
	return h1.NewPool(config)
}

// eachByID runs check for all upstreams at once and sorts the results.
func eachByID(upstreams []*upstream, check func(*upstream) Health) []Health {
	out := make([]Health, len(upstreams))
	var group sync.WaitGroup
	for i, u := range upstreams {
		group.Go(func() { out[i] = check(u) })
	}
	group.Wait()
	slices.SortFunc(out, func(a, b Health) int { return strings.Compare(a.Service.String(), b.Service.String()) })
	return out
}
