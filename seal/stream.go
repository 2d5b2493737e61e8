package seal

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal/httpsig"
)

// trailerNames is the Trailer field of a streamed message.
const trailerNames = fieldDigest + ", " + fieldInput + ", " + fieldSignature

// Pending is the seal of a request that is being streamed.
type Pending struct {
	head    *Seal
	done    atomic.Pointer[Seal]
	binding *RequestSeal
}

// Seal returns the seal; before the body was read to its end, that of the head.
func (p *Pending) Seal() *Seal {
	if s := p.done.Load(); s != nil {
		return s
	}
	return p.head
}

// Complete reports whether the body was read to its end and sealed.
func (p *Pending) Complete() bool { return p.done.Load() != nil }

// Binding returns what the answer is bound to.
func (p *Pending) Binding() *RequestSeal { return p.binding }

// SealRequestStream seals r with a body of any length that is read as it is
// sent; digest and signature travel as trailers. A positive r.ContentLength is
// the length, and is sealed; otherwise the length is unknown. The body's
// bytes are read once, so the request cannot be sent again.
func SealRequestStream(ctx context.Context, signer civibus.Signer, r *http.Request, body io.Reader, now time.Time) (*Pending, error) {
	// 1. The head and its seal.
	length := int64(-1)
	if r.ContentLength > 0 {
		length = r.ContentLength
	}
	prepare(r)
	delete(r.Header, fieldDigest)
	if length >= 0 {
		r.Header[civibus.HeaderBodyLength] = []string{strconv.FormatInt(length, 10)}
	}
	m := httpsig.FromRequest(r)
	m.Header = r.Header.Clone() // as sealed, whatever happens to r.Header later
	list, err := covered(slices.Clone(requestParts), m.Header)
	if err != nil {
		return nil, fault(civibus.ConsumerGateway, civibus.FaultBadRequest, err, "the request cannot be sealed: %v", err)
	}
	s := stamp{label: HeadLabel, created: now, nonce: newNonce()}
	head, err := s.sign(ctx, signer, m, list)
	if err == nil {
		err = fitsTrailer(head)
	}
	if err != nil {
		return nil, fault(civibus.ConsumerGateway, civibus.FaultBadRequest, err, "the request cannot be sealed: %v", err)
	}
	head.set(r.Header)
	head.seal.Head = true
	p := &Pending{head: &head.seal, binding: &RequestSeal{method: m.Method, path: m.Path, query: m.Query, head: head.signature()}}
	head.seal.binding = p.binding
	// 2. The body, and the seal proper at its end.
	trailer := http.Header{fieldDigest: nil, fieldInput: nil, fieldSignature: nil}
	r.Trailer, r.ContentLength, r.GetBody = trailer, -1, nil
	r.Body = &sealingBody{src: body, sum: sha256.New(), length: length, finish: func(digest [32]byte, size int64) error {
		m.Trailer = http.Header{fieldDigest: {httpsig.FormatDigest(httpsig.SHA256, digest[:])}}
		s.label = Label
		signed, err := s.sign(ctx, signer, m, append(list, digestTail...))
		if err != nil {
			return fault(civibus.ConsumerGateway, civibus.FaultInternal, err, "the request could not be sealed")
		}
		trailer[fieldDigest] = m.Trailer[fieldDigest]
		signed.set(trailer)
		signed.seal.Digest, signed.seal.Size, signed.seal.binding = digest, size, p.binding
		p.binding.complete(m.Trailer[fieldDigest][0], signed.signature())
		p.done.Store(&signed.seal)
		return nil
	}}
	return p, nil
}

// fitsTrailer checks that the trailers will not be longer than net/http reads.
// The seal proper names one component more than the head's.
func fitsTrailer(head *sealed) error {
	const rest = 400 // digest, signature, field names and the additional component
	size, most := len(head.input()), MaxTrailer-rest
	if head.second != nil {
		size, most = size+len(head.second[0])+len(head.second[1]), MaxSecond-2*rest
	}
	if size > most {
		return fmt.Errorf("its field names have too many bytes for a streamed body: %d, the rule is at most %d", size, most)
	}
	return nil
}

// sealingBody computes the digest of a body as it is sent and seals it at its
// end.
type sealingBody struct {
	src    io.Reader
	sum    hash.Hash
	size   int64
	length int64 // expected, -1 if not known
	finish func(digest [32]byte, size int64) error
	err    error
}

// Read passes the body on; io.EOF comes after the trailers are set.
func (b *sealingBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	b.sum.Write(p[:n])
	b.size += int64(n)
	switch {
	case b.length >= 0 && b.size > b.length:
		b.err = fault(civibus.ConsumerGateway, civibus.FaultIO, nil, "the body is longer than the %d bytes announced", b.length)
		return 0, b.err
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		b.err = fault(civibus.ConsumerGateway, civibus.FaultIO, err, "the body could not be read")
	case b.length >= 0 && b.size < b.length:
		b.err = fault(civibus.ConsumerGateway, civibus.FaultIO, nil, "the body was cut: %d of %d bytes came", b.size, b.length)
	default:
		if b.err = b.finish([32]byte(b.sum.Sum(nil)), b.size); b.err == nil {
			b.err = io.EOF
		}
	}
	return n, b.err
}

// Close closes the source if it can be closed.
func (b *sealingBody) Close() error {
	if c, ok := b.src.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// ResponseStream writes a response of any length, sealed by trailers.
type ResponseStream struct {
	ctx    context.Context
	w      http.ResponseWriter
	signer civibus.Signer
	req    *RequestSeal
	m      *httpsig.Message
	s      stamp
	sum    hash.Hash
	size   int64
	length int64
	head   *Seal
	done   atomic.Pointer[Seal]
}

// NewResponseStream seals and writes the head of a response whose fields are
// in w.Header(). length is the body's length, -1 when it is not known. An
// answer without a body is not streamed: use SealResponse.
func NewResponseStream(ctx context.Context, signer civibus.Signer, w http.ResponseWriter, status int, req *RequestSeal, length int64, now time.Time) (*ResponseStream, error) {
	if req == nil {
		return nil, fault(civibus.ProviderGateway, civibus.FaultInternal, errNoBinding, "the response could not be sealed")
	}
	if bodiless(req.method, status) {
		return nil, fault(civibus.ProviderGateway, civibus.FaultInternal, nil, "an answer to %s with status %d has no body", req.method, status)
	}
	h := w.Header()
	stripHop(h)
	delete(h, civibus.HeaderBodyLength)
	delete(h, fieldDigest)
	delete(h, fieldLength)
	if length >= 0 {
		h[civibus.HeaderBodyLength] = []string{strconv.FormatInt(length, 10)}
	}
	// The head is sealed as it is now; net/http and middleware may add to h.
	// The binding is taken first: the request may become complete meanwhile.
	b := req.binding()
	m := &httpsig.Message{Status: status, Header: h.Clone(), Length: -1, Request: req.message()}
	list, err := responseList(nil, m.Header, false, b)
	s := stamp{label: HeadLabel, created: now}
	var head *sealed
	if err == nil {
		head, err = s.sign(ctx, signer, m, list)
	}
	if err == nil {
		err = fitsTrailer(head)
	}
	if err != nil {
		return nil, fault(civibus.ProviderGateway, civibus.FaultInternal, err, "the response cannot be sealed: %v", err)
	}
	head.seal.Head = true
	head.set(h)
	h[fieldTrailer] = []string{trailerNames}
	w.WriteHeader(status)
	s.label = Label
	return &ResponseStream{ctx: ctx, w: w, signer: signer, req: req, m: m, s: s, sum: sha256.New(), length: length, head: &head.seal}, nil
}

// Write sends a part of the body.
func (s *ResponseStream) Write(p []byte) (int, error) {
	if s.length >= 0 && s.size+int64(len(p)) > s.length {
		return 0, fault(civibus.ProviderGateway, civibus.FaultIO, nil, "the body is longer than the %d bytes announced", s.length)
	}
	n, err := s.w.Write(p)
	s.sum.Write(p[:n])
	s.size += int64(n)
	if err != nil {
		return n, fault(civibus.ProviderGateway, civibus.FaultIO, err, "the answer could not be sent")
	}
	return n, nil
}

// Flush sends what was written so far on its way.
func (s *ResponseStream) Flush() { _ = http.NewResponseController(s.w).Flush() }

// Close seals the body as it was written and sends the trailers. Without it
// the receiver refuses the body as cut; a caller that cannot finish must
// panic with http.ErrAbortHandler or let the receiver find out.
func (s *ResponseStream) Close() error {
	if s.done.Load() != nil {
		return nil
	}
	if s.length >= 0 && s.size != s.length {
		return fault(civibus.ProviderGateway, civibus.FaultIO, nil, "the body was cut: %d of %d bytes came", s.size, s.length)
	}
	b := s.req.binding()
	if err := mayAnswer(civibus.ProviderGateway, b, s.m.Status); err != nil {
		return err
	}
	digest := [32]byte(s.sum.Sum(nil))
	s.m.Trailer = http.Header{fieldDigest: {httpsig.FormatDigest(httpsig.SHA256, digest[:])}}
	s.m.Request = s.req.message()
	list, err := responseList(nil, s.m.Header, true, b)
	var signed *sealed
	if err == nil {
		signed, err = s.s.sign(s.ctx, s.signer, s.m, list)
	}
	if err != nil {
		return fault(civibus.ProviderGateway, civibus.FaultInternal, err, "the response could not be sealed")
	}
	h := s.w.Header()
	h[fieldDigest] = s.m.Trailer[fieldDigest]
	signed.set(h)
	signed.seal.Digest, signed.seal.Size = digest, s.size
	s.done.Store(&signed.seal)
	return nil
}

// Seal returns the seal; before Close, that of the head.
func (s *ResponseStream) Seal() *Seal {
	if d := s.done.Load(); d != nil {
		return d
	}
	return s.head
}

// Complete reports whether the body was written to its end and sealed.
func (s *ResponseStream) Complete() bool { return s.done.Load() != nil }

// Interface guards.
var (
	_ io.WriteCloser = (*ResponseStream)(nil)
	_ http.Flusher   = (*ResponseStream)(nil)
)
