package gateway_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/internal/httpd"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/test/fixture"
)

// certificate makes a client certificate.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	k, err := keys.Generate(civibus.TransportKey, civibus.ECDSAP256SHA256)
	if err != nil {
		t.Fatal(err)
	}
	der, err := keys.Certificate(k, civibus.MemberID{Instance: "x", Class: "y", Code: "client"}, []string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := keys.TLSCertificate(k, der)
	if err != nil {
		t.Fatal(err)
	}
	return *c
}

// TestClientAuthentication holds every combination of rule, certificate and
// address. The certificates' handshake is TestClientCertificateOverTLS.
func TestClientAuthentication(t *testing.T) {
	one, two := certificate(t), certificate(t)
	now := time.Now()
	clock := func() time.Time { return now }
	lan := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}
	desk := civibus.ClientID{MemberID: civibus.MemberID{Instance: "TEST", Class: "MUN", Code: "TOWN"}, Subsystem: "desk"}
	other := desk
	other.Subsystem = "other"
	byCert := gateway.ClientRule{Client: desk, Certificates: [][32]byte{gateway.Fingerprint(one.Leaf)}}
	byNet := gateway.ClientRule{Client: desk, Networks: lan}
	both := gateway.ClientRule{Client: desk, Certificates: byCert.Certificates, Networks: lan}
	foreign := gateway.ClientRule{Client: other, Networks: lan}
	for _, c := range []struct {
		name   string
		rules  []gateway.ClientRule
		plain  gateway.PlainHTTP
		remote string
		cert   *tls.Certificate
		tls    bool
		later  time.Duration
		want   bool
	}{
		{name: "no rules, plain, same machine", plain: gateway.PlainLoopback, remote: "127.0.0.1:1", want: true},
		{name: "no rules, plain, IPv6 loopback", plain: gateway.PlainLoopback, remote: "[::1]:1", want: true},
		{name: "no rules, plain, mapped loopback", plain: gateway.PlainLoopback, remote: "[::ffff:127.0.0.1]:1", want: true},
		{name: "no rules, plain forbidden", plain: gateway.PlainNever, remote: "127.0.0.1:1"},
		{name: "no rules, TLS, same machine", remote: "127.0.0.1:1", tls: true, want: true},
		{name: "no rules, other machine", plain: gateway.PlainAnywhere, remote: "10.1.2.3:1"},
		{name: "plain from the network", rules: []gateway.ClientRule{byNet}, plain: gateway.PlainLoopback, remote: "10.1.2.3:1"},
		{name: "plain from the network, allowed", rules: []gateway.ClientRule{byNet}, plain: gateway.PlainAnywhere, remote: "10.1.2.3:1", want: true},
		{name: "network", rules: []gateway.ClientRule{byNet}, remote: "10.1.2.3:1", tls: true, want: true},
		{name: "IPv6 network with zone", rules: []gateway.ClientRule{byNet}, remote: "[fd00::1%eth0]:1", tls: true, want: true},
		{name: "other network", rules: []gateway.ClientRule{byNet}, remote: "10.2.2.3:1", tls: true},
		{name: "a rule for another subsystem", rules: []gateway.ClientRule{foreign}, remote: "10.1.2.3:1", tls: true},
		{name: "rules end the freedom of the same machine", rules: []gateway.ClientRule{byNet}, plain: gateway.PlainLoopback, remote: "127.0.0.1:1"},
		{name: "certificate", rules: []gateway.ClientRule{byCert}, remote: "192.0.2.1:1", tls: true, cert: &one, want: true},
		{name: "other certificate", rules: []gateway.ClientRule{byCert}, remote: "192.0.2.1:1", tls: true, cert: &two},
		{name: "no certificate", rules: []gateway.ClientRule{byCert}, remote: "192.0.2.1:1", tls: true},
		{name: "certificate expired", rules: []gateway.ClientRule{byCert}, remote: "192.0.2.1:1", tls: true, cert: &one, later: 30 * 365 * 24 * time.Hour},
		{name: "certificate not yet valid", rules: []gateway.ClientRule{byCert}, remote: "192.0.2.1:1", tls: true, cert: &one, later: -24 * time.Hour},
		{name: "both", rules: []gateway.ClientRule{both}, remote: "10.1.2.3:1", tls: true, cert: &one, want: true},
		{name: "both, wrong network", rules: []gateway.ClientRule{both}, remote: "192.0.2.1:1", tls: true, cert: &one},
		{name: "both, wrong certificate", rules: []gateway.ClientRule{both}, remote: "10.1.2.3:1", tls: true, cert: &two},
		{name: "alternatives", rules: []gateway.ClientRule{foreign, both, byNet}, remote: "10.1.2.3:1", tls: true, want: true},
		{name: "address unknown", rules: []gateway.ClientRule{byNet}, remote: "@", tls: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t, fixture.Options{Gateway: func(g *gateway.Config) {
				g.Clients, g.PlainHTTP, g.Clock = c.rules, c.plain, func() time.Time { return clock().Add(c.later) }
			}}, fixture.Options{})
			r := httptest.NewRequest("GET", persons, nil)
			r.Header.Set("X-Road-Client", client)
			r.RemoteAddr, r.TLS = c.remote, nil
			if c.tls {
				r.TLS = &tls.ConnectionState{}
				if c.cert != nil {
					r.TLS.PeerCertificates = []*x509.Certificate{c.cert.Leaf}
				}
			}
			p.hop.instead = nil
			w := httptest.NewRecorder()
			p.town.Gateway.Consumer().ServeHTTP(w, r)
			refused := w.Header().Get("X-Road-Error") == "Server.ClientProxy.SslAuthenticationFailed"
			if refused == c.want || !refused && c.later == 0 && w.Code != 200 {
				t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
			}
		})
	}
}

func TestClientRulesAreChecked(t *testing.T) {
	_, err := gateway.New(gateway.Config{Clients: []gateway.ClientRule{{Client: civibus.ClientID{Subsystem: "s"}}}, Member: civibus.MemberID{Instance: "a", Class: "b", Code: "c"}})
	for _, want := range []string{"View is required", "Evidence is required", "the rule is a client of a/b/c", "it names no certificate and no network"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

// TestClientCertificateOverTLS makes the handshake, too.
func TestClientCertificateOverTLS(t *testing.T) {
	server, mine, wrong := certificate(t), certificate(t), certificate(t)
	p := newPair(t, fixture.Options{Gateway: func(g *gateway.Config) {
		g.PlainHTTP = gateway.PlainNever
		g.Clients = []gateway.ClientRule{{Client: civibus.ClientID{MemberID: g.Member, Subsystem: "desk"}, Certificates: [][32]byte{gateway.Fingerprint(mine.Leaf)}}}
	}}, fixture.Options{})
	l := fixture.Listen(t)
	s := httpd.New(p.town.Gateway.Consumer(), httpd.Options{TLS: httpd.CertificateTLS(server)})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	defer func() { _ = s.Close(); <-done }()
	roots := x509.NewCertPool()
	roots.AddCert(server.Leaf)
	call := func(certificates ...tls.Certificate) string {
		tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{Certificates: certificates, InsecureSkipVerify: true}} //nolint:gosec // the test's own server
		r, _ := http.NewRequest("GET", "https://"+l.Addr().String()+persons, nil)
		r.Header.Set("X-Road-Client", client)
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Header.Get("X-Road-Error")
	}
	if e := call(mine); e != "" {
		t.Errorf("the right certificate: %s", e)
	}
	for name, e := range map[string]string{"wrong": call(wrong), "none": call()} {
		if e != "Server.ClientProxy.SslAuthenticationFailed" {
			t.Errorf("%s certificate: %q", name, e)
		}
	}
}

// TestMalformedCalls holds that every malformed call gets X-Road's error and
// reaches nobody. Requests are written byte by byte.
func TestMalformedCalls(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	const me = "X-Road-Client: " + client + "\r\n"
	long := strings.Repeat("x", 256)
	for _, c := range []struct{ name, line, head, typ, says string }{
		{"too few segments", "GET /r1/TEST/GOV/OFFICE/register", me, "InternalError", "Invalid request URI"},
		{"nothing", "GET /r1/", me, "InternalError", "Invalid request URI"},
		{"empty segment", "GET /r1/TEST//OFFICE/register/persons", me, "InternalError", "identifier 2: it is empty"},
		{"empty service", "GET /r1/TEST/GOV/OFFICE/register/", me, "InternalError", "identifier 5: it is empty"},
		{"encoded whole identifier", "GET /r1/TEST%2FGOV%2FOFFICE%2Fregister%2Fpersons", me, "InternalError", "Invalid request URI"},
		{"not UTF-8", "GET /r1/TEST/GOV/OFFICE/%FF%FE/persons", me, "InternalError", "does not decode to UTF-8"},
		{"raw character", "GET /r1/TEST/GOV/OFF|ICE/register/persons", me, "InternalError", "must be percent-encoded"},
		{"too long", "GET /r1/TEST/GOV/OFFICE/register/" + long, me, "InternalError", "256 bytes"},
		{"unknown verb", "BREW " + persons, me, "InternalError", "Unknown HTTP method"},
		{"lower-case verb", "get " + persons, me, "InternalError", "Unknown HTTP method"},
		{"version 2", "GET /r2/TEST/GOV/OFFICE/register/persons", me, "InternalError", "Unsupported protocol version 2"},
		{"version 12", "GET /r12/TEST/GOV/OFFICE/register/persons", me, "InternalError", "Invalid protocol version r12"},
		{"no client", "GET " + persons, "", "InvalidClientIdentifier", "The client identifier is missing"},
		{"empty client", "GET " + persons, "X-Road-Client:\r\n", "InvalidClientIdentifier", "The client identifier is missing"},
		{"client of two parts", "GET " + persons, "X-Road-Client: TEST/MUN\r\n", "InternalError", "3 to 4 parts"},
		{"client of five parts", "GET " + persons, "X-Road-Client: TEST/MUN/TOWN/desk/x\r\n", "InternalError", "3 to 4 parts"},
		{"client badly encoded", "GET " + persons, "X-Road-Client: TEST/MUN/TOWN/de%zzsk\r\n", "InternalError", "bad percent-encoding"},
		{"client wholly encoded", "GET " + persons, "X-Road-Client: TEST%2FMUN%2FTOWN%2Fdesk\r\n", "InternalError", "3 to 4 parts"},
		{"unknown subsystem", "GET " + persons, "X-Road-Client: TEST/MUN/TOWN/none\r\n", "UnknownMember", "Client 'SUBSYSTEM:TEST/MUN/TOWN/none' not found"},
		{"case matters", "GET " + persons, "X-Road-Client: TEST/mun/TOWN/desk\r\n", "UnknownMember", "not found"},
		{"long message id", "GET " + persons, me + "X-Road-Id: " + long + "\r\n", "InternalError", "at most 255"},
		{"bad security server", "GET " + persons, me + "X-Road-Security-Server: a\r\n", "InternalError", "Invalid X-Road-Security-Server"},
		{"bad represented party", "GET " + persons, me + "X-Road-Represented-Party: a/b/c\r\n", "InternalError", "Invalid X-Road-Represented-Party"},
		{"body cut", "POST " + persons, me + "Content-Length: 100\r\n", "IOError", "could not be read to its end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer := p.raw(t, c.line+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+c.head+"\r\nshort body", c.name == "body cut")
			if !strings.Contains(answer, " 500 ") || !strings.Contains(answer, "X-Road-Error: Server.ClientProxy."+c.typ+"\r\n") || !strings.Contains(answer, c.says) {
				t.Errorf("%.800s", answer)
			}
		})
	}
	// What is no HTTP at all net/http refuses before any of this.
	for _, request := range []string{
		"GET /r1/TEST/GOV/OFFICE/register/%zz HTTP/1.1\r\nHost: x\r\n" + me + "\r\n",
		"GET /r1/a b HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET " + persons + " HTTP/1.1\r\nHost: x\r\nX-Big: " + strings.Repeat("x", 80<<10) + "\r\n\r\n",
	} {
		if answer := p.raw(t, request, true); !strings.HasPrefix(answer, "HTTP/1.1 4") {
			t.Errorf("%.100q: %.200s", request, answer)
		}
	}
	if p.begun.Load() != 0 {
		t.Errorf("the service was called %d times", p.begun.Load())
	}
}

// raw sends bytes to the consumer face and returns the answer's bytes.
func (p *pair) raw(t *testing.T, request string, hangUp bool) string {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(p.town.Consumer, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	go func() {
		_, _ = io.WriteString(c, request) // refused in the middle: the answer says so
		if hangUp {
			_ = c.(*net.TCPConn).CloseWrite()
		}
	}()
	answer, _ := io.ReadAll(c) // a reset after the answer is the server's right
	return string(answer)
}

// TestAbsoluteTarget holds that the absolute form of a request target means
// the same, as HTTP wants it.
func TestAbsoluteTarget(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	answer := p.raw(t, "GET http://anything"+persons+"/x?a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Road-Client: "+client+"\r\n\r\n", false)
	if !strings.HasPrefix(answer, "HTTP/1.1 200") || p.calls.Load() != 1 {
		t.Errorf("%.300s", answer)
	}
}

// TestExpectContinue holds that Expect: 100-continue is answered here, and
// not at all when the call is refused before its body is wanted.
func TestExpectContinue(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	head := "POST " + persons + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\nExpect: 100-continue\r\nX-Road-Client: "
	answer := p.raw(t, head+client+"\r\n\r\nbody", false)
	if !strings.HasPrefix(answer, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200") || !strings.HasSuffix(answer, "body") {
		t.Errorf("%s", answer)
	}
	answer = p.raw(t, head+"TEST/MUN/TOWN/none\r\n\r\n", false)
	if !strings.HasPrefix(answer, "HTTP/1.1 500") {
		t.Errorf("%s", answer)
	}
}
