// Package keys keeps a body's private keys: it makes them, holds them in files
// that only their owner may read or in a hardware token, and gives out signers,
// never the keys.
//
// A key file is PKCS#8 in PEM, mode 0600, encrypted with a passphrase if there is
// one, in one directory per body. A key in a token has a file with its name
// there. The file name says what the key is for and sorts by age:
//
//	seal-20261122T084100.000000000Z-3f2a9c0d1b2e4f56.pem
//	seal-20261122T084100.000000000Z-3f2a9c0d1b2e4f56.crt
//	admin-20261122T084100.000000000Z-90ad5c3b11f0a2c4.pkcs11
//	transport-20261122T084100.000000000Z-77aa01c2d3e4f506.pem
//	transport-20261122T084100.000000000Z-77aa01c2d3e4f506.crt
//
// A Ring holds all keys of the directory. Which of them signs is decided by the
// registry: the newest key that is in force. So a new key is added to the
// directory and registered with an activation height, and the body changes over
// at that height without a pause. ML-DSA keys sign beside the others, never in
// their place, and are asked for apart.
//
// Trust: an attacker who can read the key directory, and the passphrase if there
// is one, can speak for the body until the registry revokes the keys; one who can
// only write to it can at most stop the body, since a key counts for nothing until
// it is registered. Nothing here writes a private key to a log, an error, a String
// or JSON. Buffers are cleared after use where that is possible; Go may have
// copied them, so a core dump or a swapped page can hold keys all the same.
package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"slices"

	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
)

// Key is one private key in custody. It holds the private half in closures
// only, so that no way of printing a Key can show it.
type Key struct {
	public  civibus.PublicKey
	purpose civibus.Purpose
	sign    func(ctx context.Context, message []byte) ([]byte, error)
	signer  crypto.Signer          // opaque
	pkcs8   func() ([]byte, error) // for writing the file
	ed      func() ed25519.PrivateKey
	seed    func() []byte // of ML-DSA
}

var _ civibus.Signer = (*Key)(nil)

// Generate makes a key for a purpose. Log, validator and witness keys must be
// Ed25519, because C2SP notes and CometBFT know no other kind here. For a second
// signature a seal key may be ML-DSA of any size, a log or witness key ML-DSA-44.
// A validator key may be ML-DSA-65, where the genesis wants it: it makes no second
// signature but the only one.
func Generate(purpose civibus.Purpose, algorithm civibus.Algorithm) (*Key, error) {
	if err := checkAlgorithm(purpose, algorithm); err != nil {
		return nil, err
	}
	switch algorithm {
	case civibus.Ed25519:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generate %s key: %w", PurposeName(purpose), err)
		}
		return newKey(purpose, private)
	case civibus.MLDSA44, civibus.MLDSA65, civibus.MLDSA87:
		private, err := mldsa.Generate(algorithm)
		if err != nil {
			return nil, fmt.Errorf("generate %s key: %w", PurposeName(purpose), err)
		}
		return newKey(purpose, private)
	default:
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generate %s key: %w", PurposeName(purpose), err)
		}
		return newKey(purpose, private)
	}
}

func checkAlgorithm(purpose civibus.Purpose, algorithm civibus.Algorithm) error {
	if !slices.Contains(purposes, purpose) {
		return fmt.Errorf("key purpose %d: the rule is one of seal, log, transport, validator, admin, witness, node", purpose)
	}
	var fits []civibus.Purpose
	switch algorithm {
	case civibus.Ed25519:
		return nil
	case civibus.ECDSAP256SHA256:
		fits = []civibus.Purpose{civibus.SealKey, civibus.TransportKey, civibus.AdminKey}
	case civibus.MLDSA44:
		fits = []civibus.Purpose{civibus.SealKey, civibus.LogKey, civibus.WitnessKey}
	case civibus.MLDSA65, civibus.MLDSA87:
		fits = []civibus.Purpose{civibus.SealKey}
		if algorithm == civibus.MLDSA65 {
			fits = append(fits, civibus.ValidatorKey)
		}
	default:
		return fmt.Errorf("%s key: algorithm %q, the rule is %q, %q, or for a second signature %q, %q or %q", PurposeName(purpose), algorithm,
			civibus.Ed25519, civibus.ECDSAP256SHA256, civibus.MLDSA44, civibus.MLDSA65, civibus.MLDSA87)
	}
	if !slices.Contains(fits, purpose) {
		return fmt.Errorf("%s key: algorithm %q, the rule for this purpose is %q", PurposeName(purpose), algorithm, civibus.Ed25519)
	}
	return nil
}

// newKey puts a private key behind closures.
func newKey(purpose civibus.Purpose, private crypto.PrivateKey) (*Key, error) {
	k := &Key{purpose: purpose, pkcs8: func() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(private) }}
	var err error
	switch p := private.(type) {
	case ed25519.PrivateKey:
		if len(p) != ed25519.PrivateKeySize {
			return nil, fmt.Errorf("Ed25519 private key of %d bytes, the rule is %d", len(p), ed25519.PrivateKeySize)
		}
		if k.public, err = civibus.NewPublicKey(p.Public()); err != nil {
			return nil, err
		}
		k.sign = func(_ context.Context, message []byte) ([]byte, error) {
			return voi.Sign(voi.PrivateKey(p), message), nil
		}
		k.ed = func() ed25519.PrivateKey { return p }
		k.signer = opaqueSigner{p.Public(), p.Sign}
	case *ecdsa.PrivateKey:
		if k.public, err = civibus.NewPublicKey(&p.PublicKey); err != nil {
			return nil, err
		}
		k.sign = func(_ context.Context, message []byte) ([]byte, error) { return signECDSA(p, message) }
		k.signer = opaqueSigner{p.Public(), p.Sign}
	case *mldsa.PrivateKey:
		if k.public, err = civibus.NewPublicKey(p.Public()); err != nil {
			return nil, err
		}
		k.pkcs8 = func() ([]byte, error) { return p.PKCS8(), nil }
		k.seed = func() []byte { return p.PKCS8()[len(p.PKCS8())-mldsa.SeedSize:] }
		k.sign = func(_ context.Context, message []byte) ([]byte, error) { return p.Sign(message) }
		k.signer = opaqueSigner{p.Public(), func(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
			if opts != nil && opts.HashFunc() != 0 {
				return nil, errors.New("sign with ML-DSA: a digest is given, the rule is the message itself")
			}
			return p.Sign(message)
		}}
	default:
		return nil, fmt.Errorf("private key of type %T, the rule is Ed25519 or ECDSA P-256, or ML-DSA for a second signature", private)
	}
	return k, checkAlgorithm(purpose, k.public.Algorithm)
}

// signECDSA signs as RFC 9421 section 3.3.4 has it: r and s, 32 bytes each.
func signECDSA(p *ecdsa.PrivateKey, message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, p, sum[:])
	if err != nil {
		return nil, fmt.Errorf("sign with ECDSA P-256: %w", err)
	}
	return fixedECDSA(r, s), nil
}

// fixedECDSA writes a signature of P-256 as r and s, 32 bytes each. Of its two
// forms the registry accepts the one with low s only, so that nobody but the
// signer can change a transaction's bytes.
func fixedECDSA(r, s *big.Int) []byte {
	if order := elliptic.P256().Params().N; new(big.Int).Lsh(s, 1).Cmp(order) > 0 {
		s.Sub(order, s)
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out
}

// Key returns the public half.
func (k *Key) Key() civibus.PublicKey { return k.public }

// Purpose says what the key is for.
func (k *Key) Purpose() civibus.Purpose { return k.purpose }

// Sign signs message; ECDSA signatures are r||s. A key in a token waits for one
// of its sessions as long as ctx allows.
func (k *Key) Sign(ctx context.Context, message []byte) ([]byte, error) { return k.sign(ctx, message) }

// Signer returns the key for use by crypto/tls and crypto/x509. The value signs
// but does not hold the key in any field that can be printed.
func (k *Key) Signer() crypto.Signer { return k.signer }

// Ed25519 hands the private key itself to a component that takes no signer,
// which is the consensus engine and nobody else. It is an error for keys of other
// algorithms and for keys in a token.
func (k *Key) Ed25519() (ed25519.PrivateKey, error) {
	if k.ed == nil {
		return nil, fmt.Errorf("%s: the rule is an %s key in a file", k, civibus.Ed25519)
	}
	return k.ed(), nil
}

// Seed hands the seed of an ML-DSA validator key to the consensus engine, as
// Ed25519 does. It is an error for all other keys.
func (k *Key) Seed() ([]byte, error) {
	if k.seed == nil || k.purpose != civibus.ValidatorKey {
		return nil, fmt.Errorf("%s: the rule is an %s validator key in a file", k, civibus.MLDSA65)
	}
	return k.seed(), nil
}

// String names the key by purpose and id.
func (k *Key) String() string {
	return fmt.Sprintf("%s key %s (%s)", PurposeName(k.purpose), k.public.ID, k.public.Algorithm)
}

// GoString is String, so that %#v shows no more.
func (k *Key) GoString() string { return k.String() }

// LogValue is what slog shows.
func (k *Key) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", k.public.ID.String()), slog.String("purpose", PurposeName(k.purpose)))
}

// MarshalJSON writes the public half.
func (k *Key) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		ID        string `json:"id"`
		Purpose   string `json:"purpose"`
		Algorithm string `json:"algorithm"`
		SPKI      []byte `json:"spki"`
	}{k.public.ID.String(), PurposeName(k.purpose), string(k.public.Algorithm), k.public.SPKI})
}

// opaqueSigner is a crypto.Signer whose private key is out of reach of printing.
type opaqueSigner struct {
	public crypto.PublicKey
	sign   func(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// Public returns the public half.
func (s opaqueSigner) Public() crypto.PublicKey { return s.public }

// Sign signs as crypto.Signer says.
func (s opaqueSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.sign(rand, digest, opts)
}
