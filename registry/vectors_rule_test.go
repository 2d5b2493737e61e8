package registry_test

import (
	"testing"

	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/rule"
)

// TestVectorsRule is the life of a rule: enacted, amended, suspended, ended, and what is
// refused.
func TestVectorsRule(t *testing.T) {
	g := testGenesis()
	g.Protocol = 2
	c := newChain(t, "Registry, protocol 2: rules with their law. The rest is as in chain.json.", g)
	a, b := edKey("A/admin"), edKey("B/admin")
	env := c.env
	scope := rule.Scope{Subsystem: office}
	document := ruleDocument("RR-12", 1, scope, func(d *rule.Document) {
		d.Law.URI, d.UTCOffset = "https://law.example/eli/act/2026/31/art_12", "+05:00"
		d.Valid = rule.Validity{From: "2027-01-01", Until: "2037-01-01T08:00:00+05:00"}
		d.Applies = `consumer_class == "MUN" && path.startsWith("/persons/")`
	})
	c.add([]envCase{
		env("subsystem", b, &registrypb.SetSubsystem{Id: office, Name: "Population"}),
		env("rule", b, setRule(document)),
		env("rule again", b, setRule(document)),
		env("rule of another member", a, setRule(ruleDocument("1", 1, scope))),
		env("rule that is not canonical", b, setRule(append(ruleDocument("RR-12", 2, scope), '\n'))),
		env("rule with a regular expression", b, setRule(ruleDocument("RR-12", 2, scope, func(d *rule.Document) { d.Requires = `path.matches("a")` }))),
		env("second version for something else", b, setRule(ruleDocument("RR-12", 2, rule.Scope{Member: idB}))),
		env("second version", b, setRule(ruleDocument("RR-12", 2, scope))),
	})
	c.add([]envCase{
		env("suspended without a notice", b, ruleStatus(idB+"/RR-12/2", suspended, "")),
		env("suspended", b, ruleStatus(idB+"/RR-12/2", suspended, "The court has not decided")),
		env("first version ended", b, ruleStatus(idB+"/RR-12/1", ended, "")),
		env("first version active again", b, ruleStatus(idB+"/RR-12/1", active, "")),
	})
	replayChain(t, vectors(t, "rule.json", c.v))
}
