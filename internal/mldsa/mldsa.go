// Package mldsa makes, reads and uses ML-DSA keys (FIPS 204), the post-quantum
// second signature beside Ed25519 or ECDSA. Messages are signed themselves, not
// their digests, with an empty context, as C2SP httpsig-pq and the C2SP ML-DSA-44
// cosignature have it. Keys are encoded as RFC 9881 says; of its private key
// formats only the seed is written and read.
//
// The work is done by github.com/cloudflare/circl, which signs and verifies
// several times faster than what will be crypto/mldsa in Go 1.27; the tests hold
// the two against each other.
//
// Trust: nobody; a key or a signature of the wrong form is refused.
package mldsa

import (
	"crypto"
	"crypto/rand"
	"crypto/subtle"
	"encoding"
	"errors"
	"fmt"
	"slices"

	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"

	"github.com/civibus/civibus"
)

// SeedSize is the length of the private seed of every parameter set, in bytes.
const SeedSize = 32

// ErrNotMLDSA says that a well-formed key may be there but none of ML-DSA.
var ErrNotMLDSA = errors.New("not an ML-DSA key")

// set is one parameter set. The prefixes are all of the key's DER but the key.
type set struct {
	algorithm             civibus.Algorithm
	publicSize, signature int
	spkiPrefix            []byte
	pkcs8Prefix           []byte
	derive                func(seed [SeedSize]byte) (public []byte, sign func(message []byte, hedged bool) ([]byte, error))
	verifier              func(public []byte) (func(message, signature []byte) bool, error)
}

// sets are the parameter sets of FIPS 204.
func sets() []*set {
	return []*set{
		newSet(civibus.MLDSA44, 0x11, mldsa44.PublicKeySize, mldsa44.SignatureSize, mldsa44.NewKeyFromSeed, mldsa44.SignTo, mldsa44.Verify),
		newSet(civibus.MLDSA65, 0x12, mldsa65.PublicKeySize, mldsa65.SignatureSize, mldsa65.NewKeyFromSeed, mldsa65.SignTo, mldsa65.Verify),
		newSet(civibus.MLDSA87, 0x13, mldsa87.PublicKeySize, mldsa87.SignatureSize, mldsa87.NewKeyFromSeed, mldsa87.SignTo, mldsa87.Verify),
	}
}

// publicKey is a pointer to a library's public key.
type publicKey[T any] interface {
	*T
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
}

// newSet fits one parameter set of the library to the type set. The last number
// of its object identifier, id-ml-dsa-N, is arc.
func newSet[T any, P publicKey[T], S any](algorithm civibus.Algorithm, arc byte, publicSize, signatureSize int,
	fromSeed func(*[SeedSize]byte) (P, S),
	signTo func(key S, message, context []byte, randomized bool, signature []byte) error,
	verify func(key P, message, context, signature []byte) bool,
) *set {
	identifier := []byte{0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, arc}
	return &set{
		algorithm: algorithm, publicSize: publicSize, signature: signatureSize,
		// SEQUENCE { SEQUENCE { id }, BIT STRING }, RFC 9881 section 4
		spkiPrefix: slices.Concat(header(0x30, len(identifier)+5+publicSize), identifier, header(0x03, publicSize+1), []byte{0}),
		// SEQUENCE { 0, SEQUENCE { id }, OCTET STRING { [0] seed } }, RFC 9881 section 6
		pkcs8Prefix: slices.Concat([]byte{0x30, 0x34, 0x02, 0x01, 0x00}, identifier, []byte{0x04, 0x22, 0x80, SeedSize}),
		derive: func(seed [SeedSize]byte) ([]byte, func([]byte, bool) ([]byte, error)) {
			public, private := fromSeed(&seed)
			encoded, _ := public.MarshalBinary() // cannot fail
			return encoded, func(message []byte, hedged bool) ([]byte, error) {
				out := make([]byte, signatureSize)
				return out, signTo(private, message, nil, hedged, out)
			}
		},
		verifier: func(encoded []byte) (func(message, signature []byte) bool, error) {
			public := P(new(T))
			if err := public.UnmarshalBinary(encoded); err != nil {
				return nil, err
			}
			return func(message, signature []byte) bool { return verify(public, message, nil, signature) }, nil
		},
	}
}

// header is a DER tag with a length of two bytes, which all public keys need.
func header(tag byte, length int) []byte {
	return []byte{tag, 0x82, byte(length >> 8), byte(length)}
}

func setOf(algorithm civibus.Algorithm) (*set, error) {
	for _, s := range sets() {
		if s.algorithm == algorithm {
			return s, nil
		}
	}
	return nil, fmt.Errorf("algorithm %q, the rule is %q, %q or %q", algorithm, civibus.MLDSA44, civibus.MLDSA65, civibus.MLDSA87)
}

// PublicKey is an ML-DSA public key. It is safe for concurrent use.
type PublicKey struct {
	algorithm civibus.Algorithm
	spki      []byte
	raw       []byte // the end of spki
	verify    func(message, signature []byte) bool
}

var _ civibus.SelfVerifying = (*PublicKey)(nil)

// NewPublicKey takes the key's FIPS 204 encoding.
func NewPublicKey(algorithm civibus.Algorithm, encoded []byte) (*PublicKey, error) {
	s, err := setOf(algorithm)
	if err != nil {
		return nil, fmt.Errorf("ML-DSA public key: %w", err)
	}
	return s.public(slices.Concat(s.spkiPrefix, encoded))
}

func (s *set) public(spki []byte) (*PublicKey, error) {
	raw := spki[len(s.spkiPrefix):]
	if len(raw) != s.publicSize {
		return nil, fmt.Errorf("ML-DSA public key: %d bytes, the rule for %s is %d", len(raw), s.algorithm, s.publicSize)
	}
	verify, err := s.verifier(raw)
	if err != nil {
		return nil, fmt.Errorf("ML-DSA public key: %w", err)
	}
	return &PublicKey{algorithm: s.algorithm, spki: spki, raw: raw, verify: verify}, nil
}

// Algorithm names the parameter set.
func (k *PublicKey) Algorithm() civibus.Algorithm { return k.algorithm }

// SPKI returns the SubjectPublicKeyInfo, DER.
func (k *PublicKey) SPKI() []byte { return slices.Clone(k.spki) }

// Bytes returns the FIPS 204 encoding, as C2SP notes have it.
func (k *PublicKey) Bytes() []byte { return slices.Clone(k.raw) }

// Verify reports whether signature is the key's over message with an empty
// context.
func (k *PublicKey) Verify(message, signature []byte) bool { return k.verify(message, signature) }

// Equal reports whether other is the same key.
func (k *PublicKey) Equal(other crypto.PublicKey) bool {
	o, ok := other.(*PublicKey)
	return ok && o != nil && string(o.spki) == string(k.spki)
}

// ParsePublicKey reads a DER SubjectPublicKeyInfo of any algorithm that Civibus
// knows: ML-DSA here, the others as civibus.ParsePublicKey does. There is one
// encoding of an ML-DSA key and no other is accepted.
func ParsePublicKey(spki []byte) (civibus.PublicKey, error) {
	for _, s := range sets() {
		if len(spki) == len(s.spkiPrefix)+s.publicSize && string(spki[:len(s.spkiPrefix)]) == string(s.spkiPrefix) {
			k, err := s.public(slices.Clone(spki))
			if err != nil {
				return civibus.PublicKey{}, err
			}
			return civibus.NewPublicKey(k)
		}
	}
	return civibus.ParsePublicKey(spki)
}

// PrivateKey is an ML-DSA private key. It holds the private half in closures
// only, so that no way of printing it can show it. It is safe for concurrent use.
type PrivateKey struct {
	public *PublicKey
	sign   func(message []byte, hedged bool) ([]byte, error)
	pkcs8  func() []byte
}

// Generate makes a key.
func Generate(algorithm civibus.Algorithm) (*PrivateKey, error) {
	var seed [SeedSize]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("generate ML-DSA key: %w", err)
	}
	defer clear(seed[:])
	return NewPrivateKey(algorithm, seed[:])
}

// NewPrivateKey derives the key from its seed of 32 bytes.
func NewPrivateKey(algorithm civibus.Algorithm, seed []byte) (*PrivateKey, error) {
	s, err := setOf(algorithm)
	if err != nil {
		return nil, fmt.Errorf("ML-DSA private key: %w", err)
	}
	if len(seed) != SeedSize {
		return nil, fmt.Errorf("ML-DSA private key: a seed of %d bytes, the rule is %d", len(seed), SeedSize)
	}
	held := [SeedSize]byte(seed)
	encoded, sign := s.derive(held)
	public, err := s.public(slices.Concat(s.spkiPrefix, encoded))
	if err != nil {
		return nil, err
	}
	return &PrivateKey{public: public, sign: sign, pkcs8: func() []byte { return slices.Concat(s.pkcs8Prefix, held[:]) }}, nil
}

// ParsePKCS8 reads a DER PKCS#8 private key that holds a seed. The error is
// ErrNotMLDSA if it is of another algorithm. No error quotes the content.
func ParsePKCS8(der []byte) (*PrivateKey, error) {
	for _, s := range sets() {
		const end = 18 // of the algorithm identifier
		if len(der) == len(s.pkcs8Prefix)+SeedSize && subtle.ConstantTimeCompare(der[:len(s.pkcs8Prefix)], s.pkcs8Prefix) == 1 {
			return NewPrivateKey(s.algorithm, der[len(s.pkcs8Prefix):])
		}
		// The other forms are longer, and so is the length before the version.
		for _, skip := range []int{2, 3, 4} {
			if len(der) > skip+end-2 && string(der[skip:skip+end-2]) == string(s.pkcs8Prefix[2:end]) {
				return nil, fmt.Errorf("%s private key that is not a seed alone; convert it with \"openssl pkey -provparam ml-dsa.output_formats=seed-only\"", s.algorithm)
			}
		}
	}
	return nil, ErrNotMLDSA
}

// PKCS8 returns the key's PKCS#8 encoding, DER.
func (k *PrivateKey) PKCS8() []byte { return k.pkcs8() }

// Public returns the public half.
func (k *PrivateKey) Public() *PublicKey { return k.public }

// Sign signs message with an empty context. Two signatures of a message differ:
// fresh randomness goes into each (FIPS 204's hedged variant).
func (k *PrivateKey) Sign(message []byte) ([]byte, error) { return k.sign(message, true) }
