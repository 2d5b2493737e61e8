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
		"101 and nothing":          {"HTTP/1.1 101 Switching Protocols\r\n\r\n", "", ""},
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
