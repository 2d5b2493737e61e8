package service_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/service"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var persons = civibus.ServiceID{ClientID: civibus.ClientID{MemberID: civibus.MemberID{Instance: "DEMO", Class: "GOV", Code: "2000"}, Subsystem: "population"}, Service: "persons"}

func newSet(t *testing.T, u service.Upstream) *service.Set {
	t.Helper()
	u.Service = persons
	s, err := service.NewSet([]service.Upstream{u}, service.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func call(t *testing.T, s *service.Set, method, path, query string, header http.Header, body string) (*http.Response, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	resp, err := s.Call(ctx, persons, method, path, query, header, r, int64(len(body)))
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func wantCode(t *testing.T, err error, code civibus.FaultCode) {
	t.Helper()
	var fault *civibus.Fault
	if !errors.As(err, &fault) || fault.Code != code || fault.Place != civibus.ProviderGateway {
		t.Fatalf("error %v, want a fault %s of the provider's gateway", err, code)
	}
}

// rawServer runs handle for every TCP connection.
func rawServer(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		inner := make(chan struct{}, 1024)
		n := 0
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			n++
			go func() {
				defer func() { inner <- struct{}{} }()
				defer c.Close()
				handle(c)
			}()
		}
		for range n {
			<-inner
		}
	}()
	return "http://" + l.Addr().String()
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

// TestTargetReachesTheServiceByteForByte covers X-Road's URL rule.
func TestTargetReachesTheServiceByteForByte(t *testing.T) {
	lines := make(chan string, 1)
	address := rawServer(t, func(c net.Conn) {
		line, _, _ := strings.Cut(readHead(c), "\r\n")
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		lines <- line
	})
	for _, c := range []struct{ base, path, query, want string }{
		{"", "", "", "/"},
		{"", "/", "", "/"},
		{"/", "/x", "", "/x"},
		{"/api", "/x", "", "/api/x"},
		{"/api/", "/x", "", "/api/x"},
		{"/api/", "", "", "/api/"},
		{"/api", "", "a=b", "/api?a=b"},
		{"/api/", "//x", "", "/api//x"},
		{"", "//x/", "", "//x/"},
		{"/a%2Fpi", "/s%2Fub/%c3%b6%C3%A4/path%3B/;v=1/+/", "a=1&a=2&b=%20+&c=%3b&d?e/f", "/a%2Fpi/s%2Fub/%c3%b6%C3%A4/path%3B/;v=1/+/?a=1&a=2&b=%20+&c=%3b&d?e/f"},
		{"", `/a|b"<>^{}[]` + "`", `q={"x":[1]}`, `/a|b"<>^{}[]` + "`" + `?q={"x":[1]}`},
		{"", "//a|b", "", "http://HOST//a|b"}, // the absolute form says the same
		{"", "/bad%zzescape%", "", "/bad%zzescape%"},
		{"", "/a/../b/./c", "", "/a/../b/./c"},
	} {
		s := newSet(t, service.Upstream{URL: address + c.base})
		if _, _, err := call(t, s, "GET", c.path, c.query, nil, ""); err != nil {
			t.Fatalf("%q + %q: %v", c.base, c.path, err)
		}
		want := "GET " + strings.ReplaceAll(c.want, "HOST", strings.TrimPrefix(address, "http://")) + " HTTP/1.1"
		if got := <-lines; got != want {
			t.Errorf("%q + %q: on the wire\n%s\nwant\n%s", c.base, c.path, got, want)
		}
	}
}

func TestPathsThatAreRefused(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("reached the service: %s", r.RequestURI) }))
	defer server.Close()
	s := newSet(t, service.Upstream{URL: server.URL + "/api"})
	for _, path := range []string{"/..", "/../admin", "/%2e%2e/admin", "/%2E%2e%2fadmin", "/x/../../admin", "/..%5cadmin", "/%252e%252e/admin", "/..;a=b/admin", "/x y", "/x\r\nHost: evil", "/x#y", "/x\x00", "x", "/x?y"} {
		if _, _, err := call(t, s, "GET", path, "", nil, ""); err == nil {
			t.Errorf("path %q was taken", path)
		} else {
			wantCode(t, err, civibus.FaultBadRequest)
		}
	}
	_, _, err := call(t, s, "GET", "/", "a b", nil, "")
	wantCode(t, err, civibus.FaultBadRequest)
	for _, method := range []string{"CONNECT", "get", "FOO", "", "GET / HTTP/1.1\r\n"} {
		_, _, err := call(t, s, method, "/", "", nil, "")
		wantCode(t, err, civibus.FaultBadRequest)
	}
}

func TestMethodsBodiesAndHeaders(t *testing.T) {
	heads := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		heads <- fmt.Sprintf("%s length=%d te=%v body=%s header=%v", r.Method, r.ContentLength, r.TransferEncoding, body, r.Header)
		w.Header().Set("Server", "secret/1.0")
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Location", "http://elsewhere.invalid/")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.Header().Set("Connection", "keep-alive, X-Hop, X-Road-Id")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("X-Road-Id", "9")
		w.WriteHeader(302)
		_, _ = io.WriteString(w, "moved")
	}))
	defer server.Close()
	s := newSet(t, service.Upstream{URL: server.URL})
	sent := http.Header{
		"X-Road-Client": {"a"}, "Authorization": {"Bearer x"}, "Cookie": {"c=1"}, "Content-Type": {"multipart/form-data; boundary=zz"}, "X-Custom": {"1", "2"}, "Accept-Encoding": {"br"},
		"User-Agent": {"secret"}, "Te": {"trailers"}, "Trailer": {"X"}, "Connection": {"keep-alive, X-Named"}, "X-Named": {"1"}, "Keep-Alive": {"1"}, "Proxy-Authorization": {"x"}, "Upgrade": {"h2c"},
		"Expect": {"100-continue"}, "Content-Length": {"99"}, "Transfer-Encoding": {"chunked"}, "Host": {"evil"},
	}
	for _, method := range []string{"DELETE", "GET", "HEAD", "OPTIONS", "TRACE", "POST", "PUT", "PATCH"} {
		resp, body, err := call(t, s, method, "/", "", sent, "hello")
		if err != nil {
			t.Fatal(err)
		}
		want := method + " length=0 te=[] body= header="
		switch method {
		case "POST", "PUT", "PATCH":
			want = method + " length=5 te=[] body=hello header="
		}
		length := ""
		if method == "POST" || method == "PUT" || method == "PATCH" {
			length = "Content-Length:[5] "
		}
		want += "map[Accept-Encoding:[br] Authorization:[Bearer x] " + length + "Content-Type:[multipart/form-data; boundary=zz] Cookie:[c=1] User-Agent:[civibus] X-Custom:[1 2] X-Road-Client:[a]]"
		if got := <-heads; got != want {
			t.Errorf("the service saw\n%s\nwant\n%s", got, want)
		}
		if resp.StatusCode != 302 || resp.Header.Get("Location") == "" || resp.Header.Get("ETag") != `"1"` || len(resp.Header["Set-Cookie"]) != 2 || resp.Header.Get("X-Road-Id") != "9" {
			t.Errorf("%s: answer %d %v", method, resp.StatusCode, resp.Header)
		}
		for _, name := range []string{"Server", "Connection", "Content-Length", "X-Hop"} {
			if _, ok := resp.Header[name]; ok {
				t.Errorf("%s: the answer has %s", method, name)
			}
		}
		if method == "HEAD" && body != "" || method != "HEAD" && (body != "moved" || resp.ContentLength != 5) {
			t.Errorf("%s: body %q, length %d", method, body, resp.ContentLength)
		}
	}
	// A body of unknown length goes in chunks; an empty one has length 0.
	resp, err := s.Call(t.Context(), persons, "POST", "/", "", http.Header{}, struct{ io.Reader }{strings.NewReader("abc")}, -1)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := <-heads; !strings.HasPrefix(got, "POST length=-1 te=[chunked] body=abc") {
		t.Error(got)
	}
	if _, _, err := call(t, s, "POST", "/", "", http.Header{}, ""); err != nil {
		t.Fatal(err)
	}
	if got := <-heads; !strings.HasPrefix(got, "POST length=0 te=[] body= header=map[Content-Length:[0]") {
		t.Error(got)
	}
	if sent.Get("User-Agent") != "secret" {
		t.Error("the caller's header was changed")
	}
}

func TestNoUpstreamAndBadConfiguration(t *testing.T) {
	s, err := service.NewSet(nil, service.Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = call(t, s, "GET", "/", "", nil, "")
	wantCode(t, err, civibus.FaultNoUpstream)
	if s.Has(persons) {
		t.Error("Has says yes")
	}
	key := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(key, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		u    service.Upstream
		want string
	}{
		{service.Upstream{}, "exactly one"},
		{service.Upstream{URL: "http://x", Handler: http.NotFoundHandler()}, "exactly one"},
		{service.Upstream{URL: "ftp://x"}, "http or https"},
		{service.Upstream{URL: "/x"}, "http or https"},
		{service.Upstream{URL: "http:opaque"}, "HOST"},
		{service.Upstream{URL: "http://u:verysecret@x/"}, "secrets do not belong"},
		{service.Upstream{URL: "http://x/?a=b"}, "no query"},
		{service.Upstream{URL: "http://x/#b"}, "no query"},
		{service.Upstream{URL: "http://x:bad port/"}, "URL"},
		{service.Upstream{URL: "https://x", CA: "/no/such/file"}, "CA file"},
		{service.Upstream{URL: "https://x", CA: key}, "no PEM certificate"},
		{service.Upstream{URL: "https://x", ClientKey: key}, "or neither"},
		{service.Upstream{URL: "https://x", ClientKey: key, ClientCertificate: key}, "chmod 600"},
		{service.Upstream{URL: "https://x", HealthPath: "x"}, "health path"},
	} {
		c.u.Service = persons
		err := s.Replace([]service.Upstream{c.u})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), persons.String()) {
			t.Errorf("%+v: error %v, want one with %q that names the service", c.u, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "verysecret") {
			t.Error("the error holds a password")
		}
	}
	twice := service.Upstream{Service: persons, URL: "http://x"}
	if err := s.Replace([]service.Upstream{twice, twice}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Error(err)
	}
}

func TestTLSToTheService(t *testing.T) {
	dir := t.TempDir()
	clientKey, clientCertificate := clientPair(t, dir)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	_, body, err := call(t, newSet(t, service.Upstream{URL: server.URL, CA: ca, ClientCertificate: clientCertificate, ClientKey: clientKey}), "GET", "/", "", nil, "")
	if err != nil || body != "" {
		t.Errorf("body %q, error %v", body, err)
	}
	// Without the client certificate, and without trust in the service's.
	_, _, err = call(t, newSet(t, service.Upstream{URL: server.URL, CA: ca}), "GET", "/", "", nil, "")
	wantCode(t, err, civibus.FaultNetwork)
	s := newSet(t, service.Upstream{URL: server.URL})
	_, _, err = call(t, s, "GET", "/", "", nil, "")
	wantCode(t, err, civibus.FaultNetwork)
	if !strings.Contains(err.Error(), "not trusted") {
		t.Error(err)
	}
	if h := s.Health(t.Context()); h[0].OK || !strings.Contains(h[0].Detail, "TLS handshake") {
		t.Errorf("%+v", h)
	}
}

func clientPair(t *testing.T, dir string) (keyFile, certificateFile string) {
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
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile, certificateFile = filepath.Join(dir, "client.key"), filepath.Join(dir, "client.crt")
	for path, block := range map[string]*pem.Block{keyFile: {Type: "PRIVATE KEY", Bytes: private}, certificateFile: {Type: "CERTIFICATE", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return keyFile, certificateFile
}

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
			s := newSet(t, service.Upstream{URL: rawServer(t, c.do), AnswerTimeout: 300 * time.Millisecond, StallTimeout: 300 * time.Millisecond})
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
