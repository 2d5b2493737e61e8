package registry_test

import (
	"bytes"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/rule"
)

// ruleDocument is a small rule in canonical form.
func ruleDocument(number string, version uint32, scope rule.Scope, change ...func(*rule.Document)) []byte {
	d := &rule.Document{
		Format: rule.Format, Number: number, Version: version, Title: "Only audit", Text: "Only the audit office may ask.",
		Law: rule.Law{Act: "Audit Act", Provision: "§ 4"}, Scope: scope, Requires: `purpose == "audit"`, Remedy: "Ask the audit office.",
	}
	for _, c := range change {
		c(d)
	}
	return must(d.Encode())
}

func setRule(document []byte) *registrypb.SetRule { return &registrypb.SetRule{Document: document} }

func ruleStatus(id string, s registrypb.Status, notice string) *registrypb.SetRuleStatus {
	return &registrypb.SetRuleStatus{Rule: id, Status: s, Notice: notice}
}

var persons = rule.Scope{Service: idB + "/POP/persons"}

func idsOf(rules []*rule.Rule) (out []string) {
	for _, r := range rules {
		out = append(out, r.ID)
	}
	return out
}

// TestRuleLife: rules are enacted for all that they can be, found in their order by the
// calls that they are about, suspended and ended; each change is an event and can be proved.
func TestRuleLife(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	service := must(civibus.ParseServiceID(persons.Service))
	if got := w.view().RulesFor(service); got != nil {
		t.Fatalf("rules before there are any: %v", idsOf(got))
	}
	b := w.ok(edKey("B/admin"), setRule(ruleDocument("7", 1, persons)))
	var e registrypb.Event
	if err := proto.Unmarshal(b.Events[0], &e); err != nil {
		t.Fatal(err)
	}
	if m := e.GetRuleSet(); m.GetId() != idB+"/7/1" || m.Status != active || len(m.Periods) != 1 || !bytes.Equal(m.Document, ruleDocument("7", 1, persons)) {
		t.Errorf("event %v", &e)
	}
	w.ok(edKey("B/admin"), setRule(ruleDocument("7", 2, persons, func(d *rule.Document) { d.Requires = "issue" })))
	w.ok(edKey("B/admin"), setRule(ruleDocument("M", 1, rule.Scope{Member: idB})))
	w.ok(edKey("B/admin"), setRule(ruleDocument("S", 1, rule.Scope{Subsystem: idB + "/POP"})))
	furnishProcess(w)
	w.ok(edKey("B/admin"), setRule(ruleDocument("P", 1, rule.Scope{Process: idB + "/case", Step: "pay"}, func(d *rule.Document) { d.Requires = "attempt == 1" })))

	want := []string{idB + "/M/1", idB + "/S/1", idB + "/7/1", idB + "/7/2"}
	rules := w.view().RulesFor(service)
	if got := idsOf(rules); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("rules %v, want %v", got, want)
	}
	if again := w.view().RulesFor(service); again[2] != rules[2] {
		t.Error("a rule is compiled twice")
	}
	other := service
	other.Service = "other"
	if got := idsOf(w.view().RulesFor(other)); fmt.Sprint(got) != fmt.Sprint(want[:2]) {
		t.Errorf("rules of another service %v", got)
	}
	if got := w.view().RulesFor(must(civibus.ParseServiceID(idC + "/APP/x"))); got != nil {
		t.Errorf("rules of another member %v", idsOf(got))
	}
	other.Service, other.Version = "persons", "v2"
	if got := w.view().RulesFor(other); len(got) != 4 {
		t.Errorf("rules of a version %v", idsOf(got))
	}
	if got := idsOf(w.view().RulesForStep(must(registry.ParseProcessID(processID)), "pay")); len(got) != 1 || got[0] != idB+"/P/1" {
		t.Errorf("rules of the step %v", got)
	}

	w.ok(edKey("B/admin"), ruleStatus(idB+"/7/2", suspended, "The court has not decided"))
	w.ok(edKey("B/admin"), ruleStatus(idB+"/7/2", suspended, "The court decides in May"))
	w.ok(edKey("B/admin"), ruleStatus(idB+"/M/1", ended, ""))
	if got := idsOf(w.view().RulesFor(service)); fmt.Sprint(got) != fmt.Sprint([]string{idB + "/S/1", idB + "/7/1"}) {
		t.Errorf("rules after the changes %v", got)
	}
	w.ok(edKey("B/admin"), ruleStatus(idB+"/7/2", active, ""))
	got, ok := w.view().EnactedRule(must(registry.ParseRuleID(idB + "/7/2")))
	if !ok || got.Status != civibus.Active || got.Notice != "" || len(got.Periods) != 2 || got.Rule().Requires != "issue" {
		t.Errorf("rule %+v", got)
	}
	if all, next := w.view().EnactedRules("", 2); len(all) != 2 || next != idB+"/7/2" {
		t.Errorf("page of %d, next %q", len(all), next)
	}
	if value, _, err := w.view().ProveState("rule/" + idB + "/7/1"); err != nil || value == nil {
		t.Errorf("no value to prove: %v", err)
	}
}

// TestRulesByVote: members enact rules for the whole instance, and end those of others,
// by proposals; nobody does it alone, and before protocol 2 nobody does.
func TestRulesByVote(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	service := must(civibus.ParseServiceID(persons.Service))
	all := ruleDocument("12", 1, rule.Scope{All: idB})
	w.refused(registry.NotAuthorised, edKey("B/admin"), setRule(all))
	w.refused(registry.BadRule, edKey("A/admin"), proposal(setRule(append(all, ' '))))
	w.refused(registry.NotFound, edKey("A/admin"), proposal(setRule(ruleDocument("12", 1, rule.Scope{All: "TEST/GOV/X"}))))
	w.refused(registry.InvalidField, edKey("A/admin"), proposal(setRule(ruleDocument("12", 1, rule.Scope{All: "OTHER/GOV/1"}))))
	p := w.pass(setRule(all))
	if p.Kind != registry.KindEnactRule || p.Kind.String() != "enact_rule" {
		t.Errorf("kind %s", p.Kind)
	}
	own := ruleDocument("7", 1, persons)
	w.ok(edKey("B/admin"), setRule(own))
	if got := idsOf(w.view().RulesFor(service)); fmt.Sprint(got) != fmt.Sprint([]string{idB + "/12/1", idB + "/7/1"}) {
		t.Errorf("rules %v", got)
	}
	elsewhere := must(civibus.ParseServiceID(idA + "/X/anything"))
	if got := idsOf(w.view().RulesFor(elsewhere)); fmt.Sprint(got) != fmt.Sprint([]string{idB + "/12/1"}) {
		t.Errorf("elsewhere %v", got)
	}
	if r := w.view().RulesFor(elsewhere)[0]; !r.Covers(elsewhere) {
		t.Error("it does not cover what it is found for")
	}
	w.refused(registry.AlreadyExists, edKey("A/admin"), proposal(setRule(all)))
	w.refused(registry.InvalidField, edKey("A/admin"), proposal(setRule(ruleDocument("12", 2, rule.Scope{Member: idB}))))
	w.refused(registry.NotAuthorised, edKey("B/admin"), ruleStatus(idB+"/12/1", suspended, "Why"))
	w.pass(ruleStatus(idB+"/12/1", suspended, "The court has said no."))
	w.pass(ruleStatus(idB+"/7/1", ended, "")) // another member's own rule
	if got := w.view().RulesFor(service); got != nil {
		t.Errorf("rules %v", idsOf(got))
	}
	w.pass(ruleStatus(idB+"/12/1", active, ""))
	if got := idsOf(w.view().RulesFor(service)); fmt.Sprint(got) != fmt.Sprint([]string{idB + "/12/1"}) {
		t.Errorf("reinstated %v", got)
	}
	// A rule of voting for the kind, and an instance that does not know it.
	w.pass(&registrypb.SetParams{Rules: []*registrypb.Rule{{Kind: uint32(registry.KindEnactRule), Quorum: 900, Threshold: 900, PeriodSeconds: 60}}})
	if got := w.proposal(w.open("A", setRule(ruleDocument("13", 1, rule.Scope{All: idA})))); got.Rule.Quorum != 900 {
		t.Errorf("rule of voting %+v", got.Rule)
	}
	g := testGenesis()
	g.Protocol = 1
	w = newWorldOf(t, g)
	w.refused(registry.BadEncoding, edKey("A/admin"), proposal(setRule(all)))
	w.refused(registry.BadEncoding, edKey("A/admin"), proposal(ruleStatus(idB+"/12/1", ended, "")))
	w.refused(registry.InvalidField, edKey("A/admin"), proposal(&registrypb.SetParams{Rules: []*registrypb.Rule{{Kind: uint32(registry.KindEnactRule), Quorum: 900, Threshold: 900, PeriodSeconds: 60}}}))
}

func ruleRefusals(body bodyRun, after after, do doer) {
	good := ruleDocument("7", 1, persons)
	enacted := do("B/admin", setRule(good))
	body("rule: nothing", registry.BadRule, "B/admin", setRule(nil))
	body("rule: white space", registry.BadRule, "B/admin", setRule(append(ruleDocument("7", 1, persons), ' ')))
	body("rule: hostile condition", registry.BadRule, "B/admin", setRule(ruleDocument("7", 1, persons, func(d *rule.Document) { d.Requires = `path.matches("(a+)+$")` })))
	body("rule: no citation", registry.BadRule, "B/admin", setRule(ruleDocument("7", 1, persons, func(d *rule.Document) { d.Law.Act = "" })))
	body("rule: two scopes", registry.BadRule, "B/admin", setRule(ruleDocument("7", 1, rule.Scope{Member: idB, Subsystem: idB + "/POP"})))
	body("rule of another instance", registry.InvalidField, "B/admin", setRule(ruleDocument("7", 1, rule.Scope{Member: "OTHER/GOV/1"})))
	body("rule for another", registry.NotAuthorised, "A/admin", setRule(good))
	body("rule for nobody", registry.NotAuthorised, "A/admin", setRule(ruleDocument("7", 1, rule.Scope{Member: "TEST/GOV/X"})))
	body("rule for no subsystem", registry.NotFound, "B/admin", setRule(ruleDocument("7", 1, rule.Scope{Subsystem: idB + "/X"})))
	body("rule for no service", registry.NotFound, "B/admin", setRule(ruleDocument("7", 1, rule.Scope{Service: idB + "/POP/pets"})))
	body("rule for no process", registry.NotFound, "B/admin", setRule(ruleDocument("7", 1, rule.Scope{Process: idB + "/nothing", Step: "pay"}, func(d *rule.Document) { d.Requires = "true" })))
	body("rule that is over", registry.InvalidField, "B/admin", setRule(ruleDocument("7", 1, persons, func(d *rule.Document) { d.Valid.Until = "2001-01-01" })))
	body("rule: second version first", registry.NotFound, "B/admin", setRule(ruleDocument("7", 2, persons)))
	after("rule: twice", registry.AlreadyExists, "B/admin", setRule(good), enacted)
	after("rule: another scope", registry.InvalidField, "B/admin", setRule(ruleDocument("7", 2, rule.Scope{Member: idB})), enacted)
	after("rule: too many", registry.LimitReached, "B/admin", setRule(ruleDocument("7", 33, persons)), func(w *world) {
		for v := range uint32(32) {
			w.ok(edKey("B/admin"), setRule(ruleDocument("7", v+1, persons)))
		}
	})
	const id = idB + "/7/1"
	body("rule status: unknown", registry.NotFound, "B/admin", ruleStatus(id, ended, ""))
	for _, bad := range []string{"", "7", idB, idB + "/7", idB + "/7/0", idB + "/7/01", idB + "//1"} {
		body("rule status: id "+bad, registry.InvalidField, "B/admin", ruleStatus(bad, ended, ""))
	}
	after("rule status: same", registry.NoChange, "B/admin", ruleStatus(id, active, ""), enacted)
	after("rule status: no notice", registry.InvalidField, "B/admin", ruleStatus(id, suspended, ""), enacted)
	after("rule status: notice of an active one", registry.InvalidField, "B/admin", ruleStatus(id, active, "Why"), enacted)
	after("rule status: none", registry.InvalidField, "B/admin", ruleStatus(id, 0, ""), enacted)
	after("rule status: of another", registry.NotAuthorised, "A/admin", ruleStatus(id, ended, ""), enacted)
	after("rule status: final", registry.Ended, "B/admin", ruleStatus(id, active, ""), enacted, do("B/admin", ruleStatus(id, ended, "")))
}

// drawRuleBody makes transactions of rules that may or may not be accepted.
func drawRuleBody(t *rapid.T) (*testSigner, any) {
	version := rapid.Uint32Range(1, 3).Draw(t, "version")
	number := rapid.SampledFrom([]string{"1", "1.a"}).Draw(t, "number")
	if rapid.Bool().Draw(t, "status") {
		status := rapid.SampledFrom([]registrypb.Status{active, suspended, ended}).Draw(t, "rule's status")
		notice := ""
		if status == suspended {
			notice = "Why"
		}
		return edKey("B/admin"), ruleStatus(fmt.Sprintf("%s/%s/%d", idB, number, version), status, notice)
	}
	scope := rapid.SampledFrom([]rule.Scope{{Member: idB}, {Subsystem: idB + "/S"}, {Service: idB + "/S/svc"}}).Draw(t, "scope")
	return edKey("B/admin"), setRule(ruleDocument(number, version, scope))
}
