package transport

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/h1"
	"github.com/civibus/civibus/internal/tlsprofile"
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

	mu     sync.Mutex
	pool   *pool
	height uint64 // of the last check of all keys
	closed bool
}

// pool is a generation of connections to one gateway.
type pool struct {
	of    *gateway
	conns *h1.Pool
	own   civibus.KeyID              // guarded by of.mu, as are the next two
	keys  map[civibus.KeyID]struct{} // that the gateway showed
	fresh bool                       // one of them was not checked together with the others
}

// candidates lists the gateways to try, in order.
func (c *Client) candidates(provider civibus.MemberID, serverCode string) ([]*gateway, error) {
	// A member that another one hosts is reached, and spoken for on the hop, by
	// that one alone.
	view := c.config.View()
	m, ok := view.Member(provider)
	if !ok || m.Status != civibus.Active {
		return nil, civibus.Faultf(civibus.ConsumerGateway, civibus.FaultUnknownMember, "member %s is not registered or not active", provider)
	}
	if host := view.Carrier(provider); host != provider {
		if m, ok = view.Member(host); !ok || m.Status != civibus.Active {
			return nil, civibus.Faultf(civibus.ConsumerGateway, civibus.FaultUnknownMember, "member %s is hosted by %s, which is not active", provider, host)
		}
	}
	if len(m.Gateways) == 0 {
		return nil, civibus.Faultf(civibus.ConsumerGateway, civibus.FaultUnknownMember, "member %s has no gateway address", m.ID)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, civibus.Faultf(civibus.ConsumerGateway, civibus.FaultNetwork, "the gateway is stopping")
	}
	// The one that answered last comes first, the others as they are listed after it.
	state := c.member(m)
	first := max(0, slices.IndexFunc(m.Gateways, func(l civibus.Gateway) bool { return l.Address == state.lastGood }))
	listed := make([]*gateway, 0, len(m.Gateways))
	for i := range m.Gateways {
		l := &m.Gateways[(first+i)%len(m.Gateways)]
		if serverCode == "" || l.Code == serverCode {
			listed = append(listed, state.gateways[l.Address])
		}
	}
	if len(listed) == 0 {
		return nil, civibus.Faultf(civibus.ConsumerGateway, civibus.FaultServerID, "member %s has no gateway with the server code %q", m.ID, serverCode)
	}
	// Gateways in back-off are left out, unless there is no other.
	now := c.config.Clock()
	waits := func(g *gateway) bool { return now.Before(g.until) }
	if slices.ContainsFunc(listed, func(g *gateway) bool { return !waits(g) }) {
		return slices.DeleteFunc(listed, waits), nil
	}
	slices.SortStableFunc(listed, func(a, b *gateway) int { return a.until.Compare(b.until) })
	return listed, nil
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
			state.gateways[l.Address] = &gateway{member: m.ID, code: l.Code, address: l.Address}
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

func (c *Client) succeeded(g *gateway) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g.failures, g.until = 0, time.Time{}
	if state := c.members[g.member]; state != nil {
		state.lastGood = g.address
	}
}

func (c *Client) failed(ctx context.Context, g *gateway, failed *failure) {
	if failed.final || failed.well {
		return // not the gateway's doing
	}
	c.config.Logger.WarnContext(ctx, "gateway of another body failed", "member", g.member.String(), "gateway", g.code, "address", g.address, "code", string(failed.fault.Code), "err", failed.fault.Err)
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := min(c.config.BackOff<<min(g.failures, 10), maxBackOff)
	g.failures++
	g.until = c.config.Clock().Add(wait)
}

// acquire returns the pool of the gateway after checking that every key that it
// showed, and the own one, is still in force.
func (g *gateway) acquire(c *Client) (*pool, error) {
	view := c.config.View()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, civibus.Faultf(civibus.ConsumerGateway, civibus.FaultNetwork, "the gateway's address is no longer registered or this body is stopping")
	}
	if p := g.pool; p != nil && !g.current(c, view) {
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
	return g.pool, nil
}

// current checks the pool's keys. It looks only when the registry has moved on
// or the gateway showed another key: a view of the same height says the same.
func (g *gateway) current(c *Client, view View) bool {
	p := g.pool
	if g.height == view.Height() && !p.fresh {
		return true
	}
	for key := range p.keys {
		peer, err := identify(view, key)
		if err != nil || peer.Member != g.member {
			return false
		}
	}
	certificate, err := c.config.Certificate()
	if err != nil || keyOf(certificate.Leaf) != p.own {
		return false
	}
	g.height, p.fresh = view.Height(), false
	return true
}

func ownCertificateFault(err error) error {
	fault := civibus.Faultf(civibus.ConsumerGateway, civibus.FaultInternal, "this body's gateway has no transport key in force")
	fault.Err = err
	return fault
}

func (g *gateway) newPool(c *Client, own civibus.KeyID) *pool {
	p := &pool{of: g, own: own, keys: make(map[civibus.KeyID]struct{})}
	p.conns = h1.NewPool(h1.Config{
		Host: g.address,
		Dial: func(ctx context.Context) (net.Conn, error) {
			raw, err := c.config.Dial(ctx, "tcp", g.address)
			if err == nil {
				c.metrics.open.Inc()
			}
			return raw, err
		},
		Handshake:     func(ctx context.Context, raw net.Conn) (net.Conn, error) { return p.handshake(ctx, c, raw) },
		Opened:        func(took time.Duration) { c.metrics.dial.Observe(took.Seconds()) },
		Closed:        c.metrics.open.Dec,
		DialTimeout:   c.config.DialTimeout,
		AnswerTimeout: c.config.AnswerTimeout,
		StallTimeout:  c.config.StallTimeout,
		IdleTimeout:   c.config.IdleTimeout,
		MaxConns:      c.config.MaxConns,
		MaxHeadBytes:  int(c.config.MaxHeaderBytes),
	})
	return p
}

// peerConn is a connection whose two sides have shown their keys.
type peerConn struct {
	*tls.Conn
	key, own civibus.KeyID
}

// peer is who is at the other end.
func (p *peerConn) peer(member civibus.MemberID) Peer {
	return Peer{Member: member, Key: p.key, Own: p.own}
}

// handshake lets a connection live only if the other side holds a transport key
// in force of the body that is called.
func (p *pool) handshake(ctx context.Context, c *Client, raw net.Conn) (net.Conn, error) {
	certificate, err := c.config.Certificate()
	if err != nil {
		return nil, ownCertificateFault(err)
	}
	config := tlsprofile.New()
	config.Certificates = []tls.Certificate{*certificate}
	if host, _, err := net.SplitHostPort(p.of.address); err == nil {
		config.ServerName = host // for load balancers; nothing is checked against it
	}
	out := &peerConn{own: keyOf(certificate.Leaf)}
	// The registry pins the key, so names and authorities are not looked at:
	// VerifyConnection below is the whole check, and it runs at every handshake.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) (err error) {
		out.key, err = p.verify(c.config.View(), state)
		return err
	}
	out.Conn = tls.Client(raw, config)
	if err := out.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return out, nil
}

// verify returns the key that the other side showed, if it is one of the body's.
func (p *pool) verify(view View, state tls.ConnectionState) (civibus.KeyID, error) {
	key, err := leafKey(state)
	if err != nil {
		return key, peerFault(err)
	}
	peer, err := identify(view, key)
	if err != nil {
		return key, peerFault(err)
	}
	if peer.Member != p.of.member {
		return key, peerFault(&wrongMemberError{key, peer.Member, p.of.member})
	}
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	if _, known := p.keys[key]; !known {
		p.keys[key], p.fresh = struct{}{}, true
	}
	return key, nil
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
	p.conns.Close()
}

func (p *pool) retire() {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.of.retire(p)
}

func (g *gateway) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.pool != nil {
		g.retire(g.pool)
	}
}
