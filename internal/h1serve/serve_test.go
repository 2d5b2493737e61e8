package h1serve_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/civibus/civibus/internal/h1serve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// serve serves a handler until the test ends and returns its address.
func serve(t *testing.T, h http.HandlerFunc, change ...func(*h1serve.Options)) (*h1serve.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := h1serve.Options{Handler: h, HeadTimeout: patience, IdleTimeout: patience, StallTimeout: patience, MaxHeadBytes: 64 << 10}
	for _, f := range change {
		f(&o)
	}
	s := h1serve.New(o)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(s.Shutdown(ctx), <-done); err != nil {
			t.Error(err)
		}
	})
	return s, l.Addr().String()
}

// client is a connection that speaks as it likes.
type client struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, address string) *client {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{t, c, bufio.NewReader(c)}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Error(err)
	}
}

// answer reads an answer to a request of this method with its whole body.
func (c *client) answer(method string) (*http.Response, string, error) {
	resp, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// want reads an answer and compares it.
func (c *client) want(status int, body string) *http.Response {
	c.t.Helper()
	resp, got, err := c.answer("GET")
	if err != nil || resp.StatusCode != status || got != body {
		c.t.Fatalf("%v %.300q %v, want %d %q", resp, got, err, status, body)
	}
	return resp
}

// rest reads until the server ends the connection.
func (c *client) rest() string {
	c.t.Helper()
	text, err := io.ReadAll(c.in)
	if err != nil {
		c.t.Errorf("%q, then %v", text, err)
	}
	return string(text)
}

const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

var dates = regexp.MustCompile(`Date: [^\r]*GMT\r\n`)

// TestAnswers compares whole answers, byte by byte but for their date.
func TestAnswers(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 1<<10)
	for name, c := range map[string]struct {
		request string
		handler http.HandlerFunc
		want    string
	}{
		"nothing said": {get, func(http.ResponseWriter, *http.Request) {},
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		"short body": {get, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); _, _ = w.Write([]byte("abc")) },
			"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nabc"},
		"unknown status": {get, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(299); w.WriteHeader(500) },
			"HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n"},
		"own length": {get, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "3")
			_, _ = w.Write([]byte("ab"))
			if _, err := w.Write([]byte("cd")); err != http.ErrContentLength {
				t.Error(err)
			}
		}, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"}, // and the connection ends
		"long body": {get, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, long) },
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4000\r\n" + long + "\r\n0\r\n\r\n"},
		"flushed": {get, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("ab"))
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write([]byte("c"))
		}, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"},
		"trailers": {get, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "sum, Content-Length")
			_, _ = w.Write([]byte("ab"))
			w.Header().Set("Sum", "1")
			w.Header().Set("Other", "2")
		}, "HTTP/1.1 200 OK\r\nTrailer: sum, Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nSum: 1\r\n\r\n"},
		"HEAD": {"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, long) },
			"HTTP/1.1 200 OK\r\nContent-Length: 16384\r\n\r\n"},
		"HEAD, length not known": {"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", func(http.ResponseWriter, *http.Request) {},
			"HTTP/1.1 200 OK\r\n\r\n"},
		"no content": {get, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "2")
			w.WriteHeader(204)
			if _, err := w.Write([]byte("ab")); err != http.ErrBodyNotAllowed {
				t.Error(err)
			}
		}, "HTTP/1.1 204 No Content\r\n\r\n"},
		"not modified": {get, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) },
			"HTTP/1.1 304 Not Modified\r\n\r\n"},
		"fields that would break the head": {get, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["X"] = []string{"a\r\nSet-Cookie: b\x00"}
			w.Header()["Y: z\r\n"] = []string{"a"}
			w.Header()["Transfer-Encoding"] = []string{"gzip"}
			w.Header()["Content-Length"] = []string{"many"}
		}, "HTTP/1.1 200 OK\r\nX: a  Set-Cookie: b \r\nContent-Length: 0\r\n\r\n"},
		"handler closes": {get, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") },
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
		"client closes": {"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + get, func(http.ResponseWriter, *http.Request) {},
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
		"HTTP/1.0": {"GET / HTTP/1.0\r\n\r\n", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("abc")) },
			"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc"},
		"HTTP/1.0 keeps alive": {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("abc")) },
			"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc"},
		"HTTP/1.0, long": {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, long) },
			"HTTP/1.0 200 OK\r\n\r\n" + long},
		"cut": {get, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("ab"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"},
		"status that is none": {get, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(100) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var complaints atomic.Int32
			_, address := serve(t, c.handler, func(o *h1serve.Options) {
				o.Complain = func(e h1serve.Event, _ string, err error) { complaints.Add(1) }
			})
			client := dial(t, address)
			client.send(c.request)
			_ = client.Conn.(*net.TCPConn).CloseWrite()
			if got := dates.ReplaceAllString(client.rest(), ""); got != c.want {
				t.Errorf("got  %.300q\nwant %.300q", got, c.want)
			}
			if (complaints.Load() > 0) != (name == "status that is none") {
				t.Errorf("%d complaints", complaints.Load())
			}
		})
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
}

// TestRefusals holds that bad requests are answered, reach no handler, and that
// nothing after them is taken for a request.
func TestRefusals(t *testing.T) {
	_, address := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("the handler got %s", r.RequestURI) })
	for text, want := range map[string]string{
		"GET /a HTTP/1.1\r\n\r\n":      "400 Bad Request: missing required Host field",
		"GET /a HTTP/1.1\nHost: a\n\n": "400 Bad Request: malformed request line",
		"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":      "400 Bad Request: two framings",
		"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n":                          "501 Not Implemented: unsupported transfer coding",
		"GET /a HTTP/3.0\r\nHost: a\r\n\r\n":                                                                   "505 HTTP Version Not Supported: unsupported protocol version",
		"GET /a HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 70<<10) + "\r\n\r\n":                         "431 Request Header Fields Too Large: head too long",
		"GET /a HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n":                                                 "417 Expectation Failed: unknown expectation",
		"\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n":                                                           "400 Bad Request: malformed request line",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n":                                                 "400 Bad Request: malformed request line",
		"GET /a HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\nContent-Length: 44\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n": "400 Bad Request: malformed field name",
	} {
		c := dial(t, address)
		c.send(text + get)
		resp, body, err := c.answer("GET")
		if err != nil || body != want || !resp.Close {
			t.Errorf("%.60q: %v %q %v, want %q", text, resp, body, err, want)
		}
		if rest := c.rest(); rest != "" {
			t.Errorf("%.60q: %q follows", text, rest)
		}
	}
}

func TestPipelined(t *testing.T) {
	_, address := serve(t, echo)
	c := dial(t, address)
	c.send("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: a\r\n\r\n\r\nPOST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + get)
	for _, want := range []string{"POST /1 abc", "GET /2 ", "POST /3 a", "GET / "} {
		c.want(200, want)
	}
}

func TestContinue(t *testing.T) {
	_, address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			w.WriteHeader(403)
			if n, err := r.Body.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Error("the body was read though the client was not told to send it")
			}
			return
		}
		echo(w, r)
	}, func(o *h1serve.Options) { o.StallTimeout = 50 * time.Millisecond })
	head := func(path string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
	}
	c := dial(t, address)
	c.send(head("/"))
	if line, err := c.in.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q %v", line, err)
	}
	if line, err := c.in.ReadString('\n'); err != nil || line != "\r\n" {
		t.Fatalf("%q %v", line, err)
	}
	c.send("abc" + head("/refused"))
	c.want(200, "POST / abc")
	if resp := c.want(403, ""); !resp.Close {
		t.Error("the connection is kept though the body may still come")
	}
	c.rest()
}

// TestBodyThatIsNotRead holds that what a handler leaves is neither taken for a
// request nor makes the client lose the answer.
func TestBodyThatIsNotRead(t *testing.T) {
	_, address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/close" {
			_ = r.Body.Close()
			if _, err := r.Body.Read(make([]byte, 1)); err != http.ErrBodyReadAfterClose {
				t.Error(err)
			}
		}
		_, _ = io.WriteString(w, "no, thank you")
	})
	for _, path := range []string{"/", "/close"} {
		c := dial(t, address)
		for range 2 { // a short rest is read
			c.send("POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000))
			if c.want(200, "no, thank you").Close {
				t.Error("the connection ends")
			}
		}
		c.send("POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 1000000))
		if !c.want(200, "no, thank you").Close {
			t.Error("the connection does not end")
		}
		c = dial(t, address)
		c.send("POST " + path + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n\r\n")
		if !c.want(200, "no, thank you").Close {
			t.Error("the connection does not end after a malformed rest")
		}
	}
}

// TestBodyLeftToOthers holds that a read of the body that outlives the handler
// ends and reads nothing of the next request.
func TestBodyLeftToOthers(t *testing.T) {
	left := make(chan error, 1)
	_, address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		begun := make(chan struct{})
		go func() {
			close(begun)
			_, err := io.ReadAll(r.Body)
			left <- err
		}()
		<-begun
		_, _ = io.WriteString(w, "done")
	}, func(o *h1serve.Options) { o.StallTimeout = 10 * time.Millisecond }) // for a rest that is not being read
	for range 20 {
		c := dial(t, address)
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
		c.send("d")
		c.want(200, "done")
		select {
		case err := <-left:
			if err == nil {
				t.Error("a cut body was read to its end")
			}
		case <-time.After(patience):
			t.Fatal("the read does not end")
		}
	}
}

func TestStalledBody(t *testing.T) {
	failed := make(chan error, 1)
	_, address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		failed <- err
	}, func(o *h1serve.Options) { o.StallTimeout = 50 * time.Millisecond })
	c := dial(t, address)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
	var timeout net.Error
	if err := <-failed; !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Error(err)
	}
}

// TestHandlersDeadline holds that a deadline counts at once, for a read that
// waits too.
func TestHandlersDeadline(t *testing.T) {
	failed := make(chan error, 1)
	_, address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if _, err := io.ReadFull(r.Body, make([]byte, 3)); err != nil {
			t.Error(err)
		}
		read := make(chan error)
		go func() {
			_, err := r.Body.Read(make([]byte, 1))
			read <- err
		}()
		if err := errors.Join(control.SetReadDeadline(time.Now().Add(50*time.Millisecond)), control.SetWriteDeadline(time.Now().Add(patience))); err != nil {
			t.Error(err)
		}
		failed <- <-read
	})
	c := dial(t, address)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
	var timeout net.Error
	if err := <-failed; !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Error(err)
	}
}

func TestFullDuplex(t *testing.T) {
	_, address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if err := control.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		for {
			b := make([]byte, 1)
			if n, err := r.Body.Read(b); n == 0 {
				if err != io.EOF {
					t.Error(err)
				}
				return
			}
			_, _ = w.Write(b)
			_ = control.Flush()
		}
	})
	c := dial(t, address)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range "abc" {
		b := make([]byte, 1)
		if _, err := io.ReadFull(resp.Body, b); err != nil || b[0] != byte(want) {
			t.Fatalf("%q %v, want %q", b, err, want)
		}
		c.send(fmt.Sprintf("1\r\n%c\r\n", want+1))
	}
	c.send("0\r\n\r\n")
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "d" {
		t.Errorf("%q %v", rest, err)
	}
	c.send(get)
	c.want(200, "")
}

// TestClientThatGoesAway holds that a call that takes long learns of it, and
// that neither a further request nor a watch that was in vain changes anything.
func TestClientThatGoesAway(t *testing.T) {
	release := make(chan struct{})
	calls := make(chan context.Context)
	_, address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		select {
		case calls <- r.Context():
		case <-release:
		}
		switch r.URL.Path {
		case "/gone":
			<-r.Context().Done()
		default:
			<-release
		}
		_, _ = w.Write(body)
	})
	const body = "Host: a\r\nContent-Length: 1\r\n\r\nx"
	wait, gone, pipelined := dial(t, address), dial(t, address), dial(t, address)
	wait.send("POST /wait HTTP/1.1\r\n" + body)
	waiting := <-calls
	pipelined.send("POST /wait HTTP/1.1\r\n" + body + "POST /wait HTTP/1.1\r\n" + body)
	busy := <-calls
	gone.send("POST /gone HTTP/1.1\r\n" + body)
	ctx := <-calls
	_ = gone.Close()
	select {
	case <-ctx.Done():
	case <-time.After(patience):
		t.Fatal("the call did not learn that its client is gone")
	}
	if waiting.Err() != nil || busy.Err() != nil {
		t.Errorf("calls whose clients are there ended: %v, %v", waiting.Err(), busy.Err())
	}
	close(release)
	wait.want(200, "x")
	if <-waiting.Done(); waiting.Err() == nil {
		t.Error("the context outlives the call")
	}
	pipelined.want(200, "x")
	pipelined.want(200, "x")
	for range 3 {
		wait.send("POST /again HTTP/1.1\r\n" + body) // on a connection that was watched
		wait.want(200, "x")
	}
}

func TestShutdown(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	s, address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(begun)
			<-release
		}
		_, _ = io.WriteString(w, "ok")
	})
	fresh, idle, busy := dial(t, address), dial(t, address), dial(t, address)
	idle.send(get)
	idle.want(200, "ok")
	busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + get)
	<-begun
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(ctx) }()
	fresh.rest() // both end at once
	idle.rest()
	cancel()
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown with a request under way: %v", err)
	}
	go func() { stopped <- s.Shutdown(context.Background()) }()
	close(release)
	if resp := busy.want(200, "ok"); !resp.Close {
		t.Error("the answer does not say that the connection ends")
	}
	if rest := busy.rest(); rest != "" {
		t.Errorf("another answer: %q", rest)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsCalls(t *testing.T) {
	begun := make(chan struct{})
	s, address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	})
	dial(t, address).send(get)
	<-begun
	_ = s.Close()
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestPanicIsToldAndEndsTheConnection(t *testing.T) {
	var mu sync.Mutex
	var told error
	_, address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "held back")
		panic("at the disco")
	}, func(o *h1serve.Options) {
		o.Complain = func(e h1serve.Event, remote string, err error) {
			mu.Lock()
			defer mu.Unlock()
			told = fmt.Errorf("%s of %s: %w", e, remote, err)
		}
	})
	c := dial(t, address)
	c.send(get)
	if rest := c.rest(); rest != "" {
		t.Errorf("%q", rest)
	}
	mu.Lock()
	defer mu.Unlock()
	if told == nil || !strings.Contains(told.Error(), "at the disco") || !strings.Contains(told.Error(), c.LocalAddr().String()) {
		t.Errorf("told: %v", told)
	}
}

// TestSlowAndIdle holds that a head that comes slowly and a client that says
// nothing end; the first gets as long as the head's timeout.
func TestSlowAndIdle(t *testing.T) {
	_, address := serve(t, echo, func(o *h1serve.Options) { o.HeadTimeout = 50 * time.Millisecond })
	silent, slow := dial(t, address), dial(t, address)
	slow.send(get)
	slow.want(200, "GET / ")
	slow.send("GET / HTTP/1.1\r\nHo") // within the idle timeout, which is long
	for _, c := range []*client{silent, slow} {
		if rest := c.rest(); rest != "" {
			t.Errorf("%q", rest)
		}
	}
	_, address = serve(t, echo, func(o *h1serve.Options) { o.IdleTimeout = 50 * time.Millisecond })
	c := dial(t, address)
	c.send(get)
	c.want(200, "GET / ")
	c.rest()
}

// failing is a listener that fails in the given ways, then accepts.
type failing struct {
	net.Listener
	errs []error
}

func (l *failing) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	return l.Listener.Accept()
}

func TestAcceptErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	complaints := 0
	s := h1serve.New(h1serve.Options{Handler: http.NotFoundHandler(), HeadTimeout: patience, IdleTimeout: patience, StallTimeout: patience, MaxHeadBytes: 1 << 10,
		Complain: func(h1serve.Event, string, error) { complaints++ }})
	broken := errors.New("broken")
	none := &net.OpError{Op: "accept", Err: syscall.EMFILE}
	if err := s.Serve(&failing{l, []error{none, none, broken}}); err != broken || complaints != 2 {
		t.Errorf("%v after %d complaints", err, complaints)
	}
}

// TestManyAtOnce has many clients call at once, in pieces and whole.
func TestManyAtOnce(t *testing.T) {
	_, address := serve(t, echo)
	var group sync.WaitGroup
	for i := range 20 {
		c := dial(t, address)
		group.Go(func() {
			for n := range 50 {
				body := bytes.Repeat([]byte{'a' + byte(n%26)}, n*i*10)
				text := fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", n, len(body), body)
				for len(text) > 0 {
					m := min(len(text), 1+n*97)
					if _, err := io.WriteString(c, text[:m]); err != nil {
						t.Error(err)
						return
					}
					text = text[m:]
				}
				_, got, err := c.answer("POST")
				if want := fmt.Sprintf("POST /%d %s", n, body); err != nil || got != want {
					t.Errorf("%.50q %v, want %.50q", got, err, want)
					return
				}
			}
		})
	}
	group.Wait()
}
