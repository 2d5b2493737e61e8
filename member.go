package civibus

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxIdentifierPart is the longest identifier part that is accepted, in bytes
// before percent-encoding.
const MaxIdentifierPart = 255

// MemberID identifies a public body: X-Road's instance, member class and
// member code. Comparison is exact and case-sensitive.
type MemberID struct {
	Instance string
	Class    string
	Code     string
}

// ClientID identifies who calls: a member, or one of its subsystems. An empty
// Subsystem means the member itself.
type ClientID struct {
	MemberID
	Subsystem string
}

// ServiceID identifies a service of a subsystem. Version is empty for REST
// services, as in X-Road.
type ServiceID struct {
	ClientID
	Service string
	Version string
}

// idRoom is enough for most identifiers in canonical form; longer ones are made
// just the same.
const idRoom = 128

// String returns the canonical form I/C/M, each part percent-encoded.
func (m MemberID) String() string {
	var room [idRoom]byte
	return string(m.Append(room[:0]))
}

// Append appends the canonical form.
func (m MemberID) Append(dst []byte) []byte { return appendParts(dst, m.Instance, m.Class, m.Code) }

// IsZero reports whether m names nobody.
func (m MemberID) IsZero() bool { return m == MemberID{} }

// String returns the canonical form I/C/M[/S], each part percent-encoded.
func (c ClientID) String() string {
	var room [idRoom]byte
	return string(c.Append(room[:0]))
}

// Append appends the canonical form.
func (c ClientID) Append(dst []byte) []byte {
	if dst = c.MemberID.Append(dst); c.Subsystem == "" {
		return dst
	}
	return appendPart(append(dst, '/'), c.Subsystem)
}

// XRoad returns the form that X-Road uses in messages, SUBSYSTEM:I/C/M/S or
// MEMBER:I/C/M, not percent-encoded.
func (c ClientID) XRoad() string {
	if c.Subsystem == "" {
		return "MEMBER:" + strings.Join([]string{c.Instance, c.Class, c.Code}, "/")
	}
	return "SUBSYSTEM:" + strings.Join([]string{c.Instance, c.Class, c.Code, c.Subsystem}, "/")
}

// String returns the canonical form I/C/M/S/SERVICE[/VERSION], each part
// percent-encoded.
func (s ServiceID) String() string {
	var room [idRoom]byte
	return string(s.Append(room[:0]))
}

// Append appends the canonical form.
func (s ServiceID) Append(dst []byte) []byte {
	dst = appendParts(dst, s.Instance, s.Class, s.Code, s.Subsystem, s.Service)
	if s.Version == "" {
		return dst
	}
	return appendPart(append(dst, '/'), s.Version)
}

// XRoad returns the form that X-Road uses in messages, SERVICE:I/C/M/S/SVC,
// not percent-encoded.
func (s ServiceID) XRoad() string {
	parts := []string{s.Instance, s.Class, s.Code, s.Subsystem, s.Service}
	if s.Version != "" {
		parts = append(parts, s.Version)
	}
	return "SERVICE:" + strings.Join(parts, "/")
}

// ParseMemberID reads the canonical form I/C/M.
func ParseMemberID(s string) (MemberID, error) {
	var room [3]string
	p, err := splitParts(room[:0], s, 3, 3)
	if err != nil {
		return MemberID{}, fmt.Errorf("member identifier %q: %w", s, err)
	}
	return MemberID{p[0], p[1], p[2]}, nil
}

// ParseClientID reads the canonical form I/C/M[/S], the value of X-Road-Client.
func ParseClientID(s string) (ClientID, error) {
	var room [4]string
	p, err := splitParts(room[:0], s, 3, 4)
	if err != nil {
		return ClientID{}, fmt.Errorf("client identifier %q: %w", s, err)
	}
	id := ClientID{MemberID: MemberID{p[0], p[1], p[2]}}
	if len(p) == 4 {
		id.Subsystem = p[3]
	}
	return id, nil
}

// ParseServiceID reads the canonical form I/C/M/S/SERVICE[/VERSION].
func ParseServiceID(s string) (ServiceID, error) {
	var room [6]string
	p, err := splitParts(room[:0], s, 5, 6)
	if err != nil {
		return ServiceID{}, fmt.Errorf("service identifier %q: %w", s, err)
	}
	id := ServiceID{ClientID: ClientID{MemberID{p[0], p[1], p[2]}, p[3]}, Service: p[4]}
	if len(p) == 6 {
		id.Version = p[5]
	}
	return id, nil
}

// SplitIdentifier splits a canonical identifier of min to max parts at its
// slashes and decodes each part. X-Road's decoder rules hold: the unencoded
// characters allowed are A-Z a-z 0-9 - . _ ~ ! $ & ' ( ) * + , ; = : @, "+" is a
// plus, %HH is UTF-8.
func SplitIdentifier(s string, min, max int) ([]string, error) { return splitParts(nil, s, min, max) }

// splitParts appends the decoded parts to dst.
func splitParts(dst []string, s string, min, max int) ([]string, error) {
	if n := strings.Count(s, "/") + 1; n < min || n > max {
		if min == max {
			return nil, fmt.Errorf("it has %d parts, the rule is %d parts separated by \"/\"", n, min)
		}
		return nil, fmt.Errorf("it has %d parts, the rule is %d to %d parts separated by \"/\"", n, min, max)
	}
	for more := true; more; {
		var raw string
		raw, s, more = strings.Cut(s, "/")
		part, err := DecodePart(raw)
		if err != nil {
			return nil, fmt.Errorf("part %d: %w", len(dst)+1, err)
		}
		dst = append(dst, part)
	}
	return dst, nil
}

// DecodePart decodes one percent-encoded identifier part.
func DecodePart(s string) (string, error) {
	if s == "" {
		return "", fmt.Errorf("it is empty, the rule is at least one character")
	}
	out := s
	if plain(s) < len(s) {
		b := make([]byte, 0, len(s))
		for i := 0; i < len(s); i++ {
			switch c := s[i]; {
			case unencoded(c):
				b = append(b, c)
			case c == '%':
				if i+2 >= len(s) || unhex(s[i+1]) < 0 || unhex(s[i+2]) < 0 {
					return "", fmt.Errorf("bad percent-encoding at byte %d, the rule is %% and two hex digits", i)
				}
				b = append(b, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
				i += 2
			default:
				return "", fmt.Errorf("character %q at byte %d must be percent-encoded", c, i)
			}
		}
		if !utf8.Valid(b) {
			return "", fmt.Errorf("%q does not decode to UTF-8", s)
		}
		out = string(b)
	}
	if len(out) > MaxIdentifierPart {
		return "", fmt.Errorf("it has %d bytes, the rule is at most %d", len(out), MaxIdentifierPart)
	}
	return out, nil
}

// EncodePart percent-encodes one identifier part as a URL path segment.
func EncodePart(s string) string {
	var room [idRoom]byte
	if b := appendPart(room[:0], s); len(b) != len(s) {
		return string(b)
	}
	return s
}

func appendPart(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for {
		n := plain(s)
		if dst = append(dst, s[:n]...); n == len(s) {
			return dst
		}
		dst = append(dst, '%', hex[s[n]>>4], hex[s[n]&15])
		s = s[n+1:]
	}
}

func appendParts(dst []byte, parts ...string) []byte {
	for i, p := range parts {
		if i > 0 {
			dst = append(dst, '/')
		}
		dst = appendPart(dst, p)
	}
	return dst
}

// plain returns how many bytes at the beginning of s stand for themselves.
func plain(s string) int {
	for i := 0; i < len(s); i++ {
		if !unencoded(s[i]) {
			return i
		}
	}
	return len(s)
}

func unencoded(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '-', '.', '_', '~', '!', '$', '&', '\'', '(', ')', '*', '+', ',', ';', '=', ':', '@':
		return true
	}
	return false
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

// Period is a stretch of registry heights in which something was in force.
type Period struct {
	From uint64 // first height of force
	To   uint64 // first height no longer in force; 0: open
}

// InForce reports whether some period covers height.
func InForce(periods []Period, height uint64) bool {
	for _, p := range periods {
		if p.From <= height && (p.To == 0 || height < p.To) {
			return true
		}
	}
	return false
}

// Status says whether something in the registry is in force now.
type Status int

// The statuses.
const (
	Active    Status = iota + 1
	Suspended        // can become active again
	Ended            // final
)

// String returns the lower-case name.
func (s Status) String() string {
	switch s {
	case Active:
		return "active"
	case Suspended:
		return "suspended"
	case Ended:
		return "ended"
	}
	return "unspecified"
}

// Gateway is one address at which a member's gateways answer other bodies.
type Gateway struct {
	Code    string // X-Road server code, unique within the member
	Address string // host:port
}

// Member is a public body.
type Member struct {
	ID       MemberID
	Name     string
	Parent   MemberID // zero: none
	Gateways []Gateway
	Status   Status
	Periods  []Period
}

// Subsystem is one of a body's systems.
type Subsystem struct {
	ID      ClientID
	Name    string
	Status  Status
	Periods []Period
}
