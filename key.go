package civibus

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// KeyID names a key: SHA-256 of its SubjectPublicKeyInfo. It is the keyid of
// seals (in hex) and of registry transactions.
type KeyID [32]byte

// String returns 64 lower-case hex digits.
func (k KeyID) String() string {
	var digits [2 * len(k)]byte
	hex.Encode(digits[:], k[:])
	return string(digits[:])
}

// IsZero reports whether k names no key.
func (k KeyID) IsZero() bool { return k == KeyID{} }

// ParseKeyID reads 64 hex digits.
func ParseKeyID(s string) (KeyID, error) {
	var k KeyID
	if len(s) != 64 {
		return k, fmt.Errorf("key id %q: it has %d characters, the rule is 64 hex digits", s, len(s))
	}
	if _, err := hex.Decode(k[:], []byte(s)); err != nil {
		return k, fmt.Errorf("key id %q: the rule is 64 hex digits", s)
	}
	return k, nil
}

// Purpose says what a key may be used for.
type Purpose int

// The purposes. The numbers are those of the registry's wire format.
const (
	SealKey      Purpose = iota + 1 // seals requests and responses
	LogKey                          // signs evidence checkpoints and anchor transactions
	TransportKey                    // TLS between bodies
	ValidatorKey                    // CometBFT consensus
	AdminKey                        // signs directory, catalogue and rights transactions
	WitnessKey                      // cosigns registry checkpoints
)

var purposeNames = []string{"", "seal", "log", "transport", "validator", "admin", "witness"}

// String returns the lower-case name.
func (p Purpose) String() string {
	if p < SealKey || p > WitnessKey {
		return "unspecified"
	}
	return purposeNames[p]
}

// ParsePurpose reads a purpose's name.
func ParsePurpose(s string) (Purpose, error) {
	for i, n := range purposeNames {
		if i > 0 && n == s {
			return Purpose(i), nil
		}
	}
	return 0, fmt.Errorf("key purpose %q: the rule is one of seal, log, transport, validator, admin, witness", s)
}

// Algorithm is a signature algorithm, named as in RFC 9421 section 6.2 and, for
// ML-DSA, in C2SP httpsig-pq.
type Algorithm string

// The algorithms. ML-DSA (FIPS 204, empty context) only ever makes a second
// signature beside one of the first two.
const (
	Ed25519         Algorithm = "ed25519"
	ECDSAP256SHA256 Algorithm = "ecdsa-p256-sha256"
	MLDSA44         Algorithm = "ml-dsa-44"
	MLDSA65         Algorithm = "ml-dsa-65"
	MLDSA87         Algorithm = "ml-dsa-87"
)

// PostQuantum reports whether a is believed to withstand a quantum computer.
func (a Algorithm) PostQuantum() bool { return a == MLDSA44 || a == MLDSA65 || a == MLDSA87 }

// PublicKey is a public key with its registry name and algorithm.
type PublicKey struct {
	ID        KeyID
	Algorithm Algorithm
	SPKI      []byte           // SubjectPublicKeyInfo, DER
	Key       crypto.PublicKey // ed25519.PublicKey, *ecdsa.PublicKey (P-256) or a SelfVerifying
}

// SelfVerifying is a public key of an algorithm that the standard library does
// not have. It brings its own encoding and verification.
type SelfVerifying interface {
	Algorithm() Algorithm
	SPKI() []byte // SubjectPublicKeyInfo, DER
	Verify(message, signature []byte) bool
}

// ParsePublicKey reads a DER SubjectPublicKeyInfo. Only Ed25519 and ECDSA P-256
// keys are accepted: those of other algorithms are read by the package that
// verifies them.
func ParsePublicKey(spki []byte) (PublicKey, error) {
	k, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: not a SubjectPublicKeyInfo: %w", err)
	}
	return newPublicKey(k, spki)
}

// NewPublicKey wraps a Go public key.
func NewPublicKey(k crypto.PublicKey) (PublicKey, error) {
	if own, ok := k.(SelfVerifying); ok {
		spki := own.SPKI()
		return PublicKey{ID: sha256.Sum256(spki), Algorithm: own.Algorithm(), SPKI: spki, Key: k}, nil
	}
	spki, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	return newPublicKey(k, spki)
}

func newPublicKey(k crypto.PublicKey, spki []byte) (PublicKey, error) {
	out := PublicKey{ID: sha256.Sum256(spki), SPKI: spki, Key: k}
	switch k := k.(type) {
	case ed25519.PublicKey:
		if smallOrder(k) {
			return PublicKey{}, errors.New("public key: a point of small order, the rule is a key made by Ed25519 key generation: anyone could sign for it")
		}
		out.Algorithm = Ed25519
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return PublicKey{}, fmt.Errorf("public key: curve %s, the rule is P-256", k.Params().Name)
		}
		out.Algorithm = ECDSAP256SHA256
	default:
		return PublicKey{}, fmt.Errorf("public key: type %T, the rule is Ed25519 or ECDSA P-256", k)
	}
	return out, nil
}

// smallOrderPoints are the y-coordinates, least significant byte first and the
// sign bit clear, of the points whose order divides the cofactor 8, the
// non-canonical encodings p and p+1 included (RFC 8032 section 5.1.7, RFC 7748
// section 6.1). A signature under such a key fits many messages.
var smallOrderPoints = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func smallOrder(k ed25519.PublicKey) bool {
	y := slices.Clone(k)
	y[len(y)-1] &= 0x7f
	return slices.Contains(smallOrderPoints, hex.EncodeToString(y))
}

// Verify reports whether signature is the key's over message. ECDSA signatures
// are r||s of 64 bytes over SHA-256.
func (k PublicKey) Verify(message, signature []byte) bool {
	switch pub := k.Key.(type) {
	case ed25519.PublicKey:
		return len(signature) == ed25519.SignatureSize && ed25519.Verify(pub, message, signature)
	case *ecdsa.PublicKey:
		if len(signature) != 64 {
			return false
		}
		sum := sha256.Sum256(message)
		return ecdsa.Verify(pub, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	case SelfVerifying:
		return pub.Verify(message, signature)
	}
	return false
}

// RegisteredKey is a key as the registry holds it.
type RegisteredKey struct {
	PublicKey
	Member      MemberID
	Purpose     Purpose
	Certificate []byte // X.509 DER, for transport keys
	Activate    uint64 // first height of force
	Revoke      uint64 // first height no longer in force; 0: not revoked
	Reason      string // revocation reason: rotated, compromised, ceased
}

// InForce reports whether the key may be used at height.
func (k RegisteredKey) InForce(height uint64) bool {
	return k.Activate <= height && (k.Revoke == 0 || height < k.Revoke)
}
