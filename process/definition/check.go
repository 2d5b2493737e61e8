package definition

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/civibus/civibus/internal/celguard"
)

const (
	maxName = 64
	maxCode = 64
)

var (
	namePattern = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	factPattern = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	codePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
)

// Problems are all that is wrong with a definition, each with its place, the rule
// and, where it is not obvious, the way out.
type Problems []string

// Error lists them.
func (p Problems) Error() string {
	return fmt.Sprintf("the definition has %d problem(s): %s", len(p), strings.Join(p, "; "))
}

// Process is a definition that passed every check, ready to run: one plan for the
// definition as it is, and one for each variant.
type Process struct {
	*Definition
	Digest [32]byte
	plans  map[string]*plan
}

// plan is a definition with one variant put into it.
type plan struct {
	steps  []Step
	index  map[string]int
	sorted []int    // each after those it needs
	after  [][]int  // those that need it
	guards []*Guard // of the steps; nil: none
	ends   []*Guard
	left   []bool // steps that the variant leaves out
	facts  map[string]*Fact
}

// Compile checks a definition and makes it ready. The error is Problems.
func (d *Definition) Compile() (*Process, error) {
	c := &collector{d: d}
	digest, err := d.Digest()
	if err != nil {
		return nil, err
	}
	c.document()
	p := &Process{Definition: d, Digest: digest, plans: make(map[string]*plan)}
	if len(c.problems) == 0 {
		p.plans[""] = c.plan(nil)
		for i := range d.Variants {
			p.plans[d.Variants[i].ID] = c.plan(&d.Variants[i])
		}
	}
	if len(c.problems) > 0 {
		return nil, Problems(c.problems)
	}
	return p, nil
}

// Plan returns the steps of the definition as it is in a variant, "" for none, each after
// those that it needs. Steps that the variant leaves out are not among them.
func (p *Process) Plan(variant string) ([]Step, error) {
	plan, ok := p.plans[variant]
	if !ok {
		return nil, fmt.Errorf("process %s has no variant %.64q", p.ID, variant)
	}
	var out []Step
	for _, n := range plan.sorted {
		if !plan.left[n] {
			out = append(out, plan.steps[n])
		}
	}
	return out, nil
}

// collector collects problems.
type collector struct {
	d        *Definition
	env      *celguard.Language
	problems []string
}

func (c *collector) problem(where, format string, args ...any) {
	c.problems = append(c.problems, where+": "+fmt.Sprintf(format, args...))
}

// document checks everything that does not depend on the graph.
func (c *collector) document() {
	d := c.d
	if d.Format != Format {
		c.problem("format", "%.40q, the rule is %q", d.Format, Format)
	}
	c.name("id", d.ID)
	if d.Version == 0 {
		c.problem("version", "0, the rule is from 1")
	}
	if b, err := d.Encode(); err != nil || len(b) > MaxDocument {
		c.problem("document", "it has %d bytes, the rule is at most %d", len(b), MaxDocument)
	}
	c.text("title", d.Title, true)
	c.law("law", d.Law)
	c.count("roles", len(d.Roles), 1, MaxRoles)
	c.count("facts", len(d.Facts), 0, MaxFacts)
	c.count("steps", len(d.Steps), 1, MaxSteps)
	c.count("ends", len(d.Ends), 1, MaxEnds)
	c.count("variants", len(d.Variants), 0, MaxVariants)
	c.unique("roles", len(d.Roles), func(i int) string { return d.Roles[i].ID })
	c.unique("facts", len(d.Facts), func(i int) string { return d.Facts[i].ID })
	c.unique("steps", len(d.Steps), func(i int) string { return d.Steps[i].ID })
	c.unique("ends", len(d.Ends), func(i int) string { return d.Ends[i].ID })
	c.unique("variants", len(d.Variants), func(i int) string { return d.Variants[i].ID })
	for i, r := range d.Roles {
		c.name(fmt.Sprintf("roles[%d].id", i), r.ID)
		c.text("role "+r.ID, r.Title, true)
	}
	for i := range d.Facts {
		c.fact(fmt.Sprintf("facts[%d]", i), &d.Facts[i])
	}
	var err error
	if c.env, err = language(d.Facts); err != nil {
		c.problem("facts", "%v", err)
		return
	}
	for i := range d.Steps {
		c.step(fmt.Sprintf("step %.64q", d.Steps[i].ID), &d.Steps[i])
	}
	c.ends()
	for i := range d.Variants {
		c.variant(&d.Variants[i])
	}
}

func (c *collector) ends() {
	cancelled := 0
	for i, e := range c.d.Ends {
		c.name(fmt.Sprintf("ends[%d].id", i), e.ID)
		c.text("end "+e.ID, e.Title, true)
		if e.Cancelled {
			cancelled++
			if e.Needs != nil || e.When != "" {
				c.problem("end "+e.ID, "it is the end of what was cancelled and needs nothing")
			}
		}
		if e.Needs != nil {
			c.needs("end "+e.ID, e.Needs)
		}
	}
	if cancelled != 1 {
		c.problem("ends", "%d are marked cancelled, the rule is one", cancelled)
	}
	if !slices.ContainsFunc(c.d.Ends, func(e End) bool { return !e.Cancelled && e.Needs == nil && e.When == "" }) {
		c.problem("ends", "an instance could end in none of them: one must have neither needs nor a condition")
	}
}

func (c *collector) variant(v *Variant) {
	where := "variant " + v.ID
	c.name(where, v.ID)
	c.text(where, v.Title, true)
	c.law(where+" law", v.Law)
	c.unique(where+" steps", len(v.Steps), func(i int) string { return v.Steps[i].ID })
	for _, id := range v.Without {
		if !slices.ContainsFunc(c.d.Steps, func(s Step) bool { return s.ID == id }) {
			c.problem(where, "without: there is no step %.64q", id)
		}
	}
	for i := range v.Steps {
		s := &v.Steps[i]
		c.step(where+" step "+s.ID, s)
		if at := slices.IndexFunc(c.d.Steps, func(o Step) bool { return o.ID == s.ID }); at >= 0 {
			if old := &c.d.Steps[at]; !slices.Equal(old.Yields, s.Yields) {
				c.problem(where+" step "+s.ID, "it yields other facts than the step that it takes the place of")
			}
		}
	}
}

func (c *collector) name(where, s string) {
	if len(s) > maxName || !namePattern.MatchString(s) {
		c.problem(where, "%.80q, the rule is words of a-z and 0-9 joined by -, at most %d bytes", s, maxName)
	}
}

func (c *collector) text(where, s string, must bool) {
	switch {
	case s == "" && must:
		c.problem(where, "a title is missing")
	case len(s) > MaxText || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) }):
		c.problem(where, "a text has more than %d bytes or characters that cannot be seen", MaxText)
	}
}

func (c *collector) law(where string, l Law) {
	c.text(where, l.Act, true)
	c.text(where, l.Provision, false)
	c.text(where, l.URI, false)
}

func (c *collector) count(what string, n, least, most int) {
	if n < least || n > most {
		c.problem(what, "there are %d, the rule is %d to %d", n, least, most)
	}
}

func (c *collector) unique(what string, n int, id func(int) string) {
	seen := make(map[string]bool)
	for i := range n {
		if seen[id(i)] {
			c.problem(what, "%.64q occurs twice", id(i))
		}
		seen[id(i)] = true
	}
}

func (c *collector) fact(where string, f *Fact) {
	if len(f.ID) > maxName || !factPattern.MatchString(f.ID) || reserved[f.ID] {
		c.problem(where+".id", "%.80q, the rule is words of a-z and 0-9 joined by _, at most %d bytes, and none that CEL has a meaning for", f.ID, maxName)
	}
	c.text("fact "+f.ID, f.Title, true)
	switch f.Type {
	case Code:
		c.count("fact "+f.ID+" codes", len(f.Codes), 1, MaxCodes)
		c.unique("fact "+f.ID+" codes", len(f.Codes), func(i int) string { return f.Codes[i] })
		for _, code := range f.Codes {
			if len(code) > maxCode || !codePattern.MatchString(code) {
				c.problem("fact "+f.ID, "code %.80q, the rule is A-Z a-z 0-9 . _ -, at most %d", code, maxCode)
			}
		}
	case Bool, Int, Date, Hash:
		if len(f.Codes) > 0 {
			c.problem("fact "+f.ID, "it has codes, which only a code has")
		}
	default:
		c.problem("fact "+f.ID, "type %.20q, the rule is bool, int, code, date or hash", f.Type)
	}
	if f.Public && f.Type != Bool && f.Type != Code {
		c.problem("fact "+f.ID, "it is public, which only a bool or a code may be: the ledger holds nothing about persons")
	}
}

var reserved = map[string]bool{
	"true": true, "false": true, "null": true, "in": true, "as": true, "break": true, "const": true, "continue": true, "else": true, "for": true,
	"function": true, "if": true, "import": true, "let": true, "loop": true, "package": true, "namespace": true, "return": true, "var": true,
	"void": true, "while": true, "int": true, "uint": true, "double": true, "bool": true, "string": true, "bytes": true, "list": true, "map": true,
	"type": true, "size": true, "timestamp": true, "duration": true, "dyn": true, "matches": true,
}

func (c *collector) role(where, id string) {
	if !slices.ContainsFunc(c.d.Roles, func(r Role) bool { return r.ID == id }) {
		c.problem(where, "there is no role %.64q", id)
	}
}

func (c *collector) step(where string, s *Step) {
	c.name(where, s.ID)
	c.text(where, s.Title, true)
	c.role(where+" from", s.From)
	if s.To != "" {
		c.role(where+" to", s.To)
	}
	switch s.Kind {
	case ServiceStep:
		if !codePattern.MatchString(s.Service) || len(s.Service) > maxCode {
			c.problem(where, "service %.80q, the rule is a service's code", s.Service)
		}
	case TaskStep:
		if s.Service != "" {
			c.problem(where, "it is a task and names a service")
		}
	default:
		c.problem(where, "kind %.20q, the rule is service or task", s.Kind)
	}
	if s.Needs != nil {
		c.needs(where, s.Needs)
	}
	for _, list := range [][]string{s.Uses, s.Yields} {
		c.unique(where+" facts", len(list), func(i int) string { return list[i] })
		for _, f := range list {
			if !slices.ContainsFunc(c.d.Facts, func(known Fact) bool { return known.ID == f }) {
				c.problem(where, "there is no fact %.64q", f)
			}
		}
	}
	if d := time.Duration(s.Deadline); d < MinDeadline || d > MaxDeadline {
		c.problem(where, "deadline %s, the rule is %s to ten years", s.Deadline, Duration(MinDeadline))
	}
	for name, o := range map[string]Outcome{"onTimeout": s.OnTimeout, "onFailure": s.OnFailure} {
		switch o {
		case "", Escalate, Skip, Cancel:
		default:
			c.problem(where, "%s %.20q, the rule is escalate, skip or cancel", name, o)
		}
	}
	if s.Retries > MaxRetries {
		c.problem(where, "%d retries, the rule is at most %d", s.Retries, MaxRetries)
	}
	switch {
	case s.Undo != "" && s.Final:
		c.problem(where, "it has undo and is final, the rule is one of the two")
	case s.Undo == "" && !s.Final:
		c.problem(where, "it says neither how it is undone nor that it is final")
	case s.Undo != "" && (!codePattern.MatchString(s.Undo) || len(s.Undo) > maxCode):
		c.problem(where, "undo %.80q, the rule is a service's code", s.Undo)
	}
}

// needs checks the form; whether the steps are there depends on the variant.
func (c *collector) needs(where string, n *Needs) {
	forms := 0
	for _, list := range [][]string{n.All, n.Any, n.Steps} {
		if len(list) > 0 {
			forms++
		}
	}
	if forms != 1 || (n.Of > 0) != (len(n.Steps) > 0) || n.Of > len(n.Steps) || n.Of < 0 {
		c.problem(where, "needs: the rule is one of all, any, or of with steps, of which there are as many")
	}
	c.unique(where+" needs", len(n.Before()), func(i int) string { return n.Before()[i] })
}

// plan puts a variant into the definition and checks the graph that comes of it.
func (c *collector) plan(v *Variant) *plan {
	p := &plan{index: make(map[string]int), facts: make(map[string]*Fact)}
	where := ""
	p.steps = slices.Clone(c.d.Steps)
	if v != nil {
		where = "variant " + v.ID + ": "
		for _, s := range v.Steps {
			if at := slices.IndexFunc(p.steps, func(o Step) bool { return o.ID == s.ID }); at >= 0 {
				p.steps[at] = s
			} else {
				p.steps = append(p.steps, s)
			}
		}
	}
	if len(p.steps) > MaxSteps {
		c.problem(where+"steps", "there are %d, the rule is at most %d", len(p.steps), MaxSteps)
		return p
	}
	p.left = make([]bool, len(p.steps))
	for i, s := range p.steps {
		p.index[s.ID] = i
		p.left[i] = v != nil && slices.Contains(v.Without, s.ID)
	}
	for i := range c.d.Facts {
		p.facts[c.d.Facts[i].ID] = &c.d.Facts[i]
	}
	c.graph(where, p)
	return p
}

// graph checks needs, cycles, guards and that every fact is found out before it is
// asked for.
func (c *collector) graph(where string, p *plan) {
	before := len(c.problems)
	for _, s := range p.steps {
		for _, id := range s.Needs.Before() {
			if _, ok := p.index[id]; !ok {
				c.problem(where+"step "+s.ID, "needs: there is no step %.64q", id)
			}
		}
	}
	for _, e := range c.d.Ends {
		for _, id := range e.Needs.Before() {
			if _, ok := p.index[id]; !ok {
				c.problem(where+"end "+e.ID, "needs: there is no step %.64q", id)
			}
		}
	}
	if len(c.problems) > before {
		return
	}
	var cycle []string
	if p.sorted, cycle = order(p.steps, p.index); cycle != nil {
		slices.Reverse(cycle)
		c.problem(where+"steps", "they need each other in a circle: %s", strings.Join(append(cycle, cycle[0]), " after "))
		return
	}
	p.after = make([][]int, len(p.steps))
	for _, n := range p.sorted {
		for _, before := range p.steps[n].Needs.Before() {
			p.after[p.index[before]] = append(p.after[p.index[before]], n)
		}
	}
	above := ancestors(p.steps, p.index, p.sorted)
	yielded := make(map[string][]int)
	for i, s := range p.steps {
		if p.left[i] {
			continue
		}
		for _, f := range s.Yields {
			yielded[f] = append(yielded[f], i)
		}
	}
	known := func(step int, fact string) bool {
		return slices.ContainsFunc(yielded[fact], func(i int) bool { return above[step].has(i) })
	}
	for i, s := range p.steps {
		var g *Guard
		if s.When != "" {
			var err error
			if g, err = compile(c.env, s.When); err != nil {
				c.problem(where+"step "+s.ID, "when: %v", err)
			} else if !p.left[i] {
				for _, f := range g.Facts() {
					if !known(i, f) {
						c.problem(where+"step "+s.ID, "when: no step before it yields %s", f)
					}
				}
			}
		}
		p.guards = append(p.guards, g)
		for _, f := range s.Uses {
			if !p.left[i] && !known(i, f) {
				c.problem(where+"step "+s.ID, "uses: no step before it yields %s", f)
			}
		}
	}
	for _, e := range c.d.Ends {
		var g *Guard
		if e.When != "" {
			var err error
			if g, err = compile(c.env, e.When); err != nil {
				c.problem(where+"end "+e.ID, "when: %v", err)
			} else {
				for _, f := range g.Facts() {
					if !p.facts[f].Public || len(yielded[f]) == 0 {
						c.problem(where+"end "+e.ID, "when: %s is not public or nobody yields it, the rule for ends is public facts", f)
					}
				}
			}
		}
		p.ends = append(p.ends, g)
	}
}
