package service

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// connect opens a connection to the service, with TLS where it has it, and
// closes it again.
func (u *upstream) connect(ctx context.Context) error {
	transport, ok := u.http.(*http.Transport)
	if !ok {
		return nil // an adapter in this process
	}
	host, port := u.base.Hostname(), u.base.Port()
	if port == "" {
		port = "80"
		if u.base.Scheme == "https" {
			port = "443"
		}
	}
	conn, err := transport.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	if u.base.Scheme != "https" {
		return nil
	}
	config := transport.TLSClientConfig.Clone()
	config.ServerName = host
	if err := tls.Client(conn, config).HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	return nil
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
