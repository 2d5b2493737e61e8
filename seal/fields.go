package seal

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal/httpsig"
)

// Field names in net/http's form.
const (
	fieldDigest    = "Content-Digest"
	fieldInput     = "Signature-Input"
	fieldSignature = "Signature"
	fieldLength    = "Content-Length"
	fieldTrailer   = "Trailer"
)

// secret reports whether a field is passed on but not sealed, so that no
// evidence ever holds it.
func secret(name string) bool {
	switch name {
	case "Authorization", "Cookie", "Set-Cookie", civibus.HeaderSubject:
		return true
	}
	return false
}

// hop reports whether a field belongs to one connection or to the framing of
// the message and not to the message, or is a signature field.
func hop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Proxy-Authentication-Info", "Te", fieldTrailer, "Transfer-Encoding", "Upgrade", "Http2-Settings", "Expect",
		"Host", fieldLength, fieldInput, fieldSignature:
		return true
	}
	return false
}

// stripHop removes the fields of the connection, those that Connection names,
// and old signatures, from a message about to be sealed. Content-Length stays:
// net/http may need it for the answer to HEAD.
func stripHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" {
				h.Del(name)
			}
		}
	}
	for name := range h {
		if name != fieldLength && hop(name) {
			delete(h, name)
		}
	}
}

// covered appends the components of the fields of h in the order of their
// names, and checks the limits.
func covered(dst []httpsig.Component, h http.Header) ([]httpsig.Component, error) {
	// 1. Which fields, and whether they may be sealed.
	var room [usualList]*httpsig.Component
	fields, size := room[:0], 0
	for name, lines := range h {
		if len(lines) == 0 || hop(name) || secret(name) {
			continue
		}
		c, err := fieldComponent(name)
		if err != nil {
			return nil, err
		}
		size += len(name)
		for _, l := range lines {
			size += len(l)
			if strings.IndexByte(l, '\r') >= 0 || strings.IndexByte(l, '\n') >= 0 || strings.IndexByte(l, 0) >= 0 {
				return nil, fmt.Errorf("field %s: its value holds a control character", name)
			}
		}
		fields = append(fields, c)
	}
	if n := len(fields); n > MaxFields || size > MaxHeadBytes {
		return nil, fmt.Errorf("%d fields with %d bytes: the rule is at most %d fields and %d bytes", n, size, MaxFields, MaxHeadBytes)
	}
	// 2. In the order of their names.
	slices.SortFunc(fields, func(a, b *httpsig.Component) int { return strings.Compare(a.Name(), b.Name()) })
	for _, c := range fields {
		dst = append(dst, *c)
	}
	return dst, nil
}

// checkLimits refuses a received head before any work is done on it.
func checkLimits(h http.Header) error {
	if len(h) > 2*MaxFields {
		return fmt.Errorf("it has %d fields, the rule is at most %d", len(h), MaxFields)
	}
	size := 0
	for name, lines := range h {
		for _, l := range lines {
			size += len(name) + len(l)
		}
	}
	if size > 2*MaxHeadBytes {
		return fmt.Errorf("its fields have %d bytes, the rule is at most %d", size, MaxHeadBytes)
	}
	if n := lengthOf(h[fieldInput]); n > 2*MaxInput {
		return fmt.Errorf("its Signature-Input has %d bytes, the rule is at most %d", n, MaxInput)
	}
	return nil
}

func lengthOf(lines []string) int {
	n := 0
	for _, l := range lines {
		n += len(l)
	}
	return n
}

// The components of constant name, made once. Nothing changes them.
var (
	requestParts = components("@method", "@path", "@query")
	statusPart   = components("@status")
	digestTail   = []httpsig.Component{component("content-digest", httpsig.TR())}
	requestBound = []httpsig.Component{
		component("@method", httpsig.Req()), component("@path", httpsig.Req()), component("@query", httpsig.Req())}
	boundParts = [...][]httpsig.Component{
		toRequest: append(slices.Clip(requestBound), component("content-digest", httpsig.Req()),
			component("signature", httpsig.Req(), httpsig.Key(Label))),
		toStream: append(slices.Clip(requestBound), component("content-digest", httpsig.Req(), httpsig.TR()),
			component("signature", httpsig.Req(), httpsig.TR(), httpsig.Key(Label))),
		toHead:    append(slices.Clip(requestBound), component("signature", httpsig.Req(), httpsig.Key(HeadLabel))),
		toNothing: requestBound,
	}
)

// The fields that nearly every sealed message has: their components and, by
// their names in lower case, their names in net/http's form. Nothing changes
// them.
var usualFields, usualNames = func() (map[string]*httpsig.Component, map[string]string) {
	fields, names := make(map[string]*httpsig.Component), make(map[string]string)
	for _, name := range []string{
		fieldDigest, "Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Content-Encoding", "Content-Type",
		"Date", "Etag", "Last-Modified", "Location", "User-Agent", "Vary",
		civibus.HeaderClient, civibus.HeaderID, civibus.HeaderRequestID, civibus.HeaderRequestHash, civibus.HeaderService,
		http.CanonicalHeaderKey(civibus.HeaderUserID), civibus.HeaderIssue, civibus.HeaderSecurityServer, civibus.HeaderRepresentedParty,
		civibus.HeaderPurpose, civibus.HeaderHeight, civibus.HeaderRecipient, civibus.HeaderFault, civibus.HeaderBodyLength, civibus.HeaderError,
	} {
		lower := strings.ToLower(name)
		c := component(lower)
		fields[name], names[lower] = &c, name
	}
	return fields, names
}()

// fieldComponent is the component of a field with a name in net/http's form.
func fieldComponent(name string) (*httpsig.Component, error) {
	if c, ok := usualFields[name]; ok {
		return c, nil
	}
	c, err := httpsig.FieldComponent(name)
	return &c, err
}

// headerName returns net/http's form of a field name in lower case.
func headerName(lower string) string {
	if name, ok := usualNames[lower]; ok {
		return name
	}
	return http.CanonicalHeaderKey(lower)
}

func component(name string, params ...httpsig.Param) httpsig.Component {
	c, err := httpsig.NewComponent(name, params...)
	if err != nil {
		panic(err) // only the constants above come here
	}
	return c
}

func components(names ...string) []httpsig.Component {
	out := make([]httpsig.Component, len(names))
	for i, n := range names {
		out[i] = component(n)
	}
	return out
}

// boundTo says what a response's seal covers of its request.
type boundTo int

const (
	toRequest boundTo = iota // the whole request, digest and seal in its head
	toStream                 // the whole request, digest and seal in its trailers
	toHead                   // only the head of a streamed request
	toNothing                // a request without a seal: its method, path and query
)

// binding says how an answer can be bound to r now.
func (r *RequestSeal) binding() boundTo {
	switch {
	case r.head != "" && r.Complete():
		return toStream
	case r.head != "":
		return toHead
	case r.Complete():
		return toRequest
	}
	return toNothing
}

// errIncomplete is the cause when an answer comes before its request's end.
var errIncomplete = errors.New("the request's body has not been read to its end")

// errNoBinding is the cause when a caller forgot what a response answers.
var errNoBinding = errors.New("seal: no binding to a request is given")

// mayAnswer applies the rule that only a refusal may be bound to less than the
// whole request.
func mayAnswer(place civibus.Place, b boundTo, status int) error {
	if (b == toHead || b == toNothing) && status < 400 {
		return fault(place, civibus.FaultIO, errIncomplete, "an answer with status %d needs the whole sealed request", status)
	}
	return nil
}
