package seal_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/seal/httpsig"
)

// message is an HTTP message as data.
type message struct {
	Method   string      `json:"method,omitempty"`
	Target   string      `json:"target,omitempty"`
	Status   int         `json:"status,omitempty"`
	Fields   [][2]string `json:"fields"`
	Body     []byte      `json:"body"`
	Trailers [][2]string `json:"trailers,omitempty"`
}

// testCase is a message and what must become of it. Code is empty when it
// verifies; Failure is the class of the case.
type testCase struct {
	Name    string            `json:"name"`
	Failure string            `json:"failure,omitempty"`
	Code    civibus.FaultCode `json:"code,omitempty"`
	Words   string            `json:"-"`
	Request message           `json:"request"`
	// Response is set when the case is about the answer to Request.
	Response *message `json:"response,omitempty"`
	Base     string   `json:"base,omitempty"` // of the seal proper, when it verifies
	// RequireSecond is set when the receiver's instance requires second signatures.
	RequireSecond bool     `json:"require_second,omitempty"`
	Dropped       []string `json:"dropped,omitempty"`
}

func fieldList(h http.Header) [][2]string {
	var names []string
	for n := range h {
		names = append(names, n)
	}
	slices.Sort(names)
	var out [][2]string
	for _, n := range names {
		for _, v := range h[n] {
			out = append(out, [2]string{n, v})
		}
	}
	return out
}

func headerOf(fields [][2]string) http.Header {
	h := http.Header{}
	for _, f := range fields {
		h.Add(f[0], f[1])
	}
	return h
}

func (m message) clone() message {
	m.Fields, m.Trailers, m.Body = slices.Clone(m.Fields), slices.Clone(m.Trailers), bytes.Clone(m.Body)
	return m
}

// list returns the fields or the trailers.
func (m *message) list(trailer bool) *[][2]string {
	if trailer {
		return &m.Trailers
	}
	return &m.Fields
}

func (m *message) edit(t testing.TB, trailer bool, name, old, new string) {
	t.Helper()
	for i, f := range *m.list(trailer) {
		if f[0] == name && strings.Contains(f[1], old) {
			(*m.list(trailer))[i][1] = strings.Replace(f[1], old, new, 1)
			return
		}
	}
	t.Fatalf("field %s with %q is not there", name, old)
}

func (m *message) drop(trailer bool, name string) {
	*m.list(trailer) = slices.DeleteFunc(*m.list(trailer), func(f [2]string) bool { return f[0] == name })
}

func (m *message) add(name, value string) { m.Fields = append(m.Fields, [2]string{name, value}) }

// request makes what net/http's server would.
func (m message) request() *http.Request {
	u, err := url.ParseRequestURI(m.Target)
	if err != nil {
		panic(err)
	}
	r := &http.Request{Method: m.Method, URL: u, RequestURI: m.Target, Host: "gateway.example", Header: headerOf(m.Fields),
		Body: io.NopCloser(bytes.NewReader(m.Body)), ContentLength: int64(len(m.Body)), Proto: "HTTP/1.1"}
	if m.Trailers != nil {
		r.Trailer, r.ContentLength = headerOf(m.Trailers), -1
	}
	return r
}

func (m message) response() *http.Response {
	r := &http.Response{StatusCode: m.Status, Header: headerOf(m.Fields), Body: io.NopCloser(bytes.NewReader(m.Body)), ContentLength: int64(len(m.Body))}
	if m.Trailers != nil {
		r.Trailer, r.ContentLength = headerOf(m.Trailers), -1
	}
	return r
}

// signers with published keys, so that the vectors can be made again.
type cast struct{ ed, ec, stranger *signer }

func newCast(t testing.TB) cast {
	t.Helper()
	read := func(name string) any {
		b, err := os.ReadFile("../spec/vectors/rfc9421/" + name)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(b)
		if k, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
			return k
		}
		k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	edKey := read("test-key-ed25519.key").(ed25519.PrivateKey)
	ecKey := read("test-key-ecc-p256.key")
	pub, err := civibus.NewPublicKey(ecKey.(crypto.Signer).Public())
	if err != nil {
		t.Fatal(err)
	}
	ec := &signer{pub, func(m []byte) ([]byte, error) { return httpsig.Sign(httpsig.ECDSAP256SHA256, ecKey, m) }}
	seed := sha256.Sum256([]byte("stranger"))
	other := ed25519.NewKeyFromSeed(seed[:])
	return cast{edSignerOf(t, edKey.Public().(ed25519.PublicKey), edKey), ec, edSignerOf(t, other.Public().(ed25519.PublicKey), other)}
}

func (c cast) whole(t testing.TB, s civibus.Signer, method, body string, now time.Time) (message, *seal.Seal) {
	t.Helper()
	r := newRequest(t, "http://gateway.example", method)
	sent, err := seal.SealRequest(t.Context(), s, r, []byte(body), now)
	if err != nil {
		t.Fatal(err)
	}
	return message{Method: method, Target: target, Fields: fieldList(r.Header), Body: []byte(body)}, sent
}

func (c cast) streamed(t testing.TB, s civibus.Signer, body string, length int64) (message, *seal.Pending) {
	t.Helper()
	r := newRequest(t, "http://gateway.example", "PUT")
	r.ContentLength = length
	p, err := seal.SealRequestStream(t.Context(), s, r, strings.NewReader(body), start)
	if err != nil {
		t.Fatal(err)
	}
	sent, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return message{Method: "PUT", Target: target, Fields: fieldList(r.Header), Body: sent, Trailers: fieldList(r.Trailer)}, p
}

func (c cast) answer(t testing.TB, s civibus.Signer, to *seal.RequestSeal, status int, body string) message {
	t.Helper()
	h := http.Header{"Content-Type": {"application/json"}, civibus.HeaderRequestHash: {"abc"}}
	if _, err := seal.SealResponse(t.Context(), s, h, status, to, []byte(body), start); err != nil {
		t.Fatal(err)
	}
	h.Del("Content-Length")
	return message{Status: status, Fields: fieldList(h), Body: []byte(body)}
}

// recorder is the part of a ResponseWriter that a stream needs.
type recorder struct {
	h    http.Header
	head http.Header
	body bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.h }
func (r *recorder) WriteHeader(int)             { r.head = r.h.Clone() }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

func (c cast) streamedAnswer(t testing.TB, s civibus.Signer, to *seal.RequestSeal, status int, body string) message {
	t.Helper()
	w := &recorder{h: http.Header{"Content-Type": {"text/plain"}}}
	out, err := seal.NewResponseStream(t.Context(), s, w, status, to, -1, start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(out, body); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	trailers := http.Header{}
	for _, n := range []string{"Content-Digest", "Signature-Input", "Signature"} {
		trailers[n] = w.h[n]
	}
	return message{Status: status, Fields: fieldList(w.head), Body: w.body.Bytes(), Trailers: fieldList(trailers)}
}

// forge seals m with components and parameters of the test's choice, in the
// way of the profile but for what change does.
func forge(t testing.TB, m message, s *signer, label string, change func(list []string, p *httpsig.Params) []string) message {
	t.Helper()
	m = m.clone()
	sum := sha256.Sum256(m.Body)
	m.drop(false, "Content-Digest")
	m.add("Content-Digest", httpsig.FormatDigest(httpsig.SHA256, sum[:]))
	return forgeAs(t, m, s, label, change)
}

func forgeAs(t testing.TB, m message, s *signer, label string, change func(list []string, p *httpsig.Params) []string) message {
	t.Helper()
	m = m.clone()
	m.drop(false, "Signature")
	m.drop(false, "Signature-Input")
	list := []string{"@method", "@path", "@query", "accept", "content-digest", "content-type", "x-road-client", "x-road-id"}
	p := httpsig.Params{Present: httpsig.HasCreated | httpsig.HasKeyID | httpsig.HasAlg | httpsig.HasTag | httpsig.HasNonce,
		Created: start.Unix(), KeyID: s.pub.ID.String(), Alg: string(s.pub.Algorithm), Tag: label, Nonce: "AAECAwQFBgcICQoLDA0ODw=="}
	list = change(list, &p)
	var components []httpsig.Component
	for _, n := range list {
		name, param, _ := strings.Cut(n, ";")
		var params []httpsig.Param
		switch param {
		case "sf":
			params = append(params, httpsig.SF())
		case "bs":
			params = append(params, httpsig.BS())
		}
		k, err := httpsig.NewComponent(name, params...)
		if err != nil {
			t.Fatal(err)
		}
		components = append(components, k)
	}
	in, err := httpsig.NewInput(label, components, p)
	if err != nil {
		t.Fatal(err)
	}
	base, err := httpsig.AppendBase(nil, httpsig.FromRequest(m.request()), in)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.sign(base)
	if err != nil {
		t.Fatal(err)
	}
	m.add("Signature-Input", in.Field())
	m.add("Signature", httpsig.FormatSignature(label, sig))
	return m
}

// requestCases are those about a request.
func (c cast) requestCases(t testing.TB) []testCase {
	body := `{"name":"Tamm"}`
	whole, _ := c.whole(t, c.ed, "POST", body, start)
	empty, _ := c.whole(t, c.ed, "GET", "", start)
	ec, _ := c.whole(t, c.ec, "POST", body, start)
	stranger, _ := c.whole(t, c.stranger, "POST", body, start)
	streamed, _ := c.streamed(t, c.ec, strings.Repeat(body, 100), -1)
	known, _ := c.streamed(t, c.ed, strings.Repeat(body, 100), int64(100*len(body)))
	other, _ := c.streamed(t, c.ed, strings.Repeat(body, 100), int64(100*len(body)))
	var out []testCase
	ok := func(name string, m message, dropped ...string) {
		out = append(out, testCase{Name: name, Request: m, Dropped: dropped})
	}
	bad := func(class, name string, from message, words string, change func(m *message)) {
		m := from.clone()
		change(&m)
		out = append(out, testCase{Name: name, Failure: class, Code: civibus.FaultSeal, Words: words, Request: m})
	}
	forged := func(class, name, words string, change func(list []string, p *httpsig.Params) []string) {
		out = append(out, testCase{Name: name, Failure: class, Code: civibus.FaultSeal, Words: words, Request: forge(t, whole, c.ed, seal.Label, change)})
	}
	same := func(list []string, _ *httpsig.Params) []string { return list }

	ok("whole", whole)
	ok("whole without a body", empty)
	ok("whole, ECDSA P-256", ec)
	ok("streamed", streamed)
	ok("streamed, length known", known)
	ok("made by hand", forge(t, whole, c.ed, seal.Label, same))
	extra := whole.clone()
	extra.add("X-Forwarded-For", "10.0.0.1")
	ok("a field that is not sealed is dropped", extra, "X-Forwarded-For")
	extra = whole.clone()
	extra.edit(t, false, "Authorization", "secret", "other")
	ok("a secret field is not sealed", extra)
	extra = whole.clone()
	extra.Fields = slices.Clone(extra.Fields)
	extra.edit(t, false, "Signature-Input", "civibus=", `other=("@method");created=1;keyid="x", civibus=`)
	extra.edit(t, false, "Signature", "civibus=", "other=:AAAA:, civibus=")
	ok("another signature besides", extra)

	bad("altered_method", "method", whole, "the signature is not", func(m *message) { m.Method = "PUT" })
	bad("altered_path", "path", whole, "the signature is not", func(m *message) { m.Target = strings.Replace(m.Target, "/1?", "/2?", 1) })
	bad("altered_path", "path written otherwise", whole, "the signature is not", func(m *message) { m.Target = strings.Replace(m.Target, "/svc/", "/s%76c/", 1) })
	bad("altered_query", "query", whole, "the signature is not", func(m *message) { m.Target += "1" })
	bad("altered_query", "query dropped", whole, "the signature is not", func(m *message) { m.Target, _, _ = strings.Cut(m.Target, "?") })
	bad("altered_field", "client", whole, "the signature is not", func(m *message) { m.edit(t, false, "X-Road-Client", "GOV/B", "GOV/C") })
	bad("altered_field", "one more value", whole, "the signature is not", func(m *message) { m.add("X-Road-Id", "2") })
	bad("removed_field", "removed", whole, "does not have it", func(m *message) { m.drop(false, "X-Road-Id") })
	bad("altered_body", "one byte", whole, "is not the one that was sealed", func(m *message) { m.Body[3] ^= 1 })
	bad("altered_body", "digest fits the other body", whole, "the signature is not", func(m *message) {
		m.Body = []byte("{}")
		sum := sha256.Sum256(m.Body)
		m.drop(false, "Content-Digest")
		m.add("Content-Digest", httpsig.FormatDigest(httpsig.SHA256, sum[:]))
	})
	bad("truncated_body", "one byte short", whole, "is not the one that was sealed", func(m *message) { m.Body = m.Body[:len(m.Body)-1] })
	bad("truncated_body", "body where none was", empty, "is not the one that was sealed", func(m *message) { m.Body = []byte("x") })
	bad("altered_parameter", "created", whole, "the signature is not", func(m *message) {
		m.edit(t, false, "Signature-Input", "created=1795338000", "created=1795338001")
	})
	bad("altered_parameter", "nonce", forge(t, whole, c.ed, seal.Label, same), "the signature is not", func(m *message) {
		m.edit(t, false, "Signature-Input", "AAECAw", "BAECAw")
	})
	bad("altered_parameter", "order of parameters", whole, "the signature is not", func(m *message) {
		m.edit(t, false, "Signature-Input", ";created=1795338000", "")
		m.edit(t, false, "Signature-Input", ";tag=", ";created=1795338000;tag=")
	})
	bad("unknown_key", "a key that is not known", stranger, "is not a seal key in force", func(*message) {})
	bad("unknown_key", "another known key", whole, "alg is not that of key", func(m *message) {
		m.edit(t, false, "Signature-Input", c.ed.pub.ID.String(), c.ec.pub.ID.String())
	})
	bad("bad_keyid", "upper case", whole, "lower-case hex", func(m *message) {
		id := c.ed.pub.ID.String()
		m.edit(t, false, "Signature-Input", id, strings.ToUpper(id))
	})
	bad("wrong_algorithm", "another of the set", whole, "alg is not that of key", func(m *message) {
		m.edit(t, false, "Signature-Input", `alg="ed25519"`, `alg="ecdsa-p256-sha256"`)
	})
	bad("wrong_algorithm", "hmac with the public key", whole, "alg is not that of key", func(m *message) {
		m.edit(t, false, "Signature-Input", `alg="ed25519"`, `alg="hmac-sha256"`)
	})
	bad("bad_signature", "cut", whole, "the signature is not", func(m *message) {
		m.drop(false, "Signature")
		m.add("Signature", "civibus=:AAAA:")
	})
	bad("bad_signature", "missing", whole, "has no signature", func(m *message) {
		m.drop(false, "Signature")
		m.add("Signature", "other=:AAAA:")
	})
	bad("bad_field", "signature not base64", whole, "Signature:", func(m *message) { m.edit(t, false, "Signature", "=:", "=:*") })
	bad("bad_field", "signature a string", whole, "Signature:", func(m *message) {
		m.drop(false, "Signature")
		m.add("Signature", `civibus="AAAA"`)
	})
	bad("bad_field", "input not closed", whole, "Signature-Input", func(m *message) { m.edit(t, false, "Signature-Input", `")`, `"`) })
	bad("bad_field", "input not canonical", whole, "Signature-Input", func(m *message) { m.edit(t, false, "Signature-Input", `"@path"`, ` "@path"`) })
	bad("bad_field", "digest not base64", whole, "is not one SHA-256 digest", func(m *message) { m.edit(t, false, "Content-Digest", "=:", "=:*") })
	bad("no_seal", "nothing", whole, "no signature labelled", func(m *message) { m.drop(false, "Signature-Input") })
	bad("no_seal", "another label only", whole, "no signature labelled", func(m *message) { m.edit(t, false, "Signature-Input", "civibus=", "sig1=") })
	bad("two_seals", "label twice in one line", whole, "given twice", func(m *message) {
		v := headerOf(m.Fields).Get("Signature-Input")
		m.drop(false, "Signature-Input")
		m.add("Signature-Input", v+", "+v)
	})
	bad("two_seals", "label twice in two lines", whole, "given twice", func(m *message) { m.add("Signature-Input", headerOf(m.Fields).Get("Signature-Input")) })
	bad("two_seals", "signature twice", whole, "given twice", func(m *message) { m.add("Signature", headerOf(m.Fields).Get("Signature")) })
	bad("two_seals", "whole and streamed", whole, "two seals", func(m *message) {
		m.add("Signature-Input", strings.Replace(headerOf(known.Fields).Get("Signature-Input"), "PUT", "PUT", 1))
		m.add("Signature", headerOf(known.Fields).Get("Signature"))
	})
	bad("altered_components", "one left out", whole, "the signature is not", func(m *message) { m.edit(t, false, "Signature-Input", ` "x-road-id"`, "") })
	bad("altered_components", "digest left out", whole, "does not cover content-digest", func(m *message) { m.edit(t, false, "Signature-Input", ` "content-digest"`, "") })
	bad("altered_components", "one put in", extra, "the signature is not", func(m *message) {
		m.add("X-Extra", "1")
		m.edit(t, false, "Signature-Input", ` "x-road-id")`, ` "x-road-id" "x-zzz")`)
		m.add("X-Zzz", "1")
	})
	bad("altered_components", "order", whole, "out of order", func(m *message) {
		m.edit(t, false, "Signature-Input", `"x-road-client" "x-road-id"`, `"x-road-id" "x-road-client"`)
	})
	bad("oversized", "signature input", whole, "bytes, the rule is at most", func(m *message) { m.add("Signature-Input", strings.Repeat("a", 20000)) })
	bad("oversized", "fields", whole, "bytes, the rule is at most", func(m *message) { m.add("X-Long", strings.Repeat("a", 200000)) })
	bad("oversized", "number of fields", whole, "fields, the rule is at most", func(m *message) {
		for i := range 300 {
			m.add("X-"+strconv.Itoa(i), "1")
		}
	})

	forged("wrong_components", "path not covered", "does not begin", func(l []string, _ *httpsig.Params) []string { return slices.Delete(l, 1, 2) })
	forged("wrong_components", "target-uri instead", "does not begin", func(l []string, _ *httpsig.Params) []string { l[1] = "@target-uri"; return l })
	forged("wrong_components", "a derived component more", "not one of the profile's", func(l []string, _ *httpsig.Params) []string { return slices.Insert(l, 3, "@authority") })
	forged("wrong_components", "a secret field", "must not be sealed", func(l []string, _ *httpsig.Params) []string { return slices.Insert(l, 4, "authorization") })
	forged("wrong_components", "a field of the connection", "must not be sealed", func(l []string, _ *httpsig.Params) []string { return slices.Insert(l, 5, "content-length") })
	forged("wrong_components", "a parameter", "not one of the profile's", func(l []string, _ *httpsig.Params) []string { l[3] = "accept;bs"; return l })
	bad("wrong_components", "digest in the head of a streamed message", forge(t, whole, c.ed, seal.HeadLabel, same), "digest in the trailers", func(*message) {})
	forged("wrong_parameters", "no nonce", "parameters", func(l []string, p *httpsig.Params) []string { p.Present &^= httpsig.HasNonce; return l })
	forged("wrong_parameters", "no created", "parameters", func(l []string, p *httpsig.Params) []string { p.Present &^= httpsig.HasCreated; return l })
	forged("wrong_parameters", "no alg", "parameters", func(l []string, p *httpsig.Params) []string { p.Present &^= httpsig.HasAlg; return l })
	forged("wrong_parameters", "no tag", "parameters", func(l []string, p *httpsig.Params) []string { p.Present &^= httpsig.HasTag; return l })
	forged("wrong_parameters", "tag of another use", "tag", func(l []string, p *httpsig.Params) []string { p.Tag = "civibus-head"; return l })
	forged("wrong_parameters", "expires", "parameters", func(l []string, p *httpsig.Params) []string { p.Present |= httpsig.HasExpires; return l })
	forged("wrong_parameters", "created out of range", "out of range", func(l []string, p *httpsig.Params) []string { p.Created = 999999999999999; return l })
	forged("bad_nonce", "15 bytes", "nonce", func(l []string, p *httpsig.Params) []string { p.Nonce = "AAECAwQFBgcICQoLDA0O"; return l })
	forged("bad_nonce", "not canonical", "nonce", func(l []string, p *httpsig.Params) []string { p.Nonce = "AAECAwQFBgcICQoLDA0ODx=="; return l })
	sum := sha512.Sum512(whole.Body)
	weak := whole.clone()
	weak.drop(false, "Content-Digest")
	weak.add("Content-Digest", httpsig.FormatDigest(httpsig.SHA512, sum[:]))
	bad("bad_digest", "another algorithm", forgeAs(t, weak, c.ed, seal.Label, same), "is not one SHA-256 digest", func(*message) {})
	weak.add("Content-Digest", headerOf(whole.Fields).Get("Content-Digest"))
	bad("bad_digest", "two digests", forgeAs(t, weak, c.ed, seal.Label, same), "is not one SHA-256 digest", func(*message) {})
	long := whole.clone()
	long.add(civibus.HeaderBodyLength, "15")
	bad("bad_length", "a whole body with a length", forge(t, long, c.ed, seal.Label, func(l []string, _ *httpsig.Params) []string {
		return slices.Insert(l, 4, "civibus-body-length")
	}), "only a streamed body", func(*message) {})

	for class, created := range map[string]time.Time{
		"too_old": start.Add(-seal.DefaultMaxAge - seal.DefaultMaxSkew - time.Second), "too_new": start.Add(seal.DefaultMaxSkew + time.Second)} {
		m, _ := c.whole(t, c.ed, "POST", body, created)
		out = append(out, testCase{Name: "clock", Failure: class, Code: civibus.FaultClockSkew, Words: created.Format(time.RFC3339), Request: m})
	}
	for name, created := range map[string]time.Time{
		"oldest that is accepted": start.Add(-seal.DefaultMaxAge - seal.DefaultMaxSkew), "newest that is accepted": start.Add(seal.DefaultMaxSkew)} {
		m, _ := c.whole(t, c.ed, "POST", body, created)
		ok(name, m)
	}

	bad("altered_head", "streamed", streamed, "the signature is not", func(m *message) { m.edit(t, false, "X-Road-Client", "GOV/B", "GOV/C") })
	bad("altered_body", "streamed", streamed, "is not the one that was sealed", func(m *message) { m.Body[7] ^= 1 })
	bad("truncated_body", "streamed", streamed, "is not the one that was sealed", func(m *message) { m.Body = m.Body[:len(m.Body)-1] })
	bad("no_trailers", "streamed", streamed, "trailers have no seal", func(m *message) { m.Trailers = [][2]string{} })
	bad("altered_trailers", "digest", streamed, "is not the one that was sealed", func(m *message) {
		sum := sha256.Sum256([]byte("other"))
		m.drop(true, "Content-Digest")
		m.Trailers = append(m.Trailers, [2]string{"Content-Digest", httpsig.FormatDigest(httpsig.SHA256, sum[:])})
	})
	bad("altered_trailers", "signature", streamed, "the signature is not", func(m *message) {
		m.drop(true, "Signature")
		m.Trailers = append(m.Trailers, [2]string{"Signature", httpsig.FormatSignature("civibus", make([]byte, 64))})
	})
	bad("altered_trailers", "seal of the head", streamed, "no signature labelled civibus", func(m *message) {
		m.drop(true, "Signature-Input")
		m.Trailers = append(m.Trailers, [2]string{"Signature-Input", headerOf(m.Fields).Get("Signature-Input")})
	})
	bad("altered_trailers", "seal of another streamed request", known, "same time, nonce and key", func(m *message) { m.Trailers = other.Trailers })
	bad("altered_trailers", "fewer fields", streamed, "does not cover the fields", func(m *message) { m.edit(t, true, "Signature-Input", ` "x-road-id"`, "") })
	bad("altered_trailers", "digest not covered", streamed, "digest in the trailers", func(m *message) { m.edit(t, true, "Signature-Input", ` "content-digest";tr`, "") })
	cut := known.clone()
	cut.Body = cut.Body[:len(cut.Body)-1]
	out = append(out, testCase{Name: "streamed, length known", Failure: "truncated_body", Code: civibus.FaultIO, Words: "was cut", Request: cut})
	long = known.clone()
	long.Body = append(long.Body, 'x')
	out = append(out, testCase{Name: "streamed, length known", Failure: "extended_body", Code: civibus.FaultIO, Words: "longer than", Request: long})
	return out
}
