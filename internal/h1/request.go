package h1

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// appendHead appends the head of a request.
func appendHead(out []byte, config *Config, req *Request) ([]byte, error) {
	// 1. The request line and whom it is for.
	if !token(req.Method) {
		return nil, fmt.Errorf("h1: method %q is not one", req.Method)
	}
	if !target(req.Target) {
		return nil, errors.New("h1: the target is empty or holds what must be percent-encoded")
	}
	out = append(append(append(out, req.Method...), ' '), req.Target...)
	out = append(append(append(out, " HTTP/1.1\r\nHost: "...), config.Host...), "\r\n"...)
	// 2. Where its body ends.
	var err error
	if out, err = appendFraming(out, req); err != nil {
		return nil, err
	}
	// 3. The fields.
	if req.UserAgent != "" {
		if out, err = appendField(out, "User-Agent", req.UserAgent); err != nil {
			return nil, err
		}
	}
	for name, values := range req.Header {
		if ownField(name) || req.Skip != nil && req.Skip(name) {
			continue
		}
		for _, v := range values {
			if v == "" && name == "User-Agent" {
				continue
			}
			if out, err = appendField(out, name, v); err != nil {
				return nil, err
			}
		}
	}
	return append(out, "\r\n"...), nil
}

// ownField reports whether a field is for the connection to say.
func ownField(name string) bool {
	switch name {
	case "Host", "Content-Length", "Transfer-Encoding", "Trailer", "Expect":
		return true
	}
	return false
}

func appendFraming(out []byte, req *Request) ([]byte, error) {
	switch {
	case req.Body == nil:
		switch req.Method {
		case http.MethodPost, http.MethodPut, http.MethodPatch:
			out = append(out, "Content-Length: 0\r\n"...)
		}
		return out, nil
	case req.Length >= 0:
		out = strconv.AppendInt(append(out, "Content-Length: "...), req.Length, 10)
		return append(out, "\r\n"...), nil
	}
	out = append(out, "Transfer-Encoding: chunked\r\n"...)
	if len(req.Trailer) == 0 {
		return out, nil
	}
	separator := "Trailer: "
	for name := range req.Trailer {
		if !token(name) || ownField(name) {
			return nil, fmt.Errorf("h1: field %q cannot be a trailer", name)
		}
		out = append(append(out, separator...), name...)
		separator = ", "
	}
	return append(out, "\r\n"...), nil
}

// appendTrailer appends the last chunk and what follows it.
func appendTrailer(out []byte, trailer http.Header) ([]byte, error) {
	out = append(out, "0\r\n"...)
	for name, values := range trailer {
		for _, v := range values {
			var err error
			if out, err = appendField(out, name, v); err != nil {
				return nil, err
			}
		}
	}
	return append(out, "\r\n"...), nil
}

func appendField(out []byte, name, value string) ([]byte, error) {
	if !token(name) {
		return nil, fmt.Errorf("h1: field name %q is not one", name)
	}
	out = append(append(out, name...), ": "...)
	start := len(out)
	out = append(out, trim(value)...)
	if !printable(out[start:]) {
		return nil, fmt.Errorf("h1: field %s holds a control character", name)
	}
	return append(out, "\r\n"...), nil
}

// trim cuts spaces and tabs off both ends.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// token reports whether s is a token (RFC 9110 section 5.6.2).
func token(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= 0x80 || tokenBits[c>>5]>>(c&31)&1 == 0 {
			return false
		}
	}
	return s != ""
}

// tokenBits has a bit for each character of a token.
var tokenBits = func() (bits [4]uint32) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		bits[c>>5] |= 1 << (c & 31)
	}
	return bits
}()

// target reports whether s can stand in a request line.
func target(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return s != ""
}

// printable reports whether b holds no control character but tabs. It looks at
// eight bytes at a time.
func printable(b []byte) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		del := x ^ 0x7f*ones
		if ((x-0x20*ones)&^x|(del-ones)&^del)&tops != 0 && !printableSlow(b[:8]) {
			return false
		}
		b = b[8:]
	}
	return printableSlow(b)
}

func printableSlow(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// withoutZone cuts the zone off an IPv6 address: it means nothing to the other
// side (RFC 6874).
func withoutZone(host string) string {
	if !strings.HasPrefix(host, "[") {
		return host
	}
	end := strings.LastIndexByte(host, ']')
	zone := strings.LastIndexByte(host[:max(end, 0)], '%')
	if end < 0 || zone < 0 {
		return host
	}
	return host[:zone] + host[end:]
}
