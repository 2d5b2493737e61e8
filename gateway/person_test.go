package gateway_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/test/fixture"
	"github.com/civibus/civibus/usage"
)

// newPersons is a pair whose right concerns persons, with rules at the provider.
func newPersons(t *testing.T, d civibus.Disclosure, rules func(civibus.ServiceID) map[civibus.ServiceID]usage.Rule) (*pair, *usage.Keeper) {
	t.Helper()
	var keeper *usage.Keeper
	p := newPair(t, fixture.Options{}, fixture.Options{Gateway: func(c *gateway.Config) {
		id := civibus.ServiceID{ClientID: civibus.ClientID{MemberID: c.Member, Subsystem: "register"}, Service: "persons"}
		var r map[civibus.ServiceID]usage.Rule
		if rules != nil {
			r = rules(id)
		}
		var err error
		if keeper, err = usage.NewKeeper(filepath.Join(t.TempDir(), "usage.key"), r); err != nil {
			t.Fatal(err)
		}
		c.Usage = keeper
	}})
	p.Registry.Change(func(v *fixture.View) {
		v.SetRight(civibus.AccessRight{ID: "r1", Service: p.service, Client: p.desk, Purpose: "permit", LegalBasis: "Building Act § 7",
			Sentence: "The town looked up your address.", Disclosure: d, Status: civibus.Active})
	})
	return p, keeper
}

func requestID(a *fixture.Answer) string { return a.Header.Get(civibus.HeaderRequestID) }

// TestPersonYieldsUsageRecord: an exchange under a right that concerns persons has a usage
// record, durable with the exchange's and committed to by it; the person stands in neither
// body's evidence record.
func TestPersonYieldsUsageRecord(t *testing.T) {
	p, keeper := newPersons(t, civibus.Shown, nil)
	const person = "FIC-0001-SUBJECT"
	a := p.call("GET", "/one", nil, "Civibus-Subject", person, "X-Road-Issue", "permit 12/2026")
	if a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	entries, err := p.office.Evidence.Find(requestID(a))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	record := p.office.Record(requestID(a))
	if len(record.Usage) != 32 || len(entries[0].Beside) == 0 {
		t.Fatalf("record %v, beside %d bytes", record, len(entries[0].Beside))
	}
	if strings.Contains(string(entries[0].Record), person) || strings.Contains(string(entries[0].Beside), person) {
		t.Error("the person is in the provider's evidence")
	}
	theirs, _ := p.town.Evidence.Find(requestID(a))
	if len(theirs) != 1 || strings.Contains(string(theirs[0].Record), person) || len(theirs[0].Beside) != 0 {
		t.Error("the person is in the consumer's evidence")
	}
	// The body finds it by the person, once the evidence log has it under a checkpoint.
	s, err := usage.Open(usage.Config{Dir: t.TempDir(), Keeper: keeper})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for {
		changed := p.office.Evidence.Changed()
		if err := s.CatchUp(context.Background(), p.office.Evidence); err != nil {
			t.Fatal(err)
		}
		if n, _ := s.Next(); n > 0 {
			break
		}
		<-changed
	}
	page, err := s.Find(usage.Query{Subject: person})
	if err != nil || len(page.Items) != 1 {
		t.Fatalf("found %d, %v", len(page.Items), err)
	}
	u := usage.Show(page.Items[0], nil)
	if u.Action != "The town looked up your address." || u.ReceiverCode != "TEST/MUN/TOWN" || u.ReceiverSystem != "desk" || u.Purpose != "permit" ||
		u.LegalBasis != "Building Act § 7" || u.CaseReference != "permit 12/2026" || u.Exchange != requestID(a) {
		t.Errorf("usage %+v", u)
	}
	if c := usage.Commit(page.Items[0].Salt, page.Items[0].Raw); string(c[:]) != string(record.Usage) {
		t.Error("the evidence record commits to something else")
	}
	if page, _ = s.Find(usage.Query{Subject: "FIC-0002"}); len(page.Items) != 0 {
		t.Error("somebody else is shown it")
	}
}

// TestNobodyFound: without a person the service is not called, and the refusal says what
// is missing; what the request held is not in it.
func TestNobodyFound(t *testing.T) {
	rule := func(r usage.Rule) func(civibus.ServiceID) map[civibus.ServiceID]usage.Rule {
		return func(id civibus.ServiceID) map[civibus.ServiceID]usage.Rule {
			return map[civibus.ServiceID]usage.Rule{id: r}
		}
	}
	for _, c := range []struct {
		name, rest, body string
		rules            func(civibus.ServiceID) map[civibus.ServiceID]usage.Rule
		fields           []string
		says             string // "": it is answered
	}{
		{"no header", "/x", "", nil, nil, "0 headers Civibus-Subject"},
		{"empty header", "/x", "", nil, []string{"Civibus-Subject", " "}, "headers Civibus-Subject"},
		{"long header", "/x", "", nil, []string{"Civibus-Subject", strings.Repeat("1", 300)}, "1 to 256"},
		{"path", "/persons/1", "", rule(usage.Rule{Path: "/persons/{}"}), nil, ""},
		{"path and rest", "/persons/1/a/b", "", rule(usage.Rule{Path: "/persons/{}/**"}), nil, ""},
		{"other path", "/pets/1", "", rule(usage.Rule{Path: "/persons/{}"}), nil, "the form /persons/{}"},
		{"longer path", "/persons/1/x", "", rule(usage.Rule{Path: "/persons/{}"}), nil, "the form /persons/{}"},
		{"nobody in the path", "/persons/", "", rule(usage.Rule{Path: "/persons/{}"}), nil, "1 to 256"},
		{"query", "/x?code=1", "", rule(usage.Rule{Query: "code"}), nil, ""},
		{"two in the query", "/x?code=1&code=2", "", rule(usage.Rule{Query: "code"}), nil, "2 parameters code"},
		{"a header where there is a rule", "/x", "", rule(usage.Rule{Query: "code"}), []string{"Civibus-Subject", "1"}, "0 parameters code"},
		{"json", "/x", `{"a":{"code":"1"}}`, rule(usage.Rule{JSON: "a.code"}), nil, ""},
		{"json number", "/x", `{"a":{"code":1}}`, rule(usage.Rule{JSON: "a.code"}), nil, "no text in a.code"},
		{"json twice", "/x", `{"a":{"code":"1","code":"2"}}`, rule(usage.Rule{JSON: "a.code"}), nil, "a name twice"},
		{"no json", "/x", `code=1`, rule(usage.Rule{JSON: "a.code"}), nil, "a.code"},
		{"json too long", "/x", `{"code":"1","x":"` + strings.Repeat("x", 2<<20) + `"}`, rule(usage.Rule{JSON: "code"}), nil, "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _ := newPersons(t, civibus.Shown, c.rules)
			method, body := http.MethodGet, io.Reader(nil)
			if c.body != "" {
				method, body = http.MethodPost, strings.NewReader(c.body)
			}
			a := p.call(method, c.rest, body, c.fields...)
			if c.says == "" {
				if a.StatusCode != 200 || len(p.office.Record(requestID(a)).Usage) != 32 {
					t.Errorf("%d %s", a.StatusCode, a.Body)
				}
				return
			}
			var doc struct{ Message string }
			if err := json.Unmarshal(a.Body, &doc); err != nil || a.StatusCode == 200 || !strings.Contains(doc.Message, c.says) {
				t.Errorf("%d %s, want a refusal that says %q", a.StatusCode, a.Body, c.says)
			}
			if n := p.begun.Load(); n != 0 {
				t.Errorf("the service was called %d times", n)
			}
			if r := p.office.Records(requestID(a)); len(r) != 1 || len(r[0].Usage) != 0 || r[0].Fault == "" {
				t.Errorf("records %v, want one of a refusal", r)
			}
		})
	}
}

// TestNoKeeperNoPersons: a gateway that keeps no usage records serves no right that
// concerns persons; one that does keeps none of other exchanges.
func TestNoKeeperNoPersons(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	p.Registry.Change(func(v *fixture.View) {
		v.SetRight(civibus.AccessRight{ID: "r1", Service: p.service, Client: p.desk, Purpose: "test", Disclosure: civibus.NeverShown, Sentence: "x", Status: civibus.Active})
	})
	if a := p.call("GET", "/x", nil, "Civibus-Subject", "1"); a.StatusCode == 200 || p.begun.Load() != 0 || !strings.Contains(string(a.Body), "keeps no usage records") {
		t.Errorf("%d %s", a.StatusCode, a.Body)
	}
	q, _ := newPersons(t, civibus.NoPerson, nil)
	a := q.call("GET", "/x", nil)
	if a.StatusCode != 200 || len(q.office.Record(requestID(a)).Usage) != 0 {
		t.Errorf("%d %s", a.StatusCode, a.Body)
	}
}
