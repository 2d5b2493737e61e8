package gateway

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/problem"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/transport"
)

// patience is how long a service that has answered may pause in reading the
// rest of the request.
const patience = 5 * time.Second

// provision is an exchange at the provider's gateway.
type provision struct {
	*exchange
	w       http.ResponseWriter
	r       *http.Request
	message *seal.Verified    // nil: the request's seal does not verify
	binding *seal.RequestSeal // what the answer is bound to
	from    civibus.MemberID  // the body at the other end
	called  bool              // a right covered the call, and the service may have seen it
	persons bool              // calls under that right concern persons
}

// verifyRequest establishes who asks what. Each claim is held against the one
// before it: the connection's body, the seal's key, the client.
func (p *provision) verifyRequest(ctx context.Context) error {
	peer, ok := transport.PeerFrom(ctx)
	if !ok {
		return civibus.Faultf(p.place, civibus.FaultPeer, "the request did not come from another body's gateway")
	}
	p.peer, p.from = peer.Key, peer.Member
	if err := p.ready(); err != nil {
		return err
	}
	v, err := p.g.verifier.Request(p.r)
	if err != nil {
		return err
	}
	p.message, p.binding, p.request = v, v.Binding(), v.Seal()
	if p.call, err = parseCall(p.place, p.r, v.Header); err != nil {
		return err
	}
	if err := p.call.checkHop(v.Header); err != nil {
		return err
	}
	if err := v.CheckRecipient(peer.Own, p.alone); err != nil {
		return err
	}
	// The record names one height, and the key must be in force there. One that
	// came into force a moment ago moves the decision on.
	if checkSealer(p.place, p.view, v, p.call.client.MemberID) != nil {
		p.view = p.g.config.View()
		if err := checkSealer(p.place, p.view, v, p.call.client.MemberID); err != nil {
			return err
		}
	}
	if !p.view.Carries(peer.Member, p.call.client.MemberID) {
		return civibus.Faultf(p.place, civibus.FaultPeer, "the gateway of %s may not speak for %s", peer.Member, p.call.client.MemberID)
	}
	if p.call.service.MemberID != p.g.config.Member {
		return civibus.Faultf(p.place, civibus.FaultUnknownMember, "Service provider '%s' is not served by this gateway", p.call.service.ClientID.XRoad())
	}
	return nil
}

// alone reports whether the body whose transport keys this gateway shows has no
// other gateway, so that a request that names none can be for no other.
func (p *provision) alone() bool {
	m, ok := p.view.Member(p.g.config.Carrier)
	return ok && len(m.Gateways) <= 1
}

// unverified takes from a request that does not verify what its refusal is bound
// to and what its record says: claims, and a name.
func (p *provision) unverified() {
	if p.message == nil {
		p.binding = seal.Unverified(p.r)
		p.call, _ = parseCall(p.place, p.r, p.r.Header)
	}
	if p.call.requestID != "" {
		return
	}
	if p.call.requestID = last(p.r.Header, civibus.HeaderRequestID); !isUUID(p.call.requestID) {
		p.call.requestID = newUUID()
	}
}

func isUUID(s string) bool { return len(s) == 36 && uuid.Validate(s) == nil }

// checkHop holds a request to the rules of the hop: identifiers once each and
// in canonical form.
func (c *call) checkHop(h http.Header) error {
	for _, name := range [...]string{civibus.HeaderClient, civibus.HeaderID, civibus.HeaderRequestID} {
		if len(h[name]) != 1 {
			return civibus.Faultf(civibus.ProviderGateway, civibus.FaultBadRequest, "The request has %d sealed headers %s, the rule is one", len(h[name]), name)
		}
	}
	if p, ok := h[civibus.HeaderPurpose]; ok && (len(p) != 1 || p[0] == "") {
		return civibus.Faultf(civibus.ProviderGateway, civibus.FaultBadRequest, "The request states its purpose %d times or not at all in %s, the rule is once or no such header", len(p), civibus.HeaderPurpose)
	}
	if h[civibus.HeaderClient][0] != c.clientText {
		return civibus.Faultf(civibus.ProviderGateway, civibus.FaultBadRequest, "X-Road-Client is not in canonical form, the rule here is %s", c.clientText)
	}
	id := h[civibus.HeaderRequestID][0]
	if !isUUID(id) {
		return civibus.Faultf(civibus.ProviderGateway, civibus.FaultBadRequest, "X-Road-Request-Id is not a UUID")
	}
	c.requestID = id
	return nil
}

// decide asks the policy and the rules, and takes from the right's rate.
func (p *provision) decide() error {
	c := &p.call
	d := policy.Decide(p.view, civibus.Question{
		Client: c.client, Service: c.service, Method: c.method, Path: c.servicePath, Purpose: c.purpose,
		Sealed: p.request.Created,
	}, p.started)
	if !d.Allowed() {
		return civibus.Faultf(p.place, d.Code, "%s", d.Message)
	}
	length := p.message.Length
	if body, whole := p.message.Body.Bytes(); whole {
		length = int64(len(body))
	}
	if err := p.judge(&d, p.message.Header, length); err != nil {
		return err
	}
	p.right, p.persons = d.Right, d.Person
	if d.Right == "" { // metadata: no right bounds it
		if err := p.unbounded(); err != nil {
			return err
		}
	}
	if ok, after := p.g.limiter.Allow(d.Right, d.Limit, p.started); !ok {
		p.retryAfter = after
		return civibus.Faultf(p.place, civibus.FaultRateLimited, "Access right %s allows %d calls in %s; the next in %s",
			d.Right, d.Limit.Requests, d.Limit.Per, after.Round(time.Millisecond))
	}
	return nil
}

// unbounded takes one of the records that a body may cost this one without a
// right that bounds it: refusals and metadata. Without this a body that has no
// right at all could fill the disk, and with that stop the exchanges of all.
func (p *provision) unbounded() error {
	if ok, after := p.g.uninvited.Allow(p.from.String(), p.g.config.Uninvited, p.started); !ok {
		p.retryAfter = after
		return civibus.Faultf(p.place, civibus.FaultRateLimited, "%s has made too many calls that no access right covers; the next in %s", p.from, after.Round(time.Millisecond))
	}
	return nil
}

// answer is what the service, or the gateway for it, answers.
type answer struct {
	status int
	header http.Header
	whole  []byte
	stream io.Reader // nil: whole is all
	length int64     // of stream, or of what HEAD asks about; -1: not known
	hash   string    // X-Road-Request-Hash
	closer io.Closer
}

func (a *answer) close() {
	if a.closer != nil {
		_ = a.closer.Close()
	}
}

// serve has the request answered.
func (p *provision) serve(ctx context.Context) (*answer, error) {
	c, v := &p.call, p.message
	body, whole := v.Body.Bytes()
	count := p.counts.requestBytes

	// A short body is verified and at hand.
	if whole {
		p.requestBody = p.keepWhole(ctx, body)
		count.Add(float64(len(body)))
		hash := p.hash(digest512(body))
		if policy.Metadata(c.method, c.service) {
			return p.metadata(ctx, hash)
		}
		var src io.Reader
		length := int64(len(body))
		if length > 0 && delivered(c.method) {
			src = bytes.NewReader(body)
		}
		resp, err := p.g.config.Upstreams.Call(ctx, c.service, c.method, c.servicePath, c.query, p.serviceHeader(), src, length)
		if err != nil {
			return nil, err
		}
		return p.fromService(resp, hash)
	}

	// A long one is verified at its end, which the service does not get before.
	p.requestBody = p.keep(ctx)
	m := &meter{src: v.Body, sum: sha512.New(), keep: p.requestBody}
	f := &feed{src: m}
	defer func() { passed, _ := f.progress(); count.Add(float64(passed)) }()
	if !delivered(c.method) {
		if err := f.finish(ctx, 0); err != nil {
			return nil, err
		}
		p.request = v.Seal()
		if policy.Metadata(c.method, c.service) {
			return p.metadata(ctx, p.hash(m.digest()))
		}
	}
	resp, err := p.callStreaming(ctx, f)
	if err != nil {
		return nil, err
	}
	p.request = v.Seal()
	return p.fromService(resp, p.hash(m.digest()))
}

// callStreaming calls the service with a body that is verified while it is
// sent. An answer counts only once the whole request has verified.
func (p *provision) callStreaming(ctx context.Context, f *feed) (*http.Response, error) {
	c, v := &p.call, p.message
	if !delivered(c.method) {
		return p.g.config.Upstreams.Call(ctx, c.service, c.method, c.servicePath, c.query, p.serviceHeader(), nil, 0)
	}
	resp, err := p.g.config.Upstreams.Call(ctx, c.service, c.method, c.servicePath, c.query, p.serviceHeader(), f, v.Length)
	if refused := v.Err(); refused != nil {
		err = refused // why the service failed, if it did
	}
	if err == nil {
		wait := patience
		if resp.StatusCode >= 400 {
			wait = 0 // the service does not want the rest
		}
		err = f.finish(ctx, wait)
	}
	if err != nil {
		if resp != nil {
			_ = resp.Body.Close()
		}
		return nil, err
	}
	return resp, nil
}

// hash is X-Road-Request-Hash of the request with a body of this digest.
func (p *provision) hash(body *[sha512.Size]byte) string {
	return p.call.hash(p.message.Header, body)
}

// serviceHeader is what the service gets: all that was sealed, and the secret
// fields, but not what the hop added.
func (p *provision) serviceHeader() http.Header {
	h := make(http.Header)
	for name, values := range p.message.Header {
		switch {
		case filtered(name):
		case reservedField(name) && name != civibus.HeaderRequestID && name != civibus.HeaderPurpose:
		default:
			h[name] = values
		}
	}
	return h
}

// fromService reads the service's answer, to its end if it is short.
func (p *provision) fromService(resp *http.Response, hash string) (*answer, error) {
	a := &answer{status: resp.StatusCode, header: resp.Header, hash: hash, length: resp.ContentLength, closer: resp.Body}
	if a.status < 200 || a.status > 599 {
		a.close()
		return nil, civibus.Faultf(p.place, civibus.FaultNetwork, "the service answered with the status %d, which HTTP does not have", a.status)
	}
	if bodyless(p.call.method, a.status) {
		return a, nil
	}
	var err error
	if a.whole, a.stream, err = readBody(resp.Body, resp.ContentLength, p.g.config.BufferLimit); err != nil {
		a.close()
		fault := civibus.AsFault(p.place, err)
		if fault.Code == civibus.FaultInternal {
			fault = civibus.Faultf(p.place, civibus.FaultIO, "the service's answer was cut")
			fault.Err = err
		}
		return nil, fault
	}
	return a, nil
}

// signer returns a seal key that is in force at the height of this decision and,
// where there is one, at the height of the consumer's: an answer under a newer
// key could not be proven from the consumer's record, so consumers refuse it.
func (p *provision) signer() (civibus.Signer, error) {
	if p.message != nil {
		h, err := strconv.ParseUint(p.message.Header.Get(civibus.HeaderHeight), 10, 64)
		if err == nil && h < p.view.Height() {
			s, err := p.g.config.Signer(earlier{p.view, h})
			if err == nil && sealsAt(p.view, s.Key().ID) {
				return s, nil
			}
		}
	}
	return p.g.signer(p.place, p.view)
}

// answer seals the answer, records the exchange and sends it.
func (p *provision) answer(ctx context.Context, a *answer) {
	signer, err := p.signer()
	if err != nil {
		p.refuse(ctx, err)
		return
	}
	h := p.w.Header()
	cross(h, a.header)
	p.answerFields(h)
	l := make(lines, 0, 2)
	l.set(h, civibus.HeaderRequestHash, a.hash)
	if len(h["Date"]) != 1 {
		l.set(h, "Date", p.g.config.Clock().UTC().Format(http.TimeFormat))
	}
	if len(h["Content-Type"]) == 0 {
		h["Content-Type"] = nil // net/http would guess one
	}
	p.status = a.status
	if a.stream != nil {
		p.answerStreaming(ctx, signer, a)
		return
	}
	if p.call.method == http.MethodHead && a.length >= 0 {
		h["Content-Length"] = []string{strconv.FormatInt(a.length, 10)}
	}
	p.responseBody = p.keepWhole(ctx, a.whole)
	if p.response, err = seal.SealResponse(ctx, signer, h, a.status, p.binding, a.whole, p.g.config.Clock()); err == nil {
		err = p.record(ctx)
	}
	if err != nil {
		p.refuse(ctx, err)
		return
	}
	p.w.WriteHeader(a.status)
	_, _ = p.w.Write(a.whole) // the other gateway went away: the record stands
	p.counts.responseBytes.Add(float64(len(a.whole)))
}

// answerStreaming does the same with a body of any length. Its seal and the
// exchange's record come before the trailers, without which the other gateway
// passes on no end.
func (p *provision) answerStreaming(ctx context.Context, signer civibus.Signer, a *answer) {
	s, err := seal.NewResponseStream(ctx, signer, p.w, a.status, p.binding, a.length, p.g.config.Clock())
	if err != nil {
		p.refuse(ctx, err)
		return
	}
	p.responseBody = p.keep(ctx)
	m := &meter{src: a.stream, keep: p.responseBody}
	buffer := copyBuffers.Get().(*[32 << 10]byte)
	for err == nil {
		var n int
		n, err = m.Read(buffer[:])
		if n > 0 {
			if _, werr := s.Write(buffer[:n]); werr != nil {
				err = werr
			} else if a.length < 0 {
				s.Flush()
			}
		}
	}
	copyBuffers.Put(buffer)
	p.counts.responseBytes.Add(float64(m.size))
	if err == io.EOF {
		err = s.Close()
	}
	p.response = s.Seal()
	if err == nil {
		err = p.record(ctx)
	} else {
		p.fault = p.faultOf(err)
		if p.fault.Code == civibus.FaultInternal {
			p.fault = civibus.Faultf(p.place, civibus.FaultIO, "the service's answer was cut")
			p.fault.Err = err
		}
		if err := p.record(ctx); err != nil {
			p.log(ctx, civibus.AsFault(p.place, err), "")
		}
	}
	if err != nil {
		p.fault = p.faultOf(err)
		p.log(ctx, p.fault, "")
		panic(http.ErrAbortHandler) // no trailers: the other gateway passes on no end
	}
}

// refuse seals the refusal, records it and sends it. The document is always
// the same style; the consumer's gateway renders it for its client system.
func (p *provision) refuse(ctx context.Context, err error) {
	p.fault = p.faultOf(err)
	p.unverified()
	if p.message != nil {
		p.request = p.message.Seal()
	}
	keep := p.fault.Code != civibus.FaultEvidence
	if !p.called && keep {
		if err := p.unbounded(); err != nil {
			p.fault, keep = p.faultOf(err), false
		}
	}
	if p.sealRefusal(ctx) && keep {
		if err := p.record(ctx); err != nil {
			p.log(ctx, p.fault, "")
			p.fault = p.faultOf(err)
			p.sealRefusal(ctx)
		}
	}
	d := p.document
	p.log(ctx, p.fault, d.Detail)
	p.w.WriteHeader(p.status)
	if p.r.Method != http.MethodHead {
		_, _ = p.w.Write(d.Body) // the other gateway went away: the record stands
	}
}

// sealRefusal makes the refusal of p.fault and reports whether it is sealed. A
// body without a seal key in force can only refuse without one.
func (p *provision) sealRefusal(ctx context.Context) bool {
	h := p.w.Header()
	clear(h)
	d := p.g.hop.Document(p.fault, nil, problem.NewDetail())
	p.document, p.status, p.response = d, d.Status, nil
	p.responseBody.abort()
	p.responseBody = nil
	if p.call.clientText != "" {
		p.answerFields(h)
	}
	h[civibus.HeaderFault] = []string{string(p.fault.Code)}
	h[civibus.HeaderError] = []string{d.Type}
	h["Content-Type"] = []string{problem.JSON}
	h["Date"] = []string{p.g.config.Clock().UTC().Format(http.TimeFormat)}
	if p.retryAfter > 0 {
		h["Retry-After"] = []string{p.retry()}
	}
	signer, err := p.signer()
	if err != nil {
		return false
	}
	body := d.Body
	if p.r.Method == http.MethodHead {
		body = nil
	}
	p.response, err = seal.SealResponse(ctx, signer, h, d.Status, p.binding, body, p.g.config.Clock())
	return err == nil
}

// reply makes an answer of the gateway's own.
func reply(contentType string, body []byte, hash string) *answer {
	return &answer{status: http.StatusOK, header: http.Header{"Content-Type": {contentType}}, whole: body, hash: hash}
}

// replyJSON makes a JSON answer of the gateway's own.
func replyJSON(v any, hash string) (*answer, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return reply("application/json", body, hash), nil
}
