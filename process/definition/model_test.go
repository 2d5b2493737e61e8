package definition_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/civibus/civibus/process/definition"
)

// randomDefinition draws a definition whose steps need earlier ones only.
func randomDefinition(t *rapid.T) *definition.Definition {
	d := &definition.Definition{
		Format: definition.Format, ID: "random", Version: 1, Title: "Random", Law: definition.Law{Act: "Act"},
		Roles: []definition.Role{{ID: "office", Title: "Office"}, {ID: "register", Title: "Register"}},
		Facts: []definition.Fact{
			{ID: "open", Title: "Public", Type: definition.Bool, Public: true},
			{ID: "age", Title: "Sealed", Type: definition.Int},
		},
		Ends: []definition.End{{ID: "ended", Title: "Ended"}, {ID: "cancelled", Title: "Cancelled", Cancelled: true}},
	}
	outcome := rapid.SampledFrom([]definition.Outcome{"", definition.Escalate, definition.Skip, definition.Cancel})
	n := rapid.IntRange(1, 12).Draw(t, "steps")
	for i := range n {
		s := definition.Step{
			ID: fmt.Sprint("s", i), Title: "Step", From: rapid.SampledFrom([]string{"office", "register"}).Draw(t, "from"),
			Kind: definition.TaskStep, Deadline: definition.Duration(time.Hour), Final: true, Retries: rapid.Uint32Range(0, 2).Draw(t, "retries"),
			OnTimeout: outcome.Draw(t, "on timeout"), OnFailure: outcome.Draw(t, "on failure"),
		}
		if rapid.Bool().Draw(t, "service") {
			s.Kind, s.Service = definition.ServiceStep, "do"
		}
		if rapid.Bool().Draw(t, "undo") {
			s.Undo, s.Final = "undo", false
		}
		if i == 0 {
			s.Yields = []string{"open", "age"}
		} else {
			var before []string
			for j := range i {
				if rapid.IntRange(0, 2).Draw(t, "needs") == 0 {
					before = append(before, fmt.Sprint("s", j))
				}
			}
			switch form := rapid.IntRange(0, 2).Draw(t, "form"); {
			case len(before) == 0:
				s.Needs = &definition.Needs{All: []string{"s0"}}
			case form == 0:
				s.Needs = &definition.Needs{All: before}
			case form == 1:
				s.Needs = &definition.Needs{Any: before}
			default:
				s.Needs = &definition.Needs{Of: rapid.IntRange(1, len(before)).Draw(t, "of"), Steps: before}
			}
			s.When = rapid.SampledFrom([]string{"", "", "open", "!open", "age > 3"}).Draw(t, "when")
		}
		d.Steps = append(d.Steps, s)
	}
	return d
}

// another is a further version of a definition for an instance: what was begun is there
// as it was. Nil: there is none that compiles.
func another(t *rapid.T, d *definition.Definition, i *definition.Instance) *definition.Process {
	next := *d
	next.Version, next.Steps = 2, nil
	gone := map[string]bool{}
	for _, s := range d.Steps {
		_, state, _ := i.Step(s.ID)
		needed := s.Needs != nil && slices.ContainsFunc(s.Needs.Before(), func(id string) bool { return gone[id] })
		if state.Status == definition.Waiting && (needed || rapid.IntRange(0, 3).Draw(t, "gone") == 0) {
			gone[s.ID] = true
			continue
		}
		s.Deadline *= 2
		next.Steps = append(next.Steps, s)
	}
	next.Steps = append(next.Steps, definition.Step{
		ID: "more", Title: "Step", From: "register", Kind: definition.TaskStep, Deadline: definition.Duration(time.Hour), Final: true,
		Needs: &definition.Needs{All: []string{"s0"}}, When: rapid.SampledFrom([]string{"", "open", "age > 3"}).Draw(t, "when more"),
	})
	p, err := next.Compile()
	if err != nil {
		return nil
	}
	return p
}

// TestModel: whatever bodies post in whatever order, two replicas agree, an event that
// was refused changed nothing, every instance that goes on has somebody who has to do
// something by some time, and timeouts alone bring it to a declared end.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := randomDefinition(t)
		p, err := d.Compile()
		if err != nil {
			t.Skip(err) // a guard asks for what is not certain to come before
		}
		bodies := map[string]string{"office": "a", "register": "b"}
		one, err := p.Start("", bodies, begun)
		if err != nil {
			t.Fatal(err)
		}
		now := begun
		var taken []definition.Event
		post := func(e definition.Event) {
			// It goes on from its state as well as from itself.
			resumed, err := p.Resume("", bodies, one.State())
			if err != nil || !reflect.DeepEqual(resumed, one) {
				t.Fatalf("resumed: %v\n%+v\n%+v", err, resumed, one)
			}
			one = resumed
			before := one.Clone()
			if err := one.Apply(e); err != nil {
				if !reflect.DeepEqual(before, one) {
					t.Fatalf("%+v was refused (%v) and changed something", e, err)
				}
				return
			}
			taken = append(taken, e)
		}
		waits := func() {
			turns := one.Turns()
			if (len(turns) == 0) != (one.Phase == definition.Ended) {
				t.Fatalf("phase %d with %d turns", one.Phase, len(turns))
			}
			for _, turn := range turns {
				if turn.Body == "" || turn.Due.IsZero() {
					t.Fatalf("%+v has no owner or no deadline", turn)
				}
			}
		}
		for range rapid.IntRange(0, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "minutes")) * time.Minute)
			e := definition.Event{
				Step: fmt.Sprint("s", rapid.IntRange(0, len(d.Steps)).Draw(t, "step")), Attempt: rapid.Uint32Range(0, 3).Draw(t, "attempt"),
				Kind: definition.EventKind(rapid.IntRange(0, 7).Draw(t, "kind")), By: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "by"), At: now,
			}
			if turns := one.Turns(); len(turns) > 0 && rapid.IntRange(0, 3).Draw(t, "fits") > 0 {
				turn := rapid.SampledFrom(turns).Draw(t, "turn")
				e.Step, e.Attempt, e.By = turn.Step, turn.Attempt, turn.Body
			}
			if e.Step == "s0" && e.Kind == definition.StepDone {
				e.Yields = []definition.Yield{public("open", rapid.Bool().Draw(t, "open")), sealed("age")}
			}
			post(e)
			waits()
		}
		// Now and then it goes on under another version: with one step more, and without what
		// nobody has begun.
		moved := false
		if rapid.IntRange(0, 2).Draw(t, "migrate") == 0 {
			if next := another(t, d, one); next != nil {
				before := one.Clone()
				to, err := one.Migrate(next, now)
				if !reflect.DeepEqual(before, one) {
					t.Fatal("migration changed the instance that it began with")
				}
				if err == nil {
					one, p, moved = to, next, true
					waits()
				} else if before.Phase == definition.Running {
					t.Fatalf("it cannot go on: %v", err)
				}
			}
		}
		for rounds := 0; one.Phase != definition.Ended; rounds++ {
			if rounds > 10*len(d.Steps) {
				t.Fatalf("no end by timeouts alone: %+v", one.Turns())
			}
			turn := one.Turns()[0]
			now = now.Add(2 * time.Hour)
			post(definition.Event{Step: turn.Step, Attempt: turn.Attempt, Kind: definition.StepTimeout, By: "anybody", At: now})
			waits()
		}
		if one.End != "ended" && one.End != "cancelled" {
			t.Fatalf("end %q", one.End)
		}
		if moved {
			return // the events alone do not tell it
		}
		other, err := p.Fold("", bodies, begun, taken)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(one.Steps, other.Steps) || !reflect.DeepEqual(one.Facts, other.Facts) || one.End != other.End {
			t.Fatalf("two replicas differ:\n%+v\n%+v", one, other)
		}
	})
}
