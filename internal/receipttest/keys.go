// Package receipttest builds complete receipts with real keys, a tiny registry
// state, its event log, two evidence logs and four witnesses. Everything is
// derived from names and fixed times, so that the same scenario always gives
// the same bytes: spec/vectors/receipts is made by it.
//
// It shares no code with the verifier: trees come from golang.org/x/mod, the
// state tree and the signature bases are its own.
//
// Trust: test material only. Its keys are public knowledge; an attacker who
// finds a policy that names them can make any receipt valid under it.
package receipttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"

	"filippo.io/mldsa" // another implementation than the verifier's

	"github.com/civibus/civibus"
	verifier "github.com/civibus/civibus/internal/mldsa"
)

// Key is a key pair that its name determines.
type Key struct {
	civibus.PublicKey
	private crypto.Signer
	second  *mldsa.PrivateKey
}

// NewKey returns the Ed25519 key of a name, or for a name that begins with
// "p256/", "mldsa44/", "mldsa65/" or "mldsa87/" the key of that algorithm.
func NewKey(name string) *Key {
	seed := sha256.Sum256([]byte("civibus receipt vectors/" + name))
	k := new(Key)
	if set, algorithm, ok := mldsaOf(name); ok {
		private, err := mldsa.NewPrivateKey(set, seed[:])
		must(err)
		encoded, err := verifier.NewPublicKey(algorithm, private.PublicKey().Bytes())
		must(err)
		k.second = private
		k.PublicKey, err = civibus.NewPublicKey(encoded)
		must(err)
		return k
	}
	if len(name) > 5 && name[:5] == "p256/" {
		private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:])
		must(err)
		k.private = private
	} else {
		k.private = ed25519.NewKeyFromSeed(seed[:])
	}
	public, err := civibus.NewPublicKey(k.private.Public())
	must(err)
	k.PublicKey = public
	return k
}

func mldsaOf(name string) (*mldsa.Parameters, civibus.Algorithm, bool) {
	switch prefix, _, _ := strings.Cut(name, "/"); prefix {
	case "mldsa44":
		return mldsa.MLDSA44(), civibus.MLDSA44, true
	case "mldsa65":
		return mldsa.MLDSA65(), civibus.MLDSA65, true
	case "mldsa87":
		return mldsa.MLDSA87(), civibus.MLDSA87, true
	}
	return nil, "", false
}

// RawSecond returns the encoding of an ML-DSA public key.
func (k *Key) RawSecond() []byte { return k.second.PublicKey().Bytes() }

// Raw returns the 32 bytes of an Ed25519 public key.
func (k *Key) Raw() ed25519.PublicKey { return k.Key.(ed25519.PublicKey) }

// Hex returns the key id in text.
func (k *Key) Hex() string { return hex.EncodeToString(k.ID[:]) }

// Sign signs deterministically (RFC 8032, RFC 6979, FIPS 204).
func (k *Key) Sign(message []byte) []byte {
	if k.second != nil {
		sig, err := k.second.SignDeterministic(message, nil)
		must(err)
		return sig
	}
	if k.Algorithm == civibus.Ed25519 {
		sig, err := k.private.Sign(nil, message, crypto.Hash(0))
		must(err)
		return sig
	}
	digest := sha256.Sum256(message)
	der, err := k.private.Sign(nil, digest[:], crypto.SHA256)
	must(err)
	var rs struct{ R, S *big.Int }
	_, err = asn1.Unmarshal(der, &rs)
	must(err)
	out := make([]byte, 64)
	rs.R.FillBytes(out[:32])
	rs.S.FillBytes(out[32:])
	return out
}

// must ends a scenario that cannot be built: only a mistake in it comes here.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("receipttest: %v", err))
	}
}
