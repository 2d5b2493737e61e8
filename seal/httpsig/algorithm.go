package httpsig

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"math/big"
)

// Algorithm names a signature algorithm of RFC 9421 section 6.2.
type Algorithm string

// The algorithms.
const (
	Ed25519         Algorithm = "ed25519"
	ECDSAP256SHA256 Algorithm = "ecdsa-p256-sha256"
	RSAPSSSHA512    Algorithm = "rsa-pss-sha512"
	HMACSHA256      Algorithm = "hmac-sha256"
)

// Sign signs base with key, which must be of the algorithm's type:
// ed25519.PrivateKey, *ecdsa.PrivateKey, *rsa.PrivateKey or []byte.
func Sign(alg Algorithm, key any, base []byte) ([]byte, error) {
	switch k := key.(type) {
	case ed25519.PrivateKey:
		if alg == Ed25519 && len(k) == ed25519.PrivateKeySize {
			return ed25519.Sign(k, base), nil
		}
	case *ecdsa.PrivateKey:
		if alg == ECDSAP256SHA256 && k.Curve == elliptic.P256() {
			sum := sha256.Sum256(base)
			r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
			if err != nil {
				return nil, fmt.Errorf("sign: %w", err)
			}
			out := make([]byte, 64)
			r.FillBytes(out[:32])
			s.FillBytes(out[32:])
			return out, nil
		}
	case *rsa.PrivateKey:
		if alg == RSAPSSSHA512 {
			sum := sha512.Sum512(base)
			return rsa.SignPSS(rand.Reader, k, crypto.SHA512, sum[:], pssOptions())
		}
	case []byte:
		if alg == HMACSHA256 {
			m := hmac.New(sha256.New, k)
			m.Write(base)
			return m.Sum(nil), nil
		}
	}
	return nil, fmt.Errorf("sign: a key of type %T does not do %q", key, alg)
}

// Verify reports whether signature is key's over base. The key's type must be
// the algorithm's: ed25519.PublicKey, *ecdsa.PublicKey, *rsa.PublicKey or
// []byte; anything else never verifies.
func Verify(alg Algorithm, key any, base, signature []byte) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return alg == Ed25519 && len(k) == ed25519.PublicKeySize && len(signature) == ed25519.SignatureSize &&
			ed25519.Verify(k, base, signature)
	case *ecdsa.PublicKey:
		if alg != ECDSAP256SHA256 || k.Curve != elliptic.P256() || len(signature) != 64 {
			return false
		}
		sum := sha256.Sum256(base)
		return ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	case *rsa.PublicKey:
		if alg != RSAPSSSHA512 {
			return false
		}
		sum := sha512.Sum512(base)
		return rsa.VerifyPSS(k, crypto.SHA512, sum[:], signature, pssOptions()) == nil
	case []byte:
		if alg != HMACSHA256 {
			return false
		}
		m := hmac.New(sha256.New, k)
		m.Write(base)
		return hmac.Equal(m.Sum(nil), signature)
	}
	return false
}

func pssOptions() *rsa.PSSOptions {
	return &rsa.PSSOptions{SaltLength: 64, Hash: crypto.SHA512}
}
