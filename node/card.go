package node

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// GatewayFormat is the value of GatewayCard.Format.
const GatewayFormat = "civibus-gateway/v1"

// GatewayCard is what a further gateway of a body tells the body's first one, to be
// taken into the registry: its address and public keys, with proofs that it holds
// them. It holds no secret.
type GatewayCard struct {
	Format  string       `toml:"format" json:"format"`
	Member  string       `toml:"member" json:"member"`
	ChainID string       `toml:"chain_id" json:"chain_id"`
	Code    string       `toml:"code" json:"code"`
	Address string       `toml:"address" json:"address"`
	Log     int          `toml:"log" json:"log"` // number of its evidence log
	Keys    []GatewayKey `toml:"keys" json:"keys"`
}

// GatewayKey is one of its keys; bytes are in base64.
type GatewayKey struct {
	Purpose     string `toml:"purpose" json:"purpose"`
	SPKI        string `toml:"spki" json:"spki"`
	Certificate string `toml:"certificate,omitempty" json:"certificate,omitempty"`
	Possession  string `toml:"possession" json:"possession"`
}

// GatewayOptions say what NewGateway makes.
type GatewayOptions struct {
	Member     civibus.MemberID
	Genesis    *registry.Genesis
	KeysDir    string // is created; must hold no key yet
	Passphrase string // its source, as in KeysConfig; empty: key files are not encrypted
	Code       string
	Address    string // host:port at which other bodies reach the provider face
	Log        int
	Now        time.Time
}

// NewGateway makes the keys of a further gateway of a body in their folder: seal,
// log and transport keys of its own. The body's admin, witness and validator keys
// stay where they are.
func NewGateway(ctx context.Context, o GatewayOptions) (GatewayCard, error) {
	if o.Member.Instance != o.Genesis.Instance {
		return GatewayCard{}, fmt.Errorf("new gateway: the genesis is of instance %q, member %s of %q; use the genesis of the member's instance", o.Genesis.Instance, o.Member, o.Member.Instance)
	}
	if old, err := filepath.Glob(filepath.Join(o.KeysDir, "*")); err != nil || len(old) > 0 {
		return GatewayCard{}, fmt.Errorf("new gateway: %s is not empty: %w; keys are never overwritten, choose another folder", o.KeysDir, errors.Join(err, fs.ErrExist))
	}
	options, err := KeysConfig{Passphrase: o.Passphrase}.options()
	if err != nil {
		return GatewayCard{}, fmt.Errorf("new gateway: %w", err)
	}
	ring, err := keys.CreateRing(o.KeysDir, options...)
	if err != nil {
		return GatewayCard{}, fmt.Errorf("new gateway: %w", err)
	}
	defer ring.Close()
	card := GatewayCard{Format: GatewayFormat, Member: o.Member.String(), ChainID: o.Genesis.ChainID, Code: o.Code, Address: o.Address, Log: o.Log}
	for _, p := range []civibus.Purpose{civibus.SealKey, civibus.LogKey, civibus.TransportKey} {
		var key *keys.Key
		var certificate []byte
		if p == civibus.TransportKey {
			key, certificate, err = ring.CreateTransport(o.Member, []string{o.Address}, civibus.ECDSAP256SHA256, o.Now)
		} else {
			key, err = ring.Create(p, civibus.Ed25519, o.Now)
		}
		if err != nil {
			return GatewayCard{}, fmt.Errorf("new gateway: make %s key: %w", p, err)
		}
		possession, err := registry.ProvePossession(ctx, key, card.ChainID, o.Member, p)
		if err != nil {
			return GatewayCard{}, fmt.Errorf("new gateway: %w", err)
		}
		encode := base64.StdEncoding.EncodeToString
		card.Keys = append(card.Keys, GatewayKey{Purpose: p.String(), SPKI: encode(key.Key().SPKI), Certificate: encode(certificate), Possession: encode(possession)})
	}
	return card, nil
}

// ParseGatewayCard reads a card's file, strictly.
func ParseGatewayCard(text []byte) (GatewayCard, error) {
	var c GatewayCard
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&c); err != nil {
		return c, fmt.Errorf("gateway file: %w", err)
	}
	if c.Format != GatewayFormat {
		return c, fmt.Errorf("gateway file: format %q, the rule is %q", c.Format, GatewayFormat)
	}
	if _, err := civibus.ParseMemberID(c.Member); err != nil {
		return c, fmt.Errorf("gateway file: %w", err)
	}
	return c, nil
}

// TOML returns the card's file.
func (c GatewayCard) TOML() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("# What the body's first gateway needs to know of this one to register it. No secret.\n")
	if err := toml.NewEncoder(&out).Encode(c); err != nil {
		return nil, fmt.Errorf("write gateway file: %w", err)
	}
	return out.Bytes(), nil
}

// Changes are the changes of the registry that take the gateway in, in their order:
// its keys, by id, so that those that are registered already can be left out, and
// then its address among those that the body has.
func (c GatewayCard) Changes(name, parent string, listed []civibus.Gateway) (add map[civibus.KeyID]*registrypb.Tx, set *registrypb.Tx, err error) {
	if slices.ContainsFunc(listed, func(g civibus.Gateway) bool { return g.Code == c.Code && g.Address != c.Address }) {
		return nil, nil, fmt.Errorf("the body has a gateway with the code %q at another address; make this one with another code", c.Code)
	}
	add = make(map[civibus.KeyID]*registrypb.Tx)
	for _, k := range c.Keys {
		purpose, err := civibus.ParsePurpose(k.Purpose)
		if err != nil || purpose != civibus.SealKey && purpose != civibus.LogKey && purpose != civibus.TransportKey {
			return nil, nil, fmt.Errorf("gateway file: a %s key; the rule is seal, log and transport", k.Purpose)
		}
		tx := &registrypb.AddKey{Member: c.Member, Purpose: registrypb.Purpose(purpose)}
		for _, f := range []struct {
			text string
			to   *[]byte
		}{{k.SPKI, &tx.Spki}, {k.Certificate, &tx.Certificate}, {k.Possession, &tx.Possession}} {
			if *f.to, err = base64.StdEncoding.DecodeString(f.text); err != nil {
				return nil, nil, fmt.Errorf("gateway file: %s key: %w", k.Purpose, err)
			}
		}
		public, err := civibus.ParsePublicKey(tx.Spki)
		if err != nil {
			return nil, nil, fmt.Errorf("gateway file: %s key: %w", k.Purpose, err)
		}
		add[public.ID] = &registrypb.Tx{Body: &registrypb.Tx_AddKey{AddKey: tx}}
	}
	if slices.ContainsFunc(listed, func(g civibus.Gateway) bool { return g.Code == c.Code }) {
		return add, nil, nil
	}
	member := &registrypb.SetMember{Id: c.Member, Name: name, Parent: parent}
	for _, g := range append(slices.Clone(listed), civibus.Gateway{Code: c.Code, Address: c.Address}) {
		member.Gateways = append(member.Gateways, &registrypb.Gateway{Code: g.Code, Address: g.Address})
	}
	return add, &registrypb.Tx{Body: &registrypb.Tx_SetMember{SetMember: member}}, nil
}
