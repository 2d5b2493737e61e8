package civibus_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"github.com/oasisprotocol/curve25519-voi/curve"
)

func TestKeysVerifyTheirOwnSignaturesOnly(t *testing.T) {
	message := []byte("message")
	edPub, edPriv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecPriv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, ecPriv, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	ecSignature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)

	for name, c := range map[string]struct {
		public    any
		algorithm civibus.Algorithm
		signature []byte
	}{
		"ed25519": {edPub, civibus.Ed25519, ed25519.Sign(edPriv, message)},
		"p256":    {&ecPriv.PublicKey, civibus.ECDSAP256SHA256, ecSignature},
	} {
		key, err := civibus.NewPublicKey(c.public)
		if err != nil {
			t.Fatal(name, err)
		}
		if key.Algorithm != c.algorithm {
			t.Errorf("%s: algorithm %s", name, key.Algorithm)
		}
		if !key.Verify(message, c.signature) {
			t.Errorf("%s: own signature refused", name)
		}
		if key.Verify([]byte("massage"), c.signature) || key.Verify(message, c.signature[1:]) || key.Verify(message, nil) {
			t.Errorf("%s: a wrong signature was accepted", name)
		}
		again, err := civibus.ParsePublicKey(key.SPKI)
		if err != nil || again.ID != key.ID {
			t.Errorf("%s: read back as %s, %v", name, again.ID, err)
		}
		parsed, err := civibus.ParseKeyID(key.ID.String())
		if err != nil || parsed != key.ID {
			t.Errorf("%s: key id %s, %v", name, parsed, err)
		}
	}
}

func TestOtherKeysAreRefused(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, key := range map[string]any{"Ed25519 or ECDSA P-256": &rsaKey.PublicKey, "the rule is P-256": &p384.PublicKey} {
		if _, err := civibus.NewPublicKey(key); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%T: error %v, want one that says %q", key, err, want)
		}
	}
	for _, s := range []string{"", "ab", strings.Repeat("g", 64)} {
		if _, err := civibus.ParseKeyID(s); err == nil {
			t.Errorf("key id %q was accepted", s)
		}
	}
	for _, p := range []civibus.Purpose{civibus.SealKey, civibus.LogKey, civibus.TransportKey, civibus.ValidatorKey, civibus.AdminKey, civibus.WitnessKey} {
		if got, err := civibus.ParsePurpose(p.String()); err != nil || got != p {
			t.Errorf("purpose %s read back as %s, %v", p, got, err)
		}
	}
	if _, err := civibus.ParsePurpose("root"); err == nil {
		t.Error("purpose root was accepted")
	}
}

func TestKeysAreInForceBetweenActivationAndRevocation(t *testing.T) {
	key := civibus.RegisteredKey{Activate: 3, Revoke: 9}
	for height, want := range map[uint64]bool{2: false, 3: true, 8: true, 9: false} {
		if key.InForce(height) != want {
			t.Errorf("height %d: %v", height, !want)
		}
	}
}

func TestKeysOfSmallOrderAreRefused(t *testing.T) {
	for _, y := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		raw, err := hex.DecodeString(y)
		if err != nil {
			t.Fatal(err)
		}
		for _, sign := range []byte{0, 0x80} {
			raw[31] = raw[31]&0x7f | sign
			var encoded curve.CompressedEdwardsY
			if _, err := encoded.SetBytes(raw); err != nil {
				t.Fatal(err)
			}
			var point curve.EdwardsPoint
			if _, err := point.SetCompressedY(&encoded); err == nil && !point.IsSmallOrder() {
				t.Errorf("%x is not of small order", raw)
			}
			if _, err := civibus.NewPublicKey(ed25519.PublicKey(raw)); err == nil || !strings.Contains(err.Error(), "small order") {
				t.Errorf("%x: error %v", raw, err)
			}
		}
	}
}
