package rule_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/rule"
)

// document is a good rule, to be changed.
func document() *rule.Document {
	return &rule.Document{
		Format: rule.Format, Number: "7", Version: 1, Title: "Only audit", Text: "Only the audit office may ask.",
		Law: rule.Law{Act: "Audit Act", Provision: "§ 4"}, Scope: rule.Scope{Service: "T/GOV/1/reg/persons"},
		Requires: `purpose == "audit"`, Remedy: "Ask the audit office.",
	}
}

func compile(t testing.TB, d *rule.Document) *rule.Rule {
	t.Helper()
	r, err := d.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var noon = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC) // a Monday

func exchange(pairs ...any) rule.Values {
	v := rule.Values{Of: rule.Exchange, Map: map[string]any{}}
	for i := 0; i < len(pairs); i += 2 {
		v.Map[pairs[i].(string)] = pairs[i+1]
	}
	return v
}

// TestProblemsAreNamed: a bad rule is refused with the place, the input and what holds there.
func TestProblemsAreNamed(t *testing.T) {
	for want, change := range map[string]func(*rule.Document){
		`format: "x"`:                          func(d *rule.Document) { d.Format = "x" },
		"number: \"a/b\"":                      func(d *rule.Document) { d.Number = "a/b" },
		"number: \"\"":                         func(d *rule.Document) { d.Number = "" },
		"version: 0":                           func(d *rule.Document) { d.Version = 0 },
		"title: it is missing":                 func(d *rule.Document) { d.Title = "" },
		"title: \"a\\nb\" has characters":      func(d *rule.Document) { d.Title = "a\nb" },
		"text: it has 3000 bytes":              func(d *rule.Document) { d.Text = strings.Repeat("x", 3000) },
		"law.act: it is missing":               func(d *rule.Document) { d.Law.Act = "" },
		"law.provision: it is missing":         func(d *rule.Document) { d.Law.Provision = "" },
		"law.uri: \"art 4\"":                   func(d *rule.Document) { d.Law.URI = "art 4" },
		"remedy: it is missing":                func(d *rule.Document) { d.Remedy = "" },
		"remedy: \"\\u202edo\" has characters": func(d *rule.Document) { d.Remedy = "\u202edo" },
		"scope: it has 0 of":                   func(d *rule.Document) { d.Scope = rule.Scope{} },
		"scope: it has 2 of":                   func(d *rule.Document) { d.Scope.Member = "T/GOV/1" },
		"scope.service: ":                      func(d *rule.Document) { d.Scope.Service = "T/GOV" },
		"scope.subsystem: ":                    func(d *rule.Document) { d.Scope = rule.Scope{Subsystem: "T/GOV/1"} },
		"scope.process: ":                      func(d *rule.Document) { d.Scope = rule.Scope{Process: "T/GOV/1/A b", Step: "pay"} },
		"a process and one of its steps":       func(d *rule.Document) { d.Scope = rule.Scope{Process: "T/GOV/1/birth"} },
		"scope.step: \"A\"":                    func(d *rule.Document) { d.Scope = rule.Scope{Process: "T/GOV/1/birth", Step: "A"} },
		"utcOffset: \"5\"":                     func(d *rule.Document) { d.UTCOffset = "5" },
		"utcOffset: \"+15:00\"":                func(d *rule.Document) { d.UTCOffset = "+15:00" },
		"valid.from: \"tomorrow\"":             func(d *rule.Document) { d.Valid.From = "tomorrow" },
		"valid: it ends before it begins":      func(d *rule.Document) { d.Valid = rule.Validity{From: "2027-01-02", Until: "2027-01-02"} },
		"requires: it is missing":              func(d *rule.Document) { d.Requires = "" },
		"requires: it is of type string":       func(d *rule.Document) { d.Requires = "purpose" },
		"applies: ":                            func(d *rule.Document) { d.Applies = "payload == 1" },
		"requires: it calls matches":           func(d *rule.Document) { d.Requires = `path.matches("(a{1000}){1000}")` },
		"requires: it may cost":                func(d *rule.Document) { d.Requires = "path.contains(path)" },
		"only rules for a step":                func(d *rule.Document) { d.Facts = []rule.Fact{{ID: "age", Type: rule.Int}} },
		"facts[0].id: \"step\"": func(d *rule.Document) {
			d.Scope = rule.Scope{Process: "T/GOV/1/birth", Step: "pay"}
			d.Facts = []rule.Fact{{ID: "step", Type: rule.Int}}
		},
		"facts[0].type: \"float\"": func(d *rule.Document) {
			d.Scope = rule.Scope{Process: "T/GOV/1/birth", Step: "pay"}
			d.Facts = []rule.Fact{{ID: "age", Type: "float"}}
		},
		"undeclared reference to 'age'": func(d *rule.Document) {
			d.Scope, d.Requires = rule.Scope{Process: "T/GOV/1/birth", Step: "pay"}, "age > 3"
		},
	} {
		d := document()
		change(d)
		_, err := d.Compile()
		var problems rule.Problems
		if !errors.As(err, &problems) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
	d := document()
	d.Number, d.Title, d.Requires = "", "", "1"
	_, err := d.Compile()
	var problems rule.Problems
	if !errors.As(err, &problems) || len(problems) != 3 {
		t.Errorf("three problems, got %v", err)
	}
}

// TestCanonical: there is one form of a document on the ledger.
func TestCanonical(t *testing.T) {
	canonical, err := document().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rule.Parse(canonical); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"white space":   append(canonical[:len(canonical):len(canonical)], '\n'),
		"unknown field": bytes.Replace(canonical, []byte(`"version"`), []byte(`"versions"`), 1),
		"twice":         bytes.Replace(canonical, []byte(`"version":1,`), []byte(`"version":1,"version":1,`), 1),
		"empty field":   bytes.Replace(canonical, []byte(`"requires"`), []byte(`"applies":"","requires"`), 1),
		"escaped":       bytes.Replace(canonical, []byte(`Only audit`), []byte(`\u004fnly audit`), 1),
		"not UTF-8":     bytes.Replace(canonical, []byte(`Only audit`), []byte("\xff"), 1),
		"cut":           canonical[:len(canonical)-1],
		"long":          bytes.Repeat([]byte(" "), rule.MaxDocument+1),
		"nothing":       nil,
	} {
		if _, err := rule.Parse(text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := rule.Read([]byte("format: x\nnonsense: 1\n")); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("unknown field of YAML: %v", err)
	}
	if _, err := rule.Read([]byte("format: x\n---\nformat: y\n")); err == nil {
		t.Error("two documents are accepted")
	}
}

// TestEvaluate: applies and requires, the moment at the rule's offset, and what cannot
// be decided.
func TestEvaluate(t *testing.T) {
	d := document()
	d.UTCOffset = "+05:00"
	d.Applies, d.Requires = `method == "GET"`, `weekday == 1 && hour == 17 && date == "2027-03-01" && time == timestamp("2027-03-01T12:00:00Z") && purpose == "audit"`
	r := compile(t, d)
	if r.ID != "T/GOV/1/7/1" || r.Owner().String() != "T/GOV/1" || r.Kind() != rule.Exchange {
		t.Fatalf("rule %s of %s", r.ID, r.Owner())
	}
	for _, c := range []struct {
		context rule.Values
		want    rule.Outcome
	}{
		{exchange("method", "GET", "purpose", "audit"), rule.Permitted},
		{exchange("method", "GET", "purpose", "tax"), rule.Refused},
		{exchange("method", "PUT"), rule.NotApplicable},
		{exchange("method", "GET"), rule.Undecided},
		{exchange(), rule.Undecided},
		{rule.Values{Of: rule.Step, Map: map[string]any{"method": "GET", "purpose": "audit"}}, rule.Undecided},
	} {
		if v := r.Evaluate(c.context, noon); v.Outcome != c.want || (v.Err != nil) != (c.want == rule.Undecided) {
			t.Errorf("%v: %+v, want %s", c.context.Map, v, c.want)
		}
	}
	if v := r.Evaluate(exchange("method", "GET", "purpose", "audit"), noon.Add(time.Hour)); v.Outcome != rule.Refused {
		t.Errorf("an hour later: %+v", v)
	}
}

// TestEstimate: what is not known is told only where the outcome depends on it.
func TestEstimate(t *testing.T) {
	d := document()
	d.Applies, d.Requires = `consumer_class == "MUN"`, `issue || purpose == "audit"`
	r := compile(t, d)
	for _, c := range []struct {
		context rule.Values
		want    rule.Outcome
		unknown string
	}{
		{exchange("consumer_class", "GOV"), rule.NotApplicable, ""},
		{exchange("consumer_class", "MUN", "purpose", "audit"), rule.Permitted, ""},
		{exchange("consumer_class", "MUN", "purpose", "tax"), rule.Undecided, "issue"},
		{exchange("consumer_class", "MUN", "purpose", "tax", "issue", false), rule.Refused, ""},
		{exchange("issue", true), rule.Permitted, ""},
		{exchange("issue", false), rule.Undecided, "consumer_class"},
	} {
		if v := r.Estimate(c.context, time.Time{}); v.Outcome != c.want || strings.Join(v.Unknown, " ") != c.unknown || v.Err != nil {
			t.Errorf("%v: %+v, want %s %s", c.context.Map, v, c.want, c.unknown)
		}
	}
	d.Applies, d.Requires = "", "hour < 12"
	if v := compile(t, d).Estimate(exchange(), time.Time{}); v.Outcome != rule.Undecided || len(v.Unknown) != 1 || v.Unknown[0] != "hour" {
		t.Errorf("without a time: %+v", v)
	}
}

// TestJudge: the first rule that is broken refuses; the last version that is law counts;
// what cannot be decided is refused.
func TestJudge(t *testing.T) {
	make := func(number string, version uint32, requires, from, until string) *rule.Rule {
		d := document()
		d.Number, d.Version, d.Requires, d.Valid = number, version, requires, rule.Validity{From: from, Until: until}
		return compile(t, d)
	}
	yes, no := "true", "false"
	broken := rule.Broken("T/GOV/1/8/1", *document(), errors.New("another software"))
	for name, c := range map[string]struct {
		rules []*rule.Rule
		want  string
	}{
		"none":                        {nil, ""},
		"kept":                        {[]*rule.Rule{make("1", 1, yes, "", "")}, ""},
		"broken":                      {[]*rule.Rule{make("1", 1, yes, "", ""), make("2", 1, no, "", ""), make("3", 1, no, "", "")}, "T/GOV/1/2/1"},
		"not yet law":                 {[]*rule.Rule{make("1", 1, no, "2027-03-02", "")}, ""},
		"no longer law":               {[]*rule.Rule{make("1", 1, no, "", "2027-03-01")}, ""},
		"superseded":                  {[]*rule.Rule{make("1", 1, no, "", ""), make("1", 2, yes, "", "")}, ""},
		"superseded by a stricter":    {[]*rule.Rule{make("1", 1, yes, "", ""), make("1", 2, no, "2027-03-01", "")}, "T/GOV/1/1/2"},
		"to be superseded":            {[]*rule.Rule{make("1", 1, no, "", ""), make("1", 2, yes, "2027-03-02", "")}, "T/GOV/1/1/1"},
		"superseded for a while only": {[]*rule.Rule{make("1", 1, no, "", ""), make("1", 2, yes, "", "2027-02-01")}, "T/GOV/1/1/1"},
		"another number":              {[]*rule.Rule{make("1", 1, no, "", ""), make("2", 1, yes, "", "")}, "T/GOV/1/1/1"},
		"of another software":         {[]*rule.Rule{broken}, "T/GOV/1/8/1"},
		"undecided":                   {[]*rule.Rule{make("1", 1, `issue`, "", "")}, "T/GOV/1/1/1"},
	} {
		got := rule.Judge(c.rules, exchange("purpose", "tax"), noon)
		if id := refusedBy(got); id != c.want {
			t.Errorf("%s: refused by %q, want %q", name, id, c.want)
		}
	}
}

func refusedBy(f *civibus.RuleRefusal) string {
	if f == nil {
		return ""
	}
	return f.ID
}

// TestRefusal: a refusal has the law and the remedy for programs and for people.
func TestRefusal(t *testing.T) {
	d := document()
	d.Law.URI = "https://law.example/eli/act/4"
	f := rule.Judge([]*rule.Rule{compile(t, d)}, exchange("purpose", "tax"), noon)
	if f == nil || f.Number != "7" || f.Act != "Audit Act" || f.Provision != "§ 4" || f.URI != d.Law.URI || f.Remedy != d.Remedy || f.Text != d.Text || f.Undecided {
		t.Fatalf("%+v", f)
	}
	const want = "Rule 7 (Only audit, version 1) does not allow this request; it rests on Audit Act, § 4 (https://law.example/eli/act/4). What to do: Ask the audit office."
	if got := rule.Sentence(f); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	f = rule.Judge([]*rule.Rule{compile(t, d)}, exchange(), noon)
	if f == nil || !f.Undecided || !strings.HasPrefix(rule.Sentence(f), "It cannot be decided whether rule 7") {
		t.Errorf("%+v", f)
	}
	// The longest of all fits into what a gateway takes of another's refusal.
	d.Title, d.Text, d.Remedy = strings.Repeat(`"`, rule.MaxTitle), strings.Repeat(`"`, rule.MaxText), strings.Repeat(`"`, rule.MaxRemedy-100)
	d.Law = rule.Law{Act: strings.Repeat(`"`, rule.MaxCitation), Provision: strings.Repeat(`"`, rule.MaxCitation), URI: "https://law.example/" + strings.Repeat(`x`, 400)}
	r, err := d.Compile()
	if err != nil {
		t.Fatal(err)
	}
	refusal := r.Refusal(true)
	b, err := json.Marshal(map[string]any{"message": rule.Sentence(refusal), "rule": refusal})
	if err != nil || len(b) > 15<<10 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// TestStep: a process's runtime asks with the context of a step and the facts of the case.
func TestStep(t *testing.T) {
	d := document()
	d.Scope = rule.Scope{Process: "T/GOV/1/birth", Step: "pay"}
	d.Facts = []rule.Fact{{ID: "age", Type: rule.Int}, {ID: "born", Type: rule.Date}, {ID: "doc", Type: rule.Hash}}
	d.Requires = `age < 3 && born < timestamp("2027-01-01T00:00:00Z") && size(doc) == 32 && role == "office" && attempt == 1 && !escalated`
	r := compile(t, d)
	c := rule.Values{Of: rule.Step, Map: map[string]any{
		"age": int64(1), "born": time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), "doc": make([]byte, 32), "role": "office", "attempt": int64(1), "escalated": false,
	}}
	if v := r.Evaluate(c, noon); v.Outcome != rule.Permitted || r.Kind() != rule.Step {
		t.Errorf("%+v", v)
	}
	delete(c.Map, "age")
	if v := r.Evaluate(c, noon); v.Outcome != rule.Undecided {
		t.Errorf("without a fact: %+v", v)
	}
}

// TestCases: what is wrong with a file of examples is told with the example's name.
func TestCases(t *testing.T) {
	r := compile(t, document())
	for text, want := range map[string]string{
		"cases: []": "there are 0",
		"cases:\n - {name: a, context: {purpose: x}, expect: nope}":                    `a: expect "nope"`,
		"cases:\n - {name: a, context: {payload: x}, expect: refused}":                 `a: context: there is no "payload"`,
		"cases:\n - {context: {purpose: 1}, expect: refused}":                          "case 1: context: purpose is 1",
		"cases:\n - {context: {hour: 1}, expect: refused}":                             `hour follows from "at"`,
		"cases:\n - {at: noon, context: {}, expect: refused}":                          `at "noon"`,
		"cases:\n - {name: a, purpose: x}":                                             "purpose not found",
		"cases:\n - {name: a, context: {purpose: tax}, expect: permitted}":             "",
		"cases:\n - {name: a, at: 2027-01-01T00:00:00Z, context: {}, expect: refused}": "",
	} {
		cases, err := rule.ReadCases([]byte(text))
		var results []rule.CaseResult
		if err == nil {
			results, err = r.Run(cases)
		}
		if want == "" {
			if err != nil || len(results) != 1 || results[0].OK() {
				t.Errorf("%s: %+v, %v; want one that fails", text, results, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// FuzzParse: whatever is on the ledger is read, checked and judged by without harm.
func FuzzParse(f *testing.F) {
	canonical, err := document().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(canonical)
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := rule.Parse(text)
		if err != nil {
			return
		}
		if again, err := d.Encode(); err != nil || !bytes.Equal(again, text) {
			t.Fatalf("%q was read and is written as %q, %v", text, again, err)
		}
		if r, err := d.Compile(); err == nil {
			_ = r.Evaluate(exchange("purpose", "x"), noon)
			_ = r.Estimate(exchange(), time.Time{})
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	d := document()
	d.Applies, d.Requires = `consumer_class == "MUN" && path.startsWith("/persons/")`, `issue && weekday <= 5 && hour >= 7 && hour < 19`
	rules := []*rule.Rule{compile(b, d)}
	c := exchange("consumer_class", "MUN", "path", "/persons/1", "issue", true)
	b.ReportAllocs()
	for b.Loop() {
		if f := rule.Judge(rules, c, noon); f != nil {
			b.Fatal(f)
		}
	}
}

// TestBlocked: what is broken whatever else turns out refuses before all is known; what
// is not known yet does not, nor does a version that a later one supersedes.
func TestBlocked(t *testing.T) {
	make := func(number string, version uint32, requires, from string) *rule.Rule {
		d := document()
		d.Scope = rule.Scope{Process: "T/GOV/1/case", Step: "pay"}
		d.Number, d.Version, d.Requires, d.Valid = number, version, requires, rule.Validity{From: from}
		return compile(t, d)
	}
	no, open := `member == "T/GOV/2"`, `variant == "south"`
	for name, c := range map[string]struct {
		rules []*rule.Rule
		want  string
	}{
		"none":             {nil, ""},
		"broken":           {[]*rule.Rule{make("1", 1, "true", ""), make("2", 1, no, "")}, "T/GOV/1/2/1"},
		"not known":        {[]*rule.Rule{make("1", 1, open, "")}, ""},
		"broken both ways": {[]*rule.Rule{make("1", 1, open+" && "+no, "")}, "T/GOV/1/1/1"},
		"superseded":       {[]*rule.Rule{make("1", 1, no, ""), make("1", 2, "true", "")}, ""},
		"to be superseded": {[]*rule.Rule{make("1", 1, no, ""), make("1", 2, "true", "2027-03-02")}, "T/GOV/1/1/1"},
		"by an open one":   {[]*rule.Rule{make("1", 1, no, ""), make("1", 2, open, "")}, ""},
		"not yet law":      {[]*rule.Rule{make("1", 1, no, "2027-03-02")}, ""},
	} {
		known := rule.Values{Of: rule.Step, Map: map[string]any{"member": "T/GOV/1", "step": "pay"}}
		if id := refusedBy(rule.Blocked(c.rules, known, noon)); id != c.want {
			t.Errorf("%s: refused by %q, want %q", name, id, c.want)
		}
	}
}
