package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

const (
	txDomain         = "civibus/tx/v1\n"
	possessionDomain = "civibus/key-possession/v1\n"
	appHashDomain    = "civibus/app-hash/v1\n"
)

// TxHash names an envelope: SHA-256 of its bytes.
func TxHash(envelope []byte) [32]byte { return sha256.Sum256(envelope) }

// SignTx encodes tx and signs it. An empty tx.KeyId is set to the signer's key.
func SignTx(ctx context.Context, signer civibus.Signer, tx *registrypb.Tx) (envelope []byte, err error) {
	key := signer.Key()
	switch {
	case len(tx.KeyId) == 0:
		tx.KeyId = key.ID[:]
	case string(tx.KeyId) != string(key.ID[:]):
		return nil, fmt.Errorf("sign transaction: it names key %x, the signer has %s", tx.KeyId, key.ID)
	}
	b, err := encodeCanonical(tx)
	if err != nil {
		return nil, fmt.Errorf("sign transaction: %w", err)
	}
	signature, err := sign(ctx, signer, txMessage(b))
	if err != nil {
		return nil, fmt.Errorf("sign transaction: %w", err)
	}
	return appendBytes(appendBytes(nil, 1, b), 2, signature), nil
}

// ProvePossession makes AddKey.Possession: a signature by the new key that it
// is to be a member's key for a purpose.
func ProvePossession(ctx context.Context, newKey civibus.Signer, chainID string, member civibus.MemberID, purpose civibus.Purpose) ([]byte, error) {
	signature, err := sign(ctx, newKey, possessionMessage(chainID, member.String(), purpose, newKey.Key().SPKI))
	if err != nil {
		return nil, fmt.Errorf("prove possession of key %s: %w", newKey.Key().ID, err)
	}
	return signature, nil
}

// sign signs and brings an ECDSA signature into the one form that the registry
// accepts, low s: otherwise anyone could change an envelope, and so its hash,
// without its signer.
func sign(ctx context.Context, signer civibus.Signer, message []byte) ([]byte, error) {
	signature, err := signer.Sign(ctx, message)
	if err != nil {
		return nil, err
	}
	if signer.Key().Algorithm != civibus.ECDSAP256SHA256 {
		return signature, nil
	}
	if len(signature) != 64 {
		return nil, errors.New("the signer's ECDSA signature is not r||s of 64 bytes")
	}
	if !lowS(signature) {
		s := new(big.Int).SetBytes(signature[32:])
		s.Sub(p256Order(), s)
		signature = append([]byte{}, signature...)
		s.FillBytes(signature[32:])
	}
	return signature, nil
}

func txMessage(tx []byte) []byte { return append([]byte(txDomain), tx...) }

func possessionMessage(chainID, member string, purpose civibus.Purpose, spki []byte) []byte {
	return append(fmt.Appendf(nil, "%s%s\n%s\n%d\n", possessionDomain, chainID, member, int(purpose)), spki...)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendBytes(b, v)
}
