package h1_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus/internal/h1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// rawServer runs handle for every connection, which it closes afterwards.
func rawServer(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	l := listen(t)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		group.Wait()
	})
	return l.Addr().String()
}

// server runs an HTTP server and counts its connections.
func server(t testing.TB, handler http.HandlerFunc) (address string, connections *atomic.Int32) {
	t.Helper()
	l := listen(t)
	connections = &atomic.Int32{}
	s := &http.Server{Handler: handler, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return l.Addr().String(), connections
}

// newPool makes a pool that must have closed all that it opened at the test's end.
func newPool(t testing.TB, address string, change ...func(*h1.Config)) *h1.Pool {
	t.Helper()
	var open atomic.Int32
	config := h1.Config{
		Host: address,
		Dial: func(ctx context.Context) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err == nil {
				open.Add(1)
			}
			return c, err
		},
		Closed:      func() { open.Add(-1) },
		DialTimeout: 10 * time.Second, AnswerTimeout: 10 * time.Second, StallTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second,
		MaxConns: 16, MaxHeadBytes: 64 << 10,
	}
	for _, c := range change {
		c(&config)
	}
	p := h1.NewPool(config)
	t.Cleanup(func() {
		p.Close()
		waitFor(t, func() bool { return open.Load() == 0 })
	})
	return p
}

func waitFor(t testing.TB, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatal("the condition did not come about in 20 s")
		}
		time.Sleep(time.Millisecond)
	}
}

func get(target string) *h1.Request { return &h1.Request{Method: "GET", Target: target} }

func post(body string) *h1.Request {
	return &h1.Request{Method: "POST", Target: "/", Body: io.NopCloser(strings.NewReader(body)), Length: int64(len(body)), InMemory: true}
}

// streamed is a POST of a body of unknown length.
func streamed(body io.ReadCloser) *h1.Request {
	return &h1.Request{Method: "POST", Target: "/", Body: body, Length: -1}
}

// do makes a request and reads the answer.
func do(t testing.TB, p *h1.Pool, req *h1.Request) (*http.Response, string, h1.Trip, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	resp, trip, err := p.RoundTrip(ctx, req)
	if err != nil {
		return nil, "", trip, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), trip, err
}

// readRequest reads one request to its end, false at the connection's.
func readRequest(in *bufio.Reader) bool {
	req, err := http.ReadRequest(in)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

// readHead reads a request's head and returns it.
func readHead(c net.Conn) string {
	var head []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		if _, err := c.Read(one); err != nil {
			return ""
		}
		head = append(head, one...)
	}
	return string(head)
}

// pattern is a body of n bytes, each place of which differs from its neighbours.
func pattern(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + i*7%26 + i/1000%3)
	}
	return string(b)
}
