package process

import (
	"fmt"
	"slices"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/rule"
)

// RuleNotKept: a rule with its law does not let a body do a step, or nobody could say
// whether it does. Nothing was kept; the refusal says what to do.
type RuleNotKept struct{ Refusal *civibus.RuleRefusal }

// Error names the rule, its provision and the remedy.
func (e *RuleNotKept) Error() string {
	r := e.Refusal
	what := "is not kept"
	if r.Undecided {
		what = "could not be judged"
	}
	return fmt.Sprintf("rule %s %s (%s, %s): %s", r.ID, what, r.Act, r.Provision, r.Remedy)
}

// judge holds a turn against the rules for its step. facts are those that the body has
// of the instance, and what it is about to say.
func (r *Runtime) judge(v *registry.View, in *registry.ProcessInstance, run *definition.Instance, t definition.Turn, facts map[string]definition.Value) error {
	rules := v.RulesForStep(in.Process, t.Step)
	if len(rules) == 0 || t.Undo {
		return nil
	}
	if refused := rule.Judge(rules, contextOf(in, run, t, facts), r.Clock()); refused != nil {
		return &RuleNotKept{refused}
	}
	return nil
}

// blocked returns the refusal of a rule that forbids a turn whatever its system would
// find out, by all that the body knows and not only what its system is shown.
func (r *Runtime) blocked(v *registry.View, in *registry.ProcessInstance, run *definition.Instance, t definition.Turn) (*civibus.RuleRefusal, error) {
	rules := v.RulesForStep(in.Process, t.Step)
	if len(rules) == 0 || t.Undo {
		return nil, nil
	}
	known, err := r.known(run, in.ID)
	if err != nil {
		return nil, err
	}
	return rule.Blocked(rules, contextOf(in, run, t, known), r.Clock()), nil
}

// contextOf is what rules are told of a turn (spec/rule.md section 4).
func contextOf(in *registry.ProcessInstance, run *definition.Instance, t definition.Turn, facts map[string]definition.Value) rule.Values {
	step, state, _ := run.Step(t.Step)
	place := func(role string) civibus.ClientID {
		n := slices.IndexFunc(in.Parts, func(p registry.Part) bool { return p.Role == role })
		if n < 0 {
			return civibus.ClientID{}
		}
		return in.Parts[n].Subsystem
	}
	by, to := place(step.From), ""
	if step.To != "" {
		to = place(step.To).MemberID.String()
	}
	out := rule.Values{Of: rule.Step, Map: map[string]any{
		"process": in.Process.Owner.String() + "/" + in.Process.Name, "process_version": int64(in.Process.Version), "variant": in.Variant,
		"step": t.Step, "attempt": int64(t.Attempt), "escalated": state.Escalated, "role": t.Role,
		"member": by.MemberID.String(), "member_class": by.Class, "subsystem": by.String(), "to_role": step.To, "to_member": to,
	}}
	for fact, value := range facts {
		if _, taken := out.Map[fact]; !taken {
			out.Map[fact] = value
		}
	}
	return out
}

// known are the values of the facts that the body has of an instance: public ones, and
// sealed ones that the registry has a commitment to.
func (r *Runtime) known(run *definition.Instance, instance string) (map[string]definition.Value, error) {
	held, err := r.store.held(instance)
	if err != nil {
		return nil, err
	}
	out := make(map[string]definition.Value)
	for id, known := range run.Facts {
		if known.Value != nil {
			out[id] = known.Value
			continue
		}
		h := held[id]
		if h == nil || h.commitment() != known.Commitment {
			continue
		}
		f, _ := run.Process().Fact(id)
		if v, err := f.ParseText(h.Text); err == nil {
			out[id] = v
		}
	}
	return out, nil
}
