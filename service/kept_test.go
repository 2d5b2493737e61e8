package service_test

import (
	"bufio"
	"bytes"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/service"
)

// TestKeptConnectionThatTheServiceClosed: a service that closes a connection
// while nothing is asked costs no call, whatever the method.
func TestKeptConnectionThatTheServiceClosed(t *testing.T) {
	var served atomic.Int32
	closed := make(chan struct{}, 1)
	address := rawServer(t, func(c net.Conn) {
		if !readRequest(bufio.NewReader(c)) {
			return
		}
		served.Add(1)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_ = c.Close()
		closed <- struct{}{}
	})
	s := newSet(t, service.Upstream{URL: address})
	const calls = 50
	for range calls {
		resp, err := s.Call(t.Context(), persons, "POST", "/", "", http.Header{}, bytes.NewReader([]byte("body")), 4)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" {
			t.Fatalf("%q %v", body, err)
		}
		_ = resp.Body.Close()
		<-closed
	}
	if served.Load() != calls {
		t.Errorf("the service saw %d requests of %d", served.Load(), calls)
	}
}

func readRequest(in *bufio.Reader) bool {
	req, err := http.ReadRequest(in)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

// TestKeptConnectionThatBreaksUnderARequest: what changes nothing is sent again;
// what may have had an effect is not.
func TestKeptConnectionThatBreaksUnderARequest(t *testing.T) {
	var served atomic.Int32
	address := rawServer(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		for first := true; readRequest(in); first = false {
			served.Add(1)
			if !first {
				return // it was read, and gets no answer
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	s := newSet(t, service.Upstream{URL: address})
	for _, c := range []struct {
		method, body string
		seen         int32
		again        bool
	}{{"GET", "", 1, true}, {"GET", "", 2, true}, {"OPTIONS", "", 2, true}, {"DELETE", "", 1, false}, {"GET", "", 1, true}, {"POST", "x", 1, false}, {"GET", "", 1, true}, {"HEAD", "", 2, true}, {"PUT", "x", 1, false}} {
		before := served.Load()
		resp, err := s.Call(t.Context(), persons, c.method, "/", "", http.Header{}, bytes.NewReader([]byte(c.body)), int64(len(c.body)))
		if err == nil {
			_ = resp.Body.Close()
		}
		if c.again {
			if err != nil {
				t.Errorf("%s: %v", c.method, err)
			}
		} else {
			wantCode(t, err, civibus.FaultNetwork)
		}
		if n := served.Load() - before; n != c.seen {
			t.Errorf("%s: the service saw it %d times, want %d", c.method, n, c.seen)
		}
	}
}

// TestDescriptionElsewhere: a description need not be where the service is.
func TestDescriptionElsewhere(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api.json" || r.UserAgent() != "civibus" {
			t.Errorf("asked for %s by %q", r.URL, r.UserAgent())
		}
		_, _ = io.WriteString(w, openapiJSON)
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{plain.URL, secure.URL} {
		for _, u := range []service.Upstream{{URL: "http://127.0.0.1:1"}, {Handler: http.NotFoundHandler()}} {
			u.OpenAPI, u.CA = where+"/api.json", ca
			if body, _, err := newSet(t, u).Description(t.Context(), persons); err != nil || string(body) != openapiJSON {
				t.Errorf("%+v: %q %v", u, body, err)
			}
		}
	}
}
