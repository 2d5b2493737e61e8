package node

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/registry"
)

// Founder is a founding body's public file, by the name that problems are
// reported under.
type Founder struct {
	File string
	Body Body
}

// FoundNetwork makes the genesis of an instance in which nobody is in charge: its
// founders have one vote and one validator each, there are no registrars, and
// whatever comes later comes by vote. All problems of all files are reported at
// once, each with its file, the rule and the fix. An empty chainID is the
// instance's name in lower case with "-1". Validator keys may be ML-DSA-65 if a
// founder's is.
func FoundNetwork(chainID string, now time.Time, founders []Founder) (*registry.Genesis, error) {
	// 1. Each founder for itself, and beside those before it.
	var problems []error
	seen := map[string]string{} // what only one founder may have, to its file
	for _, f := range founders {
		if err := f.check(founders[0], seen); err != nil {
			problems = append(problems, err)
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	// 2. The genesis, by the registry's own rules, without registrars.
	bodies := make([]Body, len(founders))
	for i, f := range founders {
		bodies[i] = f.Body
	}
	g, err := Found(chainID, now, bodies)
	if err != nil {
		return nil, err
	}
	g.Registrars = []string{}
	if err := g.Validate(); err != nil {
		return nil, fmt.Errorf("found a network: %w", err)
	}
	return g, nil
}

// check reports everything that keeps a body from founding a network.
func (f Founder) check(first Founder, seen map[string]string) error {
	var problems []error
	add := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: "+format, append([]any{f.File}, args...)...))
	}
	once := func(what, value string) {
		if other, ok := seen[what+value]; ok {
			add("%s %s is in %s too; the rule is one file of each founder, made by its own \"civibus init\"", what, value, other)
		}
		seen[what+value] = f.File
	}
	// 1. Who it is.
	id, err := civibus.ParseMemberID(f.Body.Member)
	if err != nil {
		add("%v", err)
	}
	if other, err := civibus.ParseMemberID(first.Body.Member); err == nil && id.Instance != other.Instance {
		add("instance %q, and %s has %q; the rule is one instance for all founders: run \"civibus init\" again with its name", id.Instance, first.File, other.Instance)
	}
	once("member", f.Body.Member)
	if len(f.Body.Gateways) == 0 {
		add("it has no gateway; the rule is at least one, from \"civibus init --provider\"")
	}
	// 2. Its node, which the others dial.
	node, address, _ := strings.Cut(f.Body.Ledger, "@")
	if len(node) != 40 || strings.Trim(node, "0123456789abcdef") != "" {
		add("ledger %q; the rule is NODE-ID@host:port, as \"civibus init\" writes it", f.Body.Ledger)
	} else if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "0" {
		add("ledger address %q; the rule is a host:port that the others reach, from \"civibus init --ledger\"", address)
	}
	once("node", node)
	// 3. Its keys.
	for _, p := range []civibus.Purpose{civibus.SealKey, civibus.LogKey, civibus.TransportKey, civibus.AdminKey, civibus.ValidatorKey, civibus.WitnessKey} {
		if n := f.Body.count(p); n != 1 {
			add("it has %d %s keys; the rule for a founder is one, as \"civibus init\" makes it", n, p)
		}
	}
	for _, k := range f.Body.Keys {
		once("key", k.SPKI)
	}
	return errors.Join(problems...)
}

// mldsaValidator reports whether the body's validator key is ML-DSA.
func (b Body) mldsaValidator() bool {
	for _, k := range b.Keys {
		spki, err := base64.StdEncoding.DecodeString(k.SPKI)
		if err != nil || k.Purpose != civibus.ValidatorKey.String() {
			continue
		}
		if key, err := mldsa.ParsePublicKey(spki); err == nil && key.Algorithm.PostQuantum() {
			return true
		}
	}
	return false
}

func (b Body) count(p civibus.Purpose) int {
	n := 0
	for _, k := range b.Keys {
		if k.Purpose == p.String() {
			n++
		}
	}
	return n
}

// CheckFounder reports whether a genesis holds a founder exactly as its own file
// says, with one vote and one validator.
func CheckFounder(g *registry.Genesis, f Founder) error {
	i := slices.IndexFunc(g.Members, func(m registry.GenesisMember) bool { return m.ID == f.Body.Member })
	if i < 0 {
		return fmt.Errorf("%s: member %s is not in the genesis", f.File, f.Body.Member)
	}
	m := g.Members[i]
	var problems []error
	differs := func(what string, bad bool) {
		if bad {
			problems = append(problems, fmt.Errorf("%s: the %s of %s in the genesis are not those of the file", f.File, what, f.Body.Member))
		}
	}
	differs("names", m.Name != f.Body.Name || m.Parent != "")
	differs("gateways", !slices.Equal(m.Gateways, f.Body.Gateways))
	differs("keys", !slices.Equal(m.Keys, f.Body.Keys))
	differs("nodes", len(m.Nodes) != 1 || m.Nodes[0].ID+"@"+m.Nodes[0].Address != f.Body.Ledger)
	differs("votes", m.Votes != nil && *m.Votes != 1)
	validators := slices.DeleteFunc(slices.Clone(g.Validators), func(v registry.GenesisValidator) bool { return v.Member != f.Body.Member })
	differs("validators", len(validators) != 1 || validators[0].Power != 1)
	return errors.Join(problems...)
}
