package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// JoinFormat is the value of Join.Format.
const JoinFormat = "civibus-join/v1"

// The roles in which a body joins.
const (
	JoinValidator = "validator" // a ledger node that is to vote on blocks
	JoinFollower  = "follower"  // a ledger node that follows
	JoinLight     = "light"     // a gateway without a ledger node
	JoinHosted    = "hosted"    // carried by another body's gateway: no gateway, no node
)

var joinRoles = []string{JoinValidator, JoinFollower, JoinLight, JoinHosted}

// joinPurposes are the keys of each role. A follower brings what a validator needs
// too, so that a vote is enough to make it one.
var joinPurposes = map[string][]civibus.Purpose{
	JoinValidator: {civibus.SealKey, civibus.LogKey, civibus.AdminKey, civibus.WitnessKey, civibus.TransportKey, civibus.ValidatorKey},
	JoinFollower:  {civibus.SealKey, civibus.LogKey, civibus.AdminKey, civibus.WitnessKey, civibus.TransportKey, civibus.ValidatorKey},
	JoinLight:     {civibus.SealKey, civibus.LogKey, civibus.AdminKey, civibus.TransportKey},
	JoinHosted:    {civibus.SealKey, civibus.LogKey, civibus.AdminKey},
}

// Join is the file in which a body asks to be taken into an instance that exists:
// who it is, how it is reached, and its public keys, each with a proof that the
// body holds it and wants it to be its own in this instance and no other. It holds
// no secret.
type Join struct {
	Format   string                    `toml:"format" json:"format"`
	ChainID  string                    `toml:"chain_id" json:"chain_id"`
	Genesis  string                    `toml:"genesis_sha256" json:"genesis_sha256"` // of the file that the body was given
	Role     string                    `toml:"role" json:"role"`                     // validator, follower, light or hosted
	Member   string                    `toml:"member" json:"member"`
	Name     string                    `toml:"name" json:"name"`
	Ledger   string                    `toml:"ledger,omitempty" json:"ledger,omitempty"` // NODE-ID@host:port
	Gateways []registry.GenesisGateway `toml:"gateways,omitempty" json:"gateways,omitempty"`
	Keys     []OfferedKey              `toml:"keys" json:"keys"`
}

// OfferedKey is a public key with the proof that whoever offers it holds it.
type OfferedKey struct {
	Purpose     string `toml:"purpose" json:"purpose"`
	SPKI        string `toml:"spki" json:"spki"`                                   // base64
	Certificate string `toml:"certificate,omitempty" json:"certificate,omitempty"` // base64; transport keys
	Possession  string `toml:"possession" json:"possession"`                       // base64, as in the registry's AddKey
}

// GenesisDigest is the SHA-256 of a genesis file, by which people compare it.
func GenesisDigest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// NewJoin makes the join file of a body from its public file and its keys.
func NewJoin(ctx context.Context, ring *keys.Ring, b Body, genesis []byte, role string) (Join, error) {
	g, err := registry.ParseGenesis(genesis)
	if err != nil {
		return Join{}, err
	}
	member, err := civibus.ParseMemberID(b.Member)
	if err != nil {
		return Join{}, err
	}
	switch {
	case !slices.Contains(joinRoles, role):
		return Join{}, fmt.Errorf("role %q: the rule is one of %s", role, strings.Join(joinRoles, ", "))
	case member.Instance != g.Instance:
		return Join{}, fmt.Errorf("member %s is not of instance %q, whose genesis this is; run \"civibus init\" with an identifier of that instance", b.Member, g.Instance)
	case g.Protocol == 0:
		return Join{}, fmt.Errorf("instance %q has protocol 0, in which nobody joins by a join file; its registrars register members", g.Instance)
	}
	j := Join{Format: JoinFormat, ChainID: g.ChainID, Genesis: GenesisDigest(genesis), Role: role, Member: b.Member, Name: b.Name}
	if role != JoinHosted {
		j.Gateways = b.Gateways
	}
	if role == JoinValidator || role == JoinFollower {
		j.Ledger = b.Ledger
	}
	for _, p := range joinPurposes[role] {
		held := slices.DeleteFunc(ring.All(p), func(k *keys.Key) bool { return !b.names(k) })
		if len(held) != 1 {
			return Join{}, fmt.Errorf("%d %s keys of the body file are in the key folder, the rule is one; use the body file and the folder that one \"civibus init\" made", len(held), p)
		}
		k := held[0]
		if p == civibus.ValidatorKey && k.Key().Algorithm.PostQuantum() && !g.MLDSAValidators {
			return Join{}, fmt.Errorf("validator key %s is %s, which this instance's genesis does not allow; make an Ed25519 key", k.Key().ID, k.Key().Algorithm)
		}
		proof, err := registry.ProvePossession(ctx, k, g.ChainID, member, p)
		if err != nil {
			return Join{}, err
		}
		j.Keys = append(j.Keys, OfferedKey{
			Purpose: p.String(), SPKI: base64.StdEncoding.EncodeToString(k.Key().SPKI),
			Certificate: b.certificate(k), Possession: base64.StdEncoding.EncodeToString(proof),
		})
	}
	return j, j.Check(g.ChainID, j.Genesis)
}

func (b Body) names(k *keys.Key) bool { return b.key(k) != nil }

func (b Body) key(k *keys.Key) *registry.GenesisKey {
	spki := base64.StdEncoding.EncodeToString(k.Key().SPKI)
	for i := range b.Keys {
		if b.Keys[i].SPKI == spki && b.Keys[i].Purpose == k.Purpose().String() {
			return &b.Keys[i]
		}
	}
	return nil
}

func (b Body) certificate(k *keys.Key) string {
	if found := b.key(k); found != nil {
		return found.Certificate
	}
	return ""
}

// TOML returns the file.
func (j Join) TOML() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("# A body asks to be taken into an instance. No secret.\n")
	if err := toml.NewEncoder(&out).Encode(j); err != nil {
		return nil, fmt.Errorf("write join file: %w", err)
	}
	return out.Bytes(), nil
}

// ParseJoin reads the file strictly. What it says is checked by Check.
func ParseJoin(text []byte) (Join, error) {
	var j Join
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&j); err != nil {
		return j, fmt.Errorf("join file: %w", err)
	}
	if j.Format != JoinFormat {
		return j, fmt.Errorf("join file: format %q, the rule is %q, as \"civibus join\" writes it", j.Format, JoinFormat)
	}
	return j, nil
}

// Check reports everything that keeps a join file from being put to the vote of
// the instance with this chain id and digest of the genesis file. Each problem
// says what is wrong, the rule and the fix.
func (j Join) Check(chainID, genesis string) error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	// 1. For this instance.
	if j.ChainID != chainID {
		add("it is for chain %q, this node's is %q; the rule is one genesis: the body runs \"civibus join\" again with this instance's file", j.ChainID, chainID)
	}
	if j.Genesis != genesis {
		add("it was made with the genesis of SHA-256 %s, this node's has %s; compare the files before anything else, one of you was given another one", j.Genesis, genesis)
	}
	// 2. Who and where.
	member, err := civibus.ParseMemberID(j.Member)
	if err != nil {
		add("%v", err)
	}
	if strings.TrimSpace(j.Name) == "" {
		add("the name is empty; the rule is the body's official name")
	}
	purposes, known := joinPurposes[j.Role]
	if !known {
		add("role %q: the rule is one of %s", j.Role, strings.Join(joinRoles, ", "))
	}
	j.checkAddresses(add)
	// 3. Its keys.
	count := map[string]int{}
	seen := map[string]bool{}
	for i, k := range j.Keys {
		count[k.Purpose]++
		if seen[k.SPKI] {
			add("keys[%d]: the key is there twice; a key has one purpose", i)
		}
		seen[k.SPKI] = true
		if _, err := k.Open(chainID, member); err != nil {
			add("keys[%d] (%s): %w", i, k.Purpose, err)
		}
	}
	for _, p := range purposes {
		if n := count[p.String()]; n != 1 {
			add("it has %d %s keys; the rule for role %s is one, as \"civibus join\" writes it", n, p, j.Role)
		}
		delete(count, p.String())
	}
	for p := range count {
		if _, err := civibus.ParsePurpose(p); err == nil && known {
			add("it has a %s key; the rule for role %s is none", p, j.Role)
		}
	}
	return errors.Join(problems...)
}

func (j Join) checkAddresses(add func(format string, args ...any)) {
	reached := func(what, address string) {
		host, port, err := net.SplitHostPort(address)
		if n, perr := strconv.Atoi(port); err != nil || perr != nil || host == "" || n < 1 || n > 65535 {
			add("%s %q: the rule is a host:port that the others reach; \"civibus init\" sets it", what, address)
		}
	}
	for i, g := range j.Gateways {
		reached(fmt.Sprintf("gateways[%d].address", i), g.Address)
	}
	switch j.Role {
	case JoinHosted:
		if len(j.Gateways) > 0 || j.Ledger != "" {
			add("a hosted body has no gateway and no ledger node; the rule for another role is --as")
		}
		return
	case JoinLight:
		if j.Ledger != "" {
			add("ledger %q: a light gateway has no ledger node; the rule is an empty field", j.Ledger)
		}
	case JoinValidator, JoinFollower:
		id, address, _ := strings.Cut(j.Ledger, "@")
		if len(id) != 40 || strings.Trim(id, "0123456789abcdef") != "" {
			add("ledger %q: the rule is NODE-ID@host:port, as \"civibus init\" writes it", j.Ledger)
		} else {
			reached("ledger", address)
		}
	}
	if len(j.Gateways) == 0 {
		add("it has no gateway; the rule is at least one, from \"civibus init --provider\"")
	}
}

// Open decodes an offered key and verifies that whoever offers it holds it and
// offers it for this member of this chain.
func (k OfferedKey) Open(chainID string, member civibus.MemberID) (*registrypb.NewKey, error) {
	purpose, err := civibus.ParsePurpose(k.Purpose)
	if err != nil {
		return nil, err
	}
	out := &registrypb.NewKey{Purpose: registrypb.Purpose(purpose)}
	for _, f := range []struct {
		name, text string
		to         *[]byte
	}{{"spki", k.SPKI, &out.Spki}, {"certificate", k.Certificate, &out.Certificate}, {"possession", k.Possession, &out.Possession}} {
		if *f.to, err = base64.StdEncoding.Strict().DecodeString(f.text); err != nil {
			return nil, fmt.Errorf("%s is not standard base64; the file was changed, ask for it again", f.name)
		}
	}
	if len(out.Certificate) == 0 {
		out.Certificate = nil
	}
	public, err := mldsa.ParsePublicKey(out.Spki)
	if err != nil {
		return nil, err
	}
	if !keys.VerifyPossession(public, chainID, member, purpose, out.Possession) {
		return nil, fmt.Errorf("the proof of possession of key %s is not for member %s, this purpose and chain %q; the rule is a proof by the key itself, which \"civibus join\" makes on the body's machine", public.ID, member, chainID)
	}
	return out, nil
}

// Admission is the change that takes the body in as a top-level member.
func (j Join) Admission(votes uint32, power uint64) (*registrypb.AdmitMember, error) {
	m := &registrypb.AdmitMember{Id: j.Member, Name: j.Name, Gateways: j.gateways(), Nodes: j.nodes(), Votes: votes, Power: power}
	var err error
	m.Keys, err = j.keys()
	return m, err
}

// Registration are the transactions by which who administers the parent registers
// the body below it, in this order.
func (j Join) Registration(parent string) ([]*registrypb.Tx, error) {
	offered, err := j.keys()
	if err != nil {
		return nil, err
	}
	out := []*registrypb.Tx{{Body: &registrypb.Tx_SetMember{SetMember: &registrypb.SetMember{Id: j.Member, Name: j.Name, Parent: parent, Gateways: j.gateways()}}}}
	for _, k := range offered {
		out = append(out, &registrypb.Tx{Body: &registrypb.Tx_AddKey{AddKey: &registrypb.AddKey{
			Member: j.Member, Purpose: k.Purpose, Spki: k.Spki, Certificate: k.Certificate, Possession: k.Possession,
		}}})
	}
	if nodes := j.nodes(); len(nodes) > 0 {
		out = append(out, &registrypb.Tx{Body: &registrypb.Tx_SetNodes{SetNodes: &registrypb.SetNodes{Member: j.Member, Nodes: nodes}}})
	}
	return out, nil
}

func (j Join) keys() ([]*registrypb.NewKey, error) {
	member, err := civibus.ParseMemberID(j.Member)
	if err != nil {
		return nil, err
	}
	var out []*registrypb.NewKey
	for _, k := range j.Keys {
		opened, err := k.Open(j.ChainID, member)
		if err != nil {
			return nil, err
		}
		out = append(out, opened)
	}
	return out, nil
}

func (j Join) gateways() []*registrypb.Gateway {
	var out []*registrypb.Gateway
	for _, g := range j.Gateways {
		out = append(out, &registrypb.Gateway{Code: g.Code, Address: g.Address})
	}
	return out
}

func (j Join) nodes() []*registrypb.NodeAddress {
	id, address, ok := strings.Cut(j.Ledger, "@")
	if !ok {
		return nil
	}
	role := registrypb.NodeRole_NODE_ROLE_FOLLOWER
	if j.Role == JoinValidator {
		role = registrypb.NodeRole_NODE_ROLE_VALIDATOR
	}
	return []*registrypb.NodeAddress{{Id: id, Address: address, Role: role}}
}
