package gateway

import (
	"crypto/sha512"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"github.com/civibus/civibus"
)

// filtered reports whether a field belongs to one connection: it never crosses
// a gateway, in either direction. The list is X-Road's and a few that HTTP has
// gained.
func filtered(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Host", "User-Agent", "Server", "Content-Length", "Expect",
		"Proxy-Connection", "Proxy-Authentication-Info", "Http2-Settings":
		return true
	}
	return false
}

// reservedField reports whether a field is the gateways' own: whatever a client
// system or a service puts there is dropped.
func reservedField(name string) bool {
	switch name {
	case "Content-Digest", "Signature", "Signature-Input", civibus.HeaderRequestHash, civibus.HeaderRequestID, civibus.HeaderError:
		return true
	}
	return strings.HasPrefix(name, "Civibus-")
}

// cross puts the fields of h that cross a gateway into out. The values are
// shared.
func cross(out, h http.Header) {
	for name, values := range h {
		if !filtered(name) && !reservedField(name) {
			out[name] = values
		}
	}
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			out.Del(strings.TrimSpace(name))
		}
	}
}

// lines makes the values of fields with one line each in one allocation.
type lines []string

// set sets a field.
func (l *lines) set(h http.Header, name, value string) {
	*l = append(*l, value)
	n := len(*l)
	h[name] = (*l)[n-1 : n : n]
}

// last returns a field's last value: of duplicates the last one wins.
func last(h http.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// hashed reports whether a field is part of the request hash: what crosses the
// hop, without what the hop itself adds and without secrets, because the hash
// is kept as evidence.
func hashed(name string) bool {
	switch name {
	case "Content-Digest", "Signature", "Signature-Input", "Authorization", "Cookie", civibus.HeaderSubject,
		civibus.HeaderBodyLength, civibus.HeaderHeight, civibus.HeaderRequestHash:
		return false
	}
	return !filtered(name)
}

// requestHash returns X-Road-Request-Hash: base64 of SHA-512(H), or where there
// is a body of SHA-512(SHA-512(H) || SHA-512(body)). H is the request line's
// method and target and the fields in the order of their names (X-Road: in the
// order in which they came, which no intermediary may be trusted to keep).
func requestHash(method, target string, h http.Header, body *[sha512.Size]byte) string {
	// 1. Which fields, in the order of their names in lower case.
	var nameRoom [32]string
	names := nameRoom[:0]
	for name := range h {
		if hashed(name) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, compareLower)
	// 2. H.
	var room [2048]byte
	b := append(append(append(append(room[:0], method...), "\r\n"...), target...), "\r\n"...)
	for _, name := range names {
		for _, v := range h[name] {
			b = append(append(append(appendLower(b, name), ':'), v...), "\r\n"...)
		}
	}
	sum := sha512.Sum512(b)
	// 3. The body.
	if body != nil {
		var both [2 * sha512.Size]byte
		copy(both[:], sum[:])
		copy(both[sha512.Size:], body[:])
		sum = sha512.Sum512(both[:])
	}
	var text [88]byte
	base64.StdEncoding.Encode(text[:], sum[:])
	return string(text[:])
}

// hash is X-Road-Request-Hash of the call with these fields and a body of this
// digest.
func (c *call) hash(h http.Header, body *[sha512.Size]byte) string {
	return requestHash(c.method, joinTarget(c.path, c.query, c.asked), h, body)
}

// lower is a byte of a field name in lower case.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func appendLower(b []byte, name string) []byte {
	start := len(b)
	b = append(b, name...)
	for i := start; i < len(b); i++ {
		b[i] = lower(b[i])
	}
	return b
}

// compareLower compares two field names as if they were in lower case.
func compareLower(a, b string) int {
	for i := range min(len(a), len(b)) {
		if x, y := lower(a[i]), lower(b[i]); x != y {
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

// target returns a request's raw path and raw query, exactly as they came, and
// whether there was a "?".
func target(r *http.Request) (path, query string, asked bool) {
	t := r.RequestURI
	if t == "" { // made by a test, not received
		t = r.URL.RequestURI()
	}
	if strings.HasPrefix(t, "/") {
		return strings.Cut(t, "?")
	}
	if i := strings.Index(t, "://"); i > 0 { // absolute form
		t = t[i+3:]
		j := strings.IndexAny(t, "/?")
		if j < 0 {
			return "/", "", false
		}
		if t = t[j:]; t[0] == '?' {
			t = "/" + t
		}
	}
	return strings.Cut(t, "?")
}

// joinTarget is the inverse of target.
func joinTarget(path, query string, asked bool) string {
	if asked {
		return path + "?" + query
	}
	return path
}

// delivered reports whether a request of this method brings its body to the
// service. The others' bodies are sealed and recorded only, as with X-Road.
func delivered(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch || method == civibus.MethodSubscribe
}

// known reports whether a method is one of X-Road's eight, or that of messages.
func known(method string) bool {
	switch method {
	case http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodOptions,
		http.MethodPatch, http.MethodPost, http.MethodPut, http.MethodTrace, civibus.MethodSubscribe:
		return true
	}
	return false
}

// bodyless reports whether an answer has no body by HTTP's rules.
func bodyless(method string, status int) bool {
	return method == http.MethodHead || status < 200 || status == http.StatusNoContent || status == http.StatusNotModified
}
