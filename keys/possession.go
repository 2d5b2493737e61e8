package keys

import (
	"context"
	"errors"
	"strconv"

	"github.com/civibus/civibus"
)

// PossessionMessage is what a new key signs to show that whoever registers it
// holds it (AddKey.possession in the registry's wire format). It names the
// ledger, the member and the purpose, so that the proof serves for nothing else.
func PossessionMessage(chainID string, member civibus.MemberID, purpose civibus.Purpose, spki []byte) []byte {
	m := []byte("civibus/key-possession/v1\n")
	m = append(m, chainID...)
	m = append(m, '\n')
	m = append(m, member.String()...)
	m = append(m, '\n')
	m = strconv.AppendInt(m, int64(purpose), 10)
	m = append(m, '\n')
	return append(m, spki...)
}

// ProvePossession signs the possession message for this key.
func (k *Key) ProvePossession(ctx context.Context, chainID string, member civibus.MemberID) ([]byte, error) {
	if chainID == "" || member.IsZero() {
		return nil, errors.New("prove possession of a key: the chain id and the member must be given")
	}
	return k.Sign(ctx, PossessionMessage(chainID, member, k.purpose, k.public.SPKI))
}

// VerifyPossession reports whether proof is the key's own over its possession
// message.
func VerifyPossession(key civibus.PublicKey, chainID string, member civibus.MemberID, purpose civibus.Purpose, proof []byte) bool {
	return key.Verify(PossessionMessage(chainID, member, purpose, key.SPKI), proof)
}
