package definition

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// EventKind is what an event says of a step.
type EventKind uint8

// The kinds of events.
const (
	StepDone    EventKind = iota + 1
	StepSkipped           // its condition over sealed facts does not hold
	StepFailed
	StepTimeout // it is due and was not done; anybody may say so
	StepReverted
	RevertFailed
)

var kindNames = [...]string{"", "done", "skipped", "failed", "timeout", "reverted", "revert_failed"}

// String returns the lower-case name.
func (k EventKind) String() string {
	if k > 0 && int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Event is what a body says of a step. By and At are the ledger's.
type Event struct {
	Step    string
	Attempt uint32
	Kind    EventKind
	Yields  []Yield // of a step that is done: in the order of the definition
	By      string  // the body that posted it
	At      time.Time
}

// Yield is a fact that a step found out: a value if the fact is public, otherwise a
// commitment to one.
type Yield struct {
	Fact       string
	Commitment Commitment
	Value      Value
}

// RefusalCode is why an event is refused.
type RefusalCode uint8

// The codes.
const (
	Already     RefusalCode = iota + 1 // the very event was taken before; nothing is to be done
	UnknownStep                        // the instance has no such step
	NotYourStep                        // another body has to do it
	NotYourTurn                        // it is not to be done now
	BadAttempt                         // another attempt is under way
	Conflict                           // the attempt was closed with other content
	NotDue                             // it may still be done in time
	BadFacts                           // the facts are not those that the step yields
	GuardPublic                        // whether it is skipped is decided by the ledger
	HasEnded                           // nothing happens to the instance any more
	TooMany                            // the instance has had as many events as it may
	BadEvent                           // there is no such kind of event
)

var codeNames = [...]string{"", "already", "unknown_step", "not_your_step", "not_your_turn", "bad_attempt", "conflict", "not_due", "bad_facts", "guard_public", "has_ended", "too_many_events", "bad_event"}

// String returns the lower-case name.
func (c RefusalCode) String() string {
	if c > 0 && int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "unknown"
}

// Refusal says why an event changes nothing.
type Refusal struct {
	Code   RefusalCode
	Reason string
}

// Error is the reason.
func (r *Refusal) Error() string { return r.Code.String() + ": " + r.Reason }

func refuse(c RefusalCode, format string, args ...any) *Refusal {
	return &Refusal{c, fmt.Sprintf(format, args...)}
}

// humanTries is how often a civil servant may be late before the instance goes on
// without him.
const humanTries = 3

// Apply folds one event into the instance, or refuses it and changes nothing.
func (i *Instance) Apply(e Event) error {
	// 1. Which step it is about, and whether the event was taken before.
	n, ok := i.plan.index[e.Step]
	if !ok {
		return refuse(UnknownStep, "%.64q is no step of process %s", e.Step, i.process.ID)
	}
	step, s := &i.plan.steps[n], &i.Steps[n]
	digest := e.digest()
	if s.Last.Kind != 0 && s.Last.Digest == digest {
		return refuse(Already, "step %s, attempt %d is %s already", step.ID, e.Attempt, e.Kind)
	}
	// 2. Whether anything may happen, and by whom.
	switch {
	case i.Phase == Ended:
		return refuse(HasEnded, "the instance ended as %s", i.End)
	case i.Events >= MaxEvents:
		return refuse(TooMany, "the instance has had %d events, the rule is at most as many", MaxEvents)
	case e.Kind != StepTimeout && e.By != i.Bodies[step.From]:
		return refuse(NotYourStep, "step %s is of %s, who plays %s; the event is of %s", step.ID, i.Bodies[step.From], step.From, e.By)
	}
	if r := i.fits(step, s, &e); r != nil {
		return r
	}
	// 3. What it makes of the step.
	i.Events++
	s.Last = Closed{e.Attempt, e.Kind, digest}
	switch e.Kind {
	case StepDone:
		i.Done++
		i.close(s, Done, e.At)
		s.Place = i.Done
		for _, y := range e.Yields {
			i.Facts[y.Fact] = Known{y.Commitment, y.Value, step.ID, e.Attempt}
		}
	case StepSkipped:
		i.close(s, Skipped, e.At)
	case StepFailed:
		if s.Attempt <= step.Retries {
			s.Attempt++
			s.Since, s.Due = e.At, e.At.Add(time.Duration(step.Deadline))
		} else {
			i.follow(orElse(step.OnFailure, Cancel), step, s, e.At)
		}
	case StepTimeout:
		i.late(step, s, e.At)
	case StepReverted:
		i.close(s, Reverted, e.At)
	case RevertFailed:
		s.Attempt++
		s.Human = true
		s.Since, s.Due = e.At, e.At.Add(time.Duration(step.Deadline))
	}
	// 4. What follows for the others.
	i.settle(e.At, n)
	return nil
}

// fits checks that the event is one that the step waits for.
func (i *Instance) fits(step *Step, s *StepState, e *Event) *Refusal {
	want := Open
	switch e.Kind {
	case StepDone, StepSkipped, StepFailed:
	case StepReverted, RevertFailed:
		want = Reverting
	case StepTimeout:
		if s.Status == Reverting {
			want = Reverting
		}
	default:
		return refuse(BadEvent, "kind %d, the rule is done, skipped, failed, timeout, reverted or revert_failed", e.Kind)
	}
	switch {
	case s.Status != want && s.Last.Kind != 0 && s.Last.Attempt == e.Attempt:
		return refuse(Conflict, "step %s, attempt %d was closed as %s before", step.ID, e.Attempt, s.Last.Kind)
	case s.Status != want:
		return refuse(NotYourTurn, "step %s is %s", step.ID, s.Status)
	case e.Attempt != s.Attempt:
		return refuse(BadAttempt, "step %s is at attempt %d, the event is of attempt %d", step.ID, s.Attempt, e.Attempt)
	case e.Kind == StepTimeout && e.At.Before(s.Due):
		return refuse(NotDue, "step %s is due at %s", step.ID, s.Due.UTC().Format(time.RFC3339))
	case e.Kind != StepDone && len(e.Yields) > 0:
		return refuse(BadFacts, "an event of kind %s has facts, which only done has", e.Kind)
	case e.Kind == StepSkipped && !i.sealedGuard(step):
		return refuse(GuardPublic, "step %s has no condition over sealed facts, so that its body does not decide to skip it", step.ID)
	case e.Kind == StepDone:
		return i.checkYields(step, e.Yields)
	}
	return nil
}

// checkYields checks that a step's facts are those of the definition.
func (i *Instance) checkYields(step *Step, yields []Yield) *Refusal {
	if len(yields) != len(step.Yields) {
		return refuse(BadFacts, "step %s yields %d facts, the event has %d", step.ID, len(step.Yields), len(yields))
	}
	for n, y := range yields {
		f := i.plan.facts[step.Yields[n]]
		switch {
		case y.Fact != f.ID:
			return refuse(BadFacts, "step %s yields %s in this place, the event has %.64q", step.ID, f.ID, y.Fact)
		case f.Public && y.Commitment != Commitment{}:
			return refuse(BadFacts, "fact %s is public and has no commitment", f.ID)
		case f.Public:
			if err := f.CheckValue(y.Value); err != nil {
				return refuse(BadFacts, "%v", err)
			}
		case y.Value != nil:
			return refuse(BadFacts, "fact %s is sealed: its value has no place on the ledger", f.ID)
		case y.Commitment == Commitment{}:
			return refuse(BadFacts, "fact %s has no commitment", f.ID)
		}
	}
	return nil
}

// digest is the same for events that say the same: when a body posted it does not
// count, nor who said that a step is late.
func (e *Event) digest() [32]byte {
	b := make([]byte, 0, 256)
	add := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	add(e.Step)
	b = append(binary.AppendUvarint(b, uint64(e.Attempt)), byte(e.Kind))
	if e.Kind != StepTimeout {
		add(e.By)
	}
	for _, y := range e.Yields {
		add(y.Fact)
		b = append(b, y.Commitment[:]...)
		add(PublicText(y.Value))
	}
	return sha256.Sum256(b)
}

func orElse(o, otherwise Outcome) Outcome {
	if o == "" {
		return otherwise
	}
	return o
}

// close ends what was to be done with a step.
func (i *Instance) close(s *StepState, to Status, at time.Time) {
	s.Status, s.Since, s.Due = to, at, time.Time{}
}

// late is what follows when a step was not done in time.
func (i *Instance) late(step *Step, s *StepState, at time.Time) {
	s.Late++
	switch {
	case s.Status == Reverting && s.Late >= humanTries:
		i.close(s, Abandoned, at)
	case s.Status == Reverting:
		s.Human, s.Attempt = true, s.Attempt+1
		s.Since, s.Due = at, at.Add(time.Duration(step.Deadline))
	default:
		i.follow(orElse(step.OnTimeout, Escalate), step, s, at)
	}
}

// follow is what follows when a step was not done.
func (i *Instance) follow(o Outcome, step *Step, s *StepState, at time.Time) {
	switch o {
	case Escalate:
		if s.Escalated { // the civil servant did not do it either
			i.cancel(at)
			return
		}
		s.Escalated, s.Human, s.Attempt = true, true, s.Attempt+1
		s.Since, s.Due = at, at.Add(time.Duration(step.Deadline))
	case Skip:
		i.close(s, Skipped, at)
	case Cancel:
		i.cancel(at)
	}
}

// cancel closes what is open and begins to undo what was done.
func (i *Instance) cancel(at time.Time) {
	i.Phase = Undoing
	for n := range i.Steps {
		if s := &i.Steps[n]; s.Status == Open || s.Status == Waiting {
			i.close(s, Skipped, at)
		}
	}
}

// settle opens and skips what follows from steps that were closed, and ends the
// instance when there is nothing left to do.
func (i *Instance) settle(at time.Time, closed ...int) {
	if i.Phase == Undoing {
		i.undo(at)
		return
	}
	for len(closed) > 0 {
		next := i.plan.after[closed[0]]
		closed = closed[1:]
		for _, n := range next {
			if i.open(n, at); i.Steps[n].Status == Skipped {
				closed = append(closed, n)
			}
		}
	}
	if !i.waits() {
		i.finish()
	}
}

// waits reports whether there is a step that is or may still be done.
func (i *Instance) waits() bool {
	for n := len(i.Steps) - 1; n >= 0; n-- { // as a rule the last ones are
		if s := &i.Steps[n]; s.Status == Open || s.Status == Waiting {
			return true
		}
	}
	return false
}

// open opens a step that waits, or skips it, if what it needs is there.
func (i *Instance) open(n int, at time.Time) {
	s, step := &i.Steps[n], &i.plan.steps[n]
	if s.Status != Waiting {
		return
	}
	switch ready, dead := i.needs(step.Needs); {
	case dead || ready && i.guardFails(n):
		i.close(s, Skipped, at)
	case ready:
		*s = StepState{Status: Open, Attempt: 1, Since: at, Due: at.Add(time.Duration(step.Deadline)), Human: step.Kind == TaskStep}
	}
}

// needs reports whether a step may be done, and whether it never can be.
func (i *Instance) needs(n *Needs) (ready, dead bool) {
	if n == nil {
		return true, false
	}
	done, settled := 0, 0
	list := n.Before()
	for _, id := range list {
		switch i.Steps[i.plan.index[id]].Status {
		case Done:
			done, settled = done+1, settled+1
		case Skipped:
			settled++
		}
	}
	if want := n.count(); want > 0 {
		return done >= want, done+len(list)-settled < want
	}
	return settled == len(list) && done > 0, settled == len(list) && done == 0
}

// guardFails reports whether the ledger knows that a step's condition does not hold:
// one over public facts is false, or a fact was never found out. What is left is
// decided by the body that has the facts.
func (i *Instance) guardFails(n int) bool {
	g := i.plan.guards[n]
	if g == nil {
		return false
	}
	for _, f := range g.Facts() {
		if _, ok := i.Facts[f]; !ok {
			return true
		}
	}
	if i.sealedGuard(&i.plan.steps[n]) {
		return false
	}
	holds, err := g.Holds(i.public())
	return err != nil || !holds
}

func (i *Instance) public() map[string]Value {
	out := make(map[string]Value)
	for f, known := range i.Facts {
		if known.Value != nil {
			out[f] = known.Value
		}
	}
	return out
}

// sealedGuard reports whether a step's condition asks for a sealed fact.
func (i *Instance) sealedGuard(step *Step) bool {
	g := i.plan.guards[i.plan.index[step.ID]]
	return g != nil && slices.ContainsFunc(g.Facts(), func(f string) bool { return !i.plan.facts[f].Public })
}

// undo asks for the last step done that is not taken back yet.
func (i *Instance) undo(at time.Time) {
	next := -1
	for n := range i.Steps {
		s := &i.Steps[n]
		if s.Status == Reverting {
			return
		}
		if s.Status == Done && i.plan.steps[n].Undo != "" && (next < 0 || s.Place > i.Steps[next].Place) {
			next = n
		}
	}
	if next < 0 {
		i.finish()
		return
	}
	s := &i.Steps[next]
	s.Status, s.Attempt, s.Human, s.Late, s.Last = Reverting, 1, false, 0, Closed{}
	s.Since, s.Due = at, at.Add(time.Duration(i.plan.steps[next].Deadline))
}

// finish ends the instance.
func (i *Instance) finish() {
	cancelled := i.Phase == Undoing
	i.Phase = Ended
	for n, e := range i.process.Ends {
		if e.Cancelled != cancelled {
			continue
		}
		ready, _ := i.needs(e.Needs)
		if g := i.plan.ends[n]; ready && g != nil {
			holds, err := g.Holds(i.public())
			ready = holds && err == nil
		}
		if ready {
			i.End = e.ID
			return
		}
	}
}

// Fold replays events that were taken. An error is one that could not have been.
func (p *Process) Fold(variant string, bodies map[string]string, started time.Time, events []Event) (*Instance, error) {
	i, err := p.Start(variant, bodies, started)
	if err != nil {
		return nil, err
	}
	for n, e := range events {
		if err := i.Apply(e); err != nil {
			return nil, fmt.Errorf("event %d: %w", n, err)
		}
	}
	return i, nil
}

// IsAlready reports whether an event was refused because it was taken before.
func IsAlready(err error) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Code == Already
}
