package registry

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// GenesisFormat is the value of Genesis.Format.
const GenesisFormat = "civibus-genesis/v1"

const (
	defaultMaxTxBytes = 64 << 10
	minMaxTxBytes     = 16 << 10
	maxMaxTxBytes     = 1 << 20
)

// Genesis is the file that starts an instance, the same on every node. It is
// what the founding bodies read, agree on and keep; nothing in it is secret.
type Genesis struct {
	// Format is "civibus-genesis/v1".
	Format string `toml:"format" json:"format"`
	// Instance is the first part of every identifier, e.g. "EE".
	Instance string `toml:"instance" json:"instance"`
	// ChainID names the ledger, e.g. "ee-1": 1 to 50 of a-z 0-9 "-". It is
	// signed in every transaction, so that none is valid on another ledger.
	ChainID string `toml:"chain_id" json:"chain_id"`
	// Time is when the instance starts, to the second, in UTC.
	Time time.Time `toml:"time" json:"time"`
	// MaxTxBytes is the largest envelope, 16 KiB to 1 MiB. 0: 64 KiB.
	MaxTxBytes uint32 `toml:"max_tx_bytes,omitempty" json:"max_tx_bytes,omitempty"`
	// Protocol is the version of the rules that the instance starts with, 0 or
	// 1. In 0 nothing below that says so may be set: there is no governance, and
	// the validators stay those of this file.
	Protocol uint32 `toml:"protocol,omitempty" json:"protocol,omitempty"`
	// Rules are those kinds of proposals that pass under other rules than the
	// default. Protocol 1.
	Rules []GenesisRule `toml:"rules,omitempty" json:"rules,omitempty"`
	// MaxOpenProposals is how many proposals of one member may be open at a
	// time, up to 256. 0: 16. Protocol 1.
	MaxOpenProposals uint32 `toml:"max_open_proposals,omitempty" json:"max_open_proposals,omitempty"`
	// BlockShare is the least part of a block, per mille, that one member may
	// fill while others wait. 0: 100. Protocol 1.
	BlockShare uint32 `toml:"block_share,omitempty" json:"block_share,omitempty"`
	// MemberQuota is how many records a member and its descendants may have,
	// 100 to 100 million. 0: a million. Protocol 1.
	MemberQuota uint64 `toml:"member_quota,omitempty" json:"member_quota,omitempty"`
	// MLDSAValidators lets validator keys be ML-DSA-65, beside Ed25519. A
	// commit of ten validators then has 34 KB instead of 1 KB. Protocol 1.
	MLDSAValidators bool `toml:"ml_dsa_validators,omitempty" json:"ml_dsa_validators,omitempty"`
	// SecondSeals has every seal bear a second signature, ML-DSA, from the start;
	// each body then needs such a seal key. Proposals can change it. Protocol 1.
	SecondSeals bool `toml:"second_seals,omitempty" json:"second_seals,omitempty"`
	// Registrars are the members that create top-level members and global
	// groups without a vote. Each has an admin key below. In protocol 1 there
	// may be none; then these come by proposals only.
	Registrars []string `toml:"registrars" json:"registrars"`
	// Members are the founding bodies.
	Members []GenesisMember `toml:"members" json:"members"`
	// Validators are the keys that vote on blocks from the start.
	Validators []GenesisValidator `toml:"validators" json:"validators"`
}

// GenesisMember is a founding body.
type GenesisMember struct {
	// ID is INSTANCE/CLASS/MEMBER, parts percent-encoded.
	ID   string `toml:"id" json:"id"`
	Name string `toml:"name" json:"name"`
	// Parent is the member that administers this one. Empty: none.
	Parent   string           `toml:"parent,omitempty" json:"parent,omitempty"`
	Gateways []GenesisGateway `toml:"gateways,omitempty" json:"gateways,omitempty"`
	Keys     []GenesisKey     `toml:"keys,omitempty" json:"keys,omitempty"`
	// Votes is its weight in votes on proposals. Absent: 1, or 0 under a
	// parent, where it has to be 0. Protocol 1.
	Votes *uint32 `toml:"votes,omitempty" json:"votes,omitempty"`
	// Nodes are its nodes of the ledger, to which others connect. Protocol 1.
	Nodes []GenesisNode `toml:"nodes,omitempty" json:"nodes,omitempty"`
}

// GenesisNode is a node of a member.
type GenesisNode struct {
	ID      string `toml:"id" json:"id"`           // 40 lower-case hex digits
	Address string `toml:"address" json:"address"` // host:port
	Role    string `toml:"role" json:"role"`       // validator or follower
}

// GenesisRule says when a kind of proposal passes.
type GenesisRule struct {
	Kind          string `toml:"kind" json:"kind"`                     // admit_member, ...
	Quorum        uint32 `toml:"quorum" json:"quorum"`                 // votes that must be cast, per mille of all: 1 to 1000
	Threshold     uint32 `toml:"threshold" json:"threshold"`           // votes cast that must be yes, per mille: 501 to 1000
	PeriodSeconds uint32 `toml:"period_seconds" json:"period_seconds"` // from the proposal to its deadline, up to 366 days
}

// GenesisGateway is an address at which a member's gateways answer.
type GenesisGateway struct {
	Code    string `toml:"code" json:"code"`
	Address string `toml:"address" json:"address"` // host:port
}

// GenesisKey is a key in force from the start.
type GenesisKey struct {
	Purpose string `toml:"purpose" json:"purpose"` // seal, log, transport, validator, admin, witness
	// SPKI is the public key, SubjectPublicKeyInfo in DER, standard base64.
	SPKI string `toml:"spki" json:"spki"`
	// Certificate is an X.509 certificate over the same key, DER in standard
	// base64; transport keys need one.
	Certificate string `toml:"certificate,omitempty" json:"certificate,omitempty"`
}

// GenesisValidator gives a validator key of a member its voting power.
type GenesisValidator struct {
	Member string `toml:"member" json:"member"`
	Key    string `toml:"key" json:"key"` // as in the member's keys
	Power  int64  `toml:"power" json:"power"`
}

// ParseGenesis reads a genesis file, TOML or JSON (which starts with "{"), and
// validates it. Unknown fields are errors; all problems are reported at once.
func ParseGenesis(data []byte) (*Genesis, error) {
	g := &Genesis{}
	if bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		if err := d.Decode(g); err != nil {
			return nil, fmt.Errorf("genesis: %w", err)
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return nil, errors.New("genesis: text follows the JSON object")
		}
	} else if err := decodeTOML(data, g); err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	if g.Time.Location() != time.UTC {
		// Without a zone it would be another instant on another machine.
		return nil, fmt.Errorf("genesis: time: %s, the rule is a time in UTC, such as 2026-01-31T08:00:00Z", g.Time.Format(time.RFC3339))
	}
	if err := g.Validate(); err != nil {
		return nil, err
	}
	return g, nil
}

func decodeTOML(data []byte, g *Genesis) error {
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(g)
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		return fmt.Errorf("unknown fields:\n%s", unknown.String())
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		line, column := bad.Position()
		return fmt.Errorf("line %d, column %d: %w", line, column, err)
	}
	return err
}

// TOML returns the readable file.
func (g *Genesis) TOML() ([]byte, error) {
	b, err := toml.Marshal(g)
	if err != nil {
		return nil, fmt.Errorf("encode genesis: %w", err)
	}
	return b, nil
}

// JSON returns the same as JSON on one line.
func (g *Genesis) JSON() ([]byte, error) {
	b, err := json.Marshal(g)
	if err != nil {
		return nil, fmt.Errorf("encode genesis: %w", err)
	}
	return b, nil
}

// Validate reports every problem at once, or nil.
func (g *Genesis) Validate() error {
	_, err := g.records()
	return err
}

// genesisCheck collects problems and records.
type genesisCheck struct {
	x        *txn
	problems []error
	records  []record
	members  map[string]*civibus.Member
	keys     map[civibus.KeyID]*civibus.RegisteredKey

	validators []*validator // in protocol 1
	nodeIDs    map[string]bool
}

func (c *genesisCheck) problem(where string, r *refusal) {
	if r != nil {
		c.problems = append(c.problems, fmt.Errorf("genesis: %s: %s", where, r.reason))
	}
}

// records validates the genesis with the same rules as transactions and returns
// the state that it sets, in the order of the file.
func (g *Genesis) records() ([]record, error) {
	c := &genesisCheck{
		x:       &txn{state: newState()},
		members: make(map[string]*civibus.Member), keys: make(map[civibus.KeyID]*civibus.RegisteredKey), nodeIDs: make(map[string]bool),
	}
	// 1. The instance.
	params := g.checkParams(c)
	c.x.params = params
	c.records = append(c.records, paramsRecord{params})
	// 2. Members, then their keys.
	for i := range g.Members {
		c.member(fmt.Sprintf("members[%d]", i), &g.Members[i])
	}
	for i, m := range g.Members {
		c.hierarchy(fmt.Sprintf("members[%d]", i), m.ID)
		for j := range m.Keys {
			c.key(fmt.Sprintf("members[%d].keys[%d]", i, j), m.ID, &m.Keys[j])
		}
	}
	// 3. Those who keep the instance going.
	g.checkRegistrars(c, params)
	g.checkValidators(c)
	// 4. What protocol 1 added.
	g.checkGovernance(c, params)
	if len(c.problems) > 0 {
		return nil, errors.Join(c.problems...)
	}
	return c.records, nil
}

func (g *Genesis) checkParams(c *genesisCheck) *Params {
	if g.Format != GenesisFormat {
		c.problem("format", refuse(InvalidField, "%.40q, the rule is %q", g.Format, GenesisFormat))
	}
	c.problem("instance", checkPart("instance", g.Instance))
	ok := g.ChainID != "" && len(g.ChainID) <= 50
	for i := 0; ok && i < len(g.ChainID); i++ {
		b := g.ChainID[i]
		ok = 'a' <= b && b <= 'z' || '0' <= b && b <= '9' || b == '-'
	}
	if !ok {
		c.problem("chain_id", refuse(InvalidField, "%.60q, the rule is 1 to 50 of a-z 0-9 -", g.ChainID))
	}
	if g.Time.Year() < 2000 || g.Time.Year() > 2200 || g.Time.Nanosecond() != 0 {
		c.problem("time", refuse(InvalidField, "%s, the rule is a full second of the years 2000 to 2200", g.Time.UTC().Format(time.RFC3339Nano)))
	}
	size := g.MaxTxBytes
	if size == 0 {
		size = defaultMaxTxBytes
	}
	if size < minMaxTxBytes || size > maxMaxTxBytes {
		c.problem("max_tx_bytes", refuse(InvalidField, "%d, the rule is %d to %d", size, minMaxTxBytes, maxMaxTxBytes))
	}
	return &Params{Instance: g.Instance, ChainID: g.ChainID, MaxTxBytes: size, Protocol: g.Protocol, MLDSAValidators: g.MLDSAValidators, SecondSeals: g.SecondSeals}
}

func (c *genesisCheck) member(where string, g *GenesisMember) {
	id, r := c.x.memberID("id", g.ID)
	c.problem(where, r)
	if r == nil && c.members[g.ID] != nil {
		c.problem(where, refuse(AlreadyExists, "member %s occurs twice", g.ID))
		return
	}
	m := &civibus.Member{ID: id, Name: g.Name, Status: civibus.Active, Periods: []civibus.Period{{}}}
	c.problem(where, checkText("name", g.Name, 1, maxName))
	if g.Parent != "" {
		var r *refusal
		m.Parent, r = c.x.memberID("parent", g.Parent)
		c.problem(where, r)
	}
	in := make([]*registrypb.Gateway, len(g.Gateways))
	for i, w := range g.Gateways {
		in[i] = &registrypb.Gateway{Code: w.Code, Address: w.Address}
	}
	m.Gateways, r = checkGateways(in)
	c.problem(where, r)
	c.members[g.ID] = m
	c.records = append(c.records, memberRecord{m})
}

// hierarchy checks a member's ancestors once all members are known.
func (c *genesisCheck) hierarchy(where, id string) {
	m := c.members[id]
	for level := 1; m != nil && !m.Parent.IsZero(); level++ {
		if level >= maxDepth {
			c.problem(where, refuse(BadHierarchy, "the hierarchy has a cycle or more than %d levels", maxDepth))
			return
		}
		p := c.members[m.Parent.String()]
		if p == nil {
			c.problem(where, refuse(NotFound, "parent %s is not among the members", m.Parent))
		}
		m = p
	}
}

func (c *genesisCheck) key(where, member string, g *GenesisKey) {
	purpose, err := civibus.ParsePurpose(g.Purpose)
	if err != nil {
		c.problem(where, refuse(InvalidField, "%v", err))
		return
	}
	spki, err := base64.StdEncoding.Strict().DecodeString(g.SPKI)
	if err != nil {
		c.problem(where, refuse(InvalidField, "spki is not standard base64"))
		return
	}
	certificate, err := base64.StdEncoding.Strict().DecodeString(g.Certificate)
	if err != nil {
		c.problem(where, refuse(InvalidField, "certificate is not standard base64"))
		return
	}
	public, r := c.x.checkKey(purpose, spki, certificate)
	if r != nil {
		c.problem(where, r)
		return
	}
	if old := c.keys[public.ID]; old != nil {
		c.problem(where, refuse(AlreadyExists, "key %s occurs twice, a key has one member and one purpose", public.ID))
		return
	}
	m := c.members[member]
	if m == nil {
		return // reported with the member
	}
	k := &civibus.RegisteredKey{PublicKey: public, Member: m.ID, Purpose: purpose, Certificate: certificate}
	if len(certificate) == 0 {
		k.Certificate = nil
	}
	c.keys[public.ID] = k
	c.records = append(c.records, keyRecord{k})
}

func (g *Genesis) checkRegistrars(c *genesisCheck, params *Params) {
	if len(g.Registrars) == 0 && g.Protocol == 0 {
		c.problem("registrars", refuse(InvalidField, "there is none, the rule is at least one"))
	}
	for i, s := range g.Registrars {
		where := fmt.Sprintf("registrars[%d]", i)
		m := c.members[s]
		if m == nil {
			c.problem(where, refuse(NotFound, "%q is not among the members", s))
			continue
		}
		if slices.Contains(params.Registrars, m.ID) {
			c.problem(where, refuse(AlreadyExists, "%s occurs twice", s))
		}
		if !m.Parent.IsZero() {
			c.problem(where, refuse(InvalidField, "%s has a parent, the rule is a top-level member", s))
		}
		if !c.hasKey(m.ID, civibus.AdminKey) {
			c.problem(where, refuse(InvalidField, "%s has no admin key", s))
		}
		params.Registrars = append(params.Registrars, m.ID)
	}
}

func (c *genesisCheck) hasKey(member civibus.MemberID, purpose civibus.Purpose) bool {
	for _, r := range c.records {
		if k, ok := r.(keyRecord); ok && k.Member == member && k.Purpose == purpose {
			return true
		}
	}
	return false
}

func (g *Genesis) checkValidators(c *genesisCheck) {
	if len(g.Validators) == 0 {
		c.problem("validators", refuse(InvalidField, "there is none, the rule is at least one"))
	}
	seen := make(map[string]bool)
	for i, v := range g.Validators {
		where := fmt.Sprintf("validators[%d]", i)
		spki, err := base64.StdEncoding.Strict().DecodeString(v.Key)
		if err != nil {
			c.problem(where, refuse(InvalidField, "key is not standard base64"))
			continue
		}
		k := c.keys[civibus.KeyID(TxHash(spki))] // both are SHA-256
		switch {
		case k == nil || k.Purpose != civibus.ValidatorKey || k.Member.String() != v.Member:
			c.problem(where, refuse(NotFound, "key is not a validator key of member %q above", v.Member))
		case seen[v.Key]:
			c.problem(where, refuse(AlreadyExists, "key %s occurs twice", k.ID))
		}
		if v.Power < 1 || v.Power > maxVotingPower {
			c.problem(where, refuse(InvalidField, "power is %d, the rule is 1 to %d", v.Power, maxVotingPower))
		}
		seen[v.Key] = true
		if k != nil && g.Protocol > 0 {
			c.validators = append(c.validators, &validator{k.ID, k.Member, uint64(v.Power), 0})
		}
	}
}

// Init writes the genesis into an empty store, as height 0, and returns the
// application hash.
func (m *Machine) Init(g *Genesis) (appHash [32]byte, err error) {
	m.mu.Lock()
	if m.view.Load() != nil {
		m.mu.Unlock()
		return appHash, errors.New("init registry: the store already holds a registry")
	}
	records, err := g.records()
	if err == nil {
		err = m.initBlock(g, records)
	}
	m.mu.Unlock()
	if err != nil {
		return appHash, fmt.Errorf("init registry: %w", err)
	}
	if err := m.Commit(); err != nil {
		return appHash, err
	}
	return m.AppHash(), nil
}

func (m *Machine) initBlock(g *Genesis, records []record) error {
	base := &View{state: newState(), store: m.store, now: g.Time, tree: m.tree.Latest(), events: m.log.Head()}
	b := m.newBlock(base, 0, g.Time)
	for _, r := range records {
		b.put(r, cause{})
	}
	if err := b.finishChanged(0); err != nil {
		return err
	}
	m.pending = b.pending
	return nil
}

// String returns a line for people.
func (g *Genesis) String() string {
	return fmt.Sprintf("instance %s, chain %s, %d members, %d validators, registrars %s", g.Instance, g.ChainID, len(g.Members), len(g.Validators), strings.Join(g.Registrars, " "))
}
