package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry"
)

// factsPath is where a subsystem's process service takes facts.
const factsPath = "/facts"

// deliveriesOf are the facts of a result that other bodies are to be shown.
func deliveriesOf(in *registry.ProcessInstance, run *definition.Instance, from civibus.ClientID, facts []*Held) (out []*delivery) {
	for _, h := range facts {
		for _, role := range run.Concerned(h.Fact) {
			n := slices.IndexFunc(in.Parts, func(p registry.Part) bool { return p.Role == role })
			to := in.Parts[n].Subsystem
			if to.MemberID == from.MemberID || slices.ContainsFunc(out, func(d *delivery) bool { return d.Fact == h.Fact && d.Subsystem == to.String() }) {
				continue
			}
			out = append(out, &delivery{Held: *h, Subsystem: to.String(), From: from.String()})
		}
	}
	return out
}

// deliverAgain opens a fact to another body, once the registry has the event.
func (r *Runtime) deliverAgain(ctx context.Context, v *registry.View, key string, value []byte) error {
	d := new(delivery)
	if err := json.Unmarshal(value, d); err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	in, ok, err := v.ProcessInstance(d.Instance)
	if err != nil || !ok {
		return err
	}
	known := slices.ContainsFunc(in.State.Facts, func(f definition.KnownFact) bool { return f.Fact == d.Fact && f.Commitment == d.commitment() })
	if !known {
		return nil // its event is on its way
	}
	r.start(ctx, key, func(ctx context.Context) error { return r.deliver(ctx, key, d) })
	return nil
}

// deliver makes the exchange. Who refuses the fact for good is not asked again.
func (r *Runtime) deliver(ctx context.Context, key string, d *delivery) error {
	from, err := civibus.ParseClientID(d.From)
	if err != nil {
		return err
	}
	to, err := civibus.ParseClientID(d.Subsystem)
	if err != nil {
		return err
	}
	body, err := json.Marshal(&d.Held)
	if err != nil {
		return err
	}
	status, answer, err := r.Call(ctx, from, civibus.ServiceID{ClientID: to, Service: ServiceCode}, factsPath, body)
	switch {
	case err != nil:
		return fmt.Errorf("open fact %s to %s: %w", d.Fact, to, err)
	case status == http.StatusConflict:
		r.Logger.ErrorContext(ctx, "process: a body refused a fact for good", "instance", d.Instance, "fact", d.Fact, "body", d.Subsystem, "answer", string(answer[:min(len(answer), 300)]))
	case status != http.StatusNoContent:
		return fmt.Errorf("open fact %s to %s: it answered %d", d.Fact, to, status)
	}
	b := &batch{}
	b.remove(key)
	return r.store.write(b)
}

// Inbox is the process service of the body's subsystems: what other bodies' gateways
// reach as an exchange, and so with a right to it.
func (r *Runtime) Inbox() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+factsPath, r.takeFact)
	return mux
}

// takeFact keeps a fact that another body opens.
func (r *Runtime) takeFact(w http.ResponseWriter, req *http.Request) {
	// 1. Who says so, and what.
	from, err := civibus.ParseClientID(req.Header.Get(civibus.HeaderClient))
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_client", "the client is missing or malformed")
		return
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxAnswer))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the fact could not be read: the rule is at most %d bytes", maxAnswer))
		return
	}
	var h Held
	if err := json.Unmarshal(text, &h); err != nil {
		fail(w, http.StatusBadRequest, "bad_fact", "it is no fact in JSON")
		return
	}
	// 2. Whether the registry has a commitment of that body to it.
	v := r.View()
	if v == nil {
		fail(w, http.StatusServiceUnavailable, "starting", "there is no registry view yet")
		return
	}
	in, ok, err := v.ProcessInstance(h.Instance)
	switch {
	case err != nil:
		fail(w, http.StatusServiceUnavailable, "unavailable", "the registry's store could not be read")
		return
	case !ok: // this node may be behind
		fail(w, http.StatusServiceUnavailable, "unknown_instance", "the instance is not in this node's registry view")
		return
	case !in.Plays(r.Member):
		fail(w, http.StatusConflict, "no_part", "this body has no part in the instance")
		return
	}
	known, code, reason := r.proved(v, &in, from, &h)
	if !known {
		status := http.StatusConflict
		if code == "unknown_fact" {
			status = http.StatusServiceUnavailable // this node may be behind
		}
		fail(w, status, code, reason)
		return
	}
	// 3. On disk.
	b := &batch{}
	b.put(heldKey(&h), &h)
	var gone *ErasedError
	if err := r.store.write(b); errors.As(err, &gone) {
		fail(w, http.StatusConflict, "erased", "this body has erased what it had of the instance")
		return
	} else if err != nil {
		r.Logger.ErrorContext(req.Context(), "process: a fact could not be kept", "err", err)
		fail(w, http.StatusServiceUnavailable, "unavailable", "the fact could not be kept")
		return
	}
	r.wake()
	w.WriteHeader(http.StatusNoContent)
}

// proved checks a fact against the registry: the instance has it, the body that says so
// found it out, it is opened to this body, and the commitment is to this very value.
func (r *Runtime) proved(v *registry.View, in *registry.ProcessInstance, from civibus.ClientID, h *Held) (ok bool, code, reason string) {
	run, err := resume(v, in)
	if err != nil {
		return false, "unavailable", "the instance could not be worked out"
	}
	known, has := run.Facts[h.Fact]
	if !has {
		return false, "unknown_fact", "the registry has no such fact of the instance"
	}
	step, _, _ := run.Step(known.Step)
	mine := slices.ContainsFunc(run.Concerned(h.Fact), func(role string) bool {
		return slices.ContainsFunc(in.Parts, func(p registry.Part) bool { return p.Role == role && p.Subsystem.MemberID == r.Member })
	})
	switch {
	case run.Bodies[step.From] != from.String():
		return false, "not_yours", fmt.Sprintf("the fact is of %s", run.Bodies[step.From])
	case !mine:
		return false, "not_concerned", "the fact is not opened to this body"
	case known.Value != nil || h.commitment() != known.Commitment:
		return false, "bad_commitment", "the registry has no commitment to this value"
	}
	f, _ := run.Process().Fact(h.Fact)
	if _, err := f.ParseText(h.Text); err != nil {
		return false, "bad_fact", "it is no value of the fact"
	}
	return true, "", ""
}

// failure is how a refusal is told.
type failure struct {
	Error   string `json:"error"`
	Message string `json:"message"`
	// Rule is the rule that is not kept, if that is the reason.
	Rule *civibus.RuleRefusal `json:"rule,omitempty"`
}

func fail(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, &failure{code, message, nil})
}

func answer(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte(`{"error":"internal","message":"the answer could not be written"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // who does not read it does not get it
}

// failWith tells an error of Report or Start.
func failWith(w http.ResponseWriter, err error) {
	var bad *BadReport
	var none *NotFoundError
	var refused *Refused
	var unlawful *RuleNotKept
	var gone *ErasedError
	switch {
	case errors.As(err, &gone):
		fail(w, http.StatusConflict, "erased", gone.Error())
	case errors.As(err, &unlawful):
		answer(w, http.StatusForbidden, &failure{"rule_not_kept", unlawful.Error(), unlawful.Refusal})
	case errors.As(err, &bad):
		fail(w, http.StatusBadRequest, "bad_report", bad.Reason)
	case errors.As(err, &none):
		fail(w, http.StatusNotFound, "not_found", none.Reason)
	case errors.As(err, &refused):
		fail(w, http.StatusConflict, refused.Code.String(), refused.Reason)
	default:
		fail(w, http.StatusServiceUnavailable, "unavailable", err.Error())
	}
}
