package policy

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// The reasons for which a path is refused before any pattern is tried.
var (
	errPathStart     = errors.New("the path does not start with \"/\"")
	errPathEncoding  = errors.New("the path's percent-encoding is broken: the rule is % and two hex digits of UTF-8")
	errPathTraversal = errors.New("the path holds \"..\", which no access right covers")
)

// NormalisePath brings the raw path of a call to the form that patterns are
// matched against: percent-decoded, with "." and ".." segments resolved. Where
// a service could understand the raw path otherwise than this function does,
// the path is refused:
//
//   - whatever still holds ".." after that (a segment such as "..;", an encoded
//     slash next to dots, a backslash, a file name with two dots), as X-Road does
//   - ".." that leaves the service's root, or that removes an empty segment
//     (servers differ on whether "//" counts)
//   - dots that a second decoding would bring forth ("%252e%252e")
//
// An encoded slash decodes to a slash for matching, but does not separate
// segments for resolving.
func NormalisePath(raw string) (string, error) {
	if raw == "" {
		return "", nil
	}
	if raw[0] != '/' {
		return "", errPathStart
	}
	if plainPath(raw) {
		return raw, nil
	}
	kept := make([]string, 0, 16)
	segments := strings.Split(raw[1:], "/")
	for i, segment := range segments {
		s, err := decodeSegment(segment)
		if err != nil {
			return "", err
		}
		last := i == len(segments)-1
		switch {
		case s == ".":
			if last {
				kept = append(kept, "")
			}
		case s == "..":
			if len(kept) == 0 || kept[len(kept)-1] == "" {
				return "", errPathTraversal
			}
			kept = kept[:len(kept)-1]
			if last {
				kept = append(kept, "")
			}
		case hidesDots(s):
			return "", errPathTraversal
		default:
			kept = append(kept, s)
		}
	}
	return "/" + strings.Join(kept, "/"), nil
}

// plainPath reports whether a path is its own normal form.
func plainPath(p string) bool {
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '%' || c >= utf8.RuneSelf:
			return false
		case c == '.' && (p[i-1] == '/' || p[i-1] == '.'):
			return false
		}
	}
	return true
}

// maxDecodings is how often a segment may still be decodable; one that goes
// deeper hides something.
const maxDecodings = 4

// hidesDots reports whether a decoded segment holds "..", now or after further
// decodings.
func hidesDots(s string) bool {
	if strings.Contains(s, "..") {
		return true
	}
	for range maxDecodings {
		if strings.IndexByte(s, '%') < 0 {
			return false
		}
		d := unescapeLoosely(s)
		if d == s {
			return false
		}
		if s = d; strings.Contains(s, "..") {
			return true
		}
	}
	return true
}

// unescapeLoosely decodes what is well encoded and leaves the rest.
func unescapeLoosely(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0 {
			b.WriteByte(byte(unhex(s[i+1])<<4 | unhex(s[i+2])))
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// decodeSegment decodes one segment; broken encodings are errors.
func decodeSegment(s string) (string, error) {
	if strings.IndexByte(s, '%') >= 0 {
		b := make([]byte, 0, len(s))
		for i := 0; i < len(s); i++ {
			if s[i] != '%' {
				b = append(b, s[i])
				continue
			}
			if i+2 >= len(s) || unhex(s[i+1]) < 0 || unhex(s[i+2]) < 0 {
				return "", errPathEncoding
			}
			b = append(b, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
			i += 2
		}
		s = string(b)
	}
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return "", errPathEncoding
	}
	return s, nil
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
