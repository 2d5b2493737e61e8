package h1_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus/internal/h1"
)

// TestIdleConnectionsThatAreNotUsable: the other side closes, resets or talks
// while nothing is asked. No call may notice.
func TestIdleConnectionsThatAreNotUsable(t *testing.T) {
	config := serverTLS(t)
	for name, then := range map[string]func(raw, conn net.Conn){
		"closes":          func(_, conn net.Conn) { _ = conn.Close() },
		"closes, no word": func(raw, _ net.Conn) { _ = raw.Close() },
		"resets":          func(raw, _ net.Conn) { _ = raw.(*net.TCPConn).SetLinger(0); _ = raw.Close() },
		"talks": func(_, conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		},
		"talks and closes": func(_, conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\nConnection: close\r\n\r\nevil")
			_ = conn.Close()
		},
		"talks TLS alone": func(raw, _ net.Conn) { _, _ = raw.Write([]byte{23}) },
	} {
		for _, kind := range []string{"plain", "TLS", "no socket"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				next, done := make(chan struct{}), make(chan struct{})
				address := rawServer(t, func(raw net.Conn) {
					conn := raw
					if kind == "TLS" {
						conn = tls.Server(raw, config)
					}
					in := bufio.NewReader(conn)
					if !readRequest(in) {
						return
					}
					_, _ = io.WriteString(conn, good)
					<-next
					then(raw, conn)
					done <- struct{}{}
					_, _ = io.Copy(io.Discard, raw)
				})
				p := newPool(t, address, func(c *h1.Config) {
					switch kind {
					case "TLS":
						overTLS(c)
					case "no socket":
						dial := c.Dial
						c.Dial = func(ctx context.Context) (net.Conn, error) {
							conn, err := dial(ctx)
							return struct{ net.Conn }{conn}, err
						}
					}
				})
				for i := range 20 {
					if _, body, trip, err := do(t, p, post("x")); err != nil || body != "good" || trip.Reused {
						t.Fatalf("call %d: %q %+v %v", i, body, trip, err)
					}
					next <- struct{}{}
					<-done
				}
			})
		}
	}
}

// TestNoCallFailsThatMayBeRepeated: a server that closes its connections at any
// time after an answer. Who repeats what is safe to repeat sees no failure.
func TestNoCallFailsThatMayBeRepeated(t *testing.T) {
	var served atomic.Int32
	address := rawServer(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		for i := 0; readRequest(in); i++ {
			served.Add(1)
			_, _ = io.WriteString(c, good)
			if n := served.Load(); n%3 == 0 || n%5 == int32(i) {
				return
			}
		}
	})
	p := newPool(t, address, func(c *h1.Config) { c.MaxConns = 4 })
	const callers, calls = 8, 200
	results := make(chan error, callers)
	for range callers {
		go func() {
			results <- func() error {
				for range calls {
					for {
						_, body, trip, err := do(t, p, get("/"))
						if err == nil && body == "good" {
							break
						}
						if !trip.Stale() {
							return fmt.Errorf("%q %+v: %w", body, trip, err)
						}
					}
				}
				return nil
			}()
		}()
	}
	for range callers {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// TestIdleConnectionsAreClosed by their age and when the other side closed them,
// without any call.
func TestIdleConnectionsAreClosed(t *testing.T) {
	for _, closes := range []bool{false, true} {
		gone := make(chan struct{})
		address := rawServer(t, func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, good)
			if !closes {
				_, _ = io.Copy(io.Discard, c)
			}
			close(gone)
		})
		var open atomic.Int32
		idle := 50 * time.Millisecond
		if closes {
			idle = time.Second
		}
		p := newPool(t, address, func(c *h1.Config) {
			c.IdleTimeout = idle
			c.Opened = func(time.Duration) { open.Add(1) }
			closed := c.Closed
			c.Closed = func() { open.Add(-1); closed() }
		})
		if _, _, _, err := do(t, p, get("/")); err != nil {
			t.Fatal(err)
		}
		<-gone
		waitFor(t, func() bool { return open.Load() == 0 })
	}
}
