package gateway

import (
	"context"
	"crypto/sha512"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/problem"
	"github.com/civibus/civibus/internal/rawurl"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/transport"
)

// identify reads the call and checks who makes it.
func (x *exchange) identify(r *http.Request) (err error) {
	if err = x.ready(); err != nil {
		return err
	}
	if x.call, err = parseCall(x.place, r, r.Header); err != nil {
		return err
	}
	return x.g.identifyClient(r, x.view, &x.call)
}

// decide asks the policy and the rules. What they say of the provider's side is
// reported as the provider's gateway would report it.
func (x *exchange) decide(r *http.Request) error {
	c := &x.call
	d := policy.Decide(x.view, civibus.Question{
		Client: c.client, Service: c.service, Method: c.method, Path: c.servicePath, Purpose: c.purpose,
	}, x.started)
	x.right = d.Right
	switch {
	case d.Allowed():
		err := x.judge(&d, r.Header, r.ContentLength)
		if x.g.config.AskProvider {
			return nil
		}
		return err
	case d.Code == civibus.FaultUnknownMember:
		return civibus.Faultf(x.place, d.Code, "%s", d.Message)
	case x.g.config.AskProvider && x.place == civibus.ConsumerGateway:
		return nil
	}
	return civibus.Faultf(civibus.ProviderGateway, d.Code, "%s", d.Message)
}

// sent is a request on its way. It is made and sealed for the gateway that it
// goes to, and anew for every attempt.
type sent struct {
	x      *exchange
	signer civibus.Signer
	called http.Header // fields of the client system's call

	whole  []byte             // a body of at most the buffer limit
	digest *[sha512.Size]byte // of whole, for the request hash
	meter  *meter             // of a streamed body; nil: the body is whole
	length int64              // of a streamed body, -1 when it is not known

	// Of the last attempt.
	hash    string        // X-Road-Request-Hash, of a request with a whole body
	pending *seal.Pending // of a streamed body
	header  http.Header   // as hashed, of a request with a streamed body
}

// prepare finds the key to seal with and reads the body, if it is short.
func (x *exchange) prepare(ctx context.Context, w http.ResponseWriter, r *http.Request) (*sent, error) {
	signer, err := x.g.signer(x.place, x.view)
	if err != nil {
		return nil, err
	}
	s := &sent{x: x, signer: signer, called: r.Header, length: r.ContentLength}
	var src io.Reader
	if r.ContentLength != 0 {
		src = &patientReader{src: r.Body, rc: *http.NewResponseController(w)}
	}
	whole, stream, err := readBody(src, r.ContentLength, x.g.config.BufferLimit)
	if err != nil {
		fault := civibus.Faultf(x.place, civibus.FaultIO, "the request's body could not be read to its end")
		fault.Err = err
		return nil, fault
	}
	if stream == nil {
		x.requestBody = x.keepWhole(ctx, whole)
		x.counts.requestBytes.Add(float64(len(whole)))
		s.whole, s.digest = whole, digest512(whole)
		return s, nil
	}
	x.requestBody = x.keep(ctx)
	s.meter = &meter{src: stream, sum: sha512.New(), keep: x.requestBody}
	return s, nil
}

// seal makes the request for the gateway that holds a transport key.
func (s *sent) seal(ctx context.Context, to transport.Peer) (*http.Request, error) {
	x, c := s.x, &s.x.call
	u, err := rawurl.New("https", "gateway.invalid", c.path, c.query)
	if err != nil {
		return nil, civibus.Faultf(x.place, civibus.FaultBadRequest, "Invalid request URI: %v", err)
	}
	u.ForceQuery = c.asked && c.query == ""
	r := (&http.Request{Method: c.method, URL: u}).WithContext(ctx)
	r.Header = c.requestHeader(s.called, strconv.FormatUint(x.view.Height(), 10), to.Key.String())
	if s.meter == nil {
		if x.request, err = seal.SealRequest(ctx, s.signer, r, s.whole, x.g.config.Clock()); err == nil {
			s.hash = c.hash(r.Header, s.digest)
		}
		return r, err
	}
	r.ContentLength, s.header = s.length, r.Header.Clone()
	if s.pending, err = seal.SealRequestStream(ctx, s.signer, r, s.meter, x.g.config.Clock()); err == nil {
		x.request = s.pending.Seal()
	}
	return r, err
}

// send carries the request over.
func (x *exchange) send(ctx context.Context, s *sent) (*http.Response, error) {
	resp, peer, err := x.g.config.Transport.Do(ctx, x.call.service.MemberID, x.call.serverCode, s.seal)
	x.peer = peer.Key
	if s.pending != nil {
		x.request = s.pending.Seal()
		if s.pending.Complete() {
			x.counts.requestBytes.Add(float64(x.request.Size))
		}
	}
	if err != nil {
		return nil, err
	}
	// The one to whom it was sent may have stopped carrying the provider meanwhile.
	if !x.view.Carries(peer.Member, x.call.service.MemberID) && !x.g.config.View().Carries(peer.Member, x.call.service.MemberID) {
		_ = resp.Body.Close()
		return nil, civibus.Faultf(x.place, civibus.FaultPeer, "the answer came from %s and not from %s", peer.Member, x.call.service.MemberID)
	}
	return resp, nil
}

// verifyAnswer verifies the answer's head, and its body if that is short: the
// provider sealed it, as the answer to this request. A sealed refusal comes
// back as a fault.
func (x *exchange) verifyAnswer(s *sent, resp *http.Response) (*seal.Verified, error) {
	binding := (*seal.RequestSeal)(nil)
	if s.pending != nil {
		binding = s.pending.Binding()
	} else {
		binding = x.request.Binding()
	}
	v, err := x.g.verifier.Response(resp, binding)
	if err != nil {
		return nil, err
	}
	if err := checkSealer(x.place, x.view, v, x.call.service.MemberID); err != nil {
		return nil, err
	}
	x.status, x.response = resp.StatusCode, v.Seal()
	if codes, refused := v.Header[civibus.HeaderFault]; refused {
		if len(codes) != 1 || !faultCode(codes[0]) {
			x.status, x.response = 0, nil // neither an answer nor a refusal
			return nil, civibus.Faultf(x.place, civibus.FaultInconsistentAnswer, "the provider's refusal is malformed")
		}
		return nil, x.providerFault(v, civibus.FaultCode(codes[0]))
	}
	// A service's answer says what it answers. The seal binds it already; this
	// holds the provider to it in X-Road's own terms.
	if s.pending != nil {
		if !s.pending.Complete() {
			return nil, civibus.Faultf(x.place, civibus.FaultInconsistentAnswer, "the answer came before the request's end")
		}
		x.request, s.hash = s.pending.Seal(), x.call.hash(s.header, s.meter.digest())
	}
	if v.BoundToHead() {
		return nil, errBoundToHead(x.place)
	}
	for _, f := range [...]struct{ name, want string }{
		{civibus.HeaderClient, x.call.clientText},
		{civibus.HeaderService, x.call.serviceText},
		{civibus.HeaderID, x.call.messageID},
		{civibus.HeaderRequestID, x.call.requestID},
		{civibus.HeaderRequestHash, s.hash},
	} {
		if got := v.Header[f.name]; len(got) != 1 || got[0] != f.want {
			return nil, civibus.Faultf(x.place, civibus.FaultInconsistentAnswer, "the answer's %s is not that of the request", f.name)
		}
	}
	return v, nil
}

// errBoundToHead refuses a service's answer that could be one to another body of
// the same head: only refusals may come before the request's end.
func errBoundToHead(place civibus.Place) error {
	return civibus.Faultf(place, civibus.FaultInconsistentAnswer, "the answer is bound to the head of the request only")
}

// faultCode reports whether s has the form of a fault code.
func faultCode(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// refusal is the body of a sealed refusal.
type refusal struct {
	Type    string               `json:"type"`
	Message string               `json:"message"`
	Detail  string               `json:"detail"`
	Rule    *civibus.RuleRefusal `json:"rule"`
}

// maxRefusal bounds what is taken from a provider's refusal.
const maxRefusal = 16 << 10

// providerFault reads a sealed refusal.
func (x *exchange) providerFault(v *seal.Verified, code civibus.FaultCode) error {
	fault := &civibus.Fault{Place: civibus.ProviderGateway, Code: code}
	x.sealedFault = code
	if !x.g.problems.Known(code) {
		fault.Code = civibus.FaultInternal
	}
	body, whole := v.Body.Bytes()
	if !whole || len(body) > maxRefusal {
		return civibus.Faultf(x.place, civibus.FaultInconsistentAnswer, "the provider's refusal is malformed")
	}
	var r refusal
	if json.Unmarshal(body, &r) != nil || r.Message == "" {
		r.Message = x.g.problems.Title(fault.Code) // an answer to HEAD has no body
	}
	fault.Message, x.detail = r.Message, r.Detail
	if code == civibus.FaultRule {
		fault.Rule = r.Rule
	}
	if s, err := strconv.ParseUint(v.Header.Get("Retry-After"), 10, 31); err == nil {
		x.retryAfter = time.Duration(s) * time.Second
	}
	return fault
}

// deliver records the exchange and passes the answer on.
func (x *exchange) deliver(w http.ResponseWriter, r *http.Request, status int, v *seal.Verified) {
	ctx, h := r.Context(), w.Header()
	for name, values := range v.Header {
		if !filtered(name) && (!reservedField(name) || name == civibus.HeaderRequestHash || name == civibus.HeaderRequestID) {
			h[name] = values
		}
	}
	if len(h["Content-Type"]) == 0 {
		h["Content-Type"] = nil // net/http would guess one
	}
	count := x.counts.responseBytes
	if body, whole := v.Body.Bytes(); whole {
		x.responseBody = x.keepWhole(ctx, body)
		if err := x.record(ctx); err != nil {
			clear(h)
			x.tell(w, r, err)
			return
		}
		switch {
		case !bodyless(r.Method, status):
			h["Content-Length"] = []string{strconv.Itoa(len(body))}
		case r.Method == http.MethodHead && v.Length >= 0:
			h["Content-Length"] = []string{strconv.FormatInt(v.Length, 10)}
		}
		w.WriteHeader(status)
		_, _ = w.Write(body) // the client system went away: the record stands
		count.Add(float64(len(body)))
		return
	}

	// A long body: what has been verified goes out, but its end only once the
	// whole is verified and recorded.
	flush := func() {}
	if v.Length >= 0 {
		h["Content-Length"] = []string{strconv.FormatInt(v.Length, 10)}
	} else {
		flush = func() { _ = http.NewResponseController(w).Flush() }
	}
	x.responseBody = x.keep(ctx)
	w.WriteHeader(status)
	recorded, early := false, error(nil)
	n, err := withholding(w, &meter{src: v.Body, keep: x.responseBody}, flush, func() error {
		if v.BoundToHead() {
			early = errBoundToHead(x.place)
			return early
		}
		x.response, recorded = v.Seal(), true
		return x.record(ctx)
	})
	count.Add(float64(n))
	if err == nil {
		return
	}
	x.fault = x.faultOf(err)
	if v.Err() == nil && !recorded && early == nil {
		x.fault = civibus.Faultf(x.place, civibus.FaultIO, "the client system did not take the answer to its end")
		x.fault.Err = err
	}
	if !recorded {
		x.response = v.Seal()
		if err := x.record(ctx); err != nil {
			x.log(ctx, civibus.AsFault(x.place, err), "")
		}
	}
	x.log(ctx, x.fault, "")
	panic(http.ErrAbortHandler) // so that the client system sees a cut body and no end
}

// refuse records the refusal or failure and tells it.
func (x *exchange) refuse(w http.ResponseWriter, r *http.Request, err error) {
	x.fault = x.faultOf(err)
	if err := x.record(r.Context()); err != nil {
		x.log(r.Context(), x.fault, "")
		x.tell(w, r, err)
		return
	}
	x.tell(w, r, x.fault)
}

// tell answers with an error document in the client systems' style.
func (x *exchange) tell(w http.ResponseWriter, r *http.Request, err error) {
	x.fault = x.faultOf(err)
	if x.detail == "" {
		x.detail = problem.NewDetail()
	}
	d := x.g.problems.Document(x.fault, r.Header["Accept"], x.detail)
	x.log(r.Context(), x.fault, d.Detail)
	h := w.Header()
	if x.call.requestID != "" {
		h[civibus.HeaderID] = []string{x.call.messageID}
		h[civibus.HeaderRequestID] = []string{x.call.requestID}
	}
	if x.retryAfter > 0 {
		h["Retry-After"] = []string{x.retry()}
	}
	d.WriteTo(w, r)
}
