package transport

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/civibus/civibus"
)

const maxBackOff = 30 * time.Second

// memberState is what the client knows of one body's gateways.
type memberState struct {
	gateways map[string]*gateway // by address
	lastGood string              // address
}

// gateway is one address of one body. Its connections live in a pool; a pool is
// retired as a whole when one of its keys is no longer in force, and calls under
// way on it end in peace.
type gateway struct {
	member  civibus.MemberID
	code    string
	address string

	failures int       // guarded by Client.mu, as is until
	until    time.Time // skipped before

	mu      sync.Mutex
	pool    *pool
	height  uint64 // of the last check of the own certificate
	closed  bool
	retired map[*pool]struct{}
}

// pool is a generation of connections to one gateway.
type pool struct {
	of   *gateway
	http *http.Transport
	own  civibus.KeyID              // guarded by of.mu, as are the next three
	keys map[civibus.KeyID]struct{} // that the gateway showed
	uses int
	old  bool
}

// candidates lists the gateways to try, in order.
func (c *Client) candidates(provider civibus.MemberID, serverCode string) ([]*gateway, error) {
	m, ok := c.config.View().Member(provider)
	if !ok || m.Status != civibus.Active {
		return nil, civibus.Faultf(civibus.ConsumerGateway, civibus.FaultUnknownMember, "member %s is not registered or not active", provider)
	}
	if len(m.Gateways) == 0 {
		return nil, civibus.Faultf(civibus.ConsumerGateway, civibus.FaultUnknownMember, "member %s has no gateway address", provider)
	}
	listed := m.Gateways
	if serverCode != "" {
		listed = slices.DeleteFunc(slices.Clone(listed), func(g civibus.Gateway) bool { return g.Code != serverCode })
		if len(listed) == 0 {
			return nil, civibus.Faultf(civibus.ConsumerGateway, civibus.FaultServerID, "member %s has no gateway with the server code %q", provider, serverCode)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, civibus.Faultf(civibus.ConsumerGateway, civibus.FaultNetwork, "the gateway is stopping")
	}
	state := c.member(m)
	out := make([]*gateway, 0, len(listed))
	for _, l := range listed {
		out = append(out, state.gateways[l.Address])
	}
	if i := slices.IndexFunc(out, func(g *gateway) bool { return g.address == state.lastGood }); i > 0 {
		out = slices.Concat(out[i:], out[:i])
	}
	// Gateways in back-off are left out, unless there is no other.
	now := c.config.Clock()
	ready := slices.DeleteFunc(slices.Clone(out), func(g *gateway) bool { return now.Before(g.until) })
	if len(ready) > 0 {
		return ready, nil
	}
	slices.SortStableFunc(out, func(a, b *gateway) int { return a.until.Compare(b.until) })
	return out, nil
}

// member brings what is known of a body in line with the registry.
func (c *Client) member(m civibus.Member) *memberState {
	state := c.members[m.ID]
	if state == nil {
		state = &memberState{gateways: make(map[string]*gateway)}
		c.members[m.ID] = state
	}
	for _, l := range m.Gateways {
		if state.gateways[l.Address] == nil {
			state.gateways[l.Address] = &gateway{member: m.ID, code: l.Code, address: l.Address, retired: make(map[*pool]struct{})}
		}
	}
	if len(state.gateways) > len(m.Gateways) {
		for address, g := range state.gateways {
			if !slices.ContainsFunc(m.Gateways, func(l civibus.Gateway) bool { return l.Address == address }) {
				g.close()
				delete(state.gateways, address)
			}
		}
	}
	return state
}

func (c *Client) succeeded(provider civibus.MemberID, g *gateway) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g.failures, g.until = 0, time.Time{}
	if state := c.members[provider]; state != nil {
		state.lastGood = g.address
	}
}

func (c *Client) failed(ctx context.Context, provider civibus.MemberID, g *gateway, failed *failure) {
	if failed.final {
		return // not the gateway's doing
	}
	c.config.Logger.WarnContext(ctx, "gateway of another body failed", "member", provider.String(), "gateway", g.code, "address", g.address, "code", string(failed.fault.Code), "err", failed.fault.Err)
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := min(c.config.BackOff<<min(g.failures, 10), maxBackOff)
	g.failures++
	g.until = c.config.Clock().Add(wait)
}

// acquire returns the pool of the gateway after checking that every key it
// showed is still in force. The caller releases it.
func (g *gateway) acquire(c *Client) (*pool, error) {
	view := c.config.View()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, civibus.Faultf(civibus.ConsumerGateway, civibus.FaultNetwork, "the gateway's address is no longer registered or this body is stopping")
	}
	if p := g.pool; p != nil && (!p.valid(view) || !g.ownCertificateCurrent(c, view)) {
		g.retire(p)
	}
	if g.pool == nil {
		certificate, err := c.config.Certificate()
		if err != nil {
			return nil, ownCertificateFault(err)
		}
		g.pool = g.newPool(c, keyOf(certificate.Leaf))
		g.height = view.Height()
	}
	g.pool.uses++
	return g.pool, nil
}

func (p *pool) valid(view View) bool {
	for key := range p.keys {
		peer, err := identify(view, key)
		if err != nil || peer.Member != p.of.member {
			return false
		}
	}
	return true
}

// ownCertificateCurrent looks only when the registry has moved on.
func (g *gateway) ownCertificateCurrent(c *Client, view View) bool {
	if g.height == view.Height() {
		return true
	}
	certificate, err := c.config.Certificate()
	if err != nil {
		return false
	}
	g.height = view.Height()
	return keyOf(certificate.Leaf) == g.pool.own
}

func ownCertificateFault(err error) error {
	fault := civibus.Faultf(civibus.ConsumerGateway, civibus.FaultInternal, "this body's gateway has no transport key in force")
	fault.Err = err
	return fault
}

func (g *gateway) newPool(c *Client, own civibus.KeyID) *pool {
	p := &pool{of: g, own: own, keys: make(map[civibus.KeyID]struct{})}
	p.http = &http.Transport{
		Proxy: nil, // never the environment's
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return p.dial(ctx, c, network, address)
		},
		DisableCompression:     true,
		MaxConnsPerHost:        c.config.MaxConns,
		MaxIdleConnsPerHost:    c.config.MaxConns,
		IdleConnTimeout:        c.config.IdleTimeout,
		ResponseHeaderTimeout:  c.config.AnswerTimeout,
		MaxResponseHeaderBytes: c.config.MaxHeaderBytes,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
		Protocols:              new(http.Protocols),
	}
	p.http.Protocols.SetHTTP1(true)
	return p
}

// dial opens a connection and lets it live only if the other side holds a
// transport key in force of the body that is called.
func (p *pool) dial(ctx context.Context, c *Client, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.DialTimeout)
	defer cancel()
	start := time.Now()
	certificate, err := c.config.Certificate()
	if err != nil {
		return nil, ownCertificateFault(err)
	}
	raw, err := c.config.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.metrics.open.Inc()
	conn := &clientConn{Conn: raw, stall: c.config.StallTimeout, onClose: c.metrics.open.Dec}
	config := baseTLS()
	config.Certificates = []tls.Certificate{*certificate}
	if host, _, err := net.SplitHostPort(address); err == nil {
		config.ServerName = host // for load balancers; nothing is checked against it
	}
	// The registry pins the key, so names and authorities are not looked at:
	// VerifyConnection below is the whole check, and it runs at every handshake.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error { return p.verify(c.config.View(), state) }
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	c.metrics.dial.Observe(time.Since(start).Seconds())
	return secure, nil
}

func (p *pool) verify(view View, state tls.ConnectionState) error {
	key, err := leafKey(state)
	if err != nil {
		return peerFault(err)
	}
	peer, err := identify(view, key)
	if err != nil {
		return peerFault(err)
	}
	if peer.Member != p.of.member {
		return peerFault(&wrongMemberError{key, peer.Member, p.of.member})
	}
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.keys[key] = struct{}{}
	return nil
}

type wrongMemberError struct {
	key           civibus.KeyID
	shown, wanted civibus.MemberID
}

func (e *wrongMemberError) Error() string {
	return "transport key " + e.key.String() + " is " + e.shown.String() + "'s, the call is to " + e.wanted.String()
}

// retire takes a pool out of use. Its idle connections close now, the others
// when their exchange ends. g.mu is held.
func (g *gateway) retire(p *pool) {
	if g.pool == p {
		g.pool = nil
	}
	p.old = true
	p.http.CloseIdleConnections()
	if p.uses > 0 {
		g.retired[p] = struct{}{}
	}
}

func (p *pool) retire() {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.of.retire(p)
}

func (p *pool) release() {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.uses--
	if p.old {
		// Another call on the same retired pool may have let connections idle again.
		p.http.CloseIdleConnections()
		if p.uses == 0 {
			delete(p.of.retired, p)
		}
	}
}

func (g *gateway) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.pool != nil {
		g.retire(g.pool)
	}
}
