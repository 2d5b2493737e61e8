package seal

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal/httpsig"
)

// The defaults of a Verifier.
const (
	DefaultMaxAge  = 5 * time.Minute
	DefaultMaxSkew = time.Minute
)

// ReplayGuard remembers which requests were seen.
type ReplayGuard interface {
	// Use records the nonce of a request that verified. It fails with a
	// *civibus.Fault when the nonce was used before or cannot be recorded.
	Use(key civibus.KeyID, nonce [16]byte, created, now time.Time) error
}

// Verifier checks seals. Its fields must not change once it is in use; it is
// safe for concurrent use and must not be copied.
type Verifier struct {
	Key      func(civibus.KeyID) (civibus.PublicKey, error) // the key, if it is a seal key in force now; its error is told to the caller
	Now      civibus.Clock
	MaxAge   time.Duration // of a seal; default 5 min
	MaxSkew  time.Duration // tolerated difference of clocks; default 60 s
	MaxWhole int64         // whole bodies up to this length are verified before Request or Response returns; default 1 MiB
	Replay   ReplayGuard   // for requests; required for them

	NeedSecond func() bool // whether seals need a second signature now; default: no. One that is there is always verified.

	keys keyCache
}

// Verified is a message whose head verified.
type Verified struct {
	Header http.Header // the sealed fields and the secret ones, nothing else
	Body   *Body       // withholds its end until digest and seal verify; else fails with a *civibus.Fault
	Length int64       // of the body, for HEAD and 304 the one spoken of; -1 when not known
	Key    civibus.PublicKey

	head    *Seal // of a streamed message
	second  *Second
	done    atomic.Pointer[Seal]
	failed  atomic.Pointer[civibus.Fault]
	early   atomic.Bool
	binding *RequestSeal
}

// Seal returns the seal; of a streamed message before its Body was read to
// the end, that of the head; of a whole one too large to buffer, nil.
func (v *Verified) Seal() *Seal {
	if s := v.done.Load(); s != nil {
		return s
	}
	return v.head
}

// Complete reports whether the whole message verified.
func (v *Verified) Complete() bool { return v.done.Load() != nil }

// Err returns why the body was refused, nil if it was not (yet).
func (v *Verified) Err() error {
	if f := v.failed.Load(); f != nil {
		return f
	}
	return nil
}

// BoundToHead reports whether this response is bound to no more than the head of
// a streamed request, as a refusal may be that came before the request's end. Of
// a streamed response the answer is final once its Body was read to the end.
func (v *Verified) BoundToHead() bool { return v.early.Load() }

// Second returns the key of the second signature that verified with the head;
// ok is false if there was none. That of the trailers is the same.
func (v *Verified) Second() (id civibus.KeyID, ok bool) {
	if v.second == nil {
		return id, false
	}
	return v.second.KeyID, true
}

// Binding returns what the answer to this request is bound to; nil for a
// response.
func (v *Verified) Binding() *RequestSeal { return v.binding }

// Request verifies a request that a provider's gateway received.
func (v *Verifier) Request(r *http.Request) (*Verified, error) {
	c := &check{v: v, place: civibus.ProviderGateway, what: "request", header: r.Header, trailer: &r.Trailer,
		m: *httpsig.FromRequest(r), open: requestParts, request: true}
	out := &c.out
	if err := c.begin(out); err != nil {
		return nil, err
	}
	// The nonce is used up only now, so that nobody without the key can.
	if v.Replay == nil {
		return nil, fault(c.place, civibus.FaultInternal, errors.New("seal: Verifier.Replay is not set"), "the gateway could not process the request")
	}
	if err := v.Replay.Use(c.now.key.ID, c.now.nonce, c.now.created, c.time); err != nil {
		return nil, err
	}
	out.binding = &RequestSeal{method: c.m.Method, path: c.m.Path, query: c.m.Query}
	if c.streamed {
		out.binding.head = httpsig.FormatSignature(HeadLabel, c.now.seal.Signature)
	} else {
		out.binding.complete(c.digestField, httpsig.FormatSignature(Label, c.now.seal.Signature))
	}
	if err := c.read(out, r.Body, r.ContentLength, false); err != nil {
		return nil, err
	}
	return out, nil
}

// Response verifies the answer to the request that req names: the Binding of
// the seal that was sent.
func (v *Verifier) Response(resp *http.Response, req *RequestSeal) (*Verified, error) {
	if req == nil {
		return nil, fault(civibus.ConsumerGateway, civibus.FaultInternal, errNoBinding, "the gateway could not process the response")
	}
	c := &check{v: v, place: civibus.ConsumerGateway, what: "response", header: resp.Header, trailer: &resp.Trailer,
		m: *httpsig.FromResponse(resp, req.message()), open: statusPart, req: req}
	out := &c.out
	if err := c.begin(out); err != nil {
		return nil, err
	}
	if err := c.read(out, resp.Body, resp.ContentLength, bodiless(req.method, resp.StatusCode)); err != nil {
		return nil, err
	}
	return out, nil
}

// check is the verification of one message. What it results in lies in it, since
// all of it lives as long as the exchange.
type check struct {
	v       *Verifier
	place   civibus.Place
	what    string
	header  http.Header
	trailer *http.Header
	m       httpsig.Message
	open    []httpsig.Component
	request bool
	req     *RequestSeal // of a response

	time        time.Time
	streamed    bool
	now         signature // the one just verified
	digestField string
	digest      [32]byte // of a whole message
	fields      []string // names of the covered fields in net/http's form

	out  Verified
	body Body
	head Seal // the one in the message's head
}

// signature is one seal taken apart.
type signature struct {
	key     civibus.PublicKey
	created time.Time
	nonce   [16]byte
	seal    *Seal
}

func (c *check) refuse(format string, args ...any) error {
	return fault(c.place, civibus.FaultSeal, nil, "the %s's seal does not verify: "+format, append([]any{c.what}, args...)...)
}

// begin verifies the head.
func (c *check) begin(out *Verified) error {
	// 1. Limits, before any work.
	if err := checkLimits(c.header); err != nil {
		return c.refuse("%v", err)
	}
	// 2. Exactly one of the two labels.
	in, second, err := find(c.header, Label, HeadLabel)
	if err != nil {
		return c.refuse("%v", err)
	}
	sig, secondSig, err := signatures(c.header, in, second)
	if err != nil {
		return c.refuse("%v", err)
	}
	c.streamed = in.Label == HeadLabel
	// 3. What it says of itself, and what it covers.
	if err := c.params(in); err != nil {
		return err
	}
	tail, err := c.components(in, false)
	if err != nil {
		return c.refuse("%v", err)
	}
	if !c.streamed {
		if err := mayAnswer(c.place, tail, c.m.Status); c.req != nil && err != nil {
			return err
		}
		if err := c.headDigest(in); err != nil {
			return c.refuse("%v", err)
		}
	} else if len(c.header[fieldDigest]) > 0 && in.Covers(`"content-digest"`) {
		return c.refuse("a streamed message has its digest in the trailers")
	}
	// 4. Time, key, signature: in the order of their cost.
	if err := c.clock(); err != nil {
		return err
	}
	if c.now.key, err = c.key(in); err != nil {
		return err
	}
	if err := c.signed(&c.head, in, sig); err != nil {
		return err
	}
	if err := c.checkSecond(&c.head, in, second, secondSig, false); err != nil {
		return err
	}
	c.now.seal = &c.head
	out.Key, out.Header, out.second = c.now.key, c.keep(), c.head.Second
	out.early.Store(c.req != nil && tail == toHead)
	if c.streamed {
		c.now.seal.Head = true
		out.head = c.now.seal
	}
	return nil
}

// find returns the one input with one of the labels, and that of the second
// signature, nil without.
func find(h http.Header, labels ...string) (in, second *httpsig.Input, err error) {
	inputs, err := httpsig.ParseCanonicalInputs(h[fieldInput])
	if err != nil {
		return nil, nil, err
	}
	for i := range inputs {
		if inputs[i].Label == SecondLabel {
			if second != nil {
				return nil, nil, errors.New("it has two second signatures in one place")
			}
			second = &inputs[i]
		}
		for _, l := range labels {
			if inputs[i].Label != l {
				continue
			}
			if in != nil {
				return nil, nil, errors.New("it has two seals in one place")
			}
			in = &inputs[i]
		}
	}
	if in == nil {
		return nil, nil, errors.New("it has no signature labelled " + strings.Join(labels, " or "))
	}
	return in, second, nil
}

// signatures returns those of the inputs.
func signatures(h http.Header, in, second *httpsig.Input) (signature, secondSignature []byte, err error) {
	sigs, err := httpsig.ParseCanonicalSignatures(h[fieldSignature])
	if err != nil {
		return nil, nil, err
	}
	for _, s := range sigs {
		switch s.Label {
		case in.Label:
			signature = s.Signature
		case SecondLabel:
			secondSignature = s.Signature
		}
	}
	switch {
	case signature == nil:
		return nil, nil, fmt.Errorf("label %s has no signature", in.Label)
	case second != nil && secondSignature == nil:
		return nil, nil, fmt.Errorf("label %s has no signature", SecondLabel)
	}
	return signature, secondSignature, nil
}

// params checks the signature parameters.
func (c *check) params(in *httpsig.Input) error {
	want := uint8(httpsig.HasCreated | httpsig.HasKeyID | httpsig.HasAlg | httpsig.HasTag)
	if c.request {
		want |= httpsig.HasNonce
	}
	p := &in.Params
	if p.Present != want {
		return c.refuse("its parameters are not those of the profile (created, nonce in requests, keyid, alg, tag)")
	}
	if p.Tag != in.Label {
		return c.refuse("its tag is not %q", in.Label)
	}
	if p.Created < 0 || p.Created > 1<<40 {
		return c.refuse("its time of creation is out of range")
	}
	c.now.created = time.Unix(p.Created, 0)
	if !c.request {
		return nil
	}
	raw, err := base64.StdEncoding.Strict().AppendDecode(make([]byte, 0, 18), []byte(p.Nonce))
	if err != nil || len(p.Nonce) != 24 || len(raw) != 16 {
		return c.refuse("its nonce is not 16 bytes in base64")
	}
	c.now.nonce = [16]byte(raw)
	return nil
}

// components checks that exactly what the profile wants is covered, in its
// order, and returns how a response is bound.
func (c *check) components(in *httpsig.Input, trailers bool) (boundTo, error) {
	list := in.Components
	cut := func(want []httpsig.Component, end bool) bool {
		if len(list) < len(want) {
			return false
		}
		part := list[:len(want)]
		if end {
			part = list[len(list)-len(want):]
		}
		for i := range want {
			if part[i].String() != want[i].String() {
				return false
			}
		}
		if end {
			list = list[:len(list)-len(want)]
		} else {
			list = list[len(want):]
		}
		return true
	}
	// 1. The opening and closing components.
	if !cut(c.open, false) {
		return 0, errors.New("what it covers does not begin as the profile says")
	}
	bound := toRequest
	if c.req != nil {
		bound = c.req.binding()
		if !cut(boundParts[bound], true) {
			if bound != toStream || !cut(boundParts[toHead], true) {
				return 0, errors.New("it is not bound to the request that was sent")
			}
			bound = toHead
		}
	}
	if trailers && !cut(digestTail, true) {
		return 0, errors.New("it does not cover the digest in the trailers")
	}
	// 2. In between whole fields that may be sealed, in ascending order.
	if len(list) > MaxFields {
		return 0, fmt.Errorf("it covers %d fields, the rule is at most %d", len(list), MaxFields)
	}
	last := ""
	c.fields = make([]string, 0, len(list))
	for i := range list {
		id, name := list[i].String(), list[i].Name()
		if list[i].Derived() || len(id) != len(name)+2 || name <= last {
			return 0, fmt.Errorf("component %s is not one of the profile's, or out of order", id)
		}
		canonical := headerName(name)
		if secret(canonical) || hop(canonical) {
			return 0, fmt.Errorf("field %s must not be sealed", name)
		}
		c.fields = append(c.fields, canonical)
		last = name
	}
	return bound, nil
}

// headDigest reads the digest of a whole message.
func (c *check) headDigest(in *httpsig.Input) error {
	if !in.Covers(`"content-digest"`) {
		return errors.New("it does not cover content-digest")
	}
	var err error
	c.digestField, c.digest, err = parseDigest(c.header[fieldDigest])
	return err
}

// parseDigest reads the one form of Content-Digest that the profile allows.
func parseDigest(lines []string) (string, [32]byte, error) {
	var sum [33]byte
	if len(lines) == 1 {
		if b64, ok := strings.CutPrefix(lines[0], "sha-256=:"); ok && len(b64) == 45 && b64[44] == ':' {
			if n, err := base64.StdEncoding.Strict().Decode(sum[:], []byte(b64[:44])); err == nil && n == 32 {
				return lines[0], [32]byte(sum[:32]), nil
			}
		}
	}
	return "", [32]byte{}, errors.New("its Content-Digest is not one SHA-256 digest")
}

// clock checks the time of creation.
func (c *check) clock() error {
	c.time = c.v.Now()
	age, skew := c.v.MaxAge, c.v.MaxSkew
	if age == 0 {
		age = DefaultMaxAge
	}
	if skew == 0 {
		skew = DefaultMaxSkew
	}
	created := c.now.created
	if !created.After(c.time.Add(skew)) && !created.Before(c.time.Add(-age-skew)) {
		return nil
	}
	return fault(c.place, civibus.FaultClockSkew, nil,
		"the %s was sealed at %s, and this gateway's clock shows %s: the rule is at most %s before and %s after; set both gateways' clocks by NTP, or send the %s anew",
		c.what, created.UTC().Format(time.RFC3339), c.time.UTC().Format(time.RFC3339), age+skew, skew, c.what)
}

// key finds the key and binds the algorithm to it.
func (c *check) key(in *httpsig.Input) (civibus.PublicKey, error) {
	id, err := civibus.ParseKeyID(in.Params.KeyID)
	if err != nil || strings.ToLower(in.Params.KeyID) != in.Params.KeyID {
		return civibus.PublicKey{}, c.refuse("its keyid is not 64 lower-case hex digits")
	}
	k, err := c.v.Key(id)
	if err != nil {
		return civibus.PublicKey{}, fault(c.place, civibus.FaultSeal, err, "the %s's seal does not verify: key %s is not a seal key in force here", c.what, id)
	}
	if k.ID != id {
		return civibus.PublicKey{}, fault(c.place, civibus.FaultInternal, fmt.Errorf("seal: Key(%s) returned %s", id, k.ID), "the gateway could not process the %s", c.what)
	}
	if k.Algorithm.PostQuantum() {
		return civibus.PublicKey{}, c.refuse("key %s makes second signatures only", id)
	}
	if in.Params.Alg != string(k.Algorithm) {
		return civibus.PublicKey{}, c.refuse("its alg is not that of key %s", id)
	}
	return k, nil
}

// signed verifies a signature over c.m and describes it in s.
func (c *check) signed(s *Seal, in *httpsig.Input, sig []byte) error {
	var room [usualBase]byte
	scratch, err := httpsig.AppendBase(room[:0], &c.m, in)
	if err != nil {
		return c.refuse("%v", err)
	}
	base := bytes.Clone(scratch)
	if !c.v.keys.verify(c.now.key, base, sig) {
		return c.refuse("the signature is not key %s's over this message", c.now.key.ID)
	}
	*s = Seal{Base: base, Signature: sig, KeyID: c.now.key.ID, Created: c.now.created, Nonce: in.Params.Nonce}
	return nil
}

// keep returns the sealed fields and the secret ones.
func (c *check) keep() http.Header {
	h := make(http.Header, len(c.fields)+1)
	for _, name := range c.fields {
		h[name] = c.header[name]
	}
	for _, name := range [...]string{"Authorization", "Cookie", "Set-Cookie", civibus.HeaderSubject} {
		if lines := c.header[name]; len(lines) > 0 {
			h[name] = lines
		}
	}
	return h
}

// read sets out.Body and out.Length, and reads what can be verified now.
func (c *check) read(out *Verified, src readCloser, contentLength int64, bodiless bool) error {
	// 1. The length.
	length, err := sealedLength(out.Header)
	if err != nil {
		return c.refuse("%v", err)
	}
	if length >= 0 && !c.streamed && !bodiless {
		return c.refuse("only a streamed body, HEAD and 304 have %s", civibus.HeaderBodyLength)
	}
	if src == nil {
		src = http.NoBody
	}
	b := &c.body
	*b = Body{check: c, out: out, src: src, length: length}
	out.Body, out.Length = b, length
	switch {
	case bodiless && c.streamed:
		return c.refuse("an answer without a body is not streamed")
	case bodiless:
		delete(out.Header, fieldDigest)
		b.length = 0
		return b.whole(0)
	case c.streamed:
		return nil
	}
	// 2. A whole body is read and verified here unless it is large.
	limit := c.v.MaxWhole
	if limit == 0 {
		limit = DefaultWhole
	}
	out.Length, b.length = contentLength, contentLength
	if contentLength < 0 || contentLength > limit {
		return nil
	}
	return b.whole(int(contentLength))
}

// sealedLength takes Civibus-Body-Length out of h.
func sealedLength(h http.Header) (int64, error) {
	lines, ok := h[civibus.HeaderBodyLength]
	if !ok {
		return -1, nil
	}
	delete(h, civibus.HeaderBodyLength)
	if len(lines) == 1 {
		if n, err := strconv.ParseUint(lines[0], 10, 63); err == nil && strconv.FormatUint(n, 10) == lines[0] {
			return int64(n), nil
		}
	}
	return 0, fmt.Errorf("%s is not one decimal number", civibus.HeaderBodyLength)
}
