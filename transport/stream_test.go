package transport_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/transport"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// failingBody breaks after some bytes.
type failingBody struct {
	left   int
	closed atomic.Bool
}

func (b *failingBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errors.New("the consumer's system broke off")
	}
	n := min(len(p), b.left)
	b.left -= n
	return n, nil
}

func (b *failingBody) Close() error { b.closed.Store(true); return nil }

func TestRequestBodyThatBreaksIsNotComplete(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	complete := make(chan bool, 1)
	provider.serve(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		complete <- err == nil
	})
	body := &failingBody{left: 100_000}
	req := request(t, "POST", "/", body)
	req.ContentLength = -1
	_, _, err := consumer.client().Do(t.Context(), providerID, "", made(req))
	wantCode(t, err, civibus.FaultIO)
	if <-complete {
		t.Error("the provider took the broken body for a complete one")
	}
	if !body.closed.Load() {
		t.Error("the body was not closed")
	}
}

// TestRequestIsMadeForAConnection: where there is no connection there is no
// request either, and a request that cannot be made costs no connection.
func TestRequestIsMadeForAConnection(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	client := consumer.client()
	for _, addresses := range [][]string{nil, {refusedAddress(t), refusedAddress(t)}} {
		n.addresses(providerID, addresses...)
		_, _, err := client.Do(t.Context(), providerID, "", func(context.Context, transport.Peer) (*http.Request, error) {
			t.Error("a request was made for nobody")
			return request(t, "GET", "/", nil), nil
		})
		if err == nil {
			t.Fatal("the call succeeded")
		}
	}
	accepted := 0
	provider.serve(ok, func(c *transport.ServerConfig) {
		show := c.Certificate
		c.Certificate = func() (*tls.Certificate, error) { accepted++; return show() }
	})
	broken := civibus.Faultf(civibus.ConsumerGateway, civibus.FaultBadRequest, "it cannot be sealed")
	for range 2 {
		_, _, err := client.Do(t.Context(), providerID, "", func(context.Context, transport.Peer) (*http.Request, error) { return nil, broken })
		if fault := wantCode(t, err, civibus.FaultBadRequest); !strings.Contains(fault.Message, broken.Message) {
			t.Error(err)
		}
	}
	if _, _, err := get(t, client, providerID, ""); err != nil || accepted != 1 {
		t.Errorf("error %v, %d connections; want none, 1", err, accepted)
	}
}

// TestBodyOfOneReadingGoesToTheNextGateway: a body that can be read once goes to
// the second gateway as long as the first attempt has read nothing of it.
func TestBodyOfOneReadingGoesToTheNextGateway(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	got := make(chan string, 2)
	echo := func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- string(body)
	}
	_, first := provider.start(echo)
	_, second := provider.start(echo)
	n.addresses(providerID, first, second)
	src, count := strings.NewReader("the only body"), 0
	resp, _, err := consumer.client().Do(t.Context(), providerID, "", func(context.Context, transport.Peer) (*http.Request, error) {
		req := request(t, "POST", "/", io.NopCloser(src))
		if count++; count == 1 {
			req.Header.Set("X-Broken", "\x00") // fails before anything is sent
		}
		return req, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if body := <-got; body != "the only body" || count != 2 {
		t.Errorf("the second gateway got %q, %d requests were made", body, count)
	}
}

// TestRequestForOneOfSeveralGateways: a request finds the gateway that it is for
// among those of the body, at addresses of their own and behind a TCP balancer.
func TestRequestForOneOfSeveralGateways(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	provider.newKey()
	all := provider.ring.All(civibus.TransportKey)
	var addresses []string
	for _, k := range all[:2] {
		_, address := provider.start(ok, func(c *transport.ServerConfig) {
			c.Certificate = func() (*tls.Certificate, error) {
				return provider.ring.TLS(func(id civibus.KeyID) bool { return id == k.Key().ID })
			}
		})
		addresses = append(addresses, address)
	}
	var turn atomic.Int64
	balancer := rawServer(t, func(front net.Conn) {
		back, err := net.Dial("tcp", addresses[int(turn.Add(1))%2])
		if err != nil {
			return
		}
		defer back.Close()
		go func() { _, _ = io.Copy(back, front); _ = back.Close() }()
		_, _ = io.Copy(front, back)
	})
	for name, at := range map[string][]string{"addresses of their own": addresses, "a balancer": {balancer, balancer}} {
		n.addresses(providerID, at...)
		client := consumer.client()
		for i := range 10 {
			want := all[i/2%2].Key().ID
			resp, peer, err := client.Do(t.Context(), providerID, "", func(ctx context.Context, to transport.Peer) (*http.Request, error) {
				if to.Key != want {
					return nil, transport.ErrAnother
				}
				return request(t, "GET", "/", nil), nil
			})
			if err != nil || peer.Key != want {
				t.Fatalf("%s, call %d: %v from %v", name, i, err, peer.Key)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		_, _, err := client.Do(t.Context(), providerID, "", func(context.Context, transport.Peer) (*http.Request, error) { return nil, transport.ErrAnother })
		if fault := wantCode(t, err, civibus.FaultNetwork); !strings.Contains(fault.Message, "was not reached") {
			t.Error(err)
		}
		client.Close()
	}
}

// TestStreamsWithTrailers sends 256 MiB each way at once through both ends with
// little memory, and trailers that are known only at the end.
func TestStreamsWithTrailers(t *testing.T) {
	const size = 256 << 20
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	provider.serve(func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.Header().Set("Trailer", "Content-Digest")
		h := sha256.New()
		if _, err := io.Copy(w, io.TeeReader(r.Body, h)); err != nil {
			t.Error(err)
		}
		if got, want := r.Trailer.Get("Content-Digest"), hex.EncodeToString(h.Sum(nil)); got != want {
			t.Errorf("request trailer %q, want %q", got, want)
		}
		w.Header().Set("Content-Digest", "answer-"+r.Trailer.Get("Content-Digest"))
	})
	req := request(t, "POST", "/", nil)
	h := sha256.New()
	req.Trailer = http.Header{"Content-Digest": nil}
	req.ContentLength = -1
	block := make([]byte, 64<<10)
	_, _ = rand.Read(block)
	source := io.TeeReader(io.LimitReader(&repeat{block: block}, size), h)
	req.Body = &trailing{Reader: source, atEnd: func() { req.Trailer.Set("Content-Digest", hex.EncodeToString(h.Sum(nil))) }}

	var peak atomic.Uint64
	resp, _, err := consumer.client().Do(t.Context(), providerID, "", made(req))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	back := sha256.New()
	total := int64(0)
	for {
		m, err := io.CopyN(back, resp.Body, 16<<20)
		total += m
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		peak.Store(max(peak.Load(), stats.HeapInuse))
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want := hex.EncodeToString(h.Sum(nil))
	if total != size || hex.EncodeToString(back.Sum(nil)) != want {
		t.Errorf("%d bytes came back, want %d, the same", total, size)
	}
	if got := resp.Trailer.Get("Content-Digest"); got != "answer-"+want {
		t.Errorf("response trailer %q, want %q", got, "answer-"+want)
	}
	if peak.Load() > 32<<20 {
		t.Errorf("the heap grew to %d MiB for both sides together", peak.Load()>>20)
	}
	t.Logf("heap at most %.1f MiB", float64(peak.Load())/(1<<20))
}

type repeat struct{ block []byte }

func (r *repeat) Read(p []byte) (int, error) { return copy(p, r.block), nil }

type trailing struct {
	io.Reader
	atEnd func()
}

func (r *trailing) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		r.atEnd()
	}
	return n, err
}

func (r *trailing) Close() error { return nil }

func TestRequestBodyThatStalls(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	read := make(chan error, 1)
	provider.serve(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		read <- err
	}, func(c *transport.ServerConfig) { c.StallTimeout = 100 * time.Millisecond })
	reader, writer := io.Pipe()
	defer writer.Close()
	req := request(t, "POST", "/", reader)
	req.ContentLength = -1
	var group sync.WaitGroup
	group.Go(func() {
		_, _ = writer.Write([]byte("some"))
	})
	resp, _, err := consumer.client().Do(t.Context(), providerID, "", made(req))
	if err == nil {
		_ = resp.Body.Close()
	}
	_ = reader.Close()
	group.Wait()
	var netErr net.Error
	if err := <-read; !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("reading the stalled body gave %v, want a timeout", err)
	}
}

func TestConnectionLimits(t *testing.T) {
	n := newNetwork(t)
	consumer, third, provider := n.body(consumerID), n.body(thirdID), n.body(providerID)
	release := make(chan struct{})
	arrived := make(chan struct{}, 4)
	registry := prometheus.NewRegistry()
	provider.serve(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}, func(c *transport.ServerConfig) { c.MaxConnsPerPeer = 2; c.Metrics = registry })
	client := consumer.client()
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			if _, _, err := get(t, client, providerID, ""); err != nil {
				t.Error(err)
			}
		})
		<-arrived
	}
	_, _, err := get(t, client, providerID, "") // a third connection of the same body
	fault := wantCode(t, err, civibus.FaultNetwork)
	if !strings.Contains(fault.Message, "no more connections") {
		t.Errorf("message %q", fault.Message)
	}
	group.Go(func() { // another body is not concerned
		if _, _, err := get(t, third.client(), providerID, ""); err != nil {
			t.Error(err)
		}
	})
	<-arrived
	close(release)
	group.Wait()
	want := strings.NewReader(`
# HELP civibus_transport_server_refused_total Connections and requests refused, by reason (handshake, peer_not_trusted, busy).
# TYPE civibus_transport_server_refused_total counter
civibus_transport_server_refused_total{reason="busy"} 1
`)
	if err := testutil.GatherAndCompare(registry, want, "civibus_transport_server_refused_total"); err != nil {
		t.Error(err)
	}
}

func TestShutdownLetsRequestsEnd(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	arrived, release := make(chan struct{}), make(chan struct{})
	server := provider.serve(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "done")
	})
	result := make(chan error, 1)
	client := consumer.client()
	go func() {
		_, _, err := get(t, client, providerID, "")
		result <- err
	}()
	<-arrived
	stopped := make(chan error, 1)
	go func() { stopped <- server.Shutdown(context.Background()) }()
	waitFor(t, func() bool { // new connections are refused
		m, _ := n.View().Member(providerID)
		c, err := net.Dial("tcp", m.Gateways[0].Address)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the request under way failed: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestMetricsAndConfigErrors(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	provider.serve(ok)
	registry := prometheus.NewPedanticRegistry()
	client := consumer.client(func(c *transport.ClientConfig) { c.Metrics = registry })
	if _, _, err := get(t, client, providerID, ""); err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	if got, err := testutil.GatherAndCount(registry); err != nil || got != 3 {
		t.Errorf("%d series, error %v", got, err)
	}
	if _, err := transport.NewClient(transport.ClientConfig{}); err == nil {
		t.Error("an empty client configuration was accepted")
	}
	if _, err := transport.NewServer(transport.ServerConfig{}); err == nil {
		t.Error("an empty server configuration was accepted")
	}
	client.Close()
	_, _, err := get(t, client, providerID, "")
	wantCode(t, err, civibus.FaultNetwork)
	if !bytes.Contains([]byte(err.Error()), []byte("stopping")) {
		t.Error(err)
	}
}
