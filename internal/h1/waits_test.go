package h1_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/internal/h1"
)

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
