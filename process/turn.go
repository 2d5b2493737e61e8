package process

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry"
)

// maxAnswer bounds what is read of a system's or another body's answer.
const maxAnswer = 256 << 10

// Turn is what a system is told of something that it has to do.
type Turn struct {
	Process  string         `json:"process"`
	Instance string         `json:"instance"`
	Variant  string         `json:"variant,omitempty"`
	Role     string         `json:"role"`
	Step     string         `json:"step"`
	Title    string         `json:"title"`
	Attempt  uint32         `json:"attempt"`
	Service  string         `json:"service,omitempty"` // the local service that does it or takes it back
	Undo     bool           `json:"undo,omitempty"`    // it is to be taken back
	Human    bool           `json:"human,omitempty"`   // a civil servant has to see to it
	Due      time.Time      `json:"due"`
	Facts    map[string]any `json:"facts,omitempty"` // that are opened for it
	Yields   []string       `json:"yields,omitempty"`
	Missing  []string       `json:"missing,omitempty"` // facts that have not come yet
	Waiting  bool           `json:"waiting,omitempty"` // it is done, and its event is on its way
	// Rule is the rule that does not let the body do it, whatever its system finds out.
	Rule *civibus.RuleRefusal `json:"rule,omitempty"`
}

// Report is what a system says of its turn.
type Report struct {
	// Outcome is done or failed, and skipped where the step's condition is the body's
	// to decide.
	Outcome string `json:"outcome"`
	// Facts are those that the step yields, all of them, if it is done.
	Facts map[string]any `json:"facts,omitempty"`
	// Reason is for the log of the body; it leaves it never.
	Reason string `json:"reason,omitempty"`
}

// turnOf describes a turn to a system.
func (r *Runtime) turnOf(in *registry.ProcessInstance, run *definition.Instance, t definition.Turn, facts map[string]opened) *Turn {
	step, _, _ := run.Step(t.Step)
	out := &Turn{
		Process: in.Process.String(), Instance: in.ID, Variant: in.Variant, Role: t.Role, Step: t.Step, Title: step.Title,
		Attempt: t.Attempt, Service: step.Service, Undo: t.Undo, Human: t.Human, Due: t.Due, Facts: make(map[string]any),
	}
	if t.Undo {
		out.Service = step.Undo
	} else {
		out.Yields = step.Yields
	}
	for id, f := range facts {
		out.Facts[id] = jsonOf(f.value)
	}
	return out
}

// jsonOf is a value as systems have it.
func jsonOf(v definition.Value) any {
	switch v := v.(type) {
	case bool, int64:
		return v
	}
	return definition.Text(v)
}

// textOf reads a value of JSON.
func textOf(v any) (string, bool) {
	switch v := v.(type) {
	case bool:
		return strconv.FormatBool(v), true
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	}
	return "", false
}

// The types of the CloudEvents that systems get.
const (
	turnType = "org.civibus.process.turn"
	undoType = "org.civibus.process.undo"
)

// cloudEvent is a CloudEvent 1.0 in JSON.
type cloudEvent struct {
	SpecVersion string    `json:"specversion"`
	Type        string    `json:"type"`
	Source      string    `json:"source"`
	ID          string    `json:"id"`
	Subject     string    `json:"subject"`
	Time        time.Time `json:"time"`
	ContentType string    `json:"datacontenttype"`
	Data        *Turn     `json:"data"`
}

// dispatch sends a turn to a system. The system answers 200 with what came of it, or
// 202 if it will report later; everything else is tried again, so that a system that
// was down goes on where it was.
func (r *Runtime) dispatch(ctx context.Context, p *Part, t *Turn) error {
	// 1. The event, signed by the body.
	e := &cloudEvent{
		SpecVersion: "1.0", Type: turnType, Source: "/" + t.Process, ID: fmt.Sprintf("%s/%s/%d", t.Instance, t.Step, t.Attempt), Subject: t.Step,
		Time: r.Clock().UTC(), ContentType: "application/json", Data: t,
	}
	if t.Undo {
		e.Type, e.ID = undoType, e.ID+"/undo"
	}
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.System, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/cloudevents+json")
	if r.Sign != nil {
		if err := r.Sign(ctx, req, body); err != nil {
			return fmt.Errorf("sign the event for %s: %w", p.Subsystem, err)
		}
	}
	// 2. The answer.
	resp, err := r.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("call the system of %s: %w", p.Subsystem, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the answer of the system of %s: %w", p.Subsystem, err)
	case resp.StatusCode == http.StatusAccepted:
		return errLater
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("the system of %s answered %d, the rule is 200 with the outcome, or 202", p.Subsystem, resp.StatusCode)
	case len(answer) > maxAnswer:
		return fmt.Errorf("the system of %s answered more than %d bytes", p.Subsystem, maxAnswer)
	}
	report, err := readReport(answer)
	if err != nil {
		return fmt.Errorf("the system of %s: %w", p.Subsystem, err)
	}
	// 3. What came of it.
	return settled(r.Report(ctx, p.Subsystem, t.Instance, t.Step, t.Attempt, report))
}

// errLater: the system reports when it has the result. It is asked again after a while,
// in case it forgot.
var errLater = errors.New("the system reports later")

func readReport(text []byte) (*Report, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	d.DisallowUnknownFields()
	report := &Report{}
	if err := d.Decode(report); err != nil {
		return nil, fmt.Errorf("its report: %w", err)
	}
	return report, nil
}

// BadReport is a report that does not fit its turn: what a system said is wrong, and
// nothing was kept.
type BadReport struct{ Reason string }

// Error is the reason.
func (e *BadReport) Error() string { return e.Reason }

// NotFoundError: there is no such instance, or the subsystem has no part in it.
type NotFoundError struct{ Reason string }

// Error is the reason.
func (e *NotFoundError) Error() string { return e.Reason }

// Report takes what a system says of its turn. When it returns without an error the
// registry has the event; with a *Refused the registry refused it; after any other
// error but *BadReport, *NotFoundError and *RuleNotKept the result is kept, and its event is posted
// later.
func (r *Runtime) Report(ctx context.Context, subsystem civibus.ClientID, instance, step string, attempt uint32, report *Report) error {
	// 1. Whether it is the subsystem's turn.
	in, run, err := r.instance(subsystem, instance)
	if err != nil {
		return err
	}
	turns := run.Turns()
	n := slices.IndexFunc(turns, func(t definition.Turn) bool {
		return t.Step == step && t.Attempt == attempt && t.Body == subsystem.String()
	})
	if n < 0 {
		return r.reportAgain(ctx, run, subsystem, instance, step, attempt, report)
	}
	t := turns[n]
	// 2. Whether the report fits it, and the rules for the step let the body say so.
	res, facts, err := r.resultOf(in, run, t, report)
	if err != nil {
		return err
	}
	if err := r.lawful(in, run, t, res, facts); err != nil {
		return err
	}
	// 3. On disk, unless the same is there already; something else of the same turn is wrong.
	old, err := r.keep(res, facts, deliveriesOf(in, run, subsystem, facts))
	switch {
	case err != nil:
		return err
	case old != nil && !r.sameReport(run, old, report):
		return &BadReport{fmt.Sprintf("step %s, attempt %d was reported as %s before", step, attempt, old.Kind)}
	case old != nil:
		res = old
	}
	// 4. To the registry.
	return r.publish(ctx, res)
}

// lawful holds what a body is about to say of a step that is done against the rules.
func (r *Runtime) lawful(in *registry.ProcessInstance, run *definition.Instance, t definition.Turn, res *result, facts []*Held) error {
	v := r.View()
	if res.Kind != definition.StepDone || v == nil || len(v.RulesForStep(in.Process, t.Step)) == 0 {
		return nil
	}
	known, err := r.known(run, in.ID)
	if err != nil {
		return err
	}
	say := func(id, text string) {
		if f, ok := run.Process().Fact(id); ok {
			if value, err := f.ParseText(text); err == nil {
				known[id] = value
			}
		}
	}
	for _, y := range res.Yields {
		if y.Value != "" {
			say(y.Fact, y.Value)
		}
	}
	for _, h := range facts {
		say(h.Fact, h.Text)
	}
	return r.judge(v, in, run, t, known)
}

// instance looks up an instance in which a subsystem has a part.
func (r *Runtime) instance(subsystem civibus.ClientID, id string) (*registry.ProcessInstance, *definition.Instance, error) {
	v := r.View()
	if v == nil {
		return nil, nil, errors.New("there is no registry view yet")
	}
	in, ok, err := v.ProcessInstance(id)
	if err != nil {
		return nil, nil, err
	}
	if !ok || !slices.ContainsFunc(in.Parts, func(p registry.Part) bool { return p.Subsystem == subsystem }) {
		return nil, nil, &NotFoundError{fmt.Sprintf("there is no instance %.40q in which %s has a part", id, subsystem)}
	}
	run, err := resume(v, &in)
	return &in, run, err
}

// reportAgain answers a report of what is no turn now: it was taken before, or is none
// of the body's.
func (r *Runtime) reportAgain(ctx context.Context, run *definition.Instance, subsystem civibus.ClientID, instance, step string, attempt uint32, report *Report) error {
	for _, undo := range []bool{false, true} {
		var old result
		if known, err := r.store.get(resultKey(instance, step, attempt, undo), &old); err != nil {
			return err
		} else if known && r.sameReport(run, &old, report) {
			if old.Refused != "" {
				return &Refused{registry.NotYourTurn, old.Refused}
			}
			return r.publish(ctx, &old)
		}
	}
	return &Refused{registry.NotYourTurn, fmt.Sprintf("step %.64q, attempt %d of instance %s is not to be done by %s now", step, attempt, instance, subsystem)}
}

// resultOf makes the event of a report, and the facts with fresh salts.
func (r *Runtime) resultOf(in *registry.ProcessInstance, run *definition.Instance, t definition.Turn, report *Report) (*result, []*Held, error) {
	res := &result{Instance: in.ID, Step: t.Step, Attempt: t.Attempt}
	switch {
	case report.Outcome == "done" && t.Undo:
		res.Kind = definition.StepReverted
	case report.Outcome == "done":
		res.Kind = definition.StepDone
	case report.Outcome == "failed" && t.Undo:
		res.Kind = definition.RevertFailed
	case report.Outcome == "failed":
		res.Kind = definition.StepFailed
	case report.Outcome == "skipped" && !t.Undo && run.SealedGuard(t.Step):
		res.Kind = definition.StepSkipped
	default:
		return nil, nil, &BadReport{fmt.Sprintf("outcome is %.32q, the rule is done or failed, or skipped for a step whose condition the body decides", report.Outcome)}
	}
	if res.Kind != definition.StepDone {
		if len(report.Facts) > 0 {
			return nil, nil, &BadReport{"there are facts, which only a step that is done has"}
		}
		return res, nil, nil
	}
	step, _, _ := run.Step(t.Step)
	for id := range report.Facts {
		if !slices.Contains(step.Yields, id) {
			return nil, nil, &BadReport{fmt.Sprintf("step %s yields no fact %.64q, the rule is %q", step.ID, id, step.Yields)}
		}
	}
	var facts []*Held
	for _, id := range step.Yields {
		f, _ := run.Process().Fact(id)
		text, ok := textOf(report.Facts[id])
		if !ok {
			return nil, nil, &BadReport{fmt.Sprintf("fact %s is missing or no value: step %s yields %q, all of them each time", id, step.ID, step.Yields)}
		}
		if _, err := f.ParseText(text); err != nil {
			return nil, nil, &BadReport{err.Error()}
		}
		if f.Public {
			res.Yields = append(res.Yields, yielded{Fact: id, Value: text})
			continue
		}
		h := &Held{Instance: in.ID, Fact: id, Step: t.Step, Attempt: t.Attempt, Text: text}
		_, _ = rand.Read(h.Salt[:]) // never fails: crypto/rand ends the process instead
		res.Yields = append(res.Yields, yielded{Fact: id, Commitment: h.commitment()})
		facts = append(facts, h)
	}
	return res, facts, nil
}

// sameReport reports whether a report says what a result says.
func (r *Runtime) sameReport(run *definition.Instance, old *result, report *Report) bool {
	done := old.Kind == definition.StepDone || old.Kind == definition.StepReverted
	failed := old.Kind == definition.StepFailed || old.Kind == definition.RevertFailed
	if done != (report.Outcome == "done") || failed != (report.Outcome == "failed") || len(report.Facts) != len(old.Yields) {
		return false
	}
	for _, y := range old.Yields {
		text, ok := textOf(report.Facts[y.Fact])
		if !ok {
			return false
		}
		if f, _ := run.Process().Fact(y.Fact); f != nil && f.Public {
			if text != y.Value {
				return false
			}
			continue
		}
		var h Held
		if found, err := r.store.get(heldKind+old.Instance+"/"+y.Fact, &h); err != nil || !found || h.Text != text || h.commitment() != y.Commitment {
			return false
		}
	}
	return true
}

// postAgain posts an event that the registry may not have.
func (r *Runtime) postAgain(ctx context.Context, key string) error {
	res := new(result)
	if ok, err := r.store.get(key, res); err != nil || !ok {
		return err
	}
	r.start(ctx, key, func(ctx context.Context) error { return settled(r.publish(ctx, res)) })
	return nil
}
