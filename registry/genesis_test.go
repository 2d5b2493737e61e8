package registry_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// TestGenesisForms: the TOML and the JSON form start the same registry.
func TestGenesisForms(t *testing.T) {
	g := testGenesis()
	want := newWorld(t).m.AppHash()
	for name, encode := range map[string]func() ([]byte, error){"toml": g.TOML, "json": g.JSON} {
		b := must(encode())
		parsed, err := registry.ParseGenesis(b)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, b)
		}
		m := must(registry.Open(registry.NewMemoryStore()))
		if hash, err := m.Init(parsed); err != nil || hash != want {
			t.Errorf("%s: application hash %x, want %x, %v", name, hash, want, err)
		}
	}
	if !strings.Contains(string(must(g.TOML())), "chain_id = 'test-1'") {
		t.Errorf("the TOML form is not readable:\n%s", must(g.TOML()))
	}
}

// TestGenesisRefused: each problem is found, and named by its place.
func TestGenesisRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(g *registry.Genesis)
		want   string
	}{
		"format":            {func(g *registry.Genesis) { g.Format = "v2" }, "genesis: format:"},
		"instance":          {func(g *registry.Genesis) { g.Instance = "a b" }, "genesis: instance:"},
		"chain id":          {func(g *registry.Genesis) { g.ChainID = "Test_1" }, "genesis: chain_id:"},
		"time":              {func(g *registry.Genesis) { g.Time = time.Time{} }, "genesis: time:"},
		"nanoseconds":       {func(g *registry.Genesis) { g.Time = g.Time.Add(1) }, "genesis: time:"},
		"size":              {func(g *registry.Genesis) { g.MaxTxBytes = 100 }, "genesis: max_tx_bytes:"},
		"no registrar":      {func(g *registry.Genesis) { g.Protocol, g.Registrars = 0, nil }, "genesis: registrars:"},
		"unknown registrar": {func(g *registry.Genesis) { g.Registrars[0] = "TEST/GOV/X" }, "registrars[0]:"},
		"registrar twice":   {func(g *registry.Genesis) { g.Registrars = append(g.Registrars, idA) }, "registrars[1]:"},
		"child registrar":   {func(g *registry.Genesis) { g.Registrars[0] = idC }, "registrars[0]: TEST/GOV/C has a parent"},
		"no admin key":      {func(g *registry.Genesis) { g.Members[0].Keys = g.Members[0].Keys[1:] }, "registrars[0]: TEST/GOV/A has no admin key"},
		"member id":         {func(g *registry.Genesis) { g.Members[1].ID = "B" }, "members[1]:"},
		"other instance":    {func(g *registry.Genesis) { g.Members[1].ID = "X/GOV/B" }, "members[1]:"},
		"member twice":      {func(g *registry.Genesis) { g.Members[1].ID = idA }, "members[1]: member TEST/GOV/A occurs twice"},
		"name":              {func(g *registry.Genesis) { g.Members[1].Name = "" }, "members[1]: name"},
		"address":           {func(g *registry.Genesis) { g.Members[1].Gateways[0].Address = "x" }, "members[1]: gateways[0].address"},
		"unknown parent":    {func(g *registry.Genesis) { g.Members[2].Parent = "TEST/GOV/X" }, "members[2]: parent TEST/GOV/X is not among"},
		"cycle":             {func(g *registry.Genesis) { g.Members[1].Parent = idC }, "cycle"},
		"purpose":           {func(g *registry.Genesis) { g.Members[1].Keys[0].Purpose = "x" }, "members[1].keys[0]:"},
		"base64":            {func(g *registry.Genesis) { g.Members[1].Keys[0].SPKI = "?" }, "members[1].keys[0]: spki"},
		"key":               {func(g *registry.Genesis) { g.Members[1].Keys[0].SPKI = "AAAA" }, "members[1].keys[0]: spki"},
		"certificate":       {func(g *registry.Genesis) { g.Members[1].Keys[0].Certificate = "AAAA" }, "members[1].keys[0]: certificate"},
		"no certificate":    {func(g *registry.Genesis) { g.Members[1].Keys[0].Purpose = "transport" }, "members[1].keys[0]: certificate is missing"},
		"key twice":         {func(g *registry.Genesis) { g.Members[1].Keys[0] = g.Members[0].Keys[0] }, "members[1].keys[0]: key"},
		"EC validator": {func(g *registry.Genesis) {
			g.Members[1].Keys = append(g.Members[1].Keys, genesisKey(ecKey("x"), civibus.ValidatorKey))
		}, "members[1].keys[4]: spki"},
		"no validator":    {func(g *registry.Genesis) { g.Validators = nil }, "genesis: validators:"},
		"power":           {func(g *registry.Genesis) { g.Validators[0].Power = 0 }, "validators[0]: power"},
		"large power":     {func(g *registry.Genesis) { g.Validators[0].Power = 1 << 40 }, "validators[0]: power"},
		"other's key":     {func(g *registry.Genesis) { g.Validators[0].Member = idB }, "validators[0]: key"},
		"seal key votes":  {func(g *registry.Genesis) { g.Validators[0].Key = g.Members[0].Keys[2].SPKI }, "validators[0]: key"},
		"validator twice": {func(g *registry.Genesis) { g.Validators[1] = g.Validators[0] }, "validators[1]: key"},
		"protocol":        {func(g *registry.Genesis) { g.Protocol = registry.Protocol + 1 }, "genesis: protocol:"},
		"rules in 0":      {func(g *registry.Genesis) { g.Protocol, g.Rules = 0, []registry.GenesisRule{{}} }, "genesis: rules: it needs protocol = 1"},
		"limits in 0":     {func(g *registry.Genesis) { g.Protocol, g.MaxOpenProposals, g.BlockShare, g.MemberQuota = 0, 1, 1, 100 }, "genesis: member_quota: it needs protocol = 1"},
		"votes in 0":      {func(g *registry.Genesis) { g.Protocol, g.Members[0].Votes = 0, new(uint32) }, "genesis: members[0].votes: it needs protocol = 1"},
		"nodes in 0":      {func(g *registry.Genesis) { g.Protocol, g.Members[0].Nodes = 0, genesisNodes("A") }, "genesis: members[0].nodes: it needs protocol = 1"},
		"rule kind":       {func(g *registry.Genesis) { g.Rules = []registry.GenesisRule{{Kind: "x"}} }, "genesis: rules[0]:"},
		"rule quorum":     {func(g *registry.Genesis) { g.Rules = []registry.GenesisRule{{"set_votes", 0, 600, 60}} }, "rules[0].quorum"},
		"rule twice": {func(g *registry.Genesis) {
			g.Rules = []registry.GenesisRule{{"set_votes", 1, 600, 60}, {"set_votes", 1, 600, 60}}
		}, "rules[1].kind: set_votes occurs twice"},
		"share":        {func(g *registry.Genesis) { g.BlockShare = 1001 }, "block_share"},
		"many votes":   {func(g *registry.Genesis) { g.Members[0].Votes = votes(1_000_001) }, "genesis: members[0].votes:"},
		"child votes":  {func(g *registry.Genesis) { g.Members[2].Votes = votes(1) }, "members[2].votes: TEST/GOV/C has a parent"},
		"nobody votes": {func(g *registry.Genesis) { g.Members[0].Votes, g.Members[1].Votes = votes(0), votes(0) }, "none has votes"},
		"node role":    {func(g *registry.Genesis) { g.Members[0].Nodes = genesisNodes("A"); g.Members[0].Nodes[0].Role = "x" }, "members[0]: nodes[0].role"},
		"node twice": {func(g *registry.Genesis) {
			g.Members[0].Nodes, g.Members[1].Nodes = genesisNodes("A"), genesisNodes("A")
		}, "members[1]: node"},
		"validator base64": {func(g *registry.Genesis) { g.Validators[1].Key = "?" }, "validators[1]: key"},
	} {
		t.Run(name, func(t *testing.T) {
			g := testGenesis()
			c.change(g)
			err := g.Validate()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			m := must(registry.Open(registry.NewMemoryStore()))
			if _, err := m.Init(g); err == nil || m.View() != nil {
				t.Error("a bad genesis starts a registry")
			}
		})
	}
	g := testGenesis()
	g.Format, g.BlockShare, g.Members[1].Name, g.Validators[2].Power = "", 1001, "", -1
	if err := g.Validate(); err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("four problems are reported as: %v", err)
	}
}

// TestGenesisFileIsStrict: unknown fields, wrong types, local times.
func TestGenesisFileIsStrict(t *testing.T) {
	tomlFile, jsonFile := string(must(testGenesis().TOML())), string(must(testGenesis().JSON()))
	for name, file := range map[string]string{
		"empty":              "",
		"not TOML":           "x",
		"unknown TOML field": "extra = 1\n" + tomlFile,
		"unknown in member":  strings.Replace(tomlFile, "name = 'Body A'", "name = 'Body A'\nnick = 'A'", 1),
		"wrong type":         strings.Replace(tomlFile, "power = 10", "power = 'ten'", 1),
		"local time":         strings.Replace(tomlFile, "08:00:00Z", "08:00:00", 1),
		"other zone":         strings.Replace(tomlFile, "08:00:00Z", "08:00:00+02:00", 1),
		"unknown JSON field": strings.Replace(jsonFile, "{", `{"extra":1,`, 1),
		"two JSON objects":   jsonFile + jsonFile,
		"cut JSON":           jsonFile[:len(jsonFile)-1],
	} {
		if file == tomlFile || file == jsonFile {
			t.Fatalf("%s: the case changes nothing", name)
		}
		if _, err := registry.ParseGenesis([]byte(file)); err == nil {
			t.Errorf("%s: accepted", name)
		} else if name == "unknown in member" && !strings.Contains(err.Error(), "nick") {
			t.Errorf("%s: the error does not name the field: %v", name, err)
		}
	}
}

// FuzzGenesis: no panic, and whatever is accepted starts a registry.
func FuzzGenesis(f *testing.F) {
	f.Add(must(testGenesis().TOML()))
	f.Add(must(testGenesis().JSON()))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := registry.ParseGenesis(b)
		if err != nil {
			return
		}
		m := must(registry.Open(registry.NewMemoryStore()))
		hash, err := m.Init(g)
		if err != nil {
			t.Fatal(err)
		}
		again, err := registry.ParseGenesis(must(g.TOML()))
		if err != nil {
			t.Fatalf("the written form is refused: %v", err)
		}
		m = must(registry.Open(registry.NewMemoryStore()))
		if other, err := m.Init(again); err != nil || !bytes.Equal(other[:], hash[:]) {
			t.Fatalf("the written form starts another registry: %v", err)
		}
	})
}

func votes(n uint32) *uint32 { return &n }

func genesisNodes(code string) []registry.GenesisNode {
	return []registry.GenesisNode{{ID: node(code).Id, Address: "192.0.2.1:26656", Role: "validator"}}
}

// TestGenesisOfANetwork: what the file says of protocol 1 is in the state.
func TestGenesisOfANetwork(t *testing.T) {
	g := testGenesis()
	g.Registrars = nil
	g.Members[1].Votes = votes(3)
	g.Members[0].Nodes, g.Members[1].Nodes = genesisNodes("A"), []registry.GenesisNode{{ID: node("B").Id, Address: "b.example:26656", Role: "follower"}}
	g.Rules = []registry.GenesisRule{{"set_votes", 1, 600, 60}}
	g.MaxOpenProposals, g.BlockShare, g.MemberQuota = 5, 200, 5000
	parsed, err := registry.ParseGenesis(must(g.TOML()))
	if err != nil {
		t.Fatal(err)
	}
	v := newWorldOf(t, parsed).view()
	p := v.Params()
	if p.Protocol != registry.Protocol || len(p.Registrars) != 0 || p.MaxOpenProposals != 5 || p.BlockShare != 200 || p.MemberQuota != 5000 || len(p.Rules) != 13 {
		t.Errorf("parameters %+v", p)
	}
	if r := p.Rules[registry.KindSetVotes-1]; r.Quorum != 1 || r.Threshold != 600 || r.PeriodSeconds != 60 {
		t.Errorf("rule %+v", r)
	}
	if r := p.Rules[registry.KindRevokeKey-1]; r.Quorum != 334 || r.Threshold != 667 || r.PeriodSeconds != 3600 {
		t.Errorf("emergency rule %+v", r)
	}
	if v.Votes(member("A")) != 1 || v.Votes(member("B")) != 3 || v.Votes(member("C")) != 0 || v.AllVotes() != 4 {
		t.Errorf("%d votes", v.AllVotes())
	}
	if n := v.Nodes(); len(n) != 2 || !n[0].Validator || n[1].Validator || n[1].Member != member("B") || n[1].Address != "b.example:26656" {
		t.Errorf("nodes %+v", n)
	}
	validators := v.Validators()
	if len(validators) != 3 || validators[0].Power != 10 || validators[0].Key.Key == nil {
		t.Errorf("validators %+v", validators)
	}
	for i, a := range validators[1:] {
		if bytes.Compare(validators[i].Key.ID[:], a.Key.ID[:]) >= 0 {
			t.Error("they are not in the order of their keys")
		}
	}
	if voters, _ := v.Voters("", 0); len(voters) != 2 || voters[1].Votes != 3 {
		t.Errorf("voters %+v", voters)
	}
	// C's own key was in the file, so C counts; all under B count for B too.
	if v.Usage(member("C")) != 5 || v.Usage(member("B")) != 10 {
		t.Errorf("usage %d, %d", v.Usage(member("C")), v.Usage(member("B")))
	}
}
