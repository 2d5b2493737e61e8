// Package process measures what nodes do for processes: the fold of an instance of 256
// steps, and the guards. How many events the ledger takes is bench/ledger's kind step.
package process

import (
	"fmt"
	"testing"
	"time"

	"github.com/civibus/civibus/process/definition"
)

var begun = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

// long is a process of 256 steps, one after the other, each with a guard, and the events
// that bring it to its end.
func long(tb testing.TB) (*definition.Process, []definition.Event) {
	d := &definition.Definition{
		Format: definition.Format, ID: "long", Version: 1, Title: "Long", Law: definition.Law{Act: "Act"},
		Roles: []definition.Role{{ID: "office", Title: "Office"}},
		Facts: []definition.Fact{{ID: "open", Title: "Public", Type: definition.Bool, Public: true}},
		Ends:  []definition.End{{ID: "ended", Title: "Ended"}, {ID: "cancelled", Title: "Cancelled", Cancelled: true}},
	}
	var events []definition.Event
	for i := range definition.MaxSteps {
		s := definition.Step{ID: fmt.Sprint("s", i), Title: "Step", From: "office", Kind: definition.TaskStep, Deadline: definition.Duration(time.Hour), Final: true}
		e := definition.Event{Step: s.ID, Attempt: 1, Kind: definition.StepDone, By: "a", At: begun}
		if i == 0 {
			s.Yields, e.Yields = []string{"open"}, []definition.Yield{{Fact: "open", Value: true}}
		} else {
			s.Needs, s.When = &definition.Needs{All: []string{fmt.Sprint("s", i-1)}}, "open"
		}
		d.Steps, events = append(d.Steps, s), append(events, e)
	}
	p, err := d.Compile()
	if err != nil {
		tb.Fatal(err)
	}
	return p, events
}

// BenchmarkFold256 folds all events of an instance of 256 steps, each with a guard.
func BenchmarkFold256(b *testing.B) {
	p, events := long(b)
	b.ReportAllocs()
	for b.Loop() {
		if i, err := p.Fold("", map[string]string{"office": "a"}, begun, events); err != nil || i.End != "ended" {
			b.Fatal(err, i)
		}
	}
}

// BenchmarkEvent256 is one event of it as the registry takes it: from the state, and
// back to it.
func BenchmarkEvent256(b *testing.B) {
	p, events := long(b)
	half, err := p.Fold("", map[string]string{"office": "a"}, begun, events[:128])
	if err != nil {
		b.Fatal(err)
	}
	state, bodies := half.State(), map[string]string{"office": "a"}
	b.ReportAllocs()
	for b.Loop() {
		i, err := p.Resume("", bodies, state)
		if err == nil {
			err = i.Apply(events[128])
		}
		if err != nil {
			b.Fatal(err)
		}
		_ = i.State()
	}
}

// BenchmarkGuard evaluates guards over facts of every type, from a plain one to one that
// asks for much.
func BenchmarkGuard(b *testing.B) {
	facts := []definition.Fact{
		{ID: "resident", Title: "Resident", Type: definition.Bool}, {ID: "age", Title: "Age", Type: definition.Int}, {ID: "district", Title: "District", Type: definition.Code, Codes: []string{"north", "south"}},
		{ID: "born", Title: "Born", Type: definition.Date}, {ID: "child", Title: "Child", Type: definition.Hash},
	}
	values := map[string]definition.Value{"resident": true, "age": int64(7), "district": "north", "born": begun.Truncate(24 * time.Hour), "child": make([]byte, 32)}
	for name, text := range map[string]string{
		"plain": "resident",
		"usual": `resident && age >= 3 && district != "south"`,
		"large": `(resident && age * 12 + 5 > 40 && district != "south" && born < timestamp("2027-01-01T00:00:00Z") && size(child) == 32) || (age < 0 && !resident)`,
	} {
		b.Run(name, func(b *testing.B) {
			d := &definition.Definition{
				Format: definition.Format, ID: "guard", Version: 1, Title: "Guard", Law: definition.Law{Act: "Act"},
				Roles: []definition.Role{{ID: "office", Title: "Office"}}, Facts: facts,
				Steps: []definition.Step{
					{ID: "ask", Title: "Ask", From: "office", Kind: definition.TaskStep, Yields: []string{"resident", "age", "district", "born", "child"}, Deadline: definition.Duration(time.Hour), Final: true},
					{ID: "do", Title: "Do", From: "office", Kind: definition.TaskStep, Needs: &definition.Needs{All: []string{"ask"}}, When: text, Deadline: definition.Duration(time.Hour), Final: true},
				},
				Ends: []definition.End{{ID: "ended", Title: "Ended"}, {ID: "cancelled", Title: "Cancelled", Cancelled: true}},
			}
			p, err := d.Compile()
			if err != nil {
				b.Fatal(err)
			}
			i, err := p.Start("", map[string]string{"office": "a"}, begun)
			if err != nil {
				b.Fatal(err)
			}
			g := i.Guard("do")
			b.ReportAllocs()
			for b.Loop() {
				if holds, err := g.Holds(values); err != nil || !holds {
					b.Fatal(holds, err)
				}
			}
		})
	}
}
