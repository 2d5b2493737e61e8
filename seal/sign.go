package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal/httpsig"
)

// SealRequest seals r with a whole body: it sets r's fields, Body, GetBody and
// ContentLength. Fields of the connection and old signatures are removed.
func SealRequest(ctx context.Context, signer civibus.Signer, r *http.Request, body []byte, now time.Time) (*Seal, error) {
	// 1. The body and its digest.
	prepare(r)
	digest := sha256.Sum256(body)
	digestField := httpsig.FormatDigest(httpsig.SHA256, digest[:])
	r.Header[fieldDigest] = []string{digestField}
	r.ContentLength = int64(len(body))
	r.GetBody = func() (io.ReadCloser, error) { return wholeBody(body), nil }
	r.Body = wholeBody(body)
	// 2. What is covered, and the signature over it.
	m := httpsig.FromRequest(r)
	var room [usualList]httpsig.Component
	list, err := covered(append(room[:0], requestParts...), r.Header)
	if err != nil {
		return nil, fault(civibus.ConsumerGateway, civibus.FaultBadRequest, err, "the request cannot be sealed: %v", err)
	}
	s := stamp{label: Label, created: now, nonce: newNonce()}
	signed, err := s.sign(ctx, signer, m, list)
	if err != nil {
		return nil, fault(civibus.ConsumerGateway, civibus.FaultInternal, err, "the request could not be sealed")
	}
	// 3. The fields, and what the answer will be bound to.
	signed.set(r.Header)
	b := &RequestSeal{method: m.Method, path: m.Path, query: m.Query}
	b.complete(digestField, signed.signature())
	signed.seal.Digest, signed.seal.Size, signed.seal.binding = digest, int64(len(body)), b
	return &signed.seal, nil
}

// SealResponse seals a response with a whole body: it sets fields of h. The
// caller then writes status and body. An answer to HEAD, a 204 or a 304 has no
// body; the length that HEAD or 304 speak of is sealed too.
func SealResponse(ctx context.Context, signer civibus.Signer, h http.Header, status int, req *RequestSeal, body []byte, now time.Time) (*Seal, error) {
	// 1. May there be such an answer now?
	if req == nil {
		return nil, fault(civibus.ProviderGateway, civibus.FaultInternal, errNoBinding, "the response could not be sealed")
	}
	b := req.binding()
	if err := mayAnswer(civibus.ProviderGateway, b, status); err != nil {
		return nil, err
	}
	// 2. The body, its length and its digest.
	stripHop(h)
	delete(h, civibus.HeaderBodyLength)
	if bodiless(req.method, status) {
		if len(body) > 0 {
			return nil, fault(civibus.ProviderGateway, civibus.FaultInternal, nil, "an answer to %s with status %d has no body", req.method, status)
		}
		if n := h.Get(fieldLength); n != "" && status != http.StatusNoContent {
			h[civibus.HeaderBodyLength] = []string{n}
		}
		if req.method != http.MethodHead || status == http.StatusNoContent {
			delete(h, fieldLength)
		}
		if status == http.StatusNotModified {
			delete(h, "Content-Type") // net/http does not send it
		}
	} else {
		h[fieldLength] = []string{strconv.Itoa(len(body))}
	}
	digest := sha256.Sum256(body)
	h[fieldDigest] = []string{httpsig.FormatDigest(httpsig.SHA256, digest[:])}
	// 3. What is covered, and the signature over it.
	m := &httpsig.Message{Status: status, Header: h, Length: -1, Request: req.message()}
	var room [usualList]httpsig.Component
	list, err := responseList(room[:0], h, false, b)
	if err != nil {
		return nil, fault(civibus.ProviderGateway, civibus.FaultInternal, err, "the response cannot be sealed: %v", err)
	}
	s := stamp{label: Label, created: now}
	signed, err := s.sign(ctx, signer, m, list)
	if err != nil {
		return nil, fault(civibus.ProviderGateway, civibus.FaultInternal, err, "the response could not be sealed")
	}
	signed.set(h)
	signed.seal.Digest, signed.seal.Size = digest, int64(len(body))
	return &signed.seal, nil
}

// bodiless reports whether a response never has a body.
func bodiless(method string, status int) bool {
	return method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified || status < 200
}

// prepare clears what an earlier hop left in r.
func prepare(r *http.Request) {
	if r.Header == nil {
		r.Header = http.Header{}
	}
	stripHop(r.Header)
	delete(r.Header, civibus.HeaderBodyLength)
	delete(r.Header, fieldLength)
	r.Trailer, r.TransferEncoding = nil, nil
	// net/http sends one User-Agent line, and its own for none or an empty one.
	if ua := r.Header["User-Agent"]; len(ua) > 1 {
		r.Header["User-Agent"] = []string{strings.Join(ua, ", ")}
	}
	if r.Header.Get("User-Agent") == "" {
		delete(r.Header, "User-Agent")
	}
}

// wholeBody is a request's body that is at hand.
func wholeBody(body []byte) io.ReadCloser {
	if len(body) == 0 {
		return http.NoBody
	}
	r := new(bodyReader)
	r.Reset(body)
	return r
}

// bodyReader reads a body that is at hand.
type bodyReader struct{ bytes.Reader }

// Close does nothing.
func (*bodyReader) Close() error { return nil }

// usualList is as many components as most messages have at most.
const usualList = 24

// responseList appends the component list of a response's seal.
func responseList(dst []httpsig.Component, h http.Header, trailer bool, b boundTo) ([]httpsig.Component, error) {
	list, err := covered(append(dst, statusPart...), h)
	if err != nil {
		return nil, err
	}
	if trailer {
		list = append(list, digestTail...)
	}
	return append(list, boundParts[b]...), nil
}

// stamp is what a seal says of itself.
type stamp struct {
	label   string
	created time.Time
	nonce   string // requests only
}

// sealed is a signature with the fields that carry it.
type sealed struct {
	lines  [2]string  // Signature-Input, Signature
	second *[2]string // their members for a second signature
	seal   Seal
}

func (s *sealed) input() string     { return s.lines[0] }
func (s *sealed) signature() string { return s.lines[1] }

func (s *sealed) set(h http.Header) {
	h[fieldInput], h[fieldSignature] = s.lines[:1:1], s.lines[1:]
	if s.second != nil {
		h[fieldInput], h[fieldSignature] = []string{s.lines[0] + ", " + s.second[0]}, []string{s.lines[1] + ", " + s.second[1]}
	}
}

// sign signs m over list.
func (s *stamp) sign(ctx context.Context, signer civibus.Signer, m *httpsig.Message, list []httpsig.Component) (*sealed, error) {
	key := signer.Key()
	p := httpsig.Params{
		Present: httpsig.HasCreated | httpsig.HasKeyID | httpsig.HasAlg | httpsig.HasTag,
		Created: s.created.Unix(), KeyID: key.ID.String(), Alg: string(key.Algorithm), Tag: s.label,
	}
	if s.nonce != "" {
		p.Present |= httpsig.HasNonce
		p.Nonce = s.nonce
	}
	field, err := httpsig.FormatInput(s.label, list, p)
	if err != nil {
		return nil, err
	}
	if len(field) > MaxInput {
		return nil, fmt.Errorf("its Signature-Input would have %d bytes, the rule is at most %d", len(field), MaxInput)
	}
	var room [usualBase]byte
	scratch, err := httpsig.AppendBaseOver(room[:0], m, list, field[len(s.label)+1:])
	if err != nil {
		return nil, err
	}
	base := bytes.Clone(scratch)
	sig, err := signer.Sign(ctx, base)
	if err != nil {
		return nil, fmt.Errorf("sign with key %s: %w", key.ID, err)
	}
	out := &sealed{lines: [2]string{field, httpsig.FormatSignature(s.label, sig)}, seal: Seal{
		Base: base, Signature: sig, KeyID: key.ID, Created: time.Unix(p.Created, 0), Nonce: s.nonce,
	}}
	if two, ok := signer.(*pair); ok {
		err = two.sign(ctx, out, s, list, m.Trailer != nil)
	}
	return out, err
}

// usualBase is as long as most signature bases are at most, in bytes.
const usualBase = 2048

func newNonce() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	var text [24]byte
	base64.StdEncoding.Encode(text[:], b[:])
	return string(text[:])
}
