//go:build pkcs11 && cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/civibus/civibus"
)

// Numbers of PKCS#11 3.0, which the binding does not have.
const (
	ckmEdwardsKeyPairGen = 0x1055
	ckmEdDSA             = 0x1057
	ckkEdwards           = 0x40
)

// p256PointSize is the length of an uncompressed point, in bytes.
const p256PointSize = 65

var (
	p256Params = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07} // OID of P-256
	edParams   = []byte{0x06, 0x03, 0x2b, 0x65, 0x70}                               // OID of Ed25519
	edName     = append([]byte{0x13, 12}, "edwards25519"...)                        // the same as a name: tokens take the one or the other
)

// Generate makes a key pair in the token: sensitive, never extractable, for
// signatures only. The label is for people.
func (m *Module) Generate(ctx context.Context, label string, algorithm civibus.Algorithm) (URI, crypto.PublicKey, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return URI{}, nil, fmt.Errorf("generate key in token: %w", err)
	}
	uri := URI{Token: m.cfg.Token, ID: id}
	var public crypto.PublicKey
	err := m.with(ctx, func(c *connection, _ p11.SessionHandle) error {
		// Only a session of its own may write.
		s, err := m.lib.ctx.OpenSession(c.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		if err != nil {
			return err
		}
		defer func() { _ = m.lib.ctx.CloseSession(s) }()
		handle, err := m.generate(c, s, id, label, algorithm)
		if err != nil {
			return err
		}
		public, err = m.public(s, handle)
		return err
	})
	if err != nil {
		return URI{}, nil, fmt.Errorf("generate %s key in token %q: %w", algorithm, m.cfg.Token, err)
	}
	return uri, public, nil
}

func (m *Module) generate(c *connection, s p11.SessionHandle, id []byte, label string, algorithm civibus.Algorithm) (public p11.ObjectHandle, err error) {
	mechanism, curves := uint(p11.CKM_EC_KEY_PAIR_GEN), [][]byte{p256Params}
	switch algorithm {
	case civibus.ECDSAP256SHA256:
	case civibus.Ed25519:
		mechanism, curves = ckmEdwardsKeyPairGen, [][]byte{edParams, edName}
	default:
		return 0, fmt.Errorf("algorithm %q, the rule is %q or %q", algorithm, civibus.Ed25519, civibus.ECDSAP256SHA256)
	}
	if _, err := m.lib.ctx.GetMechanismInfo(c.slot, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)}); errors.Is(err, p11.Error(p11.CKR_MECHANISM_INVALID)) {
		return 0, fmt.Errorf("the token cannot make such keys, choose another algorithm: %w", err)
	}
	both := []*p11.Attribute{p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_ID, id), p11.NewAttribute(p11.CKA_LABEL, label)}
	private := append([]*p11.Attribute{
		p11.NewAttribute(p11.CKA_PRIVATE, true), p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false), p11.NewAttribute(p11.CKA_SIGN, true),
	}, both...)
	for _, curve := range curves {
		open := append([]*p11.Attribute{p11.NewAttribute(p11.CKA_VERIFY, true), p11.NewAttribute(p11.CKA_EC_PARAMS, curve)}, both...)
		public, _, err = m.lib.ctx.GenerateKeyPair(s, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)}, open, private)
		if err == nil {
			return public, nil
		}
	}
	return 0, err
}

// public reads a public key object.
func (m *Module) public(s p11.SessionHandle, handle p11.ObjectHandle) (crypto.PublicKey, error) {
	attributes, err := m.lib.ctx.GetAttributeValue(s, handle, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_KEY_TYPE, nil), p11.NewAttribute(p11.CKA_EC_PARAMS, nil), p11.NewAttribute(p11.CKA_EC_POINT, nil),
	})
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	kind, curve, point := attributes[0].Value, attributes[1].Value, attributes[2].Value
	// The point is wrapped in an OCTET STRING, by some tokens not.
	if len(point) != ed25519.PublicKeySize && len(point) != p256PointSize {
		var unwrapped []byte
		if rest, err := asn1.Unmarshal(point, &unwrapped); err != nil || len(rest) != 0 {
			return nil, errors.New("read public key: its point cannot be read")
		}
		point = unwrapped
	}
	switch {
	case bytes.Equal(kind, p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC).Value) && bytes.Equal(curve, p256Params):
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			return nil, fmt.Errorf("read public key: %w", err)
		}
		return public, nil
	case bytes.Equal(kind, p11.NewAttribute(p11.CKA_KEY_TYPE, ckkEdwards).Value) && (bytes.Equal(curve, edParams) || bytes.Equal(curve, edName)) && len(point) == ed25519.PublicKeySize:
		return ed25519.PublicKey(point), nil
	}
	return nil, errors.New("the key in the token is neither Ed25519 nor ECDSA P-256")
}
