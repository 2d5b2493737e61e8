package gateway_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/rule"
	"github.com/civibus/civibus/test/fixture"
)

// lawOf makes a rule with these conditions.
func lawOf(t testing.TB, number, applies, requires string) *rule.Rule {
	t.Helper()
	d := &rule.Document{
		Format: rule.Format, Number: number, Version: 1, Title: "Cases only", Text: "Whoever asks names a case.",
		Law:   rule.Law{Act: "Residence Registration Act", Provision: "§ 12 (2)", URI: "https://law.example/eli/act/2026/31/art_12"},
		Scope: rule.Scope{Member: "TEST/GOV/OFFICE"}, Applies: applies, Requires: requires, Remedy: "Open a case and send its number.",
	}
	r, err := d.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (p *pair) enact(rules ...*rule.Rule) {
	p.Registry.Change(func(v *fixture.View) { v.SetRules(rules...) })
}

// refusedBy reads the refusal of an answer and checks that it is one by a rule.
func refusedBy(t *testing.T, a *fixture.Answer, number string) civibus.RuleRefusal {
	t.Helper()
	wantError(t, a, "Server.ServerProxy.AccessDenied", "What to do: Open a case and send its number.")
	var doc struct{ Rule civibus.RuleRefusal }
	if err := json.Unmarshal(a.Body, &doc); err != nil || doc.Rule.Number != number {
		t.Errorf("%s: %v, want rule %s", a.Body, err, number)
	}
	return doc.Rule
}

// TestRules: both gateways ask the rules before anything takes effect. The consumer's
// does it as a courtesy; the provider's seals its refusal, and both keep it.
func TestRules(t *testing.T) {
	for name, ask := range map[string]bool{"consumer": false, "provider": true} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, fixture.Options{Gateway: func(c *gateway.Config) { c.AskProvider = ask }}, fixture.Options{})
			p.enact(lawOf(t, "RR-12", `method == "GET"`, `issue`))
			if a := p.call("GET", "/1", nil, "X-Road-Issue", "case 7"); a.StatusCode != http.StatusOK {
				t.Fatalf("with a case: %d %s", a.StatusCode, a.Body)
			}
			if a := p.call("POST", "/1", strings.NewReader("x")); a.StatusCode != http.StatusOK {
				t.Fatalf("not a GET: %d %s", a.StatusCode, a.Body)
			}
			calls := p.calls.Load()
			a := p.call("GET", "/1", nil)
			got := refusedBy(t, a, "RR-12")
			want := civibus.RuleRefusal{
				ID: "TEST/GOV/OFFICE/RR-12/1", Number: "RR-12", Version: 1, Title: "Cases only", Text: "Whoever asks names a case.",
				Act: "Residence Registration Act", Provision: "§ 12 (2)", URI: "https://law.example/eli/act/2026/31/art_12", Remedy: "Open a case and send its number.",
			}
			if got != want {
				t.Errorf("%+v\nwant %+v", got, want)
			}
			if p.calls.Load() != calls {
				t.Error("the service was called")
			}
			id := a.Header.Get("X-Road-Request-Id")
			r := p.town.Record(id)
			if r.Outcome != evidencepb.Outcome_OUTCOME_REFUSED || r.Fault != "rule_not_kept" || (r.Response != nil) != ask {
				t.Errorf("the consumer's record: %v", r)
			}
			if ask {
				if r := p.office.Record(id); r.Outcome != evidencepb.Outcome_OUTCOME_REFUSED || r.Fault != "rule_not_kept" || r.Response == nil {
					t.Errorf("the provider's record: %v", r)
				}
				if a := p.call("HEAD", "/1", nil, "X-Road-Client", client); a.StatusCode != http.StatusOK {
					t.Errorf("HEAD, to which the rule does not apply: %d", a.StatusCode)
				}
			}
			p.enact()
			if a := p.call("GET", "/1", nil); a.StatusCode != http.StatusOK {
				t.Errorf("after the rule: %d %s", a.StatusCode, a.Body)
			}
		})
	}
}

// TestRuleContext: what rules are told of an exchange, at the provider's gateway.
func TestRuleContext(t *testing.T) {
	p := newPair(t, fixture.Options{Gateway: func(c *gateway.Config) { c.AskProvider = true }}, fixture.Options{})
	right := civibus.AccessRight{ID: "r1", Service: p.service, Client: p.desk, Purpose: "residence", LegalBasis: "https://law.example/4", Status: civibus.Active}
	p.Registry.Change(func(v *fixture.View) { v.SetRight(right) })
	fields := []string{"X-Road-Issue", "case 7", "X-Road-UserId", "EE1234", "X-Road-Represented-Party", "COM/9", "Civibus-Purpose", "residence"}
	for _, c := range []struct {
		requires string
		body     io.Reader
		fields   []string
	}{
		{`consumer_member == "TEST/MUN/TOWN" && consumer_class == "MUN" && consumer_subsystem == "TEST/MUN/TOWN/desk"`, nil, nil},
		{`provider_member == "TEST/GOV/OFFICE" && provider_class == "GOV" && provider_subsystem == "TEST/GOV/OFFICE/register" && service == "persons" && service_version == ""`, nil, nil},
		{`method == "POST" && path == "/a/b" && purpose == "residence" && legal_basis == "https://law.example/4"`, nil, nil},
		{`!purpose_stated && !issue && !user && !represented && body == "none"`, nil, nil},
		{`purpose_stated && issue && user && represented && body == "small"`, strings.NewReader("x"), fields},
		{`body == "large"`, bytes.NewReader(make([]byte, 2<<20)), nil},
		{`body == "unknown"`, io.MultiReader(bytes.NewReader(make([]byte, 2<<20))), nil},
		{`time > timestamp("2026-01-01T00:00:00Z") && size(date) == 10 && hour < 24 && weekday > 0`, nil, nil},
	} {
		p.enact(lawOf(t, "1", "", c.requires))
		if a := p.call("POST", "/%61/./b?x=1", c.body, c.fields...); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %.300s", c.requires, a.StatusCode, a.Body)
		}
		if t.Failed() {
			return
		}
	}
}

// TestRuleUndecided: what cannot be decided is refused and said so, and metadata calls
// are not asked about.
func TestRuleUndecided(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	p.enact(lawOf(t, "1", "", `1 / size(service_version) == 0`))
	if got := refusedBy(t, p.call("GET", "/1", nil), "1"); !got.Undecided {
		t.Errorf("%+v", got)
	}
	p.enact(lawOf(t, "1", "", `!path.contains("0123456789")`))
	if got := refusedBy(t, p.call("GET", "/"+strings.Repeat("z", 30000), nil), "1"); !got.Undecided {
		t.Errorf("a path beyond the limit of the cost: %+v", got)
	}
	a := p.town.Call("GET", "/r1/TEST/GOV/OFFICE/register/listMethods", nil, "X-Road-Client", client)
	if a.StatusCode != http.StatusOK {
		t.Errorf("metadata: %d %s", a.StatusCode, a.Body)
	}
}
