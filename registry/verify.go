package registry

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"math/big"
	"sync"

	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"

	"github.com/civibus/civibus"
)

// verifySignature reports whether signature is the key's over message, in the
// one form that the registry accepts.
//
// Ed25519 goes through curve25519-voi, set to accept exactly what crypto/ed25519
// accepts (TestVerifyLikeStandardLibrary): 41 against 74 microseconds on the
// machine where this was decided, and verification is most of a transaction's
// cost.
func verifySignature(key *civibus.PublicKey, message, signature []byte) bool {
	if pub, ok := key.Key.(ed25519.PublicKey); ok {
		if len(signature) != ed25519.SignatureSize {
			return false
		}
		return voi.VerifyWithOptions(voi.PublicKey(pub), message, signature, &voi.Options{Verify: voi.VerifyOptionsStdLib})
	}
	if key.Algorithm.PostQuantum() {
		return key.Verify(message, signature)
	}
	return len(signature) == 64 && lowS(signature) && key.Verify(message, signature)
}

func p256Order() *big.Int { return elliptic.P256().Params().N }

// lowS reports whether s of an ECDSA signature r||s is at most half the order.
func lowS(signature []byte) bool {
	s := new(big.Int).SetBytes(signature[32:])
	return s.Lsh(s, 1).Cmp(p256Order()) <= 0
}

// signatureCache remembers good signatures, so that what Check verified is not
// verified again by Execute. Being in it never changes a result, only its cost:
// an entry is a fact about bytes, not about the state. It is bounded by two
// generations.
type signatureCache struct {
	mu         sync.Mutex
	young, old map[[32]byte]struct{}
	limit      int
}

func newSignatureCache(limit int) *signatureCache {
	return &signatureCache{young: make(map[[32]byte]struct{}), limit: limit / 2}
}

// verify is verifySignature with memory.
func (c *signatureCache) verify(key *civibus.PublicKey, message, signature []byte) bool {
	if len(signature) != 64 && !key.Algorithm.PostQuantum() {
		return false
	}
	h := sha256.New()
	h.Write(key.ID[:])
	h.Write(signature)
	h.Write(message)
	var fact [32]byte
	h.Sum(fact[:0])
	if c.has(fact) {
		return true
	}
	if !verifySignature(key, message, signature) {
		return false
	}
	c.add(fact)
	return true
}

func (c *signatureCache) has(fact [32]byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.young[fact]; ok {
		return true
	}
	_, ok := c.old[fact]
	return ok
}

func (c *signatureCache) add(fact [32]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= c.limit {
		c.old, c.young = c.young, make(map[[32]byte]struct{})
	}
	c.young[fact] = struct{}{}
}
