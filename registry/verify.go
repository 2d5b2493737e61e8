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

// Which Ed25519 signatures are good. withoutCofactor is what crypto/ed25519 accepts;
// zip215 (ZIP 215, as the ledger's votes) accepts all of those and besides what only
// the key's owner can make on purpose, and says the same of a signature alone and
// of many at once.
var (
	withoutCofactor = &voi.Options{Verify: voi.VerifyOptionsStdLib}
	zip215          = &voi.Options{Verify: voi.VerifyOptionsZIP_215}
)

// envelopeRule is the rule for the signatures of envelopes in a protocol. A signature
// that is good in one is good in the later ones.
func envelopeRule(protocol uint32) *voi.Options {
	if protocol < 2 {
		return withoutCofactor
	}
	return zip215
}

// verifySignature reports whether signature is the key's over message, in the
// one form that the registry accepts.
//
// Ed25519 goes through curve25519-voi, set to accept exactly what crypto/ed25519
// accepts (TestVerifyLikeStandardLibrary), also with expandedKeys: 41 against 74 microseconds on the
// machine where this was decided, and verification is most of a transaction's
// cost.
func verifySignature(key *civibus.PublicKey, message, signature []byte) bool {
	if pub, ok := key.Key.(ed25519.PublicKey); ok {
		if len(signature) != ed25519.SignatureSize {
			return false
		}
		return voi.VerifyWithOptions(voi.PublicKey(pub), message, signature, withoutCofactor)
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

// expandedKeys keeps what is worked out of a public key for every signature of it:
// 27 instead of 44 microseconds for each, at 1.5 KiB a key. It is bounded by two
// generations.
type expandedKeys struct {
	mu         sync.Mutex
	young, old map[string]*voi.ExpandedPublicKey
	limit      int
}

// rememberedKeys is how many keys are kept worked out.
const rememberedKeys = 1 << 14

func newExpandedKeys(limit int) *expandedKeys {
	return &expandedKeys{young: make(map[string]*voi.ExpandedPublicKey), limit: limit / 2}
}

// verify is verifySignature, with another rule for Ed25519 if need be.
func (e *expandedKeys) verify(key *civibus.PublicKey, message, signature []byte, rule *voi.Options) bool {
	public, ok := key.Key.(ed25519.PublicKey)
	if !ok || len(signature) != ed25519.SignatureSize {
		return verifySignature(key, message, signature)
	}
	known := e.expand(public)
	return known != nil && voi.VerifyExpandedWithOptions(known, message, signature, rule)
}

// expand returns a key worked out, nil if it is no point of the curve.
func (e *expandedKeys) expand(public ed25519.PublicKey) *voi.ExpandedPublicKey {
	e.mu.Lock()
	known := e.young[string(public)]
	if known == nil {
		if known = e.old[string(public)]; known != nil {
			e.put(public, known)
		}
	}
	e.mu.Unlock()
	if known == nil {
		var err error
		if known, err = voi.NewExpandedPublicKey(voi.PublicKey(public)); err != nil {
			return nil
		}
		e.mu.Lock()
		e.put(public, known)
		e.mu.Unlock()
	}
	return known
}

func (e *expandedKeys) put(public ed25519.PublicKey, known *voi.ExpandedPublicKey) {
	if len(e.young) >= e.limit {
		e.old, e.young = e.young, make(map[string]*voi.ExpandedPublicKey)
	}
	e.young[string(public)] = known
}

// signatureCache remembers good signatures inside transactions, so that what Check
// verified is not verified again by Execute; an envelope's own is remembered with the
// decoded envelope (prepared). Being in it never changes a result, only its cost:
// an entry is a fact about bytes, not about the state. It is bounded by two
// generations.
type signatureCache struct {
	mu         sync.Mutex
	young, old map[[32]byte]struct{}
	limit      int
	keys       *expandedKeys
}

func newSignatureCache(limit int) *signatureCache {
	return &signatureCache{young: make(map[[32]byte]struct{}), limit: limit / 2, keys: newExpandedKeys(rememberedKeys)}
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
	if !c.keys.verify(key, message, signature, withoutCofactor) {
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
