package h1serve

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
)

// maxFields bounds the fields of a head or of trailers: each costs more memory
// than the four bytes that it can be made of.
const maxFields = 512

// refusal is why a request is answered without the handler. The connection ends
// with it, because what follows cannot be told from the request.
type refusal struct {
	status int
	reason string
}

// Error says what was wrong.
func (r *refusal) Error() string { return r.reason }

func bad(reason string) *refusal { return &refusal{http.StatusBadRequest, reason} }

// parseHead reads a head (RFC 9112) without the empty line at its end. It sets
// all of r that a head tells: a body of unknown length, which is always chunked,
// has the ContentLength -1.
func parseHead(text string, r *http.Request) *refusal {
	line, rest, ok := cutLine(text)
	if !ok {
		return bad("malformed request line")
	}
	if refused := parseRequestLine(line, r); refused != nil {
		return refused
	}
	var refused *refusal
	if r.Header, refused = parseFields(rest); refused != nil {
		return refused
	}
	if refused := parseHost(r); refused != nil {
		return refused
	}
	return parseFraming(r)
}

// cutLine takes the first line, which must end in CRLF, off text.
func cutLine(text string) (line, rest string, ok bool) {
	i := strings.IndexByte(text, '\n')
	if i < 1 || text[i-1] != '\r' {
		return "", "", false
	}
	return text[:i-1], text[i+1:], true
}

func parseRequestLine(line string, r *http.Request) *refusal {
	method, rest, ok := strings.Cut(line, " ")
	target, proto, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !isToken(method) || !printable(target) {
		return bad("malformed request line")
	}
	switch proto {
	case "HTTP/1.1":
		r.ProtoMinor = 1
	case "HTTP/1.0":
		r.ProtoMinor = 0
	default:
		if _, _, ok := http.ParseHTTPVersion(proto); ok {
			return &refusal{http.StatusHTTPVersionNotSupported, "unsupported protocol version"}
		}
		return bad("malformed HTTP version")
	}
	r.Method, r.RequestURI, r.Proto, r.ProtoMajor = method, target, proto, 1
	// CONNECT names an authority alone; net/http hands that over without a scheme.
	authority := method == http.MethodConnect && !strings.HasPrefix(target, "/")
	if authority {
		target = "http://" + target
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return bad("malformed request target")
	}
	if authority {
		u.Scheme = ""
	}
	r.URL = u
	return nil
}

// parseFields reads field lines. Lines that continue the one before are refused.
func parseFields(text string) (http.Header, *refusal) {
	n := strings.Count(text, "\n")
	if n > maxFields {
		return nil, &refusal{http.StatusRequestHeaderFieldsTooLarge, "too many fields"}
	}
	h := make(http.Header, n)
	values := make([]string, n) // one piece of memory for all
	for i := range n {
		line, rest, ok := cutLine(text)
		if !ok {
			return nil, bad("a line that does not end in CRLF")
		}
		text = rest
		name, value, ok := strings.Cut(line, ":")
		if name = canonical(name); !ok || name == "" {
			return nil, bad("malformed field name")
		}
		if value = strings.Trim(value, " \t"); !isFieldValue(value) {
			return nil, bad("malformed field value")
		}
		if had := h[name]; had != nil {
			h[name] = append(had, value)
			continue
		}
		values[i] = value
		h[name] = values[i : i+1 : i+1]
	}
	if text != "" {
		return nil, bad("a line that does not end in CRLF")
	}
	return h, nil
}

// parseHost takes Host off the fields: an absolute target overrides it.
func parseHost(r *http.Request) *refusal {
	hosts := r.Header["Host"]
	delete(r.Header, "Host")
	switch {
	case len(hosts) > 1:
		return bad("too many Host fields")
	case len(hosts) == 1:
		if !isHost(hosts[0]) {
			return bad("malformed Host field")
		}
		r.Host = hosts[0]
	case r.ProtoMinor > 0 && r.Method != http.MethodConnect:
		return bad("missing required Host field")
	}
	if r.URL.Host != "" {
		r.Host = r.URL.Host
	}
	return nil
}

// parseFraming finds out where the request ends and whether the connection does
// too. Whatever could be understood in two ways is refused.
func parseFraming(r *http.Request) *refusal {
	h := r.Header
	lengths, codings := h["Content-Length"], h["Transfer-Encoding"]
	switch {
	case codings != nil:
		if r.ProtoMinor == 0 || lengths != nil {
			return bad("two framings")
		}
		if len(codings) != 1 || !strings.EqualFold(codings[0], "chunked") {
			return &refusal{http.StatusNotImplemented, "unsupported transfer coding"}
		}
		delete(h, "Transfer-Encoding")
		r.TransferEncoding, r.ContentLength = []string{"chunked"}, -1
		if refused := parseTrailer(r); refused != nil {
			return refused
		}
	case lengths != nil:
		n, err := strconv.ParseUint(lengths[0], 10, 63)
		if err != nil || len(lengths) != 1 {
			return bad("malformed Content-Length")
		}
		r.ContentLength = int64(n)
	}
	connection := h["Connection"]
	if r.ProtoMinor == 0 {
		r.Close = hasToken(connection, "close") || !hasToken(connection, "keep-alive")
	} else if connection != nil {
		r.Close = hasToken(connection, "close")
	}
	if e := h["Expect"]; e != nil && r.ProtoMinor > 0 && (len(e) != 1 || !strings.EqualFold(e[0], "100-continue")) {
		return &refusal{http.StatusExpectationFailed, "unknown expectation"}
	}
	return nil
}

// parseTrailer makes the declared trailers keys of r.Trailer.
func parseTrailer(r *http.Request) *refusal {
	lines, ok := r.Header["Trailer"]
	if !ok {
		return nil
	}
	delete(r.Header, "Trailer")
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(strings.Trim(name, " \t")); name == "" {
				continue
			}
			if framing(name) || !isToken(name) {
				return bad("malformed Trailer field")
			}
			if r.Trailer == nil {
				r.Trailer = make(http.Header)
			}
			r.Trailer[name] = nil
		}
	}
	return nil
}

// framing reports whether a field tells where a message goes or ends: it cannot
// come after the body.
func framing(name string) bool {
	switch name {
	case "Transfer-Encoding", "Content-Length", "Trailer", "Host":
		return true
	}
	return false
}

// hasToken reports whether one of the comma-separated lists has the token.
func hasToken(lists []string, token string) bool {
	for _, list := range lists {
		for t := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.Trim(t, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// classes of bytes.
const (
	token = 1 << iota // of names and methods (RFC 9110, section 5.6.2)
	host              // of Host
	text              // of values: visible, space, tab and what is not ASCII
)

var class = func() (c [256]uint8) {
	for i := range 256 {
		b := byte(i)
		alnum := '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
		if alnum || b != 0 && strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0 {
			c[i] |= token
		}
		if alnum || b != 0 && strings.IndexByte("!$%&'()*+,-.:;=[]_~", b) >= 0 {
			c[i] |= host
		}
		if b >= ' ' && b != 0x7f || b == '\t' {
			c[i] |= text
		}
	}
	return c
}()

func all(s string, want uint8) bool {
	for i := range len(s) {
		if class[s[i]]&want == 0 {
			return false
		}
	}
	return true
}

func isToken(s string) bool      { return s != "" && all(s, token) }
func isHost(s string) bool       { return all(s, host) }
func isFieldValue(s string) bool { return all(s, text) }

// canonical returns a field's name as net/http writes it, or "" if it is none.
func canonical(name string) string {
	first, other := true, false // of a word; written in another way
	for i := range len(name) {
		c := name[i]
		if class[c]&token == 0 {
			return ""
		}
		other = other || first && 'a' <= c && c <= 'z' || !first && 'A' <= c && c <= 'Z'
		first = c == '-'
	}
	if other {
		return textproto.CanonicalMIMEHeaderKey(name)
	}
	return name
}

// printable reports whether a request target has neither blanks nor controls.
func printable(s string) bool {
	return s != "" && all(s, text) && strings.IndexByte(s, ' ') < 0 && strings.IndexByte(s, '\t') < 0
}
