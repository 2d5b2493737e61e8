package node_test

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry"
)

// newJoin makes a body, a genesis of other bodies, and the body's join file.
func newJoin(t *testing.T, role string) (j node.Join, genesis []byte, g *registry.Genesis) {
	t.Helper()
	g, err := node.FoundNetwork("", time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), []node.Founder{{File: "a", Body: newBody(t, t.TempDir(), "DEMO/GOV/1")}})
	if err != nil {
		t.Fatal(err)
	}
	if genesis, err = g.TOML(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b := newBody(t, dir, "DEMO/EDU/3001")
	ring, err := keys.OpenRing(dir + "/keys")
	if err != nil {
		t.Fatal(err)
	}
	if j, err = node.NewJoin(t.Context(), ring, b, genesis, role); err != nil {
		t.Fatal(err)
	}
	return j, genesis, g
}

// TestJoinFileIsCheckedWhole: every part of a join file that is exchanged is found,
// with the rule, whatever the role.
func TestJoinFileIsCheckedWhole(t *testing.T) {
	for _, role := range []string{node.JoinValidator, node.JoinFollower, node.JoinLight, node.JoinHosted} {
		j, genesis, g := newJoin(t, role)
		text, err := j.TOML()
		if err != nil || strings.Contains(string(text), "PRIVATE") {
			t.Fatalf("%s: %v", role, err)
		}
		again, err := node.ParseJoin(text)
		if err != nil {
			t.Fatal(err)
		}
		digest := node.GenesisDigest(genesis)
		if err := again.Check(g.ChainID, digest); err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		if _, err := again.Admission(1, 0); err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]struct {
			change func(*node.Join)
			want   string
		}{
			"chain":      {func(j *node.Join) { j.ChainID = "demo-2" }, "it is for chain"},
			"genesis":    {func(j *node.Join) { j.Genesis = strings.Repeat("0", 64) }, "compare the files"},
			"role":       {func(j *node.Join) { j.Role = "king" }, "the rule is one of"},
			"member":     {func(j *node.Join) { j.Member = "DEMO/EDU/3002" }, "proof of possession"},
			"name":       {func(j *node.Join) { j.Name = " " }, "official name"},
			"no key":     {func(j *node.Join) { j.Keys = j.Keys[1:] }, "it has 0 seal keys"},
			"key twice":  {func(j *node.Join) { j.Keys = append(j.Keys, j.Keys[0]) }, "twice"},
			"purpose":    {func(j *node.Join) { j.Keys[0].Purpose = "wings" }, "key purpose"},
			"other use":  {func(j *node.Join) { j.Keys[0].Purpose, j.Keys[1].Purpose = j.Keys[1].Purpose, j.Keys[0].Purpose }, "proof of possession"},
			"proof":      {func(j *node.Join) { j.Keys[0].Possession = j.Keys[1].Possession }, "proof of possession"},
			"encoding":   {func(j *node.Join) { j.Keys[0].Possession = "!" }, "not standard base64"},
			"gateway":    {func(j *node.Join) { j.Gateways = []registry.GenesisGateway{{Code: "g", Address: "nowhere"}} }, "host:port"},
			"gateway 0":  {func(j *node.Join) { j.Gateways = []registry.GenesisGateway{{Code: "g", Address: "x:0"}} }, "host:port"},
			"ledger":     {func(j *node.Join) { j.Ledger = "node@host" }, "ledger"},
			"no purpose": {func(j *node.Join) { j.Keys[0].Purpose = "" }, "key purpose"},
		} {
			changed := again
			changed.Keys = slices.Clone(again.Keys)
			change.change(&changed)
			if err := changed.Check(g.ChainID, digest); name != "ledger" && (err == nil || !strings.Contains(err.Error(), change.want)) {
				t.Errorf("%s, %s: %v; want %q", role, name, err, change.want)
			} else if name == "ledger" && role != node.JoinHosted && err == nil {
				t.Errorf("%s: ledger %q is accepted", role, changed.Ledger)
			}
		}
	}
}

func TestKeyIsOfferedToOneNetwork(t *testing.T) {
	k, err := keys.Generate(civibus.AdminKey, civibus.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	member, err := civibus.ParseMemberID("DEMO/GOV/1")
	if err != nil {
		t.Fatal(err)
	}
	o, err := node.NewOffer(t.Context(), k, nil, "demo-1", member)
	if err != nil {
		t.Fatal(err)
	}
	text, err := o.TOML()
	if err != nil {
		t.Fatal(err)
	}
	again, key, err := node.ParseOffer(text, "demo-1")
	if err != nil || again.Member != "DEMO/GOV/1" || base64.StdEncoding.EncodeToString(key.Spki) != o.SPKI {
		t.Fatalf("read back %+v, %v", again, err)
	}
	if _, _, err := node.ParseOffer(text, "demo-2"); err == nil || !strings.Contains(err.Error(), `it is for chain "demo-1"`) {
		t.Errorf("another network: %v", err)
	}
	forged := strings.Replace(string(text), "DEMO/GOV/1", "DEMO/GOV/2", 1)
	if _, _, err := node.ParseOffer([]byte(forged), "demo-1"); err == nil || !strings.Contains(err.Error(), "proof of possession") {
		t.Errorf("another member: %v", err)
	}
}

// TestEditLedger sets keys where they are, where their comment is, or new, and
// leaves all else as it was.
func TestEditLedger(t *testing.T) {
	whole := node.Commented(node.Config{Member: "DEMO/GOV/1"})
	for name, text := range map[string]string{
		"commented": whole, "no section": "member = \"DEMO/GOV/1\"\n", "empty section": "[ledger]\n[log]\nlevel = \"warn\"\n",
		"set": "[ledger]\nmode = \"follower\" # as agreed\npeers = []\n",
	} {
		out, err := node.EditLedger([]byte(text), map[string]string{"mode": `"validator"`, "peers": node.TOMLStrings([]string{"a@b:1", `x"y`})})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c, err := node.ParseConfig(out)
		if err != nil || c.Ledger.Mode != "validator" || !slices.Equal(c.Ledger.Peers, []string{"a@b:1", `x"y`}) {
			t.Errorf("%s: %+v, %v", name, c.Ledger, err)
		}
		if name == "empty section" && c.Log.Level != "warn" {
			t.Errorf("%s: the rest changed:\n%s", name, out)
		}
		if name == "commented" && strings.Count(string(out), "\n") != strings.Count(whole, "\n") {
			t.Errorf("%s: lines came or went", name)
		}
	}
	if _, err := node.EditLedger(nil, map[string]string{"wings": "1"}); err == nil {
		t.Error("a key that does not exist was set")
	}
	if _, err := node.EditLedger([]byte("[ledger]\npeers = [\n  \"x\",\n]\n"), map[string]string{"peers": "[]"}); err == nil || !strings.Contains(err.Error(), "by hand") {
		t.Errorf("a list over several lines: %v", err)
	}
}
