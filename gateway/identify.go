package gateway

import (
	"crypto/rand"
	"crypto/x509"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/civibus/civibus"
)

// maxMessageID is the longest X-Road-Id, as in X-Road's message log.
const maxMessageID = 255

// call is what a request asks for.
type call struct {
	method      string
	path        string // raw, from /r1/ on
	query       string
	asked       bool   // there was a "?"
	servicePath string // raw, after the service code
	service     civibus.ServiceID
	client      civibus.ClientID
	clientText  string // canonical
	serviceText string // canonical
	messageID   string
	requestID   string
	serverCode  string
	purpose     string
}

// parseCall reads method, target and client, which both faces need.
func parseCall(place civibus.Place, r *http.Request, h http.Header) (c call, err error) {
	c.method = r.Method
	c.path, c.query, c.asked = target(r)
	if !known(c.method) {
		return c, civibus.Faultf(place, civibus.FaultBadRequest, "Unknown HTTP method: the rule is one of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE")
	}
	parts, n := segments(c.path)
	if n < 7 || parts[1] != "r1" { // the provider's face gets whatever another body sends
		return c, civibus.Faultf(place, civibus.FaultBadRequest, "Invalid request URI: the rule is /r1/{instance}/{class}/{member}/{subsystem}/{service}[/path]")
	}
	var ids [5]string
	for i := range ids {
		if ids[i], err = civibus.DecodePart(parts[i+2]); err != nil {
			return c, civibus.Faultf(place, civibus.FaultBadRequest, "Invalid request URI: identifier %d: %v", i+1, err)
		}
	}
	named := c.path // from the instance to the service
	if n == 8 {
		c.servicePath = c.path[len(c.path)-len(parts[7])-1:]
		named = c.path[:len(c.path)-len(c.servicePath)]
	}
	named = named[len(parts[0])+len("/r1/"):]
	c.service = civibus.ServiceID{
		ClientID: civibus.ClientID{MemberID: civibus.MemberID{Instance: ids[0], Class: ids[1], Code: ids[2]}, Subsystem: ids[3]},
		Service:  ids[4],
	}
	if c.serviceText = named; encoded(named) {
		c.serviceText = c.service.String()
	}
	text := last(h, civibus.HeaderClient)
	if text == "" {
		return c, civibus.Faultf(place, civibus.FaultMissingClient, "The client identifier is missing: send the header X-Road-Client: INSTANCE/CLASS/MEMBER/SUBSYSTEM")
	}
	if c.client, err = civibus.ParseClientID(text); err != nil {
		return c, civibus.Faultf(place, civibus.FaultBadRequest, "Invalid X-Road-Client: %v", err)
	}
	if c.clientText = text; encoded(text) {
		c.clientText = c.client.String()
	}
	id := last(h, civibus.HeaderID)
	if len(id) > maxMessageID || !utf8.ValidString(id) { // a record could not hold it
		return c, civibus.Faultf(place, civibus.FaultBadRequest, "Invalid X-Road-Id: it has %d bytes, the rule is at most %d bytes of UTF-8", len(id), maxMessageID)
	}
	c.messageID = id
	c.purpose = last(h, civibus.HeaderPurpose)
	return c, nil
}

// segments splits a path at its first seven slashes: "", r1, five identifiers,
// the rest. n says how many of them there are.
func segments(path string) (parts [8]string, n int) {
	more := true
	for ; more && n < len(parts)-1; n++ {
		parts[n], path, more = strings.Cut(path, "/")
	}
	if more {
		parts[n], n = path, n+1
	}
	return parts, n
}

// encoded reports whether an identifier has percent signs. One that has none and
// decodes is in canonical form.
func encoded(id string) bool { return strings.IndexByte(id, '%') >= 0 }

// identifyClient checks what only the consumer's gateway can: that the caller
// is a client of this body, that the calling system may speak for it, and that
// the optional headers are well formed.
func (g *Gateway) identifyClient(r *http.Request, v View, c *call) error {
	const place = civibus.ConsumerGateway
	if c.client.MemberID != g.config.Member || !active(v, c.client) {
		return civibus.Faultf(place, civibus.FaultUnknownMember, "Client '%s' not found", c.client.XRoad())
	}
	if err := g.authenticate(r, c.client); err != nil {
		return err
	}
	if s := last(r.Header, civibus.HeaderSecurityServer); s != "" {
		p, err := civibus.SplitIdentifier(s, 4, 4)
		if err != nil {
			return civibus.Faultf(place, civibus.FaultBadRequest, "Invalid X-Road-Security-Server %q: %v", s, err)
		}
		member := civibus.MemberID{Instance: p[0], Class: p[1], Code: p[2]}
		if m, ok := v.Member(member); !ok || member != v.Carrier(c.service.MemberID) ||
			!slices.ContainsFunc(m.Gateways, func(g civibus.Gateway) bool { return g.Code == p[3] }) {
			return civibus.Faultf(place, civibus.FaultServerID, "Invalid security server identifier 'SERVER:%s': it is no server of the provider", strings.Join(p, "/"))
		}
		c.serverCode = p[3]
	}
	if s := last(r.Header, civibus.HeaderRepresentedParty); s != "" {
		if _, err := civibus.SplitIdentifier(s, 1, 2); err != nil {
			return civibus.Faultf(place, civibus.FaultBadRequest, "Invalid X-Road-Represented-Party %q: %v", s, err)
		}
	}
	if c.messageID == "" {
		c.messageID = v.Instance() + "-" + newUUID()
	}
	c.requestID = newUUID()
	return nil
}

// newUUID returns a random UUID.
func newUUID() string {
	var id uuid.UUID
	_, _ = rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id.String()
}

// active reports whether a client and its member are registered and in force.
func active(v View, id civibus.ClientID) bool {
	if m, ok := v.Member(id.MemberID); !ok || m.Status != civibus.Active {
		return false
	}
	if id.Subsystem == "" {
		return true
	}
	s, ok := v.Subsystem(id)
	return ok && s.Status == civibus.Active
}

// authenticate holds the calling system against the body's client rules.
func (g *Gateway) authenticate(r *http.Request, client civibus.ClientID) error {
	refuse := func(message string) error {
		return civibus.Faultf(civibus.ConsumerGateway, civibus.FaultClientAuth, "Client system not authenticated: %s", message)
	}
	if isFromNode(r.Context()) {
		return nil
	}
	remote := remoteAddr(r)
	local := remote.IsLoopback()
	if r.TLS == nil && (g.config.PlainHTTP == PlainNever || g.config.PlainHTTP == PlainLoopback && !local) {
		return refuse("HTTPS is required")
	}
	if len(g.config.Clients) == 0 {
		if local && !g.config.ClientsByRule {
			return nil
		}
		if local {
			return refuse("no rule lets a system call in the name of " + client.XRoad())
		}
		return refuse("no system outside this machine may call in the name of " + client.XRoad())
	}
	for i := range g.config.Clients {
		rule := &g.config.Clients[i]
		if rule.Client == client && rule.admits(r, remote, g.config.Clock()) {
			return nil
		}
	}
	return refuse("neither its certificate nor its address may call in the name of " + client.XRoad())
}

// admits reports whether a request satisfies the rule.
func (c *ClientRule) admits(r *http.Request, remote netip.Addr, now time.Time) bool {
	if len(c.Networks) > 0 && !slices.ContainsFunc(c.Networks, func(p netip.Prefix) bool { return p.Contains(remote) }) {
		return false
	}
	if len(c.Certificates) == 0 {
		return true
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return false
	}
	leaf := r.TLS.PeerCertificates[0]
	return valid(leaf, now) && slices.Contains(c.Certificates, Fingerprint(leaf))
}

func valid(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

func remoteAddr(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap().WithZone("")
}

// singleFields are X-Road's optional fields, in net/http's form. Nothing changes
// them.
var singleFields = [...]string{http.CanonicalHeaderKey(civibus.HeaderUserID), civibus.HeaderIssue, civibus.HeaderSecurityServer, civibus.HeaderRepresentedParty}

// requestHeader returns the header of the sealed request: what crosses, with
// the identifiers in canonical form, once each, and what the gateway adds.
func (c *call) requestHeader(received http.Header, height, recipient string) http.Header {
	h := make(http.Header, len(received)+9)
	cross(h, received)
	for _, name := range singleFields {
		if len(h[name]) > 1 {
			h[name] = h[name][len(h[name])-1:]
		}
	}
	l := make(lines, 0, 6)
	l.set(h, civibus.HeaderClient, c.clientText)
	l.set(h, civibus.HeaderID, c.messageID)
	l.set(h, civibus.HeaderRequestID, c.requestID)
	l.set(h, civibus.HeaderHeight, height)
	l.set(h, civibus.HeaderRecipient, recipient)
	if c.purpose != "" {
		l.set(h, civibus.HeaderPurpose, c.purpose)
	}
	if s := last(received, civibus.HeaderSubject); s != "" {
		l.set(h, civibus.HeaderSubject, s)
	}
	return h
}

// versioned reports whether a path names a protocol version that is not r1.
func versioned(path string) bool {
	segment, _, more := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return more && len(segment) > 1 && segment[0] == 'r' && strings.Trim(segment[1:], "0123456789") == ""
}

// refuseVersion answers a call of another protocol version.
func (g *Gateway) refuseVersion(w http.ResponseWriter, r *http.Request, path string) {
	version, _, _ := strings.Cut(path[1:], "/")
	fault := civibus.Faultf(civibus.ConsumerGateway, civibus.FaultBadRequest, "Invalid protocol version %s", version)
	if len(version) == 2 {
		fault.Message = "Unsupported protocol version " + version[1:]
	}
	g.problems.Document(fault, r.Header["Accept"], "").WriteTo(w, r)
}
