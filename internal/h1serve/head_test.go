package h1serve

import (
	"bufio"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// goodHeads are understood, badHeads refused with a status.
var goodHeads = []string{
	"GET / HTTP/1.1\r\nHost: a\r\n",
	"GET /a%20b?c=d&e HTTP/1.1\r\nHost: a:80\r\nX: 1\r\nx: 2\r\nX-Empty:\r\nX-Space: \t b c \t\r\n",
	"POST http://b:1/c HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\nConnection: keep-alive, Close\r\n",
	"PUT / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: Chunked\r\nTrailer: a, Content-Digest\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: a\r\n",
	"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n",
	"GET / HTTP/1.0\r\n",
	"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n",
	"GET /\xff HTTP/1.1\r\nHost: a\r\nX: \xe9\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\nExpect: 100-Continue\r\n",
}

var badHeads = map[string]int{
	"": 400, "\r\n": 400, "GET\r\n": 400, "GET /\r\n": 400, "GET  / HTTP/1.1\r\nHost: a\r\n": 400, "GET / x HTTP/1.1\r\nHost: a\r\n": 400,
	" GET / HTTP/1.1\r\nHost: a\r\n": 400, "G@T / HTTP/1.1\r\nHost: a\r\n": 400, "GET a HTTP/1.1\r\nHost: a\r\n": 400,
	"GET /%zz HTTP/1.1\r\nHost: a\r\n": 400, "GET /\x01 HTTP/1.1\r\nHost: a\r\n": 400, "GET /\t HTTP/1.1\r\nHost: a\r\n": 400,
	"GET / HTTP/1.2\r\nHost: a\r\n": 505, "GET / HTTP/2.0\r\nHost: a\r\n": 505, "PRI * HTTP/2.0\r\n": 505, "GET / http/1.1\r\nHost: a\r\n": 400, "GET / HTTP/1.1 \r\nHost: a\r\n": 400,
	"GET / HTTP/1.1\nHost: a\n": 400, "GET / HTTP/1.1\r\nHost: a\nX: b\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nX: b\n": 400,
	"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\x7f\r\n": 400,
	"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nX\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nX\xc3\xa4: b\r\n": 400,
	"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb: c\r\n": 400, "GET / HTTP/1.1\r\n Host: a\r\n": 400,
	"GET / HTTP/1.1\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n": 400, "GET / HTTP/1.1\r\nHost: a b\r\n": 400, "GET / HTTP/1.1\r\nHost: a/b\r\n": 400,
	"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n": 400,
	"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n": 400,
	"GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n": 400,
	"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n": 400, "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n": 400,
	"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n": 501, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n": 501,
	"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n": 501, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n": 501,
	"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: content-length\r\n": 400, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: a b\r\n": 400,
	"GET / HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\n": 417, "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n": 417,
	"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("a:\r\n", maxFields): 431,
}

func TestHeads(t *testing.T) {
	for _, text := range goodHeads {
		if !sameAsNetHTTP(t, text) {
			t.Errorf("%q is refused", text)
		}
	}
	for text, want := range badHeads {
		if refused := parseHead(text, &http.Request{}); refused == nil || refused.status != want {
			t.Errorf("%q: %v, want %d", text, refused, want)
		}
	}
}

// FuzzParseHead holds that whatever is understood here is understood by net/http
// too, and in the same way.
func FuzzParseHead(f *testing.F) {
	for _, text := range goodHeads {
		f.Add(text)
	}
	for text := range badHeads {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !strings.Contains(text+"\r\n", "\r\n\r\n") || strings.Index(text+"\r\n", "\r\n\r\n") == len(text)-2 { // as readSection gives it
			sameAsNetHTTP(t, text)
		}
	})
}

// sameAsNetHTTP reports whether a head is understood, and fails if net/http
// understands another thing.
func sameAsNetHTTP(t *testing.T, text string) bool {
	t.Helper()
	var got http.Request
	if refused := parseHead(text, &got); refused != nil {
		return false
	}
	want, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text + "\r\n")))
	if err != nil {
		t.Fatalf("%q is understood, but net/http says: %v", text, err)
	}
	delete(want.Header, "Host") // the server does that
	if pragma := got.Header["Pragma"]; len(pragma) > 0 && pragma[0] == "no-cache" && got.Header["Cache-Control"] == nil {
		delete(want.Header, "Cache-Control") // net/http adds one
	}
	type head struct {
		Method, URI, Proto, Host string
		Minor                    int
		Length                   int64
		Coding                   []string
		Close                    bool
		URL                      string
		Header, Trailer          http.Header
	}
	of := func(r *http.Request) head {
		return head{r.Method, r.RequestURI, r.Proto, r.Host, r.ProtoMinor, r.ContentLength, r.TransferEncoding, r.Close, r.URL.String(), maps.Clone(r.Header), r.Trailer}
	}
	if a, b := of(&got), of(want); !reflect.DeepEqual(a, b) {
		t.Fatalf("%q:\nhere     %+v\nnet/http %+v", text, a, b)
	}
	return true
}
