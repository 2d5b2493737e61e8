package h1_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/internal/h1"
)

// script is a connection on which the other side's words are known beforehand.
type script struct {
	net.Conn
	says *bytes.Reader
}

func (s *script) Read(p []byte) (int, error)       { return s.says.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return len(p), nil }
func (s *script) Close() error                     { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// FuzzAnswer holds the parser of answers against net/http's: what it takes,
// net/http takes too, with the same status, fields, body and trailers.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX: a\r\nx: b\r\n\r\nsome",
		"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304\r\nETag: \"x\"\r\nContent-Length: 9\r\n\r\n", "HTTP/1.0 200 OK\n\nsome",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X, y\r\n\r\n4;a=b\r\nsome\r\n0\r\nX: a\r\nZ: b\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\nHTTP/1.1 404 Not Found\r\nX: a\r\n  b\r\n\t c\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\nx", "HTTP/1.1 200 \r\nConnection: close\r\nPragma: no-cache\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
	} {
		for _, head := range []bool{false, true} {
			f.Add([]byte(s), head)
		}
	}
	f.Fuzz(func(t *testing.T, says []byte, head bool) {
		method := http.MethodGet
		if head {
			method = http.MethodHead
		}
		p := h1.NewPool(h1.Config{
			Host:        "x",
			Dial:        func(context.Context) (net.Conn, error) { return &script{says: bytes.NewReader(says)}, nil },
			DialTimeout: time.Minute, AnswerTimeout: time.Minute, StallTimeout: time.Minute, IdleTimeout: time.Minute, MaxConns: 1, MaxHeadBytes: 4096,
		})
		defer p.Close()
		got, _, err := p.RoundTrip(t.Context(), &h1.Request{Method: method, Target: "/"})
		if err != nil {
			return
		}
		body, bodyErr := io.ReadAll(got.Body)
		want, wantBody, err := reference(says, method)
		switch {
		case want == nil:
			t.Fatalf("taken, but not by net/http: %v", err)
		case bodyErr != nil:
			return // net/http may be more patient with bodies
		case err != nil:
			t.Fatalf("body taken, but not by net/http: %v", err)
		case got.StatusCode != want.StatusCode || got.ContentLength != want.ContentLength || got.Close != want.Close || got.ProtoMinor != want.ProtoMinor || !bytes.Equal(body, wantBody):
			t.Fatalf("%+v %q\nnet/http: %+v %q", got, body, want, wantBody)
		}
		same(t, "header", got.Header, want.Header)
		same(t, "trailer", got.Trailer, want.Trailer)
	})
}

// reference is how net/http reads the answer.
func reference(says []byte, method string) (*http.Response, []byte, error) {
	in := bufio.NewReader(bytes.NewReader(says))
	for {
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return nil, nil, err
		}
		if resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		return resp, body, err
	}
}

// same compares fields but for what net/http takes away or adds.
func same(t *testing.T, what string, got, want http.Header) {
	t.Helper()
	for _, h := range []http.Header{got, want} {
		delete(h, "Connection")
		delete(h, "Trailer")
		delete(h, "Content-Length")
		if len(h["Pragma"]) > 0 {
			delete(h, "Cache-Control")
		}
		for _, values := range h {
			for i := range values {
				values[i] = strings.TrimSpace(values[i])
			}
		}
	}
	if !maps.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Fatalf("%s %q\nnet/http: %q", what, got, want)
	}
}
