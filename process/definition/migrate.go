package definition

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Migrate returns the instance as it goes on under another version of its process, from
// a block's time. What happened stays as it is: every step that was begun, and every fact that
// is known, must be in the other version and mean the same there. Steps that wait are
// those of the other version.
func (i *Instance) Migrate(to *Process, at time.Time) (*Instance, error) {
	// 1. The same process, with the same roles, and the instance in a state to be moved.
	plan, ok := to.plans[i.Variant]
	switch {
	case to.ID != i.process.ID:
		return nil, fmt.Errorf("it is an instance of process %s, not of %s", i.process.ID, to.ID)
	case to.Version == i.process.Version:
		return nil, fmt.Errorf("it has version %d already", to.Version)
	case !ok:
		return nil, fmt.Errorf("version %d has no variant %s", to.Version, i.Variant)
	case i.Phase != Running:
		return nil, fmt.Errorf("it is %s, the rule is running", i.Phase)
	}
	if !slices.EqualFunc(i.process.Roles, to.Roles, func(a, b Role) bool { return a.ID == b.ID }) {
		return nil, errors.New("the versions have other roles")
	}
	// 2. What is known.
	for fact := range i.Facts {
		old, _ := i.process.Fact(fact)
		next, ok := to.Fact(fact)
		if !ok || next.Type != old.Type || next.Public != old.Public || slices.ContainsFunc(old.Codes, func(c string) bool { return !slices.Contains(next.Codes, c) }) {
			return nil, fmt.Errorf("fact %s is known, and version %d has it not or otherwise", fact, to.Version)
		}
	}
	// 3. What was begun.
	out := &Instance{
		process: to, plan: plan, Variant: i.Variant, Bodies: i.Bodies, Phase: Running,
		Steps: make([]StepState, len(plan.steps)), Facts: i.Clone().Facts, Events: i.Events, Done: i.Done,
	}
	for n := range plan.steps {
		if plan.left[n] {
			out.Steps[n] = StepState{Status: Skipped, Since: at}
		}
	}
	for n := range i.plan.steps {
		old, state := &i.plan.steps[n], i.Steps[n]
		m, ok := plan.index[old.ID]
		begun := state.Status == Open || state.Status == Done || state.Last.Kind != 0
		switch {
		case ok && begun && plan.left[m], !ok && begun:
			return nil, fmt.Errorf("step %s was begun, and version %d has it not", old.ID, to.Version)
		case ok && begun && !sameStep(old, &plan.steps[m]):
			return nil, fmt.Errorf("step %s was begun, and version %d has it otherwise: role, facts and undoing stay", old.ID, to.Version)
		case ok && begun, ok && state.Status == Skipped && !plan.left[m]:
			out.Steps[m] = state
		}
	}
	// 4. What follows from it.
	var closed []int
	for _, n := range plan.sorted {
		if out.Steps[n].Status != Waiting {
			continue
		}
		if out.open(n, at); out.Steps[n].Status == Skipped {
			closed = append(closed, n)
		}
	}
	out.settle(at, closed...)
	return out, nil
}

// sameStep reports whether a step that was begun may go on as another one.
func sameStep(a, b *Step) bool {
	return a.From == b.From && a.Undo == b.Undo && a.Final == b.Final && slices.Equal(a.Yields, b.Yields)
}
