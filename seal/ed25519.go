package seal

import (
	"crypto/ed25519"
	"sync"

	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"

	"github.com/civibus/civibus"
)

// maxCachedKeys bounds the memory of expanded keys, about 1.5 KiB each.
const maxCachedKeys = 1024

// keyCache holds Ed25519 keys in the form that makes verification fast. Only
// keys that the Key function returned come here, so an attacker cannot fill
// it; it is emptied when it is full, which a network of a thousand bodies
// never sees.
type keyCache struct {
	mu   sync.RWMutex
	keys map[civibus.KeyID]*voi.ExpandedPublicKey
}

// verify reports whether signature is k's over message, exactly as
// k.Verify does.
func (c *keyCache) verify(k civibus.PublicKey, message, signature []byte) bool {
	pub, ok := k.Key.(ed25519.PublicKey)
	if !ok {
		return k.Verify(message, signature)
	}
	c.mu.RLock()
	x := c.keys[k.ID]
	c.mu.RUnlock()
	if x == nil {
		var err error
		if x, err = voi.NewExpandedPublicKey(voi.PublicKey(pub)); err != nil {
			return false // not a point of the curve: crypto/ed25519 refuses it too
		}
		c.mu.Lock()
		if c.keys == nil || len(c.keys) >= maxCachedKeys {
			c.keys = make(map[civibus.KeyID]*voi.ExpandedPublicKey)
		}
		c.keys[k.ID] = x
		c.mu.Unlock()
	}
	return verifyExpanded(x, message, signature)
}

// verifyExpanded verifies with the rules of crypto/ed25519: no cofactor, R
// compared as bytes, S reduced, A any encoding that decodes.
func verifyExpanded(x *voi.ExpandedPublicKey, message, signature []byte) bool {
	if len(signature) != ed25519.SignatureSize {
		return false
	}
	return voi.VerifyExpandedWithOptions(x, message, signature, &voi.Options{Verify: voi.VerifyOptionsStdLib})
}
