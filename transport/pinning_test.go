package transport_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/transport"
)

func TestPeersKnowEachOther(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	var got transport.Peer
	provider.serve(func(w http.ResponseWriter, r *http.Request) {
		got, _ = transport.PeerFrom(r.Context())
		if r.Proto != "HTTP/1.1" || r.TLS.Version != tls.VersionTLS13 {
			t.Errorf("proto %s over TLS %x, want HTTP/1.1 over TLS 1.3", r.Proto, r.TLS.Version)
		}
	})
	status, peer, err := get(t, consumer.client(), providerID, "")
	if err != nil || status != 200 {
		t.Fatalf("status %d, error %v", status, err)
	}
	if want := (transport.Peer{Member: providerID, Key: provider.currentKey(), Own: consumer.currentKey()}); peer != want {
		t.Errorf("the consumer saw %v, want %v", peer, want)
	}
	if want := (transport.Peer{Member: consumerID, Key: consumer.currentKey(), Own: provider.currentKey()}); got != want {
		t.Errorf("the provider saw %v, want %v", got, want)
	}
}

func TestServerThatLiesAboutItsIdentity(t *testing.T) {
	n := newNetwork(t)
	consumer, _, third := n.body(consumerID), n.body(providerID), n.body(thirdID)
	// The third body's gateway stands at the provider's address, with its own valid key.
	called := false
	_, address := third.start(func(http.ResponseWriter, *http.Request) { called = true })
	n.addresses(providerID, address)
	_, _, err := get(t, consumer.client(), providerID, "")
	fault := wantCode(t, err, civibus.FaultPeer)
	if !strings.Contains(fault.Err.Error(), thirdID.String()) {
		t.Errorf("the log does not name who stood there: %v", fault.Err)
	}
	if called {
		t.Error("the request reached the wrong body")
	}
}

func TestKeysThatAreRefusedAtTheHandshake(t *testing.T) {
	for name, spoil := range map[string]func(k *civibus.RegisteredKey, v *fakeView){
		"not registered": func(k *civibus.RegisteredKey, v *fakeView) { delete(v.keys, k.ID); k.ID = civibus.KeyID{} },
		"revoked":        func(k *civibus.RegisteredKey, v *fakeView) { k.Revoke = v.height },
		"not active yet": func(k *civibus.RegisteredKey, v *fakeView) { k.Activate = v.height + 100 },
		"a seal key":     func(k *civibus.RegisteredKey, _ *fakeView) { k.Purpose = civibus.SealKey },
		"of a member that ended": func(k *civibus.RegisteredKey, v *fakeView) {
			m := v.members[k.Member]
			m.Status = civibus.Ended
			v.members[k.Member] = m
		},
	} {
		apply := func(n *network, b *body) {
			n.change(func(v *fakeView) {
				k := v.keys[b.currentKey()]
				spoil(&k, v)
				if !k.ID.IsZero() {
					v.keys[k.ID] = k
				}
			})
		}
		t.Run("client key "+name, func(t *testing.T) {
			n := newNetwork(t)
			consumer, provider := n.body(consumerID), n.body(providerID)
			var log lockedBuffer
			provider.serve(func(http.ResponseWriter, *http.Request) { t.Error("the handler was reached") },
				func(c *transport.ServerConfig) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			apply(n, consumer)
			client := consumer.client(func(c *transport.ClientConfig) { c.Certificate = consumer.anyCertificate })
			_, _, err := get(t, client, providerID, "")
			wantCode(t, err, civibus.FaultPeer)
			// It is the server's handshake that refused, not the request's check.
			waitFor(t, func() bool { return strings.Contains(log.String(), "connection of another body failed") })
		})
		if strings.HasPrefix(name, "of a member") {
			continue // the consumer refuses that before it dials
		}
		t.Run("server key "+name, func(t *testing.T) {
			n := newNetwork(t)
			consumer, provider := n.body(consumerID), n.body(providerID)
			provider.serve(func(http.ResponseWriter, *http.Request) { t.Error("the handler was reached") },
				func(c *transport.ServerConfig) { c.Certificate = provider.anyCertificate })
			apply(n, provider)
			_, _, err := get(t, consumer.client(), providerID, "")
			wantCode(t, err, civibus.FaultPeer)
		})
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestServerKeyRevokedOnAnOpenConnection(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	calls := 0
	provider.serve(func(http.ResponseWriter, *http.Request) { calls++ }, func(c *transport.ServerConfig) { c.Certificate = provider.anyCertificate })
	client := consumer.client()
	for range 3 {
		if _, _, err := get(t, client, providerID, ""); err != nil {
			t.Fatal(err)
		}
	}
	n.revoke(provider.currentKey())
	_, _, err := get(t, client, providerID, "")
	wantCode(t, err, civibus.FaultPeer)
	if calls != 3 {
		t.Errorf("%d requests reached the provider, want 3", calls)
	}
}

func TestClientKeyRevokedOnAnOpenConnection(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	calls := 0
	provider.serve(func(http.ResponseWriter, *http.Request) { calls++ })
	client := consumer.client(func(c *transport.ClientConfig) { c.Certificate = consumer.anyCertificate })
	for range 3 {
		if _, _, err := get(t, client, providerID, ""); err != nil {
			t.Fatal(err)
		}
	}
	n.revoke(consumer.currentKey())
	for range 2 { // on the open connection, then at a new handshake
		_, _, err := get(t, client, providerID, "")
		wantCode(t, err, civibus.FaultPeer)
	}
	if calls != 3 {
		t.Errorf("%d requests reached the handler, want 3", calls)
	}
}

// A key revoked while an answer streams ends no exchange that had begun.
func TestRevocationLetsTheExchangeUnderWayEnd(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	proceed := make(chan struct{})
	provider.serve(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "first,")
		_ = http.NewResponseController(w).Flush()
		<-proceed
		_, _ = io.WriteString(w, "last")
	})
	client := consumer.client()
	resp, _, err := client.Do(t.Context(), providerID, "", calling("GET", "/", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	old := provider.currentKey()
	provider.newKey()
	n.revoke(old)
	// A new call changes over to the new key ...
	proceedOnce := sync.OnceFunc(func() { close(proceed) })
	defer proceedOnce()
	done := make(chan error, 1)
	go func() {
		_, peer, err := get(t, client, providerID, "")
		if err == nil && peer.Key != provider.currentKey() {
			err = net.ErrClosed
			t.Errorf("the call went over key %s, want the new %s", peer.Key, provider.currentKey())
		}
		done <- err
	}()
	proceedOnce()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// ... and the old one ends whole.
	if all, err := io.ReadAll(resp.Body); err != nil || string(all) != "first,last" {
		t.Errorf("body %q, error %v", all, err)
	}
}

// Rotation without downtime: calls go on while both sides change keys.
func TestRotationOfBothSidesUnderLoad(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	provider.serve(ok)
	client := consumer.client()
	stop := make(chan struct{})
	var group sync.WaitGroup
	var calls [4]atomic.Int64
	for i := range calls {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if status, _, err := get(t, client, providerID, ""); err != nil || status != 200 {
					t.Errorf("a call failed during rotation: %d %v", status, err)
					return
				}
				calls[i].Add(1)
			}
		})
	}
	// everyone waits until each caller has made a call that began after now.
	everyone := func() {
		for i := range calls {
			from := calls[i].Load()
			waitFor(t, func() bool { return t.Failed() || calls[i].Load() >= from+2 })
		}
	}
	for range 5 {
		for _, b := range []*body{consumer, provider} {
			old := b.currentKey()
			b.newKey()
			everyone()
			n.revoke(old)
			everyone()
		}
	}
	close(stop)
	group.Wait()
	_, peer, err := get(t, client, providerID, "")
	if err != nil || peer.Key != provider.currentKey() {
		t.Errorf("at the end the provider's key is %s (%v), want %s", peer.Key, err, provider.currentKey())
	}
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatal("the condition did not come about in 20 s")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestTLS12AndHTTP2AndResumptionAreNotHad(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	_, address := provider.start(ok)
	certificate, err := consumer.certificate()
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{*certificate}, InsecureSkipVerify: true}

	old := config.Clone()
	old.MaxVersion = tls.VersionTLS12
	if c, err := tls.Dial("tcp", address, old); err == nil {
		_ = c.Close()
		t.Error("the server speaks TLS 1.2")
	}

	h2only := config.Clone()
	h2only.NextProtos = []string{"h2"}
	if c, err := tls.Dial("tcp", address, h2only); err == nil {
		_ = c.Close()
		t.Error("the server took a client that speaks HTTP/2 only")
	}
	both := config.Clone()
	both.NextProtos = []string{"h2", "http/1.1"}
	c, err := tls.Dial("tcp", address, both)
	if err != nil {
		t.Fatal(err)
	}
	if p := c.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
		t.Errorf("negotiated %q", p)
	}
	_ = c.Close()

	resuming := config.Clone()
	resuming.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	resuming.ServerName = "provider.example"
	for i := range 3 {
		c, err := tls.Dial("tcp", address, resuming)
		if err != nil {
			t.Fatal(err)
		}
		// One exchange, so that any ticket sent after the handshake has been read.
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if _, err := io.ReadAll(c); err != nil {
			t.Fatal(err)
		}
		if c.ConnectionState().DidResume {
			t.Errorf("connection %d was resumed", i)
		}
		_ = c.Close()
	}
}

// A server that offers less than the client asks for gets nothing.
func TestClientRefusesOldTLS(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	certificate, err := provider.certificate()
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{*certificate}, MaxVersion: tls.VersionTLS12}
	address := rawServer(t, func(c net.Conn) { _ = tls.Server(c, config).Handshake() })
	n.addresses(providerID, address)
	_, _, err = get(t, consumer.client(), providerID, "")
	if err == nil {
		t.Fatal("the client spoke TLS 1.2")
	}
}

func TestBodyWithoutOwnKeyCannotCall(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	provider.serve(ok)
	n.revoke(consumer.currentKey())
	_, _, err := get(t, consumer.client(), providerID, "")
	wantCode(t, err, civibus.FaultInternal)
}

var _ transport.View = (*fakeView)(nil)
var _ civibus.Signer = (*keys.Key)(nil)
