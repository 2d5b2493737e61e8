package conformance

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/service"
	"github.com/civibus/civibus/test/fixture"
)

func Test01MissingClientIsAnError(t *testing.T) {
	b := newBus(t)
	wantError(t, b.town.Call("GET", path("persons"), nil), "Server.ClientProxy.InvalidClientIdentifier")
}

func Test02InvalidURIIsAnError(t *testing.T) {
	b := newBus(t)
	wantError(t, b.town.Call("GET", "/r1/invalid", nil, "X-Road-Client", client), "Server.ClientProxy.InternalError")
}

func Test03PostedJSONIsEchoed(t *testing.T) {
	b := newBus(t)
	a := b.call("POST", "/echo", jsonBody(`{"value":42}`), "Content-Type", "application/json")
	wantOK(t, a, `{"value":42}`)
	if ct := a.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type %q", ct)
	}
}

func Test04MessageIDReachesTheProviderAndComesBack(t *testing.T) {
	b := newBus(t)
	a := b.call("GET", "/x", nil, "X-Road-Id", "my id/ä?=1")
	wantOK(t, a, "")
	r, _, _ := b.last.get()
	if got := r.Header.Get("X-Road-Id"); got != "my id/ä?=1" {
		t.Errorf("the service got X-Road-Id %q", got)
	}
	if got := a.Header.Get("X-Road-Id"); got != "my id/ä?=1" {
		t.Errorf("the client got X-Road-Id %q", got)
	}
}

func Test05ProviderSeesTheContentLength(t *testing.T) {
	b := newBus(t)
	wantOK(t, b.call("POST", "/x", jsonBody("0123456789")), "0123456789")
	r, _, _ := b.last.get()
	if r.ContentLength != 10 || len(r.TransferEncoding) != 0 {
		t.Errorf("the service saw length %d and transfer encoding %v", r.ContentLength, r.TransferEncoding)
	}
}

func Test06SameMessageIDTwiceGivesDifferentRequestHashes(t *testing.T) {
	b := newBus(t)
	one := b.call("GET", "/x", nil, "X-Road-Id", "same").Header.Get("X-Road-Request-Hash")
	two := b.call("GET", "/x", nil, "X-Road-Id", "same").Header.Get("X-Road-Request-Hash")
	if one == "" || two == "" || one == two {
		t.Errorf("request hashes %q and %q", one, two)
	}
}

func Test07ExactlyOneDate(t *testing.T) {
	b := newBus(t)
	b.serve("two-dates", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = []string{"Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"}
	})
	b.serve("no-date", func(w http.ResponseWriter, r *http.Request) { w.Header()["Date"] = nil })
	for _, s := range []string{"persons", "two-dates", "no-date"} {
		a := b.town.Call("GET", path(s), nil, "X-Road-Client", client)
		if a.StatusCode != 200 || len(a.Header.Values("Date")) != 1 {
			t.Errorf("%s: %d with %q", s, a.StatusCode, a.Header.Values("Date"))
		}
	}
}

// The registry takes no new identifiers with a slash; X-Road's test has one, so
// this test writes the registry by hand.
func Test08EncodedIdentifiersAndRawPath(t *testing.T) {
	b := newBus(t)
	sub := b.office.AddSubsystem("s/ub")
	id := b.office.AddService(sub, "öäå", &b.last, nil)
	caller := b.town.AddSubsystem("d/äsk")
	b.Grant("r2", caller, id)
	a := b.town.Call("GET", "/r1/TEST/GOV/OFFICE/s%2Fub/%C3%B6%C3%A4%C3%A5/path%3B/", nil, "X-Road-Client", "TEST/MUN/TOWN/d%2F%C3%A4sk")
	wantOK(t, a, "")
	if _, target, _ := b.last.get(); target != "/path%3B/" {
		t.Errorf("the service got %q", target)
	}
	if got := a.Header.Get("X-Road-Service"); got != "TEST/GOV/OFFICE/s%2Fub/%C3%B6%C3%A4%C3%A5" {
		t.Errorf("X-Road-Service %q", got)
	}
	if got := a.Header.Get("X-Road-Client"); got != "TEST/MUN/TOWN/d%2F%C3%A4sk" {
		t.Errorf("X-Road-Client %q", got)
	}
}

func Test09EmptyAndTrailingPath(t *testing.T) {
	b := newBus(t)
	for rest, want := range map[string]string{"": "/", "/": "/", "/a": "/a", "/a/": "/a/", "//a//": "//a//", "?q": "/?q"} {
		wantOK(t, b.call("GET", rest, nil), "")
		if _, target, _ := b.last.get(); target != want {
			t.Errorf("path %q reached the service as %q, want %q", rest, target, want)
		}
	}
}

func Test10LargeBinaryAnswerIsIntact(t *testing.T) {
	b := newBus(t)
	content := make([]byte, 13<<20+104729)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(content)
	b.serve("large", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(content)
	})
	a := b.town.Call("GET", path("large"), nil, "X-Road-Client", client)
	if a.StatusCode != 200 || !bytes.Equal(a.Body, content) {
		t.Errorf("status %d, %d bytes, equal: %v", a.StatusCode, len(a.Body), bytes.Equal(a.Body, content))
	}
}

func Test11RedirectIsNotFollowed(t *testing.T) {
	b := newBus(t)
	b.serve("moved", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			t.Error("the redirect was followed")
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(302)
	})
	a := b.town.Call("GET", path("moved"), nil, "X-Road-Client", client)
	if a.StatusCode != 302 || a.Header.Get("Location") != "/elsewhere" || a.Header.Get("X-Road-Error") != "" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
}

func Test12SOAPServiceByREST(t *testing.T) {
	b := newBus(t)
	id := b.office.AddService(b.register, "soap", &b.last, func(s *civibus.Service, _ *service.Upstream) { s.Type = civibus.WSDL })
	b.Grant("r2", b.desk, id)
	wantError(t, b.town.Call("GET", path("soap"), nil, "X-Road-Client", client), "Server.ServerProxy.ServiceType")
}

func Test13MethodNotPermitted(t *testing.T) {
	b := newBus(t)
	b.Grant("r1", b.desk, b.service, civibus.Endpoint{Method: "GET", Path: "/p/*"})
	wantError(t, b.call("PATCH", "/p/1", jsonBody("{}")), "Server.ServerProxy.AccessDenied")
	wantOK(t, b.call("GET", "/p/1", nil), "")
}

func Test14SomeProviderAddressesDoNotResolve(t *testing.T) {
	b := newBus(t)
	closed := fixture.Listen(t)
	dead := closed.Addr().String()
	_ = closed.Close()
	b.Registry.Change(func(v *fixture.View) {
		m, _ := v.Member(b.office.ID)
		m.Gateways = []civibus.Gateway{
			{Code: "gone", Address: net.JoinHostPort("no-such-host.invalid", "5500")},
			{Code: "down", Address: dead},
			{Code: "gw1", Address: b.office.Address},
		}
		v.SetMember(m)
	})
	for range 3 {
		wantOK(t, b.call("POST", "/x", jsonBody("body")), "body")
	}
}

func Test15AcceptMatrixForErrors(t *testing.T) {
	b := newBus(t)
	for _, c := range []struct{ accept, contentType string }{
		{"", "application/json"},
		{"application/json", "application/json"},
		{"*/*", "application/json"},
		{"application/*", "application/json"},
		{"text/xml", "text/xml;charset=utf-8"},
		{"application/xml", "application/xml;charset=utf-8"},
		{"text/*", "text/xml;charset=utf-8"},
		{"text/xml;q=0.1, application/json", "text/xml;charset=utf-8"},
		{"application/json, text/xml", "text/xml;charset=utf-8"},
		{"application/json;q=0.9,application/xml;q=0.8,text/xml", "application/xml;charset=utf-8"},
		{"text/html, application/xhtml+xml, text/*;q=0.2", "text/xml;charset=utf-8"},
		{"text/xml-patch+xml", "application/json"},
		{"garbage///;;,,=", "application/json"},
	} {
		// Once from the consumer's gateway and once from the provider's.
		for _, p := range []string{"/r1/invalid", path("unknown")} {
			fields := []string{"X-Road-Client", client}
			if c.accept != "" {
				fields = append(fields, "Accept", c.accept)
			}
			a := b.town.Call("GET", p, nil, fields...)
			if got := a.Header.Get("Content-Type"); got != c.contentType || a.StatusCode != 500 || a.Header.Get("X-Road-Error") == "" {
				t.Errorf("Accept %q on %s: %d %q, want 500 %q", c.accept, p, a.StatusCode, got, c.contentType)
			}
			if strings.Contains(c.contentType, "xml") != bytes.Contains(a.Body, []byte("<error><type>Server.")) {
				t.Errorf("Accept %q on %s: body %s", c.accept, p, a.Body)
			}
		}
	}
}

func Test16LargeAndStreamedBodies(t *testing.T) {
	b := newBus(t)
	b.serve("digest", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		if _, err := io.Copy(sum, r.Body); err == nil {
			_, _ = w.Write(sum.Sum(nil))
		}
	})
	b.serve("chunks", func(w http.ResponseWriter, r *http.Request) {
		for i := range 100 {
			_, _ = w.Write(bytes.Repeat([]byte{byte(i)}, 40_000))
			_ = http.NewResponseController(w).Flush()
		}
	})
	for _, size := range []int{0, 1, 1 << 20, 1<<20 + 1, 20 << 20} {
		content := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(content)
		want := sha256.Sum256(content)
		for name, body := range map[string]io.Reader{"known": bytes.NewReader(content), "chunked": io.MultiReader(bytes.NewReader(content))} {
			a := b.town.Call("POST", path("digest"), body, "X-Road-Client", client)
			if a.StatusCode != 200 || !bytes.Equal(a.Body, want[:]) {
				t.Errorf("%d bytes, length %s: %d %.200s", size, name, a.StatusCode, a.Body)
			}
		}
	}
	a := b.town.Call("GET", path("chunks"), nil, "X-Road-Client", client)
	if a.StatusCode != 200 || len(a.Body) != 4_000_000 || a.Body[3_999_999] != 99 {
		t.Errorf("chunked answer: %d, %d bytes", a.StatusCode, len(a.Body))
	}
}
