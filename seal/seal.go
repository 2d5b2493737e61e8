// Package seal signs and verifies what passes between two gateways: RFC 9421
// HTTP message signatures with RFC 9530 Content-Digest, in the one profile
// that spec/seal.md fixes. Signing and verifying stand side by side: what
// sign.go and stream.go make, verify.go and body.go check.
//
// A message is whole, with its seal in the head, or streamed: a first seal in
// the head lets the receiver decide before it reads the body, and the seal
// proper follows as trailers. A receiver never passes on the end of a body
// that does not verify.
//
// Ed25519 seals are verified by curve25519-voi with the options that make it
// agree with crypto/ed25519 on every input (ed25519.go; the tests compare the
// two on small-order, non-canonical and malleable cases). It takes about half
// the time. Signing stays with the key's own custody.
//
// Trust: an attacker who controls the network, or any message, can at most
// have it refused or delayed. Who controls a body's seal key speaks for that
// body until the registry revokes the key. Secret fields (authorization,
// cookie, set-cookie) are protected by the TLS hop only.
package seal

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal/httpsig"
)

// The signature labels, which are also the tags.
const (
	Label     = "civibus"      // the seal of a whole message, head and body
	HeadLabel = "civibus-head" // the first seal of a streamed message, head only
)

// The limits on what is sealed; a message beyond them is neither made nor
// accepted.
const (
	MaxFields    = 128      // field names
	MaxHeadBytes = 64 << 10 // field names and values together
	MaxInput     = 8 << 10  // Signature-Input
	MaxTrailer   = 3500     // all trailers: net/http reads no more than 4 KiB of them
	MaxSecond    = 7900     // all trailers with second signatures: gateways read 8 KiB
	DefaultWhole = 1 << 20  // bodies up to this length are sealed whole
)

// Seal is one signature as it was made or verified: what evidence keeps.
type Seal struct {
	Base      []byte // signature base, RFC 9421 section 2.5
	Signature []byte // raw signature
	KeyID     civibus.KeyID
	Created   time.Time
	Nonce     string // base64 of 16 bytes; empty for responses
	Digest    [32]byte
	Size      int64   // of the body
	Head      bool    // a streamed message's first seal: Digest and Size are not set
	Second    *Second // the second, post-quantum signature; nil: there is none

	binding *RequestSeal
}

// Binding returns what an answer to this sealed request is bound to; nil for
// the seal of a response.
func (s *Seal) Binding() *RequestSeal { return s.binding }

// RequestSeal is what a response's seal covers of its request: method, path,
// query, digest and signature, the signature as the member of its field. It is safe for concurrent use; a streamed
// request's becomes complete when its body has passed.
type RequestSeal struct {
	method, path, query string
	head                string // signature of the head of a streamed request
	end                 requestEnd
	done                atomic.Pointer[requestEnd] // nil or end
}

// requestEnd is what is known once the request's seal proper is there.
type requestEnd struct {
	digest    string // Content-Digest
	signature string
}

// fields gives the two fields that response seals refer to.
func (e *requestEnd) fields() http.Header {
	lines := [...]string{e.digest, e.signature}
	return http.Header{fieldDigest: lines[:1:1], fieldSignature: lines[1:]}
}

// complete makes the request's seal proper known. It is called once.
func (r *RequestSeal) complete(digest, signature string) {
	r.end = requestEnd{digest, signature}
	r.done.Store(&r.end)
}

// Complete reports whether the request's seal proper is known. Until then an
// answer can only refuse: its status must be 400 or more.
func (r *RequestSeal) Complete() bool { return r.done.Load() != nil }

// message gives the parts of the request that response seals refer to.
func (r *RequestSeal) message() *httpsig.Message {
	m := &httpsig.Message{Method: r.method, Path: r.path, Query: r.query, Length: -1}
	end := r.done.Load()
	switch {
	case r.head == "" && end != nil:
		m.Header = end.fields()
	case r.head != "":
		m.Header = http.Header{fieldSignature: {r.head}}
		if end != nil {
			m.Trailer = end.fields()
		}
	}
	return m
}

// Unverified returns the binding of a request whose seal does not verify, or
// that has none, so that the refusal can be sealed all the same. Only a sender
// that sent exactly this accepts the answer.
func Unverified(r *http.Request) *RequestSeal {
	m := httpsig.FromRequest(r)
	b := &RequestSeal{method: m.Method, path: m.Path, query: m.Query}
	sigs, err := httpsig.ParseCanonicalSignatures(r.Header[fieldSignature])
	if err != nil {
		return b
	}
	for _, s := range sigs {
		digest := r.Header[fieldDigest]
		switch {
		case s.Label == HeadLabel:
			b.head = httpsig.FormatSignature(HeadLabel, s.Signature)
		case s.Label == Label && len(digest) == 1:
			b.complete(digest[0], httpsig.FormatSignature(Label, s.Signature))
		}
	}
	if b.head != "" {
		b.done.Store(nil)
	}
	return b
}

// fault makes a fault with an internal cause.
func fault(place civibus.Place, code civibus.FaultCode, cause error, format string, args ...any) error {
	f := civibus.Faultf(place, code, format, args...)
	f.Err = cause
	return f
}
