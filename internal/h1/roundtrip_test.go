package h1_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/civibus/civibus/internal/h1"
)

// echo answers with what it got: length as seen, body, trailers.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("X-Seen", fmt.Sprintf("%s %d %v", r.Method, r.ContentLength, r.TransferEncoding))
	if r.Trailer != nil {
		w.Header().Set("Trailer", "X-End")
		defer w.Header().Set("X-End", r.Trailer.Get("X-Digest"))
	}
	_, _ = w.Write(body)
}

// TestBodiesBothWays sends bodies of every kind one after the other over one
// connection.
func TestBodiesBothWays(t *testing.T) {
	address, connections := server(t, echo)
	p := newPool(t, address)
	for _, size := range []int{1, 1000, 5000, 64 << 10, 64<<10 + 1, 1 << 20} {
		body := pattern(size)
		for _, c := range []struct {
			name, want string
			req        *h1.Request
		}{
			{"in memory", fmt.Sprintf("POST %d []", size), post(body)},
			{"known length", fmt.Sprintf("PUT %d []", size), &h1.Request{Method: "PUT", Target: "/", Body: io.NopCloser(strings.NewReader(body)), Length: int64(size)}},
			{"unknown length", "POST -1 [chunked]", streamed(io.NopCloser(strings.NewReader(body)))},
			{"bytes one by one", "POST -1 [chunked]", streamed(io.NopCloser(&slow{from: strings.NewReader(body), most: 1 + size/100}))},
		} {
			resp, got, trip, err := do(t, p, c.req)
			if err != nil || got != body || resp.Header.Get("X-Seen") != c.want || !trip.Wrote || trip.Broke {
				t.Fatalf("%s, %d bytes: %d came back, seen %q, trip %+v, error %v", c.name, size, len(got), resp.Header.Get("X-Seen"), trip, err)
			}
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// slow gives at most so many bytes at a time.
type slow struct {
	from io.Reader
	most int
}

func (s *slow) Read(p []byte) (int, error) { return s.from.Read(p[:min(len(p), s.most)]) }

func TestTrailersBothWays(t *testing.T) {
	address, connections := server(t, echo)
	p := newPool(t, address)
	for _, body := range []string{"", "some", pattern(100_000)} {
		trailer := http.Header{"X-Digest": nil, "X-Unused": nil}
		req := streamed(io.NopCloser(&atEnd{strings.NewReader(body), func() { trailer.Set("X-Digest", "d"+fmt.Sprint(len(body))) }}))
		req.Trailer = trailer
		resp, got, _, err := do(t, p, req)
		if err != nil || got != body {
			t.Fatalf("%d bytes came back, error %v", len(got), err)
		}
		if want := (http.Header{"X-End": {"d" + fmt.Sprint(len(body))}}); fmt.Sprint(resp.Trailer) != fmt.Sprint(want) {
			t.Errorf("trailer %v, want %v", resp.Trailer, want)
		}
		if _, ok := resp.Header["Trailer"]; ok {
			t.Error("the header has Trailer")
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

type atEnd struct {
	io.Reader
	do func()
}

func (a *atEnd) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err == io.EOF {
		a.do()
	}
	return n, err
}

func TestAnswersWithoutBody(t *testing.T) {
	address, connections := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.Header().Set("ETag", `"x"`)
			w.WriteHeader(http.StatusNotModified)
		case "/length":
			w.Header().Set("Content-Length", "1000")
		case "/chunked":
			_ = http.NewResponseController(w).Flush()
		}
	})
	p := newPool(t, address)
	for _, c := range []struct {
		method, target string
		status         int
		length         int64
	}{{"GET", "/204", 204, 0}, {"GET", "/304", 304, 0}, {"HEAD", "/length", 200, 1000}, {"HEAD", "/chunked", 200, -1}, {"HEAD", "/304", 304, -1}, {"GET", "/", 200, 0}, {"GET", "/chunked", 200, -1}} {
		resp, body, trip, err := do(t, p, &h1.Request{Method: c.method, Target: c.target})
		if err != nil || body != "" || resp.StatusCode != c.status || resp.ContentLength != c.length {
			t.Errorf("%s %s: %+v %q %v", c.method, c.target, resp, body, err)
		}
		if trip.Reused == (c.target == "/204") {
			t.Errorf("%s %s: reused is %v", c.method, c.target, trip.Reused)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// TestRequestOnTheWire holds what goes out, byte for byte but for the order of
// the caller's fields.
func TestRequestOnTheWire(t *testing.T) {
	heads := make(chan string, 1)
	address := rawServer(t, func(c net.Conn) {
		head := readHead(c)
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		heads <- head
	})
	p := newPool(t, address, func(c *h1.Config) { c.Host = "[fe80::1%25eth0]:80" })
	header := http.Header{
		"X-A": {"1", " 2\t"}, "X-B": {""}, "x-low": {"ü|"}, "User-Agent": {""}, "Expect": {"100-continue"}, "Content-Length": {"9"},
		"Transfer-Encoding": {"chunked"}, "Trailer": {"X"}, "Host": {"evil"}, "X-Skipped": {"1"},
	}
	fields := []string{"X-A: 1", "X-A: 2", "X-B: ", "x-low: ü|"}
	body := func() io.ReadCloser { return io.NopCloser(strings.NewReader("x")) }
	for _, c := range []struct {
		req  h1.Request
		want []string
	}{
		{h1.Request{Method: "GET", Target: "/a%2Fb|{}?q=%20+"}, nil},
		{h1.Request{Method: "GET", Target: "http://x//a", UserAgent: "me"}, []string{"User-Agent: me"}},
		{h1.Request{Method: "DELETE", Target: "/"}, nil},
		{h1.Request{Method: "POST", Target: "/"}, []string{"Content-Length: 0"}},
		{h1.Request{Method: "PATCH", Target: "/", Body: body(), Length: 1, InMemory: true}, []string{"Content-Length: 1"}},
		{h1.Request{Method: "PUT", Target: "/", Body: body(), Length: 1}, []string{"Content-Length: 1"}},
		{h1.Request{Method: "PUT", Target: "/", Body: body(), Length: -1}, []string{"Transfer-Encoding: chunked"}},
		{h1.Request{Method: "PUT", Target: "/", Body: body(), Length: -1, Trailer: http.Header{"X-T": nil}}, []string{"Transfer-Encoding: chunked", "Trailer: X-T"}},
	} {
		c.req.Header = header
		c.req.Skip = func(name string) bool { return name == "X-Skipped" }
		if _, _, _, err := do(t, p, &c.req); err != nil {
			t.Fatal(err)
		}
		got := strings.Split(strings.TrimSuffix(<-heads, "\r\n\r\n"), "\r\n")
		want := slices.Concat([]string{c.req.Method + " " + c.req.Target + " HTTP/1.1", "Host: [fe80::1]:80"}, c.want, fields)
		slices.Sort(got[2:])
		slices.Sort(want[2:])
		if !slices.Equal(got, want) {
			t.Errorf("on the wire\n%q\nwant\n%q", got, want)
		}
	}
}

// closing counts how often it is closed.
type closing struct {
	io.Reader
	closed atomic.Int32
}

func (c *closing) Close() error { c.closed.Add(1); return nil }

// TestRequestsThatAreRefused: nothing of a request that would break the framing
// goes out, and its body is closed.
func TestRequestsThatAreRefused(t *testing.T) {
	address := rawServer(t, func(c net.Conn) {
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("on the wire: %q", b)
		}
	})
	p := newPool(t, address)
	for _, change := range []func(*h1.Request){
		func(r *h1.Request) { r.Method = "" },
		func(r *h1.Request) { r.Method = "GET / HTTP/1.1\r\nX:" },
		func(r *h1.Request) { r.Target = "" },
		func(r *h1.Request) { r.Target = "/ x" },
		func(r *h1.Request) { r.Target = "/\r\nX: y" },
		func(r *h1.Request) { r.Target = "/\x7f" },
		func(r *h1.Request) { r.Header = http.Header{"X": {"a\r\nY: b"}} },
		func(r *h1.Request) { r.Header = http.Header{"X": {"a long value\x00 with a zero"}} },
		func(r *h1.Request) { r.Header = http.Header{"X Y": {"a"}} },
		func(r *h1.Request) { r.Header = http.Header{"": {"a"}} },
		func(r *h1.Request) { r.Header = http.Header{"Ü": {"a"}} },
		func(r *h1.Request) { r.Header = http.Header{"X:": {"a"}} },
		func(r *h1.Request) { r.UserAgent = "a\nb" },
		func(r *h1.Request) { r.Length, r.Trailer = -1, http.Header{"Content-Length": nil} },
		func(r *h1.Request) { r.Length, r.Trailer = -1, http.Header{"a b": nil} },
		func(r *h1.Request) { r.Length = 5 },                        // too short
		func(r *h1.Request) { r.Length = 3 },                        // too long
		func(r *h1.Request) { r.Body = &closing{Reader: broken{}} }, // not to be had
	} {
		req := post("four")
		body := &closing{Reader: req.Body}
		req.Body = body
		change(req)
		_, _, trip, err := do(t, p, req)
		if err == nil || trip.Wrote || trip.Stale() {
			t.Errorf("%+v: error %v, trip %+v; want a refusal and nothing written", req, err, trip)
		}
		if c := req.Body.(*closing); c.closed.Load() == 0 {
			t.Errorf("%+v: the body was not closed", req)
		}
	}
}

var errBroken = errors.New("the source broke")

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errBroken }

// TestBodiesThatBreak: the other side must not take a body that could not be
// read to its end for a complete one.
func TestBodiesThatBreak(t *testing.T) {
	complete := make(chan bool, 1)
	address, _ := server(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		complete <- err == nil
	})
	p := newPool(t, address)
	for _, c := range []struct {
		name   string
		body   io.Reader
		length int64
		want   error
	}{
		{"breaks, unknown length", io.MultiReader(strings.NewReader("some"), broken{}), -1, errBroken},
		{"breaks, known length", io.MultiReader(strings.NewReader("some"), broken{}), 100, errBroken},
		{"too short", strings.NewReader("some"), 100, nil},
		{"too long", &slow{strings.NewReader("something"), 3}, 4, nil},
	} {
		body := &closing{Reader: c.body}
		_, _, trip, err := do(t, p, &h1.Request{Method: "POST", Target: "/", Body: body, Length: c.length})
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !trip.Wrote || trip.Stale() {
			t.Errorf("%s: error %v, trip %+v", c.name, err, trip)
		}
		if <-complete {
			t.Errorf("%s: the server took it for complete", c.name)
		}
		if body.closed.Load() == 0 {
			t.Errorf("%s: the body was not closed", c.name)
		}
	}
	// A trailer that cannot be sent spoils the body too.
	req := streamed(io.NopCloser(strings.NewReader("some")))
	req.Trailer = http.Header{"X": {"a\r\nb"}}
	if _, _, _, err := do(t, p, req); err == nil || <-complete {
		t.Errorf("error %v", err)
	}
}

// TestInterimAnswersAreSkipped covers 100 and 103 before the answer proper.
func TestInterimAnswersAreSkipped(t *testing.T) {
	address, _ := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "a")
		for range 5 {
			w.WriteHeader(http.StatusEarlyHints)
		}
		w.WriteHeader(http.StatusContinue)
		_, _ = io.WriteString(w, "answer")
	})
	p := newPool(t, address)
	for range 2 {
		resp, body, _, err := do(t, p, get("/"))
		if err != nil || resp.StatusCode != 200 || body != "answer" {
			t.Fatalf("%v %q %v", resp, body, err)
		}
	}
}

// TestMaxConns makes many calls at once and sees no more connections than there
// may be.
func TestMaxConns(t *testing.T) {
	const most, callers, calls = 3, 20, 30
	var now, peak atomic.Int32
	address, connections := server(t, func(w http.ResponseWriter, r *http.Request) {
		peak.Store(max(peak.Load(), now.Add(1)))
		defer now.Add(-1)
		if r.URL.Path == "/close" {
			w.Header().Set("Connection", "close")
		}
		_, _ = io.Copy(w, r.Body)
	})
	p := newPool(t, address, func(c *h1.Config) { c.MaxConns = most })
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			for j := range calls {
				req := post("x")
				if (i+j)%10 == 0 {
					req.Target = "/close"
				}
				if _, body, _, err := do(t, p, req); err != nil || body != "x" {
					t.Errorf("%q %v", body, err)
				}
			}
		})
	}
	group.Wait()
	if peak.Load() > most {
		t.Errorf("%d requests at once, want at most %d", peak.Load(), most)
	}
	if n := connections.Load(); n > most+callers*calls/10 {
		t.Errorf("%d connections", n)
	}
}

// TestWaitingForAConnectionEndsWithTheCaller covers callers that give up.
func TestWaitingForAConnectionEndsWithTheCaller(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 1)
	address, _ := server(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			arrived <- struct{}{}
			<-release
		}
	})
	p := newPool(t, address, func(c *h1.Config) { c.MaxConns = 1 })
	var group sync.WaitGroup
	group.Go(func() {
		if _, _, _, err := do(t, p, get("/wait")); err != nil {
			t.Error(err)
		}
	})
	<-arrived
	ctx, cancel := context.WithCancelCause(t.Context())
	for range 5 {
		group.Go(func() {
			if _, trip, err := p.RoundTrip(ctx, get("/")); !errors.Is(err, errBroken) || trip.Conn != nil {
				t.Errorf("%v %+v, want the caller's cause", err, trip)
			}
		})
		group.Go(func() {
			if _, _, _, err := do(t, p, get("/")); err != nil {
				t.Error(err)
			}
		})
	}
	cancel(errBroken)
	close(release)
	group.Wait()
}

// TestCloseEndsConnectionsAfterTheirExchange: a closed pool still serves, but
// keeps nothing.
func TestCloseEndsConnectionsAfterTheirExchange(t *testing.T) {
	address, connections := server(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), 100_000))
	})
	p := newPool(t, address)
	resp, _, err := p.RoundTrip(t.Context(), get("/"))
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || len(b) != 100_000 {
		t.Errorf("%d bytes, error %v", len(b), err)
	}
	for range 2 {
		if _, _, trip, err := do(t, p, get("/")); err != nil || trip.Reused {
			t.Errorf("%+v %v", trip, err)
		}
	}
	if n := connections.Load(); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}
