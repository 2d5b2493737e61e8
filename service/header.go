package service

import (
	"net/http"
	"slices"
	"strings"
)

// hopByHop are the fields that X-Road does not pass on in either direction.
var hopByHop = [...]string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding",
	"Upgrade", "Host", "User-Agent", "Server", "Content-Length", "Expect",
}

// hopField reports whether X-Road does not pass a field on.
func hopField(name string) bool { return slices.Contains(hopByHop[:], name) }

// EndToEnd returns a copy of a header without the fields that belong to one
// connection: X-Road's list, and what the Connection field names (RFC 9110
// section 7.6.1). Its values are shared with the original.
func EndToEnd(header http.Header) http.Header {
	out := make(http.Header, len(header))
	for name, values := range header {
		out[name] = values
	}
	stripHop(out)
	return out
}

// stripHop is EndToEnd on the header itself.
func stripHop(header http.Header) {
	for _, field := range header["Connection"] {
		for name := range strings.SplitSeq(field, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			if !needed(name) {
				delete(header, name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(header, name)
	}
}

// needed names fields that no one gets rid of by naming them in Connection.
func needed(name string) bool {
	return strings.HasPrefix(name, "X-Road-") || strings.HasPrefix(name, "Civibus-") || name == "Content-Type" || name == "Content-Encoding"
}
