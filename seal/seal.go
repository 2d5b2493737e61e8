// Package seal signs and verifies what passes between two gateways: RFC 9421
// HTTP message signatures with RFC 9530 Content-Digest, in the one profile
// that spec/seal.md fixes.
//
// Trust: an attacker who controls the network, or any message, can at most
// have it refused. Who controls a body's seal key speaks for that body.
package seal

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/civibus/civibus"
)

// Seal is one signature as it was made or verified: what evidence keeps.
type Seal struct {
	Base      []byte // signature base, RFC 9421 section 2.5
	Signature []byte // raw signature
	KeyID     civibus.KeyID
	Created   time.Time
	Nonce     string // base64 of 16 bytes; empty for responses
	Digest    [32]byte
	Size      int64 // of the body

	binding *RequestSeal
}

// Binding returns what an answer to this sealed request is bound to; nil for
// the seal of a response.
func (s *Seal) Binding() *RequestSeal { return s.binding }

// RequestSeal is what a response's seal covers of its request: method, path,
// query, digest and signature.
type RequestSeal struct{}

// Unverified returns the binding of a request whose seal does not verify, or
// that has none, so that the refusal can be sealed all the same.
func Unverified(r *http.Request) *RequestSeal { return nil }

// SealRequest seals r with a whole body: it sets r's fields, Body, GetBody and
// ContentLength.
func SealRequest(ctx context.Context, signer civibus.Signer, r *http.Request, body []byte, now time.Time) (*Seal, error) {
	return nil, errors.ErrUnsupported
}

// SealRequestStream seals r with a body of any length that is read as it is
// sent; digest and signature travel as trailers. A positive r.ContentLength is
// the length, and is sealed; otherwise the length is unknown.
func SealRequestStream(ctx context.Context, signer civibus.Signer, r *http.Request, body io.Reader, now time.Time) (*Pending, error) {
	return nil, errors.ErrUnsupported
}

// Pending is the seal of a request that is being streamed.
type Pending struct{}

// Seal returns the seal; before the body was sent to its end, that of the head.
func (p *Pending) Seal() *Seal { return nil }

// Complete reports whether the body was sent to its end and sealed.
func (p *Pending) Complete() bool { return false }

// Binding returns what the answer is bound to.
func (p *Pending) Binding() *RequestSeal { return nil }

// SealResponse seals a response with a whole body: it sets fields of h. The
// caller then writes status and body.
func SealResponse(ctx context.Context, signer civibus.Signer, h http.Header, status int, req *RequestSeal, body []byte, now time.Time) (*Seal, error) {
	return nil, errors.ErrUnsupported
}

// ResponseStream writes a response of any length, sealed by trailers.
type ResponseStream struct{}

// NewResponseStream seals and writes the head of a response whose fields are
// in w.Header(). length is the body's length, -1 when it is not known.
func NewResponseStream(ctx context.Context, signer civibus.Signer, w http.ResponseWriter, status int, req *RequestSeal, length int64, now time.Time) (*ResponseStream, error) {
	return nil, errors.ErrUnsupported
}

// Write sends a part of the body.
func (s *ResponseStream) Write(p []byte) (int, error) { return 0, errors.ErrUnsupported }

// Close seals the body as it was written and sends the trailers. Without it
// the receiver refuses the body as cut.
func (s *ResponseStream) Close() error { return errors.ErrUnsupported }

// Seal returns the seal; before Close, that of the head.
func (s *ResponseStream) Seal() *Seal { return nil }

// ReplayGuard remembers which requests were seen.
type ReplayGuard interface {
	// Use records the nonce of a request that verified. It fails with a
	// *civibus.Fault when the nonce was used before or cannot be recorded.
	Use(key civibus.KeyID, nonce [16]byte, created, now time.Time) error
}

// Verifier checks seals. Its fields must not change once it is in use.
type Verifier struct {
	Key      func(civibus.KeyID) (civibus.PublicKey, error) // the key, if it is a seal key in force now
	Now      civibus.Clock
	MaxAge   time.Duration // of a seal; default 5 min
	MaxSkew  time.Duration // tolerated difference of clocks; default 60 s
	MaxWhole int64         // bodies up to this length are verified before Request or Response returns; default 1 MiB
	Replay   ReplayGuard   // for requests; required
}

// Verified is a message whose head verified.
type Verified struct {
	Header http.Header   // the sealed fields and the secret ones, nothing else
	Body   io.ReadCloser // withholds its end until digest and seal verify; else fails with a *civibus.Fault
	Length int64         // of the body, -1 when not known
	Key    civibus.PublicKey
}

// Seal returns the seal; before Body was read to its end, that of the head.
func (v *Verified) Seal() *Seal { return nil }

// Complete reports whether the whole message verified.
func (v *Verified) Complete() bool { return false }

// Err returns why the body was refused, nil if it was not (yet).
func (v *Verified) Err() error { return nil }

// Binding returns what the answer to this request is bound to.
func (v *Verified) Binding() *RequestSeal { return nil }

// Request verifies a request that a provider's gateway received.
func (v *Verifier) Request(r *http.Request) (*Verified, error) { return nil, errors.ErrUnsupported }

// Response verifies the answer to the request that req names.
func (v *Verifier) Response(resp *http.Response, req *RequestSeal) (*Verified, error) {
	return nil, errors.ErrUnsupported
}

// ReplayJournal is a ReplayGuard that survives a restart.
type ReplayJournal struct{}

// ReplayConfig sets up a ReplayJournal.
type ReplayConfig struct {
	Dir     string        // folder of the journal; created if missing
	MaxAge  time.Duration // as the Verifier's
	MaxSkew time.Duration // as the Verifier's
	Now     civibus.Clock
}

// OpenReplayJournal opens the journal in cfg.Dir and reads back what is still
// in the window.
func OpenReplayJournal(cfg ReplayConfig) (*ReplayJournal, error) { return nil, errors.ErrUnsupported }

// Use records a nonce.
func (j *ReplayJournal) Use(key civibus.KeyID, nonce [16]byte, created, now time.Time) error {
	return errors.ErrUnsupported
}

// Close makes the journal durable and marks it complete.
func (j *ReplayJournal) Close() error { return nil }
