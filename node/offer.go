package node

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"

	"github.com/pelletier/go-toml/v2"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// OfferFormat is the value of Offer.Format.
const OfferFormat = "civibus-key/v1"

// Offer is the file by which a body has somebody else register a key of its own:
// the member that administers it, or all members by vote. It holds no secret.
type Offer struct {
	Format  string `toml:"format" json:"format"`
	ChainID string `toml:"chain_id" json:"chain_id"`
	Member  string `toml:"member" json:"member"`
	OfferedKey
}

// NewOffer offers a key of a body. The certificate is that of a transport key.
func NewOffer(ctx context.Context, k *keys.Key, certificate []byte, chainID string, member civibus.MemberID) (Offer, error) {
	proof, err := registry.ProvePossession(ctx, k, chainID, member, k.Purpose())
	if err != nil {
		return Offer{}, err
	}
	return Offer{Format: OfferFormat, ChainID: chainID, Member: member.String(), OfferedKey: OfferedKey{
		Purpose: k.Purpose().String(), SPKI: base64.StdEncoding.EncodeToString(k.Key().SPKI),
		Certificate: base64.StdEncoding.EncodeToString(certificate), Possession: base64.StdEncoding.EncodeToString(proof),
	}}, nil
}

// TOML returns the file.
func (o Offer) TOML() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("# A public key that a body offers to have registered. No secret.\n")
	if err := toml.NewEncoder(&out).Encode(o); err != nil {
		return nil, fmt.Errorf("write key file: %w", err)
	}
	return out.Bytes(), nil
}

// ParseOffer reads the file strictly and checks it for a chain.
func ParseOffer(text []byte, chainID string) (Offer, *registrypb.NewKey, error) {
	var o Offer
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&o); err != nil {
		return o, nil, fmt.Errorf("key file: %w", err)
	}
	if o.Format != OfferFormat {
		return o, nil, fmt.Errorf("key file: format %q, the rule is %q", o.Format, OfferFormat)
	}
	member, err := civibus.ParseMemberID(o.Member)
	if err != nil {
		return o, nil, err
	}
	if o.ChainID != chainID {
		return o, nil, fmt.Errorf("it is for chain %q, this node's is %q", o.ChainID, chainID)
	}
	key, err := o.Open(chainID, member)
	return o, key, err
}
