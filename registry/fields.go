package registry

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// The limits. spec/registry.md repeats them.
const (
	maxName           = 255     // bytes of a name or title
	maxNotice         = 1024    // bytes of a notice
	maxLegalBasis     = 1024    // bytes of a legal basis
	maxPurpose        = 64      // bytes of a purpose code
	maxAddress        = 260     // bytes of a gateway's address
	maxGateways       = 16      // gateways of a member
	maxEndpoints      = 128     // endpoints of a service or right
	maxPath           = 1024    // bytes of an endpoint's path
	maxCertificate    = 8192    // bytes of a certificate
	maxCheckpoint     = 4096    // bytes of a checkpoint note
	maxProofHashes    = 64      // hashes of a consistency proof
	maxPeriods        = 512     // periods of one record
	maxKeysPerPurpose = 512     // keys of a member and purpose, the revoked ones included
	maxDepth          = 8       // members from a top-level one down to a leaf of the hierarchy
	maxDescendants    = 4096    // descendants of a member that is moved
	maxSequenceStep   = 1 << 20 // from a key's last sequence to the next
	maxHeightAhead    = 1 << 32 // from the current height to an activation or revocation
	maxUnixSeconds    = 253402300799
	maxPerSeconds     = 86400
	maxSentence       = 400              // bytes of what a person is told of a call
	maxWithheld       = 10 * 366 * 86400 // seconds for which a usage record is not shown at most
)

// invisible reports whether a character cannot be seen or changes how others
// are seen: controls, spaces other than the ordinary one, joiners, direction
// marks, private use and specials. The ranges are fixed here, and not taken from
// a Unicode table, because a newer table would split the replicas.
func invisible(r rune) bool {
	if r < 0x7f { // what most text is
		return r < ' '
	}
	for _, x := range [...][2]rune{
		{0x7f, 0xa0}, {0xad, 0xad}, {0x34f, 0x34f}, {0x61c, 0x61c}, {0x115f, 0x1160}, {0x1680, 0x1680},
		{0x17b4, 0x17b5}, {0x180b, 0x180f}, {0x2000, 0x200f}, {0x2028, 0x202f}, {0x205f, 0x206f}, {0x2800, 0x2800},
		{0x3000, 0x3000}, {0x3164, 0x3164}, {0xd800, 0xf8ff}, {0xfe00, 0xfe0f}, {0xfeff, 0xfeff}, {0xffa0, 0xffa0},
		{0xfff0, 0xffff}, {0xe0000, 0x10ffff},
	} {
		if x[0] <= r && r <= x[1] {
			return true
		}
	}
	return false
}

// checkText checks free text: a name, a title, a notice, a citation.
func checkText(field, s string, min, max int) *refusal {
	if len(s) < min || len(s) > max {
		return refuse(InvalidField, "%s has %d bytes, the rule is %d to %d", field, len(s), min, max)
	}
	for _, r := range s {
		if invisible(r) {
			return refuse(InvalidField, "%s contains the character U+%04X, the rule is visible characters and ordinary spaces", field, r)
		}
	}
	if strings.HasPrefix(s, " ") || strings.HasSuffix(s, " ") {
		return refuse(InvalidField, "%s starts or ends with a space", field)
	}
	return nil
}

// checkPart checks one part of a new identifier, not percent-encoded. A slash is
// allowed, as X-Road allows it (discouraged): it stands as %2F in identifiers.
func checkPart(field, s string) *refusal {
	if s == "" || len(s) > civibus.MaxIdentifierPart {
		return refuse(InvalidField, "%s: a part has %d bytes, the rule is 1 to %d", field, len(s), civibus.MaxIdentifierPart)
	}
	if s == "." || s == ".." {
		return refuse(InvalidField, "%s: a part is %q, which URLs give another meaning", field, s)
	}
	for _, r := range s {
		if invisible(r) || strings.ContainsRune(` %:;\`, r) {
			return refuse(InvalidField, "%s: a part contains %q; spaces, invisible characters and any of %% : ; \\ are not allowed", field, r)
		}
	}
	return nil
}

// parts checks that s is a canonical identifier whose parts are allowed.
func checkIdentifier(field, s, canonical string, parts ...string) *refusal {
	if s != canonical {
		return refuse(InvalidField, "%s: %q is not in canonical form, which is %q", field, s, canonical)
	}
	for _, p := range parts {
		if r := checkPart(field, p); r != nil {
			return r
		}
	}
	return nil
}

func (x *txn) memberID(field, s string) (civibus.MemberID, *refusal) {
	id, err := civibus.ParseMemberID(s)
	if err != nil {
		return id, refuse(InvalidField, "%s: %v", field, err)
	}
	if id.Instance != x.params.Instance {
		return id, refuse(InvalidField, "%s: %q is of another instance, this one is %q", field, s, x.params.Instance)
	}
	return id, checkIdentifier(field, s, id.String(), id.Class, id.Code)
}

// clientID reads a member's or a subsystem's identifier.
func (x *txn) clientID(field, s string) (civibus.ClientID, *refusal) {
	id, err := civibus.ParseClientID(s)
	if err != nil {
		return id, refuse(InvalidField, "%s: %v", field, err)
	}
	if id.Instance != x.params.Instance {
		return id, refuse(InvalidField, "%s: %q is of another instance, this one is %q", field, s, x.params.Instance)
	}
	if id.Subsystem == "" {
		return id, checkIdentifier(field, s, id.String(), id.Class, id.Code)
	}
	return id, checkIdentifier(field, s, id.String(), id.Class, id.Code, id.Subsystem)
}

func (x *txn) subsystemID(field, s string) (civibus.ClientID, *refusal) {
	id, r := x.clientID(field, s)
	if r == nil && id.Subsystem == "" {
		r = refuse(InvalidField, "%s: %q is a member, the rule is a subsystem, INSTANCE/CLASS/MEMBER/SUBSYSTEM", field, s)
	}
	return id, r
}

func (x *txn) serviceID(field, s string) (civibus.ServiceID, *refusal) {
	id, err := civibus.ParseServiceID(s)
	if err != nil {
		return id, refuse(InvalidField, "%s: %v", field, err)
	}
	if id.Instance != x.params.Instance {
		return id, refuse(InvalidField, "%s: %q is of another instance, this one is %q", field, s, x.params.Instance)
	}
	parts := []string{id.Class, id.Code, id.Subsystem, id.Service}
	if id.Version != "" {
		parts = append(parts, id.Version)
	}
	return id, checkIdentifier(field, s, id.String(), parts...)
}

// groupID reads "global/CODE" or "local/I/C/M/S/CODE". owner is the zero value
// for a global group.
func (x *txn) groupID(field, s string) (owner civibus.ClientID, r *refusal) {
	if rest, ok := strings.CutPrefix(s, "global/"); ok {
		parts, err := civibus.SplitIdentifier(rest, 1, 1)
		if err != nil {
			return owner, refuse(InvalidField, "%s: group %q: %v", field, s, err)
		}
		return owner, checkIdentifier(field, rest, civibus.EncodePart(parts[0]), parts[0])
	}
	rest, ok := strings.CutPrefix(s, "local/")
	cut := strings.LastIndexByte(rest, '/')
	if !ok || cut < 0 {
		return owner, refuse(InvalidField, "%s: group %q, the rule is global/CODE or local/INSTANCE/CLASS/MEMBER/SUBSYSTEM/CODE", field, s)
	}
	parts, err := civibus.SplitIdentifier(rest[cut+1:], 1, 1)
	if err != nil {
		return owner, refuse(InvalidField, "%s: group %q: %v", field, s, err)
	}
	if r := checkIdentifier(field, rest[cut+1:], civibus.EncodePart(parts[0]), parts[0]); r != nil {
		return owner, r
	}
	return x.subsystemID(field, rest[:cut])
}

func checkGateways(in []*registrypb.Gateway) ([]civibus.Gateway, *refusal) {
	if len(in) > maxGateways {
		return nil, refuse(InvalidField, "gateways: %d, the rule is at most %d", len(in), maxGateways)
	}
	out := gatewaysOf(in)
	for i, g := range out {
		if r := checkPart(fmt.Sprintf("gateways[%d].code", i), g.Code); r != nil {
			return nil, r
		}
		if slices.ContainsFunc(out[:i], func(o civibus.Gateway) bool { return o.Code == g.Code }) {
			return nil, refuse(InvalidField, "gateways[%d].code: %q occurs twice", i, g.Code)
		}
		if err := checkAddress(g.Address); err != nil {
			return nil, refuse(InvalidField, "gateways[%d].address: %q: %v", i, g.Address, err)
		}
	}
	return out, nil
}

// checkAddress checks host:port, where host is a DNS name in lower case or an
// IP address.
func checkAddress(s string) error {
	if len(s) > maxAddress {
		return fmt.Errorf("it has %d bytes, the rule is at most %d", len(s), maxAddress)
	}
	cut := strings.LastIndexByte(s, ':')
	if cut < 0 {
		return fmt.Errorf("it has no port, the rule is host:port")
	}
	host, port := s[:cut], s[cut+1:]
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("port %q, the rule is 1 to 65535", port)
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		if a.Addr().Zone() != "" || a.String() != s {
			return fmt.Errorf("the rule is the canonical form of an IP address, without a zone")
		}
		return nil
	}
	if len(host) == 0 || len(host) > 253 {
		return fmt.Errorf("host of %d bytes, the rule is 1 to 253", len(host))
	}
	for label := range strings.SplitSeq(host, ".") {
		ok := label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
		for i := 0; ok && i < len(label); i++ {
			c := label[i]
			ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-'
		}
		if !ok {
			return fmt.Errorf("host %q, the rule is a DNS name in lower case or an IP address", host)
		}
	}
	return nil
}

func checkEndpoints(in []*registrypb.Endpoint) ([]civibus.Endpoint, *refusal) {
	if len(in) > maxEndpoints {
		return nil, refuse(InvalidField, "endpoints: %d, the rule is at most %d", len(in), maxEndpoints)
	}
	out := endpointsOf(in)
	for i, e := range out {
		if err := checkMethod(e.Method); err != nil {
			return nil, refuse(InvalidField, "endpoints[%d].method: %q: %v", i, e.Method, err)
		}
		if err := checkPath(e.Path); err != nil {
			return nil, refuse(InvalidField, "endpoints[%d].path: %q: %v", i, e.Path, err)
		}
		if slices.Contains(out[:i], e) {
			return nil, refuse(InvalidField, "endpoints[%d]: %s %s occurs twice", i, e.Method, e.Path)
		}
	}
	return out, nil
}

func checkMethod(s string) error {
	if s == "*" {
		return nil
	}
	if s == "" || len(s) > 16 {
		return fmt.Errorf("the rule is \"*\" or 1 to 16 capitals")
	}
	for i := range len(s) {
		if s[i] < 'A' || s[i] > 'Z' {
			return fmt.Errorf("the rule is \"*\" or 1 to 16 capitals")
		}
	}
	return nil
}

// checkPath checks an endpoint's path glob, X-Road's: "*" stands for any
// characters but "/", "**" for any, "\*" for a star.
func checkPath(s string) error {
	if len(s) > maxPath {
		return fmt.Errorf("it has %d bytes, the rule is at most %d", len(s), maxPath)
	}
	if s == "" || s[0] != '/' && s != "**" {
		return fmt.Errorf("the rule is a path that starts with \"/\", or \"**\"")
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c <= ' ' || c >= 0x7f || strings.IndexByte("?#\"<>`{|}^", c) >= 0:
			return fmt.Errorf("the character %q at byte %d does not occur in a URL path; percent-encode it", c, i)
		case c == '\\':
			if i+1 >= len(s) || s[i+1] != '*' {
				return fmt.Errorf("\"\\\" at byte %d, the rule is that only a star follows it", i)
			}
			i++
		case c == '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return fmt.Errorf("bad percent-encoding at byte %d, the rule is %% and two hex digits", i)
			}
		case strings.HasPrefix(s[i:], "***"):
			return fmt.Errorf("\"***\" at byte %d, the rule is at most two stars", i)
		}
	}
	for segment := range strings.SplitSeq(strings.ReplaceAll(strings.ToLower(s), "%2e", "."), "/") {
		if segment == "." || segment == ".." {
			return fmt.Errorf("it has a %q segment, which never matches a normalised path", segment)
		}
	}
	return nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// checkPurpose checks a purpose code.
func checkPurpose(s string) *refusal {
	ok := s != "" && len(s) <= maxPurpose
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._-", c) >= 0
	}
	if !ok {
		return refuse(InvalidField, "purpose: %q, the rule is 1 to %d characters of A-Z a-z 0-9 . _ -", s, maxPurpose)
	}
	return nil
}

// changeStatus checks a change of status and returns the periods after it.
func (x *txn) changeStatus(what string, old, new civibus.Status, periods []civibus.Period) ([]civibus.Period, *refusal) {
	switch {
	case new < civibus.Active || new > civibus.Ended:
		return nil, refuse(InvalidField, "status: %d, the rule is active, suspended or ended", new)
	case old == civibus.Ended:
		return nil, refuse(Ended, "%s has ended, which is final", what)
	case old == new:
		return nil, refuse(NoChange, "%s is %s already", what, new)
	case len(periods) >= maxPeriods && new != civibus.Ended:
		return nil, refuse(LimitReached, "%s has %d periods, the rule is at most %d", what, len(periods), maxPeriods)
	case new == civibus.Active:
		return begin(periods, x.height), nil
	}
	return end(periods, x.height), nil
}
