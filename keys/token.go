package keys

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys/pkcs11"
)

// ErrInToken says that a key lives in a token, which it cannot leave.
var ErrInToken = errors.New("the key is in a token and cannot leave it")

// newTokenKey puts a key of a token behind the same closures as a key of a file.
func newTokenKey(purpose civibus.Purpose, public civibus.PublicKey, held *pkcs11.Key) (*Key, error) {
	if err := checkTokenKey(purpose, public.Algorithm); err != nil {
		return nil, err
	}
	k := &Key{purpose: purpose, public: public, pkcs8: func() ([]byte, error) { return nil, ErrInToken }}
	if public.Algorithm == civibus.Ed25519 {
		k.sign = held.Sign
	} else {
		k.sign = func(ctx context.Context, message []byte) ([]byte, error) {
			sum := sha256.Sum256(message)
			raw, err := held.Sign(ctx, sum[:])
			if err != nil {
				return nil, err
			}
			return fixedECDSA(split(raw)), nil
		}
	}
	k.signer = opaqueSigner{public.Key, func(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return signDigest(public, held, digest, opts)
	}}
	return k, nil
}

// checkTokenKey says which keys may live in a token: the consensus engine takes
// its key itself, and log and witness keys sign too often for most tokens.
func checkTokenKey(purpose civibus.Purpose, algorithm civibus.Algorithm) error {
	switch purpose {
	case civibus.SealKey, civibus.TransportKey, civibus.AdminKey:
	default:
		return fmt.Errorf("%s key in a token: the rule is seal, transport or admin", PurposeName(purpose))
	}
	if algorithm.PostQuantum() {
		return fmt.Errorf("%s key in a token: algorithm %q, the rule is %q or %q", purpose, algorithm, civibus.Ed25519, civibus.ECDSAP256SHA256)
	}
	return checkAlgorithm(purpose, algorithm)
}

// signDigest signs as crypto.Signer says: crypto/tls and crypto/x509 hand over a
// digest for ECDSA and the message for Ed25519.
func signDigest(public civibus.PublicKey, held *pkcs11.Key, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, ok := public.Key.(*ecdsa.PublicKey); !ok {
		if opts.HashFunc() != 0 {
			return nil, errors.New("sign with Ed25519: a digest is given, the rule is the message itself")
		}
		return held.Sign(context.Background(), digest)
	}
	if opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, errors.New("sign with ECDSA P-256: the rule is a digest of SHA-256")
	}
	raw, err := held.Sign(context.Background(), digest)
	if err != nil {
		return nil, err
	}
	r, s := split(raw)
	return asn1.Marshal(struct{ R, S *big.Int }{r, s})
}

func split(raw []byte) (r, s *big.Int) {
	return new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])
}

// reference is the content of a file that names a key in a token: its URI on a
// line of its own and, so that the token may be away when the file is read, its
// public half in PEM.
type reference struct {
	uri    pkcs11.URI
	public civibus.PublicKey // zero if the file has none
}

func (f reference) text(purpose civibus.Purpose) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "Civibus %s private key in a PKCS#11 token. No secret.\nKey id: %s\n%s\n", purpose, f.public.ID, f.uri)
	_ = pem.Encode(&out, &pem.Block{Type: "PUBLIC KEY", Bytes: f.public.SPKI}) // to memory
	return out.Bytes()
}

func parseReference(raw []byte) (reference, error) {
	var f reference
	// 1. The public half.
	head := raw
	if block, rest := pem.Decode(raw); block != nil {
		if block.Type != "PUBLIC KEY" {
			return f, fmt.Errorf("PEM block %q, the rule is \"PUBLIC KEY\"", printable(block.Type))
		}
		if second, _ := pem.Decode(rest); second != nil {
			return f, errors.New("it holds more than one PEM block, the rule is one key in a file")
		}
		var err error
		if f.public, err = civibus.ParsePublicKey(block.Bytes); err != nil {
			return f, err
		}
		head = raw[:bytes.Index(raw, []byte("-----BEGIN"))]
	}
	// 2. The name.
	found := 0
	for lines := bufio.NewScanner(bytes.NewReader(head)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if !strings.HasPrefix(line, "pkcs11:") {
			continue
		}
		var err error
		if f.uri, err = pkcs11.ParseURI(line); err != nil {
			return f, err
		}
		found++
	}
	if found != 1 {
		return f, fmt.Errorf("it has %d lines that begin with \"pkcs11:\", the rule is one", found)
	}
	return f, nil
}
