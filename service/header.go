package service

import (
	"net/http"
	"strings"
)

// hopByHop are the fields that X-Road does not pass on in either direction.
var hopByHop = [...]string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding",
	"Upgrade", "Host", "User-Agent", "Server", "Content-Length", "Expect",
}

// EndToEnd returns a copy of a header without the fields that belong to one
// connection: X-Road's list, and what the Connection field names (RFC 9110
// section 7.6.1). Its values are shared with the original.
func EndToEnd(header http.Header) http.Header {
	out := make(http.Header, len(header))
	for name, values := range header {
		out[name] = values
	}
	for _, field := range header["Connection"] {
		for name := range strings.SplitSeq(field, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			if !needed(name) {
				delete(out, name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(out, name)
	}
	return out
}

// needed names fields that no one gets rid of by naming them in Connection.
func needed(name string) bool {
	return strings.HasPrefix(name, "X-Road-") || strings.HasPrefix(name, "Civibus-") || name == "Content-Type" || name == "Content-Encoding"
}
