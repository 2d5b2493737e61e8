package gateway

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/civibus/civibus"
)

// TestRequestHash computes the hash a second time, from the words of
// spec/exchange.md.
func TestRequestHash(t *testing.T) {
	h := http.Header{
		"X-Road-Client": {"A/B/C/D"}, "X-Road-Id": {"1"}, "X-Road-Request-Id": {"2"}, "Accept": {"a/b", "c/d"}, "X-Empty": {""},
		"Authorization": {"Bearer secret"}, "Cookie": {"secret"}, "Content-Digest": {"x"}, "Signature": {"x"}, "Signature-Input": {"x"},
		"Civibus-Height": {"7"}, "Civibus-Body-Length": {"4"}, "Content-Length": {"4"}, "Civibus-Purpose": {"care"},
	}
	text := "POST\r\n/r1/a/b?c=d\r\naccept:a/b\r\naccept:c/d\r\ncivibus-purpose:care\r\nx-empty:\r\nx-road-client:A/B/C/D\r\nx-road-id:1\r\nx-road-request-id:2\r\n"
	first := sha512.Sum512([]byte(text))
	if got := requestHash("POST", "/r1/a/b?c=d", h, nil); got != base64.StdEncoding.EncodeToString(first[:]) {
		t.Errorf("without a body: %s", got)
	}
	body := sha512.Sum512([]byte("body"))
	both := sha512.Sum512(append(first[:], body[:]...))
	if got := requestHash("POST", "/r1/a/b?c=d", h, digest512([]byte("body"))); got != base64.StdEncoding.EncodeToString(both[:]) {
		t.Errorf("with a body: %s", got)
	}
}

func TestHideServers(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"JSON": {
			`{ "openapi": "3.0.0", "info":{"url":"https://keep.example/x"}, "servers" : [ {"description":"d\"\\","url" : "https://a.example:8443/v1?x=1"}, {"url":"http://b.example"}, {"url":"/rel"}, {"url":"https://{h}/y","variables":{"h":{"default":"https://keep/z","url":"https://keep"}}} ], "paths":{"/p":{"servers":[{"url":"https://keep.example/p"}]}} }`,
			`{ "openapi": "3.0.0", "info":{"url":"https://keep.example/x"}, "servers" : [ {"description":"d\"\\","url" : "/v1?x=1"}, {"url":"/"}, {"url":"/rel"}, {"url":"https://{h}/y","variables":{"h":{"default":"https://keep/z","url":"https://keep"}}} ], "paths":{"/p":{"servers":[{"url":"https://keep.example/p"}]}} }`,
		},
		"JSON without servers": {`{"openapi":"3.0.0","x":[[{"url":"https://a/b"}]]}`, `{"openapi":"3.0.0","x":[[{"url":"https://a/b"}]]}`},
		"JSON nested arrays":   {`{"servers":[[{"url":"https://keep/x"}],{"url":"https://gone/y"}]}`, `{"servers":[[{"url":"https://keep/x"}],{"url":"/y"}]}`},
		"YAML":                 {"openapi: 3.0.0 # version\nservers:\n  - url: https://a.example/v1\n    description: d\n  - url: 'https://{h}/v2'\npaths: {}\n", "openapi: 3.0.0 # version\nservers:\n  - url: /v1\n    description: d\n  - url: 'https://{h}/v2'\npaths: {}\n"},
		"YAML unchanged":       {"openapi:   3.0.0\nservers: [{url: /v1}]\n", "openapi:   3.0.0\nservers: [{url: /v1}]\n"},
		"YAML with an alias":   {"x: &u https://a.example/v1\nservers:\n  - url: *u\n", "x: &u /v1\nservers:\n  - url: *u\n"},
	} {
		got, err := hideServers([]byte(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v\nwant %s", name, got, err, c.want)
		}
	}
	for _, in := range []string{"", "just text", "[1,2]", "a: [", "\x00"} {
		if got, err := hideServers([]byte(in)); err == nil && !json.Valid([]byte(in)) {
			t.Errorf("%q: %q without an error", in, got)
		}
	}
}

// FuzzHideServers holds that nothing is left to hide afterwards and that JSON
// stays JSON.
func FuzzHideServers(f *testing.F) {
	f.Add([]byte(`{"servers":[{"url":"https://host.example/x"}]}`))
	f.Add([]byte("servers:\n  - url: https://host.example/x\n"))
	f.Add([]byte(`{"servers":{"url":"https://host.example/x"},"a":[{"b":[]}]}`))
	f.Add([]byte(`{"servers":[{"url":"//a//b"}],"servers":[{"url":"http://c/"}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := hideServers(in)
		if err != nil {
			return
		}
		if json.Valid(in) && !json.Valid(out) {
			t.Fatalf("%q became %q", in, out)
		}
		if again, err := hideServers(out); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%q became %q, and that %q, %v", in, out, again, err)
		}
	})
}

// FuzzParseCall holds that no target or client makes the parser panic, and that
// what it accepts is canonical.
func FuzzParseCall(f *testing.F) {
	f.Add("GET", "/r1/a/b/c/d/e/f?g", "a/b/c/d")
	f.Add("POST", "/r1/%C3%B6/%2F/c/d/e", "a/b/%20")
	f.Add("GET", "http://x/r1/a/b/c/d/e", "a/b/c")
	f.Fuzz(func(t *testing.T, method, uri, client string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Method, r.RequestURI = method, uri
		c, err := parseCall(civibus.ConsumerGateway, r, http.Header{"X-Road-Client": {client}})
		if err != nil {
			var fault *civibus.Fault
			if !errors.As(err, &fault) {
				t.Fatalf("%v is no fault", err)
			}
			return
		}
		again, err := civibus.ParseServiceID(c.serviceText)
		if err != nil || again != c.service {
			t.Fatalf("service %q: %v %v", c.serviceText, again, err)
		}
		if got := joinTarget(c.path, c.query, c.asked); !strings.HasSuffix(uri, got) {
			t.Fatalf("target %q of %q", got, uri)
		}
		if c.servicePath != "" && c.servicePath[0] != '/' || !strings.HasSuffix(c.path, c.servicePath) {
			t.Fatalf("service path %q of %q", c.servicePath, c.path)
		}
	})
}

func TestReadBody(t *testing.T) {
	const limit = 10
	for _, c := range []struct {
		content string
		length  int64
		whole   bool
		fails   bool
	}{
		{"", 0, true, false}, {"", -1, true, false}, {"0123456789", 10, true, false}, {"0123456789", -1, true, false},
		{"0123456789a", 11, false, false}, {"0123456789a", -1, false, false}, {"012", 5, true, true}, {"01234", 3, true, true},
	} {
		whole, stream, err := readBody(iotest.OneByteReader(strings.NewReader(c.content)), c.length, limit)
		if (err != nil) != c.fails {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if c.fails {
			continue
		}
		if (stream == nil) != c.whole {
			t.Errorf("%+v: whole %v", c, stream == nil)
		}
		if stream != nil {
			whole, err = io.ReadAll(stream)
		}
		if err != nil || string(whole) != c.content {
			t.Errorf("%+v: %q %v", c, whole, err)
		}
	}
	broken := errors.New("broken")
	if _, _, err := readBody(iotest.ErrReader(broken), -1, limit); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

// TestWithholding holds that dst never has all of src before release agrees.
func TestWithholding(t *testing.T) {
	for _, content := range []string{"", "x", strings.Repeat("0123456789", 20_000)} {
		for _, refuse := range []error{nil, errors.New("no")} {
			var dst bytes.Buffer
			atRelease := -1
			n, err := withholding(&dst, strings.NewReader(content), func() {}, func() error { atRelease = dst.Len(); return refuse })
			if !errors.Is(err, refuse) || atRelease < 0 || len(content) > 0 && atRelease >= len(content) || int(n) != dst.Len() {
				t.Errorf("%d bytes: %d out at release, %d in the end, %v", len(content), atRelease, n, err)
			}
			if refuse == nil && dst.String() != content {
				t.Errorf("%d bytes: %d came", len(content), dst.Len())
			}
		}
	}
	broken := errors.New("broken")
	_, err := withholding(io.Discard, io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken)), func() {}, func() error {
		t.Error("released a body that failed")
		return nil
	})
	if !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestMetricsNames(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	m, err := newMetrics(r)
	if err != nil {
		t.Fatal(err)
	}
	m.consumer.inflight.Inc()
	m.observe(civibus.ConsumerGateway, civibus.Refused, "access_denied", 1e6)
	m.consumer.requestBytes.Add(1)
	problems, err := testutil.GatherAndLint(r)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	if n := testutil.ToFloat64(m.exchanges.WithLabelValues("consumer", "refused", "access_denied")); n != 1 {
		t.Errorf("counted %v exchanges", n)
	}
}
