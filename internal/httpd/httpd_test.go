package httpd_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/h1serve"
	"github.com/civibus/civibus/internal/httpd"
	"github.com/civibus/civibus/keys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves a handler and returns its address.
func start(t *testing.T, h http.HandlerFunc, o httpd.Options) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := httpd.New(h, o)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

func TestSlowHeadIsCutOff(t *testing.T) {
	c := dial(t, start(t, ok, httpd.Options{HeaderTimeout: 50 * time.Millisecond}))
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
	if answer, err := io.ReadAll(c); err != nil || strings.Contains(string(answer), " 200 ") {
		t.Errorf("%q %v", answer, err)
	}
}

func TestOversizedHeadIsRefused(t *testing.T) {
	c := dial(t, start(t, ok, httpd.Options{MaxHeaderBytes: 4 << 10}))
	go func() {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nX-Big: "+strings.Repeat("x", 20<<10)+"\r\n\r\n")
	}()
	answer := make([]byte, 12)
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "HTTP/1.1 431" {
		t.Errorf("%q %v", answer, err)
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	c := dial(t, start(t, ok, httpd.Options{IdleTimeout: 50 * time.Millisecond}))
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if answer, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(answer), "ok") {
		t.Errorf("%q %v", answer, err) // ReadAll ends only when the server closes
	}
}

func TestReaderThatTakesNothingIsCutOff(t *testing.T) {
	failed := make(chan error, 1)
	address := start(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 1<<20)
		for {
			if _, err := w.Write(chunk); err != nil {
				failed <- err
				return
			}
		}
	}, httpd.Options{StallTimeout: 100 * time.Millisecond})
	c := dial(t, address)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	select {
	case <-failed:
	case <-time.After(10 * time.Second):
		t.Error("the server still writes to a reader that takes nothing")
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	address := start(t, ok, httpd.Options{MaxConns: 1})
	ask := func(c net.Conn) {
		t.Helper()
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if n, err := c.Read(make([]byte, 1024)); err != nil || n == 0 {
			t.Errorf("%d %v", n, err)
		}
	}
	first, second := dial(t, address), dial(t, address)
	ask(first)
	// The second waits in the backlog until the first is gone.
	_ = second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, _ = io.WriteString(second, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("the second connection is served beside the first")
	}
	_ = first.Close()
	_ = second.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := second.Read(make([]byte, 1024)); err != nil {
		t.Error(err)
	}
}

// TestConnectionsOfOneHost: one host has its share of the connections, and the
// rest is for others.
func TestConnectionsOfOneHost(t *testing.T) {
	address := start(t, ok, httpd.Options{MaxConns: 8, MaxConnsPerHost: 2})
	served := func(c net.Conn) bool {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		n, err := c.Read(make([]byte, 1024))
		return err == nil && n > 0
	}
	from := func(host string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}
		c, err := d.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	first, second := from("127.0.0.1"), from("127.0.0.1")
	if !served(first) || !served(second) {
		t.Fatal("the host's share is not served")
	}
	if served(from("127.0.0.1")) {
		t.Error("a third connection of the host is served")
	}
	if !served(from("127.0.0.2")) {
		t.Error("another host is not served")
	}
	_ = first.Close()
	for again := time.Now().Add(30 * time.Second); !served(from("127.0.0.1")); {
		if time.Now().After(again) {
			t.Fatal("the host's share does not come back")
		}
	}
}

// certificate makes a certificate that serves both sides.
func certificate(t *testing.T) *tls.Certificate {
	t.Helper()
	k, err := keys.Generate(civibus.TransportKey, civibus.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	der, err := keys.Certificate(k, civibus.MemberID{Instance: "a", Class: "b", Code: "c"}, []string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := keys.TLSCertificate(k, der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTLSAsksForACertificate(t *testing.T) {
	certificate := certificate(t)
	address := start(t, func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 1 {
			_, _ = io.WriteString(w, "shown")
		}
	}, httpd.Options{TLS: httpd.CertificateTLS(*certificate)})
	for want, shown := range map[string][]tls.Certificate{"": nil, "shown": {*certificate}} {
		tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{Certificates: shown, InsecureSkipVerify: true}} //nolint:gosec // the test's own server
		r, _ := http.NewRequestWithContext(context.Background(), "GET", "https://"+address, nil)
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(body) != want {
			t.Errorf("%q, want %q", body, want)
		}
	}
}

// TestTLSClientThatGoesAway holds that a long call over TLS learns of it, and
// that a connection that was watched goes on working.
func TestTLSClientThatGoesAway(t *testing.T) {
	calls, release := make(chan context.Context), make(chan struct{})
	address := start(t, func(_ http.ResponseWriter, r *http.Request) {
		calls <- r.Context()
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}, httpd.Options{TLS: httpd.CertificateTLS(*certificate(t))})
	open := func() net.Conn {
		return tls.Client(dial(t, address), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the test's own server
	}
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	stays, goes := open(), open()
	_, _ = io.WriteString(stays, get)
	staying := <-calls
	_, _ = io.WriteString(goes, get)
	going := <-calls
	_ = goes.Close()
	<-going.Done()
	if staying.Err() != nil {
		t.Error("the call of the client that stays ended too")
	}
	close(release)
	for range 2 {
		answer := make([]byte, 15)
		if _, err := io.ReadFull(stays, answer); err != nil || string(answer) != "HTTP/1.1 200 OK" {
			t.Errorf("%q %v", answer, err)
		}
		if _, err := stays.Read(make([]byte, 1024)); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(stays, get)
		<-calls
	}
}

func TestPlainHTTPToTLSIsTold(t *testing.T) {
	told := make(chan h1serve.Event, 1)
	address := start(t, ok, httpd.Options{TLS: httpd.CertificateTLS(*certificate(t)), Complain: func(e h1serve.Event, _ string, _ error) { told <- e }})
	c := dial(t, address)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if answer, err := io.ReadAll(c); err != nil || !strings.Contains(string(answer), "HTTPS server") {
		t.Errorf("%q %v", answer, err)
	}
	if e := <-told; e != h1serve.Handshake {
		t.Error(e)
	}
}
