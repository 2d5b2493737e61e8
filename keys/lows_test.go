package keys_test

import (
	"crypto/elliptic"
	"math/big"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
)

// TestECDSASignaturesHaveLowS: the registry refuses the other form.
func TestECDSASignaturesHaveLowS(t *testing.T) {
	k, err := keys.Generate(civibus.TransportKey, civibus.ECDSAP256SHA256)
	if err != nil {
		t.Fatal(err)
	}
	order := elliptic.P256().Params().N
	for range 64 {
		sig, err := k.Sign(t.Context(), []byte("message"))
		if err != nil || !k.Key().Verify([]byte("message"), sig) {
			t.Fatalf("signature does not verify: %v", err)
		}
		if s := new(big.Int).SetBytes(sig[32:]); s.Lsh(s, 1).Cmp(order) > 0 {
			t.Fatalf("s is high: %x", sig[32:])
		}
	}
}
