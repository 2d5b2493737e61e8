package definition_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/process/definition"
)

const permit = `
format: civibus-process-1
id: permit
version: 1
title: A permit
law: {act: Permits Act, provision: "§ 3"}
roles:
  - {id: office, title: Office}
  - {id: register, title: Register}
facts:
  - {id: known, title: The person is known, type: bool, public: true}
  - {id: age, title: Age, type: int}
  - {id: branch, title: Branch, type: code, codes: [plain, hard], public: true}
steps:
  - {id: ask, title: Ask, from: office, to: register, kind: service, service: ask, yields: [branch], deadline: PT1H, final: true}
  - {id: look, title: Look up, from: register, to: office, kind: service, service: look, needs: {all: [ask]}, yields: [known, age], deadline: PT1H, onTimeout: escalate, retries: 1, undo: forget}
  - {id: review, title: Review, from: office, kind: task, needs: {all: [look]}, when: 'branch == "hard" && known', deadline: P2D, final: true}
  - {id: adult, title: Adults, from: register, kind: service, service: adult, needs: {all: [look]}, when: 'age >= 18', deadline: PT1H, onTimeout: skip, undo: unadult}
  - {id: issue, title: Issue, from: office, kind: service, service: issue, needs: {any: [review, adult]}, deadline: PT2H, onTimeout: cancel, final: true}
ends:
  - {id: issued, title: Issued, needs: {all: [issue]}}
  - {id: none, title: Nothing issued}
  - {id: withdrawn, title: Withdrawn, cancelled: true}
variants:
  - {id: north, title: The North, law: {act: Northern Act}, without: [adult]}
`

func compile(t testing.TB, text string) *definition.Process {
	t.Helper()
	d, err := definition.Read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var (
	begun  = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	bodies = map[string]string{"office": "T/GOV/A/office", "register": "T/GOV/B/register"}
)

// run is an instance in a test.
type run struct {
	*testing.T
	*definition.Instance
	now time.Time
}

func start(t *testing.T, p *definition.Process, variant string) *run {
	t.Helper()
	i, err := p.Start(variant, bodies, begun)
	if err != nil {
		t.Fatal(err)
	}
	return &run{t, i, begun}
}

// turns are what is to be done, in words.
func (r *run) turns() string {
	var out []string
	for _, t := range r.Turns() {
		s := fmt.Sprintf("%s/%d", t.Step, t.Attempt)
		if t.Human {
			s += " human"
		}
		if t.Undo {
			s += " undo"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func (r *run) want(turns string) {
	r.Helper()
	if got := r.turns(); got != turns {
		r.Fatalf("to be done: %q, want %q", got, turns)
	}
}

func (r *run) event(step string, attempt uint32, kind definition.EventKind, yields ...definition.Yield) definition.Event {
	s, _, ok := r.Step(step)
	by := ""
	if ok {
		by = bodies[s.From]
	}
	return definition.Event{Step: step, Attempt: attempt, Kind: kind, Yields: yields, By: by, At: r.now}
}

func (r *run) ok(e definition.Event) {
	r.Helper()
	if err := r.Apply(e); err != nil {
		r.Fatal(err)
	}
}

func (r *run) refused(e definition.Event, code definition.RefusalCode) {
	r.Helper()
	before := fmt.Sprintf("%+v %+v", r.Steps, r.Facts)
	var refusal *definition.Refusal
	if err := r.Apply(e); !errors.As(err, &refusal) || refusal.Code != code {
		r.Fatalf("%v, want %s", err, code)
	}
	if after := fmt.Sprintf("%+v %+v", r.Steps, r.Facts); after != before {
		r.Fatal("a refused event changed the instance")
	}
}

func public(fact string, v any) definition.Yield { return definition.Yield{Fact: fact, Value: v} }
func sealed(fact string) definition.Yield {
	return definition.Yield{Fact: fact, Commitment: definition.Commitment{1}}
}

func (r *run) asked(branch string, known bool) {
	r.Helper()
	r.want("ask/1")
	r.ok(r.event("ask", 1, definition.StepDone, public("branch", branch)))
	r.want("look/1")
	r.ok(r.event("look", 1, definition.StepDone, public("known", known), sealed("age")))
}

func TestToTheEnd(t *testing.T) {
	p := compile(t, permit)
	r := start(t, p, "")
	r.asked("hard", true)
	r.want("review/1 human, adult/1")
	r.ok(r.event("adult", 1, definition.StepSkipped))
	r.want("review/1 human")
	r.ok(r.event("review", 1, definition.StepDone))
	r.want("issue/1")
	r.ok(r.event("issue", 1, definition.StepDone))
	if r.Phase != definition.Ended || r.End != "issued" {
		t.Errorf("it is %d, %s", r.Phase, r.End)
	}
	r.refused(r.event("look", 2, definition.StepFailed), definition.HasEnded)

	// Nothing is left to do: the plain branch in the North.
	r = start(t, p, "north")
	r.asked("plain", true)
	if r.Phase != definition.Ended || r.End != "none" {
		t.Errorf("in the North it is %d, %s; to be done: %s", r.Phase, r.End, r.turns())
	}
}

func TestDeviationsAreRefused(t *testing.T) {
	r := start(t, compile(t, permit), "")
	r.refused(r.event("nothing", 1, definition.StepDone), definition.UnknownStep)
	r.refused(r.event("look", 1, definition.StepDone), definition.NotYourTurn)
	r.refused(r.event("ask", 2, definition.StepDone), definition.BadAttempt)
	r.refused(r.event("ask", 1, definition.StepDone), definition.BadFacts)
	r.refused(r.event("ask", 1, definition.StepDone, public("branch", "easy")), definition.BadFacts)
	r.refused(r.event("ask", 1, definition.StepDone, public("known", true)), definition.BadFacts)
	r.refused(r.event("ask", 1, definition.StepDone, sealed("branch")), definition.BadFacts)
	r.refused(r.event("ask", 1, definition.StepSkipped), definition.GuardPublic)
	r.refused(r.event("ask", 1, definition.StepTimeout), definition.NotDue)
	r.refused(r.event("ask", 1, 0), definition.BadEvent)
	r.refused(r.event("ask", 1, definition.StepReverted), definition.NotYourTurn)
	theirs := r.event("ask", 1, definition.StepDone, public("branch", "plain"))
	theirs.By = bodies["register"]
	r.refused(theirs, definition.NotYourStep)
	theirs.By = bodies["office"]
	r.ok(theirs)
	r.refused(theirs, definition.Already)
	r.refused(r.event("ask", 1, definition.StepDone, public("branch", "hard")), definition.Conflict)
	r.refused(r.event("look", 1, definition.StepDone, public("known", true), public("age", int64(3))), definition.BadFacts)
	r.refused(r.event("look", 1, definition.StepDone, public("known", true), definition.Yield{Fact: "age"}), definition.BadFacts)
}

func TestFailureDeadlineUndo(t *testing.T) {
	r := start(t, compile(t, permit), "")
	r.ok(r.event("ask", 1, definition.StepDone, public("branch", "plain")))
	// 1. A failure is tried again, a late system becomes a task.
	r.ok(r.event("look", 1, definition.StepFailed))
	r.want("look/2")
	r.now = r.now.Add(time.Hour)
	late := r.event("look", 2, definition.StepTimeout)
	late.By = "anybody"
	r.ok(late)
	r.want("look/3 human")
	r.refused(r.event("look", 2, definition.StepDone, public("known", true), sealed("age")), definition.BadAttempt)
	r.ok(r.event("look", 3, definition.StepDone, public("known", true), sealed("age")))
	// 2. What is done is undone, the last first, when the issue is late.
	r.want("adult/1")
	r.ok(r.event("adult", 1, definition.StepDone))
	r.want("issue/1")
	r.now = r.now.Add(2 * time.Hour)
	r.ok(r.event("issue", 1, definition.StepTimeout))
	r.want("adult/1 undo")
	r.refused(r.event("look", 1, definition.StepReverted), definition.NotYourTurn)
	r.ok(r.event("adult", 1, definition.RevertFailed))
	r.want("adult/2 human undo")
	r.ok(r.event("adult", 2, definition.StepReverted))
	r.want("look/1 undo")
	for range 3 {
		r.now = r.now.Add(time.Hour)
		r.ok(r.event("look", r.Turns()[0].Attempt, definition.StepTimeout))
	}
	if r.Phase != definition.Ended || r.End != "withdrawn" {
		t.Errorf("it is %d, %s; to be done: %s", r.Phase, r.End, r.turns())
	}
	if _, s, _ := r.Step("look"); s.Status != definition.Abandoned {
		t.Errorf("look is %s", s.Status)
	}
}

func TestProblemsAreNamed(t *testing.T) {
	for want, change := range map[string][2]string{
		"they need each other in a circle: ask after look after ask": {"service: ask, yields", "service: ask, needs: {all: [look]}, yields"},
		"there is no role \"nobody\"":                                {"from: office, to: register", "from: nobody, to: register"},
		"there is no step \"nothing\"":                               {"needs: {all: [ask]}", "needs: {all: [nothing]}"},
		"when: no step before it yields age":                         {"needs: {all: [look]}, when: 'age >= 18'", "needs: {all: [ask]}, when: 'age >= 18'"},
		"it is of type int, the rule is bool":                        {"'age >= 18'", "'age + 18'"},
		"undeclared reference to 'height'":                           {"'age >= 18'", "'height >= 18'"},
		"it may cost":                                                {"'age >= 18'", "'(branch" + strings.Repeat(" + branch", 9) + ").contains(branch" + strings.Repeat(" + branch", 9) + ")'"},
		"it calls matches":                                           {"'age >= 18'", `'branch.matches("(a{1000}){1000}")'`},
		"undeclared reference to 'all'":                              {"'age >= 18'", "'[1,2,3].all(x, x < age)'"},
		"it is public, which only a bool or a code may be":           {"title: Age, type: int", "title: Age, type: int, public: true"},
		"it says neither how it is undone nor that it is final":      {"onTimeout: cancel, final: true", "onTimeout: cancel"},
		"deadline P3661D, the rule is PT1S to ten years":             {"deadline: PT2H", "deadline: P3661D"},
		"are marked cancelled, the rule is one":                      {", cancelled: true", ""},
		"\"ask\" occurs twice":                                       {"id: look, title", "id: ask, title"},
		"an instance could end in none of them":                      {"title: Nothing issued}", "title: Nothing issued, needs: {all: [ask]}}"},
		"variant north: step adult":                                  {"without: [adult]", "without: [look]"},
		"version: 0":                                                 {"version: 1", "version: 0"},
		"needs: the rule is one of all, any, or of with steps":       {"{any: [review, adult]}", "{of: 3, steps: [review, adult]}"},
	} {
		if !strings.Contains(permit, change[0]) {
			t.Fatalf("%q is not in the definition", change[0])
		}
		d, err := definition.Read([]byte(strings.Replace(permit, change[0], change[1], 1)))
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		if _, err := d.Compile(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}

func TestCanonicalForm(t *testing.T) {
	p := compile(t, permit)
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := definition.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := again.Digest(); d != p.Digest {
		t.Error("the digest changed")
	}
	for _, bad := range []string{string(b) + " ", "{}", strings.Replace(string(b), `"id"`, `"ID"`, 1), strings.Replace(string(b), `,"title"`, `,"more":1,"title"`, 1)} {
		if _, err := definition.Parse([]byte(bad)); err == nil {
			t.Errorf("taken: %.60s", bad)
		}
	}
}

func TestDurations(t *testing.T) {
	for _, s := range []string{"PT1M", "P3D", "P1DT2H3M4S", "PT12H", "P3660D"} {
		if d, err := definition.ParseDuration(s); err != nil || d.String() != s {
			t.Errorf("%s: %s, %v", s, d, err)
		}
	}
	for _, s := range []string{"", "P", "PT", "P1", "1D", "PT60M", "P1H", "PT1D", "P1D2D", "PT1S1M", "P-1D", "P1.5D", "PT1HT1M", "P99999999D", "PT24H"} {
		if d, err := definition.ParseDuration(s); err == nil {
			t.Errorf("%s was taken as %s", s, d)
		}
	}
}
