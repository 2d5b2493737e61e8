package rule

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/civibus/civibus/internal/celguard"
)

// MaxCases bounds a file of examples.
const (
	MaxCases    = 1000
	maxCaseFile = 1 << 20
)

// Cases are examples of what a rule says, which lawyers and programmers agree on
// before it is enacted.
type Cases struct {
	Cases []Case `yaml:"cases"`
}

// Case is one example: the context as far as it is given, and what must come of it.
type Case struct {
	Name    string         `yaml:"name"`
	At      string         `yaml:"at"` // RFC 3339; without it the time is not known
	Context map[string]any `yaml:"context"`
	Expect  Outcome        `yaml:"expect"`
}

// ReadCases reads a file of examples: YAML or JSON, without unknown fields.
func ReadCases(text []byte) (*Cases, error) {
	c := &Cases{}
	if err := readYAML(text, maxCaseFile, "cases", c); err != nil {
		return nil, err
	}
	if len(c.Cases) == 0 || len(c.Cases) > MaxCases {
		return nil, fmt.Errorf("cases: there are %d, the rule is 1 to %d", len(c.Cases), MaxCases)
	}
	return c, nil
}

// CaseResult is what became of an example.
type CaseResult struct {
	Name   string
	Want   Outcome
	Got    Outcome
	Detail string // what is missing or wrong
}

// OK reports whether the rule says what was expected.
func (r CaseResult) OK() bool { return r.Got == r.Want }

// Run holds the rule against examples. A context that the rule's language does not
// have is an error that names the example.
func (r *Rule) Run(cases *Cases) ([]CaseResult, error) {
	out := make([]CaseResult, 0, len(cases.Cases))
	for i, c := range cases.Cases {
		name := c.Name
		if name == "" {
			name = fmt.Sprintf("case %d", i+1)
		}
		if !slices.Contains([]Outcome{NotInForce, NotApplicable, Permitted, Refused, Undecided}, c.Expect) {
			return nil, fmt.Errorf("%s: expect %.80q, the rule is permitted, refused, not_applicable, not_in_force or undecided", name, c.Expect)
		}
		values, at, err := r.read(c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		result := CaseResult{Name: name, Want: c.Expect}
		v := Verdict{Outcome: NotInForce}
		if at.IsZero() || r.InForce(at) {
			v = r.Estimate(values, at)
		}
		result.Got = v.Outcome
		switch {
		case v.Err != nil:
			result.Detail = v.Err.Error()
		case len(v.Unknown) > 0:
			result.Detail = fmt.Sprintf("it depends on %v, which the case does not give", v.Unknown)
		}
		out = append(out, result)
	}
	return out, nil
}

// read makes a context of an example.
func (r *Rule) read(c Case) (values Values, at time.Time, err error) {
	if c.At != "" {
		if at, err = time.Parse(time.RFC3339, c.At); err != nil {
			return values, at, fmt.Errorf("at %.80q, the rule is a time with its offset, such as 2027-03-01T10:00:00+05:00", c.At)
		}
	}
	types := make(map[string]celguard.Type)
	for _, v := range Variables(r.kind) {
		types[v.Name] = v.kind
	}
	for _, f := range r.Facts {
		types[f.ID] = f.Type.variable()
	}
	values = Values{Of: r.kind, Map: make(map[string]any, len(c.Context))}
	for _, name := range slices.Sorted(maps.Keys(c.Context)) {
		want, ok := types[name]
		switch {
		case !ok:
			return values, at, fmt.Errorf("context: there is no %.80q; \"civibus rule variables\" lists what there is", name)
		case slices.ContainsFunc(clock(), func(v Variable) bool { return v.Name == name }):
			return values, at, fmt.Errorf("context: %s follows from \"at\"", name)
		}
		v, ok := convert(want, c.Context[name])
		if !ok {
			return values, at, fmt.Errorf("context: %s is %.80s, which is not of its type", name, fmt.Sprint(c.Context[name]))
		}
		values.Map[name] = v
	}
	return values, at, nil
}

// convert makes a variable's value of what YAML has.
func convert(to celguard.Type, v any) (any, bool) {
	switch x := v.(type) {
	case int:
		v = int64(x)
	case string:
		switch to {
		case celguard.Time:
			t, err := time.Parse(time.DateOnly, x)
			return t, err == nil
		case celguard.Bytes:
			b, err := hex.DecodeString(x)
			return b, err == nil
		}
	case time.Time: // YAML's own, of a date that is not quoted
		v = x.UTC()
	}
	return v, to.Check(v)
}
