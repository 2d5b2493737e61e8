package h1_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus/internal/h1"
)

// TestBadAnswers: each is refused, and its connection is used no more.
func TestBadAnswers(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for name, answer := range map[string]string{
		"nothing":                      "",
		"not HTTP":                     "SSH-2.0-OpenSSH\r\n\r\n",
		"HTTP/2":                       "HTTP/2.0 200 OK\r\n\r\n",
		"HTTP/1.2":                     "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
		"lower case":                   "http/1.1 200 OK\r\n\r\n",
		"empty line first":             "\r\n" + ok + "Content-Length: 0\r\n\r\n",
		"status of two digits":         "HTTP/1.1 20 OK\r\n\r\n",
		"status of four digits":        "HTTP/1.1 2000 OK\r\n\r\n",
		"status that is no number":     "HTTP/1.1 2x0 OK\r\n\r\n",
		"status below 100":             "HTTP/1.1 099 OK\r\n\r\n",
		"tab in the status line":       "HTTP/1.1\t200 OK\r\n\r\n",
		"cut status line":              "HTTP/1.1 20",
		"cut in a field":               ok + "X-Some: th",
		"cut before the empty line":    ok + "Content-Length: 1\r\n",
		"field without colon":          ok + "X-Some\r\n\r\n",
		"field without name":           ok + ": x\r\n\r\n",
		"space before the colon":       ok + "Content-Length : 0\r\n\r\n",
		"space in a name":              ok + "X Y: 0\r\n\r\n",
		"begins with a folded line":    ok + " X: 0\r\n\r\n",
		"zero in a field":              ok + "X: a\x00b\r\n\r\n",
		"CR in a field":                ok + "X: a\rContent-Length: 0\r\n\r\n",
		"escape in a name":             ok + "X\x1b: a\r\n\r\n",
		"two lengths":                  ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"list of lengths":              ok + "Content-Length: 1, 1\r\n\r\na",
		"negative length":              ok + "Content-Length: -1\r\n\r\n",
		"length with a plus":           ok + "Content-Length: +1\r\n\r\na",
		"hexadecimal length":           ok + "Content-Length: 0x1\r\n\r\na",
		"empty length":                 ok + "Content-Length:\r\n\r\n",
		"length beyond 63 bits":        ok + "Content-Length: 9223372036854775808\r\n\r\n",
		"length and coding":            ok + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"length and unknown coding":    ok + "Content-Length: 0\r\nTransfer-Encoding: x\r\n\r\n",
		"unknown coding":               ok + "Transfer-Encoding: gzip\r\n\r\n",
		"two codings":                  ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"coding twice":                 ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"empty coding":                 ok + "Transfer-Encoding:\r\n\r\n0\r\n\r\n",
		"coding of HTTP/1.0":           "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"length as trailer":            ok + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n",
		"cut body":                     ok + "Content-Length: 100\r\n\r\nsome",
		"cut chunk":                    ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
		"cut before the last chunk":    ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"cut trailer":                  ok + "Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n",
		"bad chunk size":               ok + "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
		"negative chunk size":          ok + "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
		"huge chunk size":              ok + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello",
		"chunk longer than its size":   ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
		"chunk line that ends in LF":   ok + "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
		"trailer that is none":         ok + "Transfer-Encoding: chunked\r\n\r\n0\r\nX\r\n\r\n",
		"trailer with a length":        ok + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n",
		"trailer without end":          ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("X: a\r\n", 4000),
		"field that is too long":       ok + "X: " + strings.Repeat("a", 70_000) + "\r\n\r\n",
		"too many fields":              ok + strings.Repeat("X: a\r\n", 20_000) + "\r\n",
		"line without end":             strings.Repeat("a", 100_000),
		"only interim answers":         strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 10_000),
		"interim answer of many":       "HTTP/1.1 100 Continue\r\n" + strings.Repeat("X: a\r\n", 20_000) + "\r\n" + ok + "\r\n",
		"interim answer, then no more": "HTTP/1.1 100 Continue\r\n\r\n",
		"interim answer cut":           "HTTP/1.1 100 Continue\r\nX",
	} {
		t.Run(name, func(t *testing.T) {
			var connections atomic.Int32
			address := rawServer(t, func(c net.Conn) {
				in := bufio.NewReader(c)
				if connections.Add(1) > 1 {
					for readRequest(in) {
						_, _ = io.WriteString(c, ok+"Content-Length: 4\r\n\r\ngood")
					}
					return
				}
				readRequest(in)
				_, _ = io.WriteString(c, answer)
				if strings.HasPrefix(name, "cut") || strings.Contains(name, " cut") || strings.Contains(name, "no more") || answer == "" {
					return
				}
				_, _ = io.Copy(io.Discard, c) // until the other side closes
			})
			p := newPool(t, address)
			resp, body, trip, err := do(t, p, get("/"))
			if err == nil {
				t.Fatalf("it was taken: %+v, body %q", resp, body)
			}
			if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
				t.Fatalf("it was not refused but waited for: %v", err)
			}
			if trip.Broke != (answer == "") {
				t.Errorf("trip %+v", trip)
			}
			if _, body, trip, err := do(t, p, get("/")); err != nil || body != "good" || trip.Reused {
				t.Errorf("the next call: %q %+v %v", body, trip, err)
			}
		})
	}
}

// serverTLS makes what a TLS server needs.
func serverTLS(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, SessionTicketsDisabled: true}
}

func overTLS(c *h1.Config) {
	c.Handshake = func(ctx context.Context, raw net.Conn) (net.Conn, error) {
		out := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
		return out, out.HandshakeContext(ctx)
	}
}

// corked holds writes back, so that several TLS records leave together.
type corked struct {
	net.Conn
	held []byte
	on   bool
}

func (c *corked) Write(p []byte) (int, error) {
	if !c.on {
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

func (c *corked) flush() {
	c.on = false
	_, _ = c.Conn.Write(c.held)
	c.held = nil
}

const good = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"

// TestAnswersThatEndTheConnection are good, but the last on their connection,
// also over TLS, where more may wait in memory than in the socket.
func TestAnswersThatEndTheConnection(t *testing.T) {
	const ok, evil = "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	config := serverTLS(t)
	for name, c := range map[string]struct{ answer, more, want string }{
		"close":                    {ok + "Connection: x, Close\r\nContent-Length: 4\r\n\r\nsome", "", "some"},
		"HTTP/1.0":                 {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nsome", "", "some"},
		"until the end":            {ok + "\r\nsome", "", "some"},
		"HTTP/1.0 until the end":   {"HTTP/1.0 200\r\n\r\nsome", "", "some"},
		"204 with a length":        {"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", "", ""},
		"204 with a coding":        {"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "", ""},
		"101":                      {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "what the new protocol says", ""},
		"more than the body":       {ok + "Content-Length: 4\r\n\r\nsomething", "", "some"},
		"more than the chunks":     {ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\n\r\nthing", "", "some"},
		"an answer for the next":   {ok + "Content-Length: 4\r\n\r\nsome" + evil, "", "some"},
		"and another record":       {ok + "Content-Length: 4\r\n\r\nsome", evil, "some"},
		"and a part of one":        {ok + "Content-Length: 4\r\n\r\nsome", evil[:10], "some"},
		"body of a 304":            {"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", evil, ""},
		"nothing but another head": {ok + "Content-Length: 0\r\n\r\n", evil, ""},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %v", name, secure), func(t *testing.T) {
				var connections atomic.Int32
				address := rawServer(t, func(raw net.Conn) {
					cork := &corked{Conn: raw}
					conn := net.Conn(cork)
					if secure {
						conn = tls.Server(cork, config)
					}
					in := bufio.NewReader(conn)
					readRequest(in)
					if connections.Add(1) > 1 {
						_, _ = io.WriteString(conn, good)
						return
					}
					cork.on = true
					_, _ = io.WriteString(conn, c.answer)
					_, _ = io.WriteString(conn, c.more)
					cork.flush()
					if strings.Contains(name, "until") {
						_ = conn.Close()
						return
					}
					_, _ = io.Copy(io.Discard, in)
				})
				p := newPool(t, address)
				if secure {
					p = newPool(t, address, overTLS)
				}
				if resp, body, _, err := do(t, p, get("/")); err != nil || body != c.want {
					t.Fatalf("%+v %q %v", resp, body, err)
				}
				if _, body, trip, err := do(t, p, get("/")); err != nil || body != "good" || trip.Reused {
					t.Errorf("the next call: %q %+v %v", body, trip, err)
				}
			})
		}
	}
}

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

// TestStalls: every wait for the other side ends.
func TestStalls(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n"
	for name, c := range map[string]struct {
		answer string
		req    func() *h1.Request
	}{
		"says nothing":          {"", func() *h1.Request { return get("/") }},
		"stops in the head":     {head, func() *h1.Request { return post("x") }},
		"stops in the body":     {head + "\r\nsome", func() *h1.Request { return get("/") }},
		"stops in a trailer":    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n", func() *h1.Request { return get("/") }},
		"interim answers only":  {"HTTP/1.1 103 Early Hints\r\n\r\n", func() *h1.Request { return get("/") }},
		"after a streamed body": {"", func() *h1.Request { return streamed(io.NopCloser(strings.NewReader("some"))) }},
	} {
		t.Run(name, func(t *testing.T) {
			address := rawServer(t, func(conn net.Conn) {
				readRequest(bufio.NewReader(conn))
				_, _ = io.WriteString(conn, c.answer)
				_, _ = io.Copy(io.Discard, conn)
			})
			p := newPool(t, address, func(c *h1.Config) { c.AnswerTimeout, c.StallTimeout = 100*time.Millisecond, 100*time.Millisecond })
			_, _, trip, err := do(t, p, c.req())
			if !errors.Is(err, os.ErrDeadlineExceeded) || trip.Broke {
				t.Errorf("error %v, trip %+v; want a timeout", err, trip)
			}
		})
	}
	t.Run("does not read", func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		address := rawServer(t, func(net.Conn) { <-release })
		p := newPool(t, address, func(c *h1.Config) { c.StallTimeout = 200 * time.Millisecond })
		body := &closing{Reader: endless{}}
		_, _, trip, err := do(t, p, streamed(body))
		if !errors.Is(err, os.ErrDeadlineExceeded) || trip.Broke || !trip.Wrote {
			t.Errorf("error %v, trip %+v; want a timeout", err, trip)
		}
		waitFor(t, func() bool { return body.closed.Load() > 0 })
	})
	t.Run("does not accept the handshake", func(t *testing.T) {
		address := rawServer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
		p := newPool(t, address, overTLS, func(c *h1.Config) { c.DialTimeout = 100 * time.Millisecond })
		_, _, trip, err := do(t, p, get("/"))
		if !errors.Is(err, context.DeadlineExceeded) || trip.Conn != nil || trip.Wrote {
			t.Errorf("error %v, trip %+v; want a timeout", err, trip)
		}
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestEarlyAnswers come before the request's end, and are seen.
func TestEarlyAnswers(t *testing.T) {
	const refusal = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
	pipe := func() io.ReadCloser { r, _ := io.Pipe(); return r } // nothing ever comes
	for name, req := range map[string]func() *h1.Request{
		"short body":   func() *h1.Request { return post("x") },
		"64 KiB":       func() *h1.Request { return post(pattern(64 << 10)) },
		"8 MiB":        func() *h1.Request { return post(pattern(8 << 20)) },
		"endless body": func() *h1.Request { return streamed(io.NopCloser(endless{})) },
		"silent body":  func() *h1.Request { return streamed(pipe()) },
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			address := rawServer(t, func(c net.Conn) {
				readHead(c)
				_, _ = io.WriteString(c, refusal)
				<-done
			})
			defer close(done)
			body := &closing{}
			r := req()
			body.Reader = r.Body
			if r.Length < 0 {
				body.Reader = r.Body
				r.Body = &both{body, r.Body}
			}
			resp, got, _, err := do(t, newPool(t, address), r)
			if err != nil || resp.StatusCode != 413 || got != "no" {
				t.Fatalf("%+v %q %v", resp, got, err)
			}
			if r.Length < 0 {
				waitFor(t, func() bool { return body.closed.Load() > 0 })
			}
		})
	}
}

// both closes a body and what it reads from.
type both struct {
	*closing
	inner io.Closer
}

func (b *both) Close() error { _ = b.inner.Close(); return b.closing.Close() }

// TestAnswerWhileTheRequestStreams goes on for as long as both want.
func TestAnswerWhileTheRequestStreams(t *testing.T) {
	address, connections := server(t, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		_ = control.Flush()
		buffer := make([]byte, 100)
		for {
			n, err := r.Body.Read(buffer)
			_, _ = w.Write(buffer[:n])
			_ = control.Flush()
			if err != nil {
				return
			}
		}
	})
	p := newPool(t, address)
	for range 3 {
		reader, writer := io.Pipe()
		resp, _, err := p.RoundTrip(t.Context(), streamed(reader))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 { // question and answer in turns
			word := fmt.Sprintf("word %03d", i)
			if _, err := io.WriteString(writer, word); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(word))
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != word {
				t.Fatalf("%q %v", got, err)
			}
		}
		_ = writer.Close()
		if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
			t.Errorf("%q %v", rest, err)
		}
		_ = resp.Body.Close()
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// TestRefusalThatEndsTheConnection: the answer counts even when the other side
// closed before it had read the request.
func TestRefusalThatEndsTheConnection(t *testing.T) {
	for range 20 {
		address := rawServer(t, func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.CopyN(io.Discard, c, 100_000)
		})
		resp, body, _, err := do(t, newPool(t, address), streamed(io.NopCloser(io.LimitReader(endless{}, 4<<20))))
		if err != nil || resp.StatusCode != 503 || body != "no" {
			t.Fatalf("%+v %q %v", resp, body, err)
		}
	}
}

// TestCallersThatGoAway at every stage: the other side sees the connection end,
// and the caller returns with his own cause.
func TestCallersThatGoAway(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n"
	for name, answer := range map[string]string{"before the head": "", "in the head": head, "in the body": head + "\r\nsome"} {
		for _, kind := range []string{"short", "streamed"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				arrived, left := make(chan struct{}), make(chan struct{})
				address := rawServer(t, func(c net.Conn) {
					readHead(c)
					_, _ = io.WriteString(c, answer)
					close(arrived)
					_, _ = io.Copy(io.Discard, c)
					close(left)
				})
				p := newPool(t, address)
				req := post("x")
				if kind == "streamed" {
					reader, writer := io.Pipe()
					defer writer.Close()
					req = streamed(reader)
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				go func() {
					<-arrived
					cancel(errBroken)
				}()
				resp, _, err := p.RoundTrip(ctx, req)
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					if err == nil {
						t.Error("the body came to its end")
					}
					_ = resp.Body.Close()
				} else if !errors.Is(err, errBroken) {
					t.Errorf("error %v, want the caller's cause", err)
				}
				<-left
			})
		}
	}
}

// TestBodyThatIsClosedEarly frees its connection's place, from any goroutine.
func TestBodyThatIsClosedEarly(t *testing.T) {
	address, _ := server(t, func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := io.WriteString(w, pattern(1000)); err != nil {
				return
			}
		}
	})
	p := newPool(t, address, func(c *h1.Config) { c.MaxConns = 1 })
	for range 10 {
		resp, _, err := p.RoundTrip(t.Context(), get("/"))
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan error)
		go func() {
			_, err := io.Copy(io.Discard, resp.Body)
			read <- err
		}()
		_ = resp.Body.Close()
		if err := <-read; err == nil {
			t.Error("the endless body came to its end")
		}
		_ = resp.Body.Close()
	}
}
