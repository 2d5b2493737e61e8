package seal

import (
	"crypto/ed25519"

	"github.com/civibus/civibus"
)

// VerifyEd25519 verifies as the Verifier does.
func VerifyEd25519(pub, message, signature []byte) bool {
	var c keyCache
	k := civibus.PublicKey{Key: ed25519.PublicKey(pub)}
	return c.verify(k, message, signature) && c.verify(k, message, signature)
}
