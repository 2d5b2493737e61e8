package transport_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/transport"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	consumerID = civibus.MemberID{Instance: "DEMO", Class: "GOV", Code: "1000"}
	providerID = civibus.MemberID{Instance: "DEMO", Class: "GOV", Code: "2000"}
	thirdID    = civibus.MemberID{Instance: "DEMO", Class: "MUN", Code: "3000"}
)

// fakeView is a registry view that never changes.
type fakeView struct {
	height  uint64
	keys    map[civibus.KeyID]civibus.RegisteredKey
	members map[civibus.MemberID]civibus.Member
	hosts   map[civibus.MemberID]civibus.MemberID
}

func (v *fakeView) Height() uint64 { return v.height }

func (v *fakeView) Key(id civibus.KeyID) (civibus.RegisteredKey, bool) {
	k, ok := v.keys[id]
	return k, ok
}

func (v *fakeView) Member(id civibus.MemberID) (civibus.Member, bool) {
	m, ok := v.members[id]
	return m, ok
}

func (v *fakeView) Carrier(member civibus.MemberID) civibus.MemberID {
	if host, ok := v.hosts[member]; ok {
		return host
	}
	return member
}

// network is a registry and its bodies.
type network struct {
	t    testing.TB
	mu   sync.Mutex
	view *fakeView
}

func newNetwork(t testing.TB) *network {
	return &network{t: t, view: &fakeView{height: 1, keys: map[civibus.KeyID]civibus.RegisteredKey{}, members: map[civibus.MemberID]civibus.Member{}}}
}

func (n *network) View() transport.View {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.view
}

// change makes the next view.
func (n *network) change(f func(v *fakeView)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := &fakeView{height: n.view.height + 1, keys: maps.Clone(n.view.keys), members: maps.Clone(n.view.members), hosts: maps.Clone(n.view.hosts)}
	f(next)
	n.view = next
}

func (n *network) revoke(id civibus.KeyID) {
	n.change(func(v *fakeView) {
		k := v.keys[id]
		k.Revoke = v.height
		v.keys[id] = k
	})
}

func (n *network) addresses(id civibus.MemberID, addresses ...string) {
	n.change(func(v *fakeView) {
		m := v.members[id]
		m.Gateways = nil
		for i, a := range addresses {
			m.Gateways = append(m.Gateways, civibus.Gateway{Code: "gw" + string(rune('0'+i)), Address: a})
		}
		v.members[id] = m
	})
}

// body is a member with a ring of transport keys.
type body struct {
	net  *network
	id   civibus.MemberID
	ring *keys.Ring
}

func (n *network) body(id civibus.MemberID) *body {
	n.t.Helper()
	ring, err := keys.CreateRing(n.t.TempDir())
	if err != nil {
		n.t.Fatal(err)
	}
	b := &body{net: n, id: id, ring: ring}
	n.change(func(v *fakeView) {
		v.members[id] = civibus.Member{ID: id, Name: id.Code, Status: civibus.Active}
	})
	b.newKey()
	return b
}

var epoch = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

// newKey makes a transport key and registers it.
func (b *body) newKey() civibus.KeyID {
	b.net.t.Helper()
	algorithm := civibus.Ed25519
	n := len(b.ring.All(civibus.TransportKey))
	if n%2 == 1 {
		algorithm = civibus.ECDSAP256SHA256
	}
	k, der, err := b.ring.CreateTransport(b.id, []string{"127.0.0.1"}, algorithm, epoch.Add(time.Duration(n)*time.Second))
	if err != nil {
		b.net.t.Fatal(err)
	}
	b.net.change(func(v *fakeView) {
		v.keys[k.Key().ID] = civibus.RegisteredKey{PublicKey: k.Key(), Member: b.id, Purpose: civibus.TransportKey, Certificate: der, Activate: v.height}
	})
	return k.Key().ID
}

// certificate is what a node would pass to transport.
func (b *body) certificate() (*tls.Certificate, error) {
	return b.ring.TLS(transport.InForce(b.net.View(), b.id, civibus.TransportKey))
}

// anyCertificate is the newest key's, in force or not.
func (b *body) anyCertificate() (*tls.Certificate, error) {
	return b.ring.TLS(func(civibus.KeyID) bool { return true })
}

func (b *body) currentKey() civibus.KeyID {
	all := b.ring.All(civibus.TransportKey)
	return all[len(all)-1].Key().ID
}

// serve starts a server of the body and registers its address as the only one.
func (b *body) serve(handler http.HandlerFunc, change ...func(*transport.ServerConfig)) *transport.Server {
	b.net.t.Helper()
	server, address := b.start(handler, change...)
	b.net.addresses(b.id, address)
	return server
}

func (b *body) start(handler http.HandlerFunc, change ...func(*transport.ServerConfig)) (*transport.Server, string) {
	b.net.t.Helper()
	config := transport.ServerConfig{View: b.net.View, Certificate: b.certificate, Handler: handler}
	for _, c := range change {
		c(&config)
	}
	server, err := transport.NewServer(config)
	if err != nil {
		b.net.t.Fatal(err)
	}
	listener := listen(b.net.t)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	b.net.t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; err != nil {
			b.net.t.Errorf("server ended with %v", err)
		}
	})
	return server, listener.Addr().String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// rawServer runs handle for every TCP connection.
func rawServer(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l := listen(t)
	var group sync.WaitGroup
	stop := make(chan struct{})
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				ended := make(chan struct{})
				defer close(ended)
				group.Go(func() {
					select {
					case <-stop:
						_ = c.Close()
					case <-ended:
					}
				})
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		close(stop)
		group.Wait()
	})
	return l.Addr().String()
}

func (b *body) client(change ...func(*transport.ClientConfig)) *transport.Client {
	b.net.t.Helper()
	config := transport.ClientConfig{View: b.net.View, Certificate: b.certificate}
	for _, c := range change {
		c(&config)
	}
	client, err := transport.NewClient(config)
	if err != nil {
		b.net.t.Fatal(err)
	}
	b.net.t.Cleanup(client.Close)
	return client
}

func request(t *testing.T, method, path string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, "/", body)
	if err != nil {
		t.Fatal(err)
	}
	req.URL = &url.URL{Path: path}
	return req
}

// made is a request that is there already, for whomever.
func made(req *http.Request) transport.Request {
	return func(context.Context, transport.Peer) (*http.Request, error) { return req, nil }
}

// calling makes a request for each attempt, without a body if that is empty.
func calling(method, path, body string) transport.Request {
	return func(context.Context, transport.Peer) (*http.Request, error) {
		var src io.Reader
		if body != "" {
			src = strings.NewReader(body)
		}
		req, err := http.NewRequest(method, "/", src)
		if err == nil {
			req.URL = &url.URL{Path: path}
		}
		return req, err
	}
}

// get makes a GET, reads the answer and closes it.
func get(t *testing.T, client *transport.Client, to civibus.MemberID, server string) (int, transport.Peer, error) {
	t.Helper()
	return getPath(t, client, to, server, "/r1/x")
}

func getPath(t *testing.T, client *transport.Client, to civibus.MemberID, server, path string) (int, transport.Peer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	resp, peer, err := client.Do(ctx, to, server, calling("GET", path, ""))
	if err != nil {
		return 0, peer, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, peer, err
	}
	return resp.StatusCode, peer, nil
}

func wantCode(t *testing.T, err error, code civibus.FaultCode) *civibus.Fault {
	t.Helper()
	var fault *civibus.Fault
	if !errors.As(err, &fault) {
		t.Fatalf("error %v, want a fault %s", err, code)
	}
	if fault.Code != code {
		t.Fatalf("fault %s (%v), want %s", fault, fault.Err, code)
	}
	if fault.Place != civibus.ConsumerGateway {
		t.Fatalf("fault at %v, want the consumer's gateway", fault.Place)
	}
	return fault
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }
