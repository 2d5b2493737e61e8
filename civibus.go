// Package civibus holds the nouns of the government service bus without a
// centre and the few seams between its rooms: identifiers, members, services,
// access rights, keys, decisions, exchanges and faults.
//
// It depends on the standard library only. Every other package imports it; it
// imports none of them.
//
// Trust: this package makes no decision. It parses what others send, so an
// attacker who controls its input can at most have it refused.
package civibus

import (
	"context"
	"time"
)

// Signer signs with one private key that stays in its custody.
type Signer interface {
	// Key describes the public half.
	Key() PublicKey
	// Sign signs message (not a digest of it) with the key's algorithm.
	// Ed25519 signatures are 64 bytes; ECDSA P-256 signatures are r||s, 64 bytes
	// (RFC 9421 section 3.3.4).
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// RotatingSigner is a Signer whose key changes when the registry says so. Who
// names the key next to the signature takes CurrentSigner first, so that both are
// of the same key.
type RotatingSigner interface {
	Signer
	// Current returns the signer of the key that is in force now.
	Current() Signer
}

// CurrentSigner returns s, or the signer of the key in force now if s rotates.
func CurrentSigner(s Signer) Signer {
	if r, ok := s.(RotatingSigner); ok {
		return r.Current()
	}
	return s
}

// Clock tells the time. Logic takes one instead of calling time.Now, so that
// tests own the time.
type Clock func() time.Time
