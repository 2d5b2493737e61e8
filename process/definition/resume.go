package definition

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// State is what the events of an instance made of it, without the definition: enough
// to go on from.
type State struct {
	Phase  Phase
	End    string // once it ended
	Events int
	Done   uint32      // steps done so far
	Steps  []StepState // in the order of the variant's plan
	Facts  []KnownFact // by fact
}

// KnownFact is what is known of one fact.
type KnownFact struct {
	Fact       string
	Commitment Commitment
	Value      string // of a public fact, as PublicText writes it; "": it is sealed
	Step       string
	Attempt    uint32
}

// State returns what Resume goes on from. It shares nothing with the instance.
func (i *Instance) State() State {
	s := State{Phase: i.Phase, End: i.End, Events: i.Events, Done: i.Done, Steps: slices.Clone(i.Steps)}
	for fact, known := range i.Facts {
		s.Facts = append(s.Facts, KnownFact{fact, known.Commitment, PublicText(known.Value), known.Step, known.Attempt})
	}
	slices.SortFunc(s.Facts, func(a, b KnownFact) int { return strings.Compare(a.Fact, b.Fact) })
	return s
}

// Resume returns the instance that has a state. An error is a state that no instance
// of the process can have.
func (p *Process) Resume(variant string, bodies map[string]string, s State) (*Instance, error) {
	plan, ok := p.plans[variant]
	if !ok {
		return nil, fmt.Errorf("process %s has no variant %.64q", p.ID, variant)
	}
	if len(s.Steps) != len(plan.steps) {
		return nil, fmt.Errorf("process %s has %d steps, the state has %d", p.ID, len(plan.steps), len(s.Steps))
	}
	i := &Instance{
		process: p, plan: plan, Variant: variant, Bodies: bodies, Phase: s.Phase, End: s.End,
		Steps: slices.Clone(s.Steps), Facts: make(map[string]Known, len(s.Facts)), Events: s.Events, Done: s.Done,
	}
	for _, f := range s.Facts {
		known := Known{Commitment: f.Commitment, Step: f.Step, Attempt: f.Attempt}
		if f.Value != "" {
			var err error
			if known.Value, err = p.PublicValue(f.Fact, f.Value); err != nil {
				return nil, err
			}
		}
		i.Facts[f.Fact] = known
	}
	return i, nil
}

// PublicText writes the value of a public fact: true, false or the code. Nil is "".
func PublicText(v Value) string {
	switch v := v.(type) {
	case bool:
		return strconv.FormatBool(v)
	case string:
		return v
	}
	return ""
}

// PublicValue reads what PublicText wrote.
func (p *Process) PublicValue(fact, text string) (Value, error) {
	for n := range p.Facts {
		f := &p.Facts[n]
		if f.ID != fact {
			continue
		}
		var v Value = text
		switch {
		case !f.Public:
			return nil, fmt.Errorf("fact %s is sealed: its value has no place on the ledger", fact)
		case f.Type == Bool && (text == "true" || text == "false"):
			v = text == "true"
		}
		return v, f.CheckValue(v)
	}
	return nil, fmt.Errorf("process %s has no fact %.64q", p.ID, fact)
}
