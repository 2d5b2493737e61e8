package node

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

// BodyFormat is the value of Body.Format.
const BodyFormat = "civibus-body/v1"

// Body is what a public body tells others to be taken into an instance: its
// name, its addresses and its public keys. It holds no secret.
type Body struct {
	Format   string                    `toml:"format" json:"format"`
	Member   string                    `toml:"member" json:"member"`
	Name     string                    `toml:"name" json:"name"`
	Ledger   string                    `toml:"ledger" json:"ledger"` // NODE-ID@host:port
	Gateways []registry.GenesisGateway `toml:"gateways" json:"gateways"`
	Keys     []registry.GenesisKey     `toml:"keys" json:"keys"`
}

// BodyOptions say what NewBody makes.
type BodyOptions struct {
	Member     civibus.MemberID
	Name       string
	KeysDir    string // is created; must hold no key yet
	Passphrase string // its source, as in KeysConfig; empty: key files are not encrypted
	// MLDSAValidator makes the validator's key ML-DSA-65, for instances whose
	// genesis allows it.
	MLDSAValidator bool
	ServerCode     string
	Provider       string // host:port at which other bodies reach the provider face
	Ledger         string // host:port at which other ledger nodes reach this one
	Now            time.Time
}

// NewBody makes a body's first keys in their folder and returns what others need
// to know. It refuses a folder that holds keys: keys are rotated, not replaced.
func NewBody(o BodyOptions) (Body, error) {
	if o.Name == "" {
		return Body{}, errors.New("new body: the name is empty; give the body's official name")
	}
	old, err := filepath.Glob(filepath.Join(o.KeysDir, "*"))
	if err != nil {
		return Body{}, fmt.Errorf("new body: %w", err)
	}
	if len(old) > 0 {
		return Body{}, fmt.Errorf("new body: %s is not empty: %w; keys are never overwritten, choose another folder", o.KeysDir, fs.ErrExist)
	}
	options, err := KeysConfig{Passphrase: o.Passphrase}.options()
	if err != nil {
		return Body{}, fmt.Errorf("new body: %w", err)
	}
	ring, err := keys.CreateRing(o.KeysDir, options...)
	if err != nil {
		return Body{}, fmt.Errorf("new body: %w", err)
	}
	defer ring.Close()
	b := Body{
		Format: BodyFormat, Member: o.Member.String(), Name: o.Name,
		Gateways: []registry.GenesisGateway{{Code: o.ServerCode, Address: o.Provider}},
	}

	// 1. The keys that sign for the body.
	for _, p := range []civibus.Purpose{civibus.SealKey, civibus.LogKey, civibus.AdminKey, civibus.WitnessKey} {
		k, err := ring.Create(p, civibus.Ed25519, o.Now)
		if err != nil {
			return Body{}, fmt.Errorf("new body: make %s key: %w", p, err)
		}
		b.addKey(p, k.Key(), nil)
	}
	transport, certificate, err := ring.CreateTransport(o.Member, []string{o.Provider}, civibus.ECDSAP256SHA256, o.Now)
	if err != nil {
		return Body{}, fmt.Errorf("new body: make transport key: %w", err)
	}
	b.addKey(civibus.TransportKey, transport.Key(), certificate)

	// 2. The ledger's keys.
	algorithm := civibus.Ed25519
	if o.MLDSAValidator {
		algorithm = civibus.MLDSA65
	}
	validator, err := ring.Create(civibus.ValidatorKey, algorithm, o.Now)
	if err != nil {
		return Body{}, fmt.Errorf("new body: make validator key: %w", err)
	}
	b.addKey(civibus.ValidatorKey, validator.Key(), nil)
	node, err := nodeKey(ring, o.Now)
	if err != nil {
		return Body{}, fmt.Errorf("new body: %w", err)
	}
	b.Ledger = ledger.NodeID(node.Public().(ed25519.PublicKey)) + "@" + o.Ledger
	return b, nil
}

func (b *Body) addKey(p civibus.Purpose, k civibus.PublicKey, certificate []byte) {
	b.Keys = append(b.Keys, registry.GenesisKey{
		Purpose: p.String(), SPKI: base64.StdEncoding.EncodeToString(k.SPKI), Certificate: base64.StdEncoding.EncodeToString(certificate),
	})
}

// ParseBody reads the file that NewBody's result was written to, strictly.
func ParseBody(text []byte) (Body, error) {
	var b Body
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&b); err != nil {
		return b, fmt.Errorf("body file: %w", err)
	}
	if b.Format != BodyFormat {
		return b, fmt.Errorf("body file: format %q, the rule is %q", b.Format, BodyFormat)
	}
	if _, err := civibus.ParseMemberID(b.Member); err != nil {
		return b, fmt.Errorf("body file: %w", err)
	}
	return b, nil
}

// TOML returns the body's file.
func (b Body) TOML() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("# What others need to know of this body to take it into an instance. No secret.\n")
	if err := toml.NewEncoder(&out).Encode(b); err != nil {
		return nil, fmt.Errorf("write body file: %w", err)
	}
	return out.Bytes(), nil
}

// Found makes the genesis of an instance of which the bodies are the founders:
// each a member with its node, a vote and a validator of power one, and a
// registrar, which admits others without a vote.
func Found(chainID string, now time.Time, bodies []Body) (*registry.Genesis, error) {
	if len(bodies) == 0 {
		return nil, errors.New("found an instance: there is no body; name at least one body file")
	}
	first, err := civibus.ParseMemberID(bodies[0].Member)
	if err != nil {
		return nil, fmt.Errorf("found an instance: %w", err)
	}
	if chainID == "" {
		chainID = strings.ToLower(civibus.EncodePart(first.Instance)) + "-1"
	}
	g := &registry.Genesis{
		Format: registry.GenesisFormat, Instance: first.Instance, ChainID: chainID, Time: now.UTC().Truncate(time.Second),
		Protocol: registry.Protocol,
	}
	for _, b := range bodies {
		id, err := civibus.ParseMemberID(b.Member)
		if err != nil {
			return nil, fmt.Errorf("found an instance: %w", err)
		}
		if id.Instance != first.Instance {
			return nil, fmt.Errorf("found an instance: body %s is of instance %q, %s of %q; an instance has one name", b.Member, id.Instance, bodies[0].Member, first.Instance)
		}
		g.Registrars = append(g.Registrars, b.Member)
		m := registry.GenesisMember{ID: b.Member, Name: b.Name, Gateways: b.Gateways, Keys: b.Keys}
		if node, address, ok := strings.Cut(b.Ledger, "@"); ok {
			m.Nodes = []registry.GenesisNode{{ID: node, Address: address, Role: "validator"}}
		}
		g.Members = append(g.Members, m)
		for _, k := range b.Keys {
			if k.Purpose == civibus.ValidatorKey.String() {
				g.Validators = append(g.Validators, registry.GenesisValidator{Member: b.Member, Key: k.SPKI, Power: 1})
				g.MLDSAValidators = g.MLDSAValidators || b.mldsaValidator()
			}
		}
	}
	if err := g.Validate(); err != nil {
		return nil, fmt.Errorf("found an instance: %w", err)
	}
	return g, nil
}

// ReadGenesis reads the shared genesis file.
func ReadGenesis(file string) (*registry.Genesis, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read genesis: %w", err)
	}
	g, err := registry.ParseGenesis(text)
	if err != nil {
		return nil, fmt.Errorf("read genesis %s: %w", file, err)
	}
	return g, nil
}
