package service_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/service"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestHostileServices: each raw server misbehaves in its own way; the gateway
// gets a fault in time, holds little memory, and lives on.
func TestHostileServices(t *testing.T) {
	for _, c := range []struct {
		name string
		want civibus.FaultCode
		do   func(net.Conn)
	}{
		{"closes at once", civibus.FaultNetwork, func(c net.Conn) {}},
		{"resets after the request", civibus.FaultNetwork, func(c net.Conn) {
			readHead(c)
			_ = c.(*net.TCPConn).SetLinger(0)
		}},
		{"not HTTP", civibus.FaultNetwork, func(c net.Conn) { readHead(c); _, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n") }},
		{"huge header field", civibus.FaultNetwork, func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("a", 1<<20)+"\r\n\r\n")
		}},
		{"endless header", civibus.FaultNetwork, func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(c, "X-%d: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", i); err != nil {
					return
				}
			}
		}},
		{"endless interim answers", civibus.FaultNetwork, func(c net.Conn) {
			readHead(c)
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"); err != nil {
					return
				}
			}
		}},
		{"changes the protocol", civibus.FaultNetwork, func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		}},
		{"says nothing", civibus.FaultTimeout, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }},
		{"two lengths", civibus.FaultNetwork, func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
		}},
		{"bad chunk size", civibus.FaultIO, func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nmore")
		}},
		{"huge chunk size", civibus.FaultIO, func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello")
		}},
		{"endless trailer", civibus.FaultIO, func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
			for {
				if _, err := io.WriteString(c, "X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"); err != nil {
					return
				}
			}
		}},
		{"cut in the middle", civibus.FaultIO, func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
		}},
		{"reset in the middle", civibus.FaultIO, func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("a", 5000))
			_ = c.(*net.TCPConn).SetLinger(0)
		}},
		{"stalls in the middle", civibus.FaultTimeout, func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
			_, _ = io.Copy(io.Discard, c)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSet(t, service.Upstream{URL: rawServer(t, c.do), AnswerTimeout: time.Second, StallTimeout: time.Second})
			_, _, err := call(t, s, "POST", "/", "", nil, "body")
			wantCode(t, err, c.want)
		})
	}
}

func TestCompressedBodyIsNotUnpacked(t *testing.T) {
	packed := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xff, 0xff, 0xff}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "" {
			t.Errorf("the gateway asked for %q", got)
		}
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed)
	}))
	defer server.Close()
	resp, body, err := call(t, newSet(t, service.Upstream{URL: server.URL}), "GET", "/", "", nil, "")
	if err != nil || body != string(packed) || resp.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("body %x, header %v, error %v", body, resp.Header, err)
	}
}

func TestUnreachableServices(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := "http://" + l.Addr().String()
	_ = l.Close()
	s := newSet(t, service.Upstream{URL: refused})
	_, _, err = call(t, s, "GET", "/", "", nil, "")
	wantCode(t, err, civibus.FaultNetwork)
	if h := s.Health(t.Context()); h[0].OK || h[0].Service != persons {
		t.Errorf("%+v", h)
	}
	_, _, err = call(t, newSet(t, service.Upstream{URL: "http://no-such-host.invalid"}), "GET", "/", "", nil, "")
	wantCode(t, err, civibus.FaultUnknownHost)
}

type broken struct{}

func (broken) Read([]byte) (int, error) {
	return 0, civibus.Faultf(civibus.ProviderGateway, civibus.FaultSeal, "the digest does not match")
}

// A request body that breaks keeps the reason it broke for: a bad seal.
func TestRequestBodyThatBreaks(t *testing.T) {
	complete := make(chan bool, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		complete <- err == nil
	}))
	defer server.Close()
	s := newSet(t, service.Upstream{URL: server.URL})
	_, err := s.Call(t.Context(), persons, "POST", "/", "", http.Header{}, io.MultiReader(strings.NewReader("some"), broken{}), -1)
	wantCode(t, err, civibus.FaultSeal)
	if <-complete {
		t.Error("the service took the broken body for a complete one")
	}
	_, err = s.Call(t.Context(), persons, "POST", "/", "", http.Header{}, strings.NewReader("short"), 10)
	wantCode(t, err, civibus.FaultNetwork)
	if <-complete {
		t.Error("the service took the short body for a complete one")
	}
}

func TestCallerThatGoesAway(t *testing.T) {
	arrived := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	}))
	defer server.Close()
	s := newSet(t, service.Upstream{URL: server.URL})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	_, err := s.Call(ctx, persons, "GET", "/", "", http.Header{}, nil, 0)
	wantCode(t, err, civibus.FaultIO)
}

func TestHealthAndReplaceAndMetrics(t *testing.T) {
	status := 200
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer server.Close()
	registry := prometheus.NewPedanticRegistry()
	s, err := service.NewSet([]service.Upstream{{Service: persons, URL: server.URL}}, service.Config{Metrics: registry})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if h := s.Health(t.Context()); len(h) != 1 || !h[0].OK {
		t.Errorf("%+v", h)
	}
	if err := s.Replace([]service.Upstream{{Service: persons, URL: server.URL, HealthPath: "/up"}}); err != nil {
		t.Fatal(err)
	}
	if h := s.Health(t.Context()); !h[0].OK {
		t.Errorf("%+v", h)
	}
	status = 503
	if h := s.Health(t.Context()); h[0].OK || !strings.Contains(h[0].Detail, "503") {
		t.Errorf("%+v", h)
	}
	if resp, _, err := call(t, s, "GET", "/", "", nil, ""); err != nil || resp.StatusCode != 503 {
		t.Errorf("a service's own error must pass: %v %v", resp, err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	if err := s.Replace(nil); err != nil || s.Has(persons) {
		t.Errorf("error %v, Has %v", err, s.Has(persons))
	}
}

func TestHandlerInThisProcess(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Target", r.RequestURI)
		w.WriteHeader(201)
		_, _ = io.Copy(w, r.Body)
	})
	mux.HandleFunc("/empty", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic("adapter bug") })
	mux.HandleFunc("/late-panic", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "some")
		panic("adapter bug")
	})
	mux.HandleFunc("/wait", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	s := newSet(t, service.Upstream{Handler: mux})
	large := strings.Repeat("x", 1<<20)
	resp, body, err := call(t, s, "POST", "/echo", "a=%2F+", nil, large)
	if err != nil || resp.StatusCode != 201 || body != large || resp.Header.Get("X-Target") != "/echo?a=%2F+" {
		t.Errorf("%v %v", resp, err)
	}
	if resp, body, err := call(t, s, "GET", "/empty", "", nil, ""); err != nil || resp.StatusCode != 200 || body != "" {
		t.Errorf("%v %q %v", resp, body, err)
	}
	_, _, err = call(t, s, "GET", "/panic", "", nil, "")
	wantCode(t, err, civibus.FaultNetwork)
	_, _, err = call(t, s, "GET", "/late-panic", "", nil, "")
	wantCode(t, err, civibus.FaultIO)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = s.Call(ctx, persons, "GET", "/wait", "", http.Header{}, nil, 0)
	wantCode(t, err, civibus.FaultTimeout)
	// A reader that leaves ends the handler.
	resp, err = s.Call(t.Context(), persons, "GET", "/endless", "", http.Header{}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 10_000)
	_ = resp.Body.Close()
	if h := s.Health(t.Context()); !h[0].OK {
		t.Errorf("%+v", h)
	}
}
