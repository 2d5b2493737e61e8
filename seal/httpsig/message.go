package httpsig

import (
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Message is what components are taken from: a request or a response.
type Message struct {
	// Of a request.
	Method    string
	Scheme    string // "http" or "https"
	Authority string // host, with port if it was given
	Target    string // request target as it stands in the request line
	Path      string // raw path
	Query     string // raw query without "?"

	// Of a response.
	Status int

	Header  http.Header
	Trailer http.Header
	// Length stands for the Content-Length field where net/http keeps it out
	// of Header; -1 when there is none.
	Length int64

	// Request is the request that a response answers, for the req parameter.
	Request *Message
}

// FromRequest describes r, one that a server received or that a client is
// about to send.
func FromRequest(r *http.Request) *Message {
	m := new(Message)
	m.ofRequest(r)
	return m
}

func (m *Message) ofRequest(r *http.Request) {
	*m = Message{Method: r.Method, Authority: r.Host, Header: r.Header, Trailer: r.Trailer, Length: -1}
	if m.Method == "" {
		m.Method = http.MethodGet
	}
	if m.Authority == "" && r.URL != nil {
		m.Authority = r.URL.Host
	}
	m.Target = r.RequestURI
	if m.Target == "" && r.URL != nil {
		m.Target = r.URL.RequestURI()
	}
	switch {
	case r.URL != nil && r.URL.Scheme != "":
		m.Scheme = strings.ToLower(r.URL.Scheme)
	case r.TLS != nil:
		m.Scheme = "https"
	default:
		m.Scheme = "http"
	}
	m.Path, m.Query = SplitTarget(m.Target)
	if r.Body != nil && r.ContentLength > 0 {
		m.Length = r.ContentLength
	}
}

// FromResponse describes resp as the answer to req, which may be nil.
func FromResponse(resp *http.Response, req *Message) *Message {
	return &Message{Status: resp.StatusCode, Header: resp.Header, Trailer: resp.Trailer, Length: resp.ContentLength, Request: req}
}

// SplitTarget returns the raw path and query of a request target in origin or
// absolute form.
func SplitTarget(target string) (path, query string) {
	if !strings.HasPrefix(target, "/") {
		if i := strings.Index(target, "://"); i > 0 {
			target = target[i+3:]
			if j := strings.IndexAny(target, "/?"); j >= 0 {
				target = target[j:]
			} else {
				target = ""
			}
		}
	}
	if i := strings.IndexByte(target, '?'); i >= 0 {
		return target[:i], target[i+1:]
	}
	return target, ""
}

// authority normalises host and port (RFC 9421 section 2.2.3).
func (m *Message) authority() string {
	a := m.Authority
	for i := 0; i < len(a); i++ {
		if 'A' <= a[i] && a[i] <= 'Z' {
			a = strings.ToLower(a)
			break
		}
	}
	standard := ":443"
	if m.Scheme == "http" {
		standard = ":80"
	}
	if strings.HasSuffix(a, standard) {
		if host, _, err := net.SplitHostPort(a); err == nil {
			if strings.Contains(host, ":") {
				return "[" + host + "]"
			}
			return host
		}
	}
	return a
}

// targetURI is the full URI of the request (RFC 9421 section 2.2.2).
func (m *Message) targetURI() string {
	if i := strings.Index(m.Target, "://"); i > 0 && !strings.HasPrefix(m.Target, "/") {
		return m.Target
	}
	uri := m.Scheme + "://" + m.authority() + m.path()
	if strings.Contains(m.Target, "?") || m.Query != "" {
		uri += "?" + m.Query
	}
	return uri
}

func (m *Message) path() string {
	if m.Path == "" {
		return "/"
	}
	return m.Path
}

// queryParam returns the re-encoded value of the only query parameter whose
// encoded name is name (RFC 9421 section 2.2.8).
func (m *Message) queryParam(name string) (string, bool) {
	value, found := "", 0
	for _, pair := range strings.Split(m.Query, "&") {
		if pair == "" {
			continue
		}
		k, v, _ := strings.Cut(pair, "=")
		if encodeForm(decodeForm(k)) == name {
			value = encodeForm(decodeForm(v))
			found++
		}
	}
	return value, found == 1
}

// decodeForm decodes as application/x-www-form-urlencoded does: a percent sign
// that starts no escape stands for itself.
func decodeForm(s string) string {
	if d, err := url.QueryUnescape(s); err == nil {
		return d
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+':
			b.WriteByte(' ')
		case s[i] == '%' && i+2 < len(s):
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 2
				continue
			}
			b.WriteByte('%')
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// encodeForm percent-encodes with the application/x-www-form-urlencoded set,
// a space as %20.
func encodeForm(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(strings.ToValidUTF8(s, "\uFFFD")) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '*', c == '-', c == '.', c == '_':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	return b.String()
}
