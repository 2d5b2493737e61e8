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
		{service.Upstream{URL: "http://bücher.example/"}, "xn--"},
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
