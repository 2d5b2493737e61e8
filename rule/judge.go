package rule

import (
	"fmt"
	"strings"
	"time"

	"github.com/civibus/civibus"
)

// Outcome is what a rule says of an exchange or a step.
type Outcome string

// The outcomes.
const (
	NotInForce    Outcome = "not_in_force"   // it is not yet law, or no longer
	NotApplicable Outcome = "not_applicable" // it does not apply to this one
	Permitted     Outcome = "permitted"      // it applies and is kept
	Refused       Outcome = "refused"        // it applies and is broken
	Undecided     Outcome = "undecided"      // it cannot be said; whoever asks before commit refuses
)

// Verdict is an outcome with its reason.
type Verdict struct {
	Outcome Outcome
	// Unknown are the variables without a value that the outcome depends on.
	Unknown []string
	// Err is why nothing can be said, if it is not for want of values.
	Err error
}

// InForce reports whether the rule is law at a time.
func (r *Rule) InForce(now time.Time) bool {
	return (r.from.IsZero() || !now.Before(r.from)) && (r.until.IsZero() || now.Before(r.until))
}

// Evaluate says what the rule says of a context, all of which is known, at a time. It
// does not ask whether the context is in the rule's scope, or the rule in force.
func (r *Rule) Evaluate(c Context, now time.Time) Verdict {
	if r.broken != nil {
		return Verdict{Outcome: Undecided, Err: r.broken}
	}
	if c.Kind() != r.kind {
		return Verdict{Outcome: Undecided, Err: fmt.Errorf("rule %s is about something else", r.ID)}
	}
	m := &moment{Context: c, now: now.In(r.zone)}
	if r.applies != nil {
		switch applies, err := r.applies.Holds(m); {
		case err != nil:
			return Verdict{Outcome: Undecided, Err: err}
		case !applies:
			return Verdict{Outcome: NotApplicable}
		}
	}
	switch kept, err := r.requires.Holds(m); {
	case err != nil:
		return Verdict{Outcome: Undecided, Err: err}
	case kept:
		return Verdict{Outcome: Permitted}
	}
	return Verdict{Outcome: Refused}
}

// Estimate says what the rule says of a context of which some is not known; a zero
// time is not known either. An outcome that depends on it is Undecided.
func (r *Rule) Estimate(c Context, now time.Time) Verdict {
	if r.broken != nil || c.Kind() != r.kind {
		return r.Evaluate(c, now)
	}
	m := &moment{Context: c, now: now.In(r.zone), none: now.IsZero()}
	if r.applies != nil {
		switch applies, known, err := r.applies.HoldsPartly(m); {
		case err != nil:
			return Verdict{Outcome: Undecided, Err: err}
		case !known:
			// Where it is kept in any case it does not matter whether it applies.
			if kept, known, err := r.requires.HoldsPartly(m); err == nil && known && kept {
				return Verdict{Outcome: Permitted}
			}
			return Verdict{Outcome: Undecided, Unknown: missing(m, r.applies.Variables())}
		case !applies:
			return Verdict{Outcome: NotApplicable}
		}
	}
	switch kept, known, err := r.requires.HoldsPartly(m); {
	case err != nil:
		return Verdict{Outcome: Undecided, Err: err}
	case !known:
		return Verdict{Outcome: Undecided, Unknown: missing(m, r.requires.Variables())}
	case kept:
		return Verdict{Outcome: Permitted}
	}
	return Verdict{Outcome: Refused}
}

func missing(m *moment, names []string) (out []string) {
	for _, name := range names {
		if _, ok := m.Value(name); !ok {
			out = append(out, name)
		}
	}
	return out
}

// Judge asks rules in their order and returns the refusal by the first one that is
// broken or cannot be decided, nil if none is. The versions of one rule follow each
// other, and of those that are law at the time the last one counts.
func Judge(rules []*Rule, c Context, now time.Time) *civibus.RuleRefusal {
	for i, r := range rules {
		if !r.InForce(now) || superseded(rules[i+1:], r, now) {
			continue
		}
		switch v := r.Evaluate(c, now); v.Outcome {
		case Refused:
			return r.Refusal(false)
		case Undecided:
			return r.Refusal(true)
		}
	}
	return nil
}

// Blocked asks rules like Judge where some of the context is not known yet, and returns the
// refusal by the first one that is broken whatever that turns out to be.
func Blocked(rules []*Rule, c Context, now time.Time) *civibus.RuleRefusal {
	for i, r := range rules {
		if r.InForce(now) && !superseded(rules[i+1:], r, now) && r.Estimate(c, now).Outcome == Refused {
			return r.Refusal(false)
		}
	}
	return nil
}

// superseded reports whether a later version of the rule is law.
func superseded(later []*Rule, r *Rule, now time.Time) bool {
	for _, l := range later {
		if l.Number != r.Number || l.owner != r.owner {
			return false
		}
		if l.InForce(now) {
			return true
		}
	}
	return false
}

// Refusal is what someone is told whom the rule refuses.
func (r *Rule) Refusal(undecided bool) *civibus.RuleRefusal {
	return &civibus.RuleRefusal{
		ID: r.ID, Number: r.Number, Version: r.Version, Title: r.Title, Text: r.Text,
		Act: r.Law.Act, Provision: r.Law.Provision, URI: r.Law.URI, Remedy: r.Remedy, Undecided: undecided,
	}
}

// Sentence tells a person what a refusal says.
func Sentence(f *civibus.RuleRefusal) string {
	var b strings.Builder
	if f.Undecided {
		fmt.Fprintf(&b, "It cannot be decided whether rule %s (%s, version %d) is kept, and so the request is not allowed", f.Number, f.Title, f.Version)
	} else {
		fmt.Fprintf(&b, "Rule %s (%s, version %d) does not allow this request", f.Number, f.Title, f.Version)
	}
	fmt.Fprintf(&b, "; it rests on %s, %s", f.Act, f.Provision)
	if f.URI != "" {
		fmt.Fprintf(&b, " (%s)", f.URI)
	}
	b.WriteString(". What to do: ")
	b.WriteString(f.Remedy)
	return b.String()
}
