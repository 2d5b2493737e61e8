// Package rawurl makes request targets that reach the wire exactly as they were
// received. net/url keeps most escaped paths as they are, but not all: this
// package knows which and works around the rest.
//
// Trust: an attacker who controls a path or query can at most make the request
// target hold those bytes; control characters and spaces are refused, so that
// no second request line can be smuggled in.
package rawurl

import (
	"fmt"
	"net/url"
	"strings"
)

// New returns a URL for scheme and host whose request target is byte for byte
// path, and "?" and query if query is not empty. An empty path becomes "/".
func New(scheme, host, path, query string) (*url.URL, error) {
	if err := check("path", path); err != nil {
		return nil, err
	}
	if err := check("query", query); err != nil {
		return nil, err
	}
	if strings.ContainsRune(path, '?') {
		return nil, fmt.Errorf("path %q: a \"?\" in a path must be percent-encoded", path)
	}
	if path == "" {
		path = "/"
	}
	if path[0] != '/' {
		return nil, fmt.Errorf("path %q: the rule is that it starts with \"/\"", path)
	}
	u := &url.URL{Scheme: scheme, Host: host, RawQuery: query}
	if decoded, err := url.PathUnescape(path); err == nil {
		u.Path, u.RawPath = decoded, path
		if u.EscapedPath() == path {
			return u, nil
		}
	}
	// net/url would encode this path anew. An opaque URL is sent as it is,
	// except that one starting with "//" would be read as an authority.
	u.Path, u.RawPath, u.Opaque = "", "", path
	if strings.HasPrefix(path, "//") {
		u.Opaque = "//" + host + path
	}
	return u, nil
}

// check refuses what would break the request line. Everything else passes, also
// what RFC 3986 does not allow: it is the service that judges it.
func check(what, s string) error {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c == 0x7f || c == '#' {
			return fmt.Errorf("%s %q: byte %#02x at %d must be percent-encoded", what, s, c, i)
		}
	}
	return nil
}
