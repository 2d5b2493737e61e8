package transport_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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

func TestUnknownMembersAndServerCodes(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	client := consumer.client()
	_, _, err := get(t, client, thirdID, "")
	wantCode(t, err, civibus.FaultUnknownMember)
	_, _, err = get(t, client, providerID, "") // registered, no address
	wantCode(t, err, civibus.FaultUnknownMember)
	_, first := provider.start(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) })
	_, second := provider.start(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202) })
	n.addresses(providerID, first, second)
	_, _, err = get(t, client, providerID, "other")
	wantCode(t, err, civibus.FaultServerID)
	for code, want := range map[string]int{"gw0": 201, "gw1": 202} {
		if status, _, err := get(t, client, providerID, code); err != nil || status != want {
			t.Errorf("server code %s: status %d, error %v, want %d", code, status, err, want)
		}
	}
}

// refusedAddress is a loopback address where nothing listens.
func refusedAddress(t *testing.T) string {
	t.Helper()
	l := listen(t)
	defer l.Close()
	return l.Addr().String()
}

func TestDeadAddressesAreSkipped(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	_, address := provider.start(ok)
	halfOpen := rawServer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) // never answers
	n.addresses(providerID, refusedAddress(t), "no-such-host.invalid:443", halfOpen, address)
	var dialed lockedBuffer
	now := atomic.Pointer[time.Time]{}
	now.Store(&epoch)
	client := consumer.client(func(c *transport.ClientConfig) {
		c.DialTimeout = 800 * time.Millisecond
		c.Clock = func() time.Time { return *now.Load() }
		c.Dial = func(ctx context.Context, network, to string) (net.Conn, error) {
			fmt.Fprintln(&dialed, to)
			if strings.HasPrefix(to, "no-such-host") {
				return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: to, IsNotFound: true}}
			}
			return (&net.Dialer{}).DialContext(ctx, network, to)
		}
	})
	for i := range 3 {
		resp, _, err := client.Do(t.Context(), providerID, "", calling("POST", "/", "payload"))
		if err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	if got := strings.Count(dialed.String(), "\n"); got != 4 {
		t.Errorf("%d dials, want 4: the dead ones are tried once and the good one is kept\n%s", got, dialed.String())
	}
	// All dead: each is tried, back-off or not, and the fault says the gravest reason.
	n.addresses(providerID, refusedAddress(t), "no-such-host.invalid:443")
	for range 2 {
		_, _, err := get(t, client, providerID, "")
		wantCode(t, err, civibus.FaultNetwork)
	}
	n.addresses(providerID, "no-such-host.invalid:443")
	_, _, err := get(t, client, providerID, "")
	wantCode(t, err, civibus.FaultUnknownHost)
	n.addresses(providerID, halfOpen)
	_, _, err = get(t, client, providerID, "")
	wantCode(t, err, civibus.FaultTimeout)
}

// TestNoRepetitionByItself: a connection that breaks after the request was read
// must not make the client send the same sealed request twice.
func TestNoRepetitionByItself(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "POST", "DELETE"} {
		for _, atHand := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, body at hand: %v", method, atHand), func(t *testing.T) { testRepetition(t, method, atHand) })
		}
	}
}

func testRepetition(t *testing.T, method string, atHand bool) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	var served atomic.Int32
	provider.serve(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if served.Add(1) == 2 { // the second request, on a kept connection
			panic(http.ErrAbortHandler)
		}
	})
	client := consumer.client()
	count := 0
	do := func() error {
		once := strings.NewReader("x")
		resp, _, err := client.Do(t.Context(), providerID, "", func(ctx context.Context, to transport.Peer) (*http.Request, error) {
			count++
			if want := (transport.Peer{Member: providerID, Key: provider.currentKey(), Own: consumer.currentKey()}); to != want {
				t.Errorf("the request was made for %v, want %v", to, want)
			}
			if !atHand {
				return request(t, method, "/", io.NopCloser(once)), nil
			}
			body := ""
			if method == "PUT" || method == "POST" {
				body = "x"
			}
			return calling(method, "/", body)(ctx, to)
		})
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		return err
	}
	if err := do(); err != nil {
		t.Fatal(err)
	}
	err := do()
	if atHand && method != "POST" {
		if err != nil || count != 3 || served.Load() != 3 {
			t.Errorf("error %v, %d requests made, %d seen; want none, 3, 3", err, count, served.Load())
		}
		return
	}
	wantCode(t, err, civibus.FaultNetwork)
	if served.Load() != 2 || count != 2 {
		t.Errorf("%d requests seen, %d made; want 2 and 2", served.Load(), count)
	}
}

// TestRequestOnTheWire: raw target, no body fields where there is no body, no
// fields of our own making.
func TestRequestOnTheWire(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	certificate, err := provider.certificate()
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan []string, 1)
	address := rawServer(t, func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*certificate}})
		r := bufio.NewReader(s)
		var head []string
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if line == "\r\n" {
				break
			}
			head = append(head, strings.TrimSpace(line))
		}
		_, _ = io.WriteString(s, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		lines <- head
	})
	n.addresses(providerID, address)
	client := consumer.client()
	for _, c := range []struct{ method, target, length string }{
		{"GET", "/r1/DEMO/GOV/s%2Fub/a|b/%c3%b6;x/path%3B/?a=1&a=2&b=%20+", ""},
		{"HEAD", "/r1//double/", ""},
		{"DELETE", "/r1/x", ""},
		{"POST", "/r1/x", "Content-Length: 0"},
		{"OPTIONS", "/r1/x", ""},
	} {
		path, query, _ := strings.Cut(c.target, "?")
		req := &http.Request{Method: c.method, URL: &url.URL{Opaque: path, RawQuery: query}, Header: http.Header{"X-Road-Client": {"a"}, "User-Agent": {""}, "Expect": {"100-continue"}}}
		resp, _, err := client.Do(t.Context(), providerID, "", made(req))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		want := []string{c.method + " " + c.target + " HTTP/1.1", "Host: " + address}
		if c.length != "" {
			want = append(want, c.length)
		}
		want = append(want, "X-Road-Client: a")
		if got := <-lines; strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("on the wire:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestBrokenAndSlowAnswers(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	release := make(chan struct{})
	provider.serve(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/cut":
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/stall":
			_, _ = io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
			<-release
		case "/silent":
			<-release
		case "/head":
			w.Header().Set("X-Big", strings.Repeat("a", 128<<10))
		case "/switch":
			w.WriteHeader(http.StatusSwitchingProtocols)
		}
	})
	defer close(release)
	client := consumer.client(func(c *transport.ClientConfig) {
		c.AnswerTimeout, c.StallTimeout = time.Second, time.Second
	})
	for path, want := range map[string]civibus.FaultCode{
		"/cut": civibus.FaultIO, "/stall": civibus.FaultTimeout, "/silent": civibus.FaultTimeout,
		"/head": civibus.FaultNetwork, "/switch": civibus.FaultNetwork,
	} {
		resp, _, err := client.Do(t.Context(), providerID, "", calling("GET", path, ""))
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
		}
		t.Log(path)
		wantCode(t, err, want)
	}
}

func TestCallerThatGoesAway(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	arrived := make(chan struct{}, 2)
	provider.serve(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done() // the provider's handler is told
	})
	client := consumer.client()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	_, _, err := client.Do(ctx, providerID, "", calling("GET", "/", ""))
	wantCode(t, err, civibus.FaultIO)
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = client.Do(ctx, providerID, "", calling("GET", "/", ""))
	wantCode(t, err, civibus.FaultTimeout)
}

// TestKeptConnectionsThatTheGatewayCloses: a gateway that closes idle connections
// at any moment costs no call that may be made again.
func TestKeptConnectionsThatTheGatewayCloses(t *testing.T) {
	n := newNetwork(t)
	consumer, provider := n.body(consumerID), n.body(providerID)
	provider.serve(ok, func(c *transport.ServerConfig) { c.IdleTimeout = 100 * time.Microsecond })
	registry := prometheus.NewRegistry()
	client := consumer.client(func(c *transport.ClientConfig) { c.Metrics = registry })
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 50 {
				resp, _, err := client.Do(t.Context(), providerID, "", calling("GET", "/", ""))
				if err != nil {
					t.Error(err)
					return
				}
				if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" {
					t.Errorf("%q %v", body, err)
				}
				_ = resp.Body.Close()
			}
		})
	}
	group.Wait()
	client.Close()
	want := strings.NewReader(`
# HELP civibus_transport_client_open_connections Open connections to other bodies' gateways.
# TYPE civibus_transport_client_open_connections gauge
civibus_transport_client_open_connections 0
`)
	if err := testutil.GatherAndCompare(registry, want, "civibus_transport_client_open_connections"); err != nil {
		t.Error(err)
	}
}
