package h1serve

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

// script is a connection on which a client has said all already, of which a
// read gets a few bytes.
type script struct {
	net.Conn
	in     io.Reader
	piece  int
	out    bytes.Buffer
	closed bool
}

func (s *script) Read(p []byte) (int, error)      { return s.in.Read(p[:min(s.piece, len(p))]) }
func (s *script) Write(p []byte) (int, error)     { return s.out.Write(p) }
func (s *script) Close() error                    { s.closed = true; return nil }
func (s *script) RemoteAddr() net.Addr            { return nil }
func (s *script) SetReadDeadline(time.Time) error { return nil }

// seen is a request as a handler sees it.
type seen struct {
	Method, URI, Body string
	Header, Trailer   http.Header
}

func look(r *http.Request) (seen, error) {
	body, err := io.ReadAll(r.Body)
	return seen{r.Method, r.RequestURI, string(body), r.Header, r.Trailer}, err
}

// recorder is a server whose handler notes the requests that came whole.
type recorder struct {
	*Server
	requests []seen
}

func newRecorder() *recorder {
	s := &recorder{}
	s.Server = New(Options{HeadTimeout: time.Minute, IdleTimeout: time.Minute, StallTimeout: time.Minute, MaxHeadBytes: 16 << 10,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got, err := look(r)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			s.requests = append(s.requests, got)
			_, _ = io.WriteString(w, "ok")
		})})
	return s
}

func (s *recorder) play(stream string, piece int) (requests []seen, answers string) {
	s.requests = nil
	c := &script{in: strings.NewReader(stream), piece: piece}
	newConn(s.Server, c).serve()
	return s.requests, c.out.String()
}

// reference is what net/http's parser makes of a stream.
func reference(stream string) (requests []seen) {
	in := bufio.NewReader(strings.NewReader(stream))
	for {
		if first, _ := in.Peek(2); string(first) == "\r\n" {
			_, _ = in.Discard(2)
		}
		r, err := http.ReadRequest(in)
		if err != nil {
			return requests
		}
		got, err := look(r)
		if err != nil {
			return requests
		}
		delete(got.Header, "Host")
		requests = append(requests, got)
	}
}

var streams = []string{
	"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\na\r\n0\r\nX: 1\r\nY: 2\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n", "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
	"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\nGET /3 HTTP/1.0\r\n\r\n",
	"GET /1 HTTP/1.1\nHost: a\n\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /1 HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 6000) + "\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /1 HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 20000) + "\r\n\r\n",
}

// TestStreams holds that how a stream is cut into pieces makes no difference.
func TestStreams(t *testing.T) {
	s := newRecorder()
	counts := []int{3, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2, 2, 0}
	for i, stream := range streams {
		want, answers := s.play(stream, 1<<20)
		if len(want) != counts[i] {
			t.Errorf("%.200q: %d requests, want %d; the answers:\n%s", stream, len(want), counts[i], answers)
		}
		for _, piece := range []int{1, 2, 3, 5, 1000, 4095, 4096, 4097} {
			if got, _ := s.play(stream, piece); !reflect.DeepEqual(got, want) {
				t.Errorf("%.200q in pieces of %d: %v, want %v", stream, piece, got, want)
			}
		}
	}
	if trailer := func() http.Header { r, _ := s.play(streams[3], 7); return r[0].Trailer }(); !reflect.DeepEqual(trailer, http.Header{"X": {"1"}, "Y": {"2"}}) {
		t.Errorf("trailers %v", trailer)
	}
}

// FuzzStream holds that no handler gets a request that net/http's parser does
// not find in the stream at the same place: what is understood here is never
// another sequence of requests.
func FuzzStream(f *testing.F) {
	for _, stream := range streams {
		f.Add(stream, 1<<20)
		f.Add(stream, 3)
	}
	s := newRecorder()
	f.Fuzz(func(t *testing.T, stream string, piece int) {
		if piece < 1 {
			return
		}
		got, answers := s.play(stream, piece)
		want := reference(stream)
		if len(got) > len(want) {
			t.Fatalf("%d requests, net/http finds %d in %q", len(got), len(want), stream)
		}
		for i := range got {
			if pragma := got[i].Header["Pragma"]; len(pragma) > 0 && pragma[0] == "no-cache" && got[i].Header["Cache-Control"] == nil {
				delete(want[i].Header, "Cache-Control") // net/http adds one
			}
			if !reflect.DeepEqual(got[i], want[i]) {
				t.Fatalf("request %d of %q:\nhere     %+v\nnet/http %+v", i, stream, got[i], want[i])
			}
		}
		if n := strings.Count(answers, "HTTP/1."); n < len(got) {
			t.Fatalf("%d answers to %d requests", n, len(got))
		}
	})
}
