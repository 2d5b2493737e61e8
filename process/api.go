package process

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// APIPath is where the body's systems find the interface.
const APIPath = "/civibus/v1/process/"

// Beginning is what is needed to begin an instance.
type Beginning struct {
	Process string            `json:"process"` // I/C/M/ID/VERSION
	Variant string            `json:"variant,omitempty"`
	Parts   map[string]string `json:"parts"` // role: subsystem
}

// InstanceStatus is an instance as the body sees it.
type InstanceStatus struct {
	Instance string       `json:"instance"`
	Process  string       `json:"process"`
	Title    string       `json:"title"`
	Variant  string       `json:"variant,omitempty"`
	Started  time.Time    `json:"started"`
	Phase    string       `json:"phase"` // running, undoing, ended
	End      string       `json:"end,omitempty"`
	EndTitle string       `json:"end_title,omitempty"`
	Events   int          `json:"events"`
	Steps    []StepStatus `json:"steps"`
	Facts    []FactStatus `json:"facts,omitempty"`
	Erased   *time.Time   `json:"erased,omitempty"` // when this body erased what it had of it
}

// StepStatus is where a step stands.
type StepStatus struct {
	Step    string     `json:"step"`
	Title   string     `json:"title"`
	Body    string     `json:"body"`
	Status  string     `json:"status"`
	Attempt uint32     `json:"attempt,omitempty"`
	Human   bool       `json:"human,omitempty"`
	Late    uint8      `json:"late,omitempty"` // how often it was not done in time
	Since   *time.Time `json:"since,omitempty"`
	Due     *time.Time `json:"due,omitempty"`
	Overdue bool       `json:"overdue,omitempty"`
}

// FactStatus is what is known of a fact: its value if it is public or the body has it.
type FactStatus struct {
	Fact   string `json:"fact"`
	Public bool   `json:"public,omitempty"`
	Value  any    `json:"value,omitempty"`
	Sealed bool   `json:"sealed,omitempty"` // others know it, this body does not
}

// Start begins an instance in the name of a subsystem that has to do one of its first
// steps, and returns its id.
func (r *Runtime) Start(ctx context.Context, subsystem civibus.ClientID, b *Beginning) (string, error) {
	v := r.View()
	if v == nil {
		return "", fmt.Errorf("there is no registry view yet")
	}
	id, err := registry.ParseProcessID(b.Process)
	if err != nil {
		return "", &BadReport{err.Error()}
	}
	p, ok := v.Process(id)
	if !ok {
		return "", &NotFoundError{fmt.Sprintf("process %s is not registered", id)}
	}
	d, err := p.Compile()
	if err != nil {
		return "", err
	}
	m := &registrypb.StartInstance{Process: b.Process, Variant: b.Variant}
	plays := false
	for _, role := range d.Roles {
		m.Parts = append(m.Parts, &registrypb.Part{Role: role.ID, Subsystem: b.Parts[role.ID]})
		plays = plays || b.Parts[role.ID] == subsystem.String()
	}
	if !plays || len(b.Parts) != len(d.Roles) {
		return "", &BadReport{fmt.Sprintf("parts: the rule is one subsystem for each of the %d roles, and %s among them", len(d.Roles), subsystem)}
	}
	out, err := r.Submit(ctx, &registrypb.Tx{Body: &registrypb.Tx_StartInstance{StartInstance: m}})
	if err != nil {
		return "", err
	}
	if out.Code != registry.OK {
		return "", &Refused{out.Code, out.Reason}
	}
	return hex.EncodeToString(out.TxHash[:16]), nil
}

// Turns are what a subsystem has to do now, by instance.
func (r *Runtime) Turns(subsystem civibus.ClientID) ([]*Turn, error) {
	v := r.View()
	if v == nil {
		return nil, fmt.Errorf("there is no registry view yet")
	}
	out := []*Turn{}
	for after := ""; ; {
		items, next := v.InstancesOf(subsystem, after, 1000)
		for n := range items {
			in := &items[n]
			run, err := resume(v, in)
			if err != nil {
				return nil, err
			}
			for _, t := range run.Turns() {
				if t.Body != subsystem.String() {
					continue
				}
				facts, missing, err := r.open(in.ID, run, t.Step)
				if err != nil {
					return nil, err
				}
				turn := r.turnOf(in, run, t, facts)
				turn.Missing = missing
				if turn.Rule, err = r.blocked(v, in, run, t); err != nil {
					return nil, err
				}
				if turn.Waiting, err = r.store.get(resultKey(in.ID, t.Step, t.Attempt, t.Undo), new(result)); err != nil {
					return nil, err
				}
				out = append(out, turn)
			}
		}
		if after = next; next == "" || len(out) >= 1000 {
			return out, nil
		}
	}
}

// Status describes an instance in which a subsystem has a part.
func (r *Runtime) Status(subsystem civibus.ClientID, id string) (*InstanceStatus, error) {
	in, run, err := r.instance(subsystem, id)
	if err != nil {
		return nil, err
	}
	return r.statusOf(in, run)
}

func (r *Runtime) statusOf(in *registry.ProcessInstance, run *definition.Instance) (*InstanceStatus, error) {
	d := run.Process()
	out := &InstanceStatus{
		Instance: in.ID, Process: in.Process.String(), Title: d.Title, Variant: in.Variant, Started: in.Started,
		Phase: run.Phase.String(), End: run.End, Events: run.Events,
	}
	for _, e := range d.Ends {
		if e.ID == run.End {
			out.EndTitle = e.Title
		}
	}
	steps, err := d.Plan(in.Variant)
	if err != nil {
		return nil, err
	}
	now := r.Clock()
	for _, s := range steps {
		_, state, _ := run.Step(s.ID)
		status := StepStatus{Step: s.ID, Title: s.Title, Body: run.Bodies[s.From], Status: state.Status.String(), Attempt: state.Attempt, Human: state.Human, Late: state.Late}
		if !state.Since.IsZero() {
			status.Since = &state.Since
		}
		if !state.Due.IsZero() {
			status.Due, status.Overdue = &state.Due, now.After(state.Due)
		}
		out.Steps = append(out.Steps, status)
	}
	var left erased
	if gone, err := r.store.get(erasedKind+in.ID, &left); err != nil {
		return nil, err
	} else if gone {
		out.Erased = &left.Time
	}
	held, err := r.store.held(in.ID)
	if err != nil {
		return nil, err
	}
	for n := range d.Facts {
		f := &d.Facts[n]
		known, ok := run.Facts[f.ID]
		if !ok {
			continue
		}
		status := FactStatus{Fact: f.ID, Public: f.Public}
		h := held[f.ID]
		switch {
		case known.Value != nil:
			status.Value = jsonOf(known.Value)
		case h != nil && h.commitment() == known.Commitment:
			if v, err := f.ParseText(h.Text); err == nil {
				status.Value = jsonOf(v)
			}
		default:
			status.Sealed = true
		}
		out.Facts = append(out.Facts, status)
	}
	return out, nil
}

// Instances lists the instances that go on and in which a subsystem has a part, by id.
func (r *Runtime) Instances(subsystem civibus.ClientID, after string) (out []*InstanceStatus, next string, err error) {
	v := r.View()
	if v == nil {
		return nil, "", fmt.Errorf("there is no registry view yet")
	}
	items, next := v.InstancesOf(subsystem, after, 100)
	out = []*InstanceStatus{}
	for n := range items {
		run, err := resume(v, &items[n])
		if err != nil {
			return nil, "", err
		}
		status, err := r.statusOf(&items[n], run)
		if err != nil {
			return nil, "", err
		}
		out = append(out, status)
	}
	return out, next, nil
}

// API is the interface for the body's systems and for its people. Who may speak for a
// subsystem is decided before: the client header is believed.
func (r *Runtime) API() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern, path string, fn func(w http.ResponseWriter, req *http.Request, s civibus.ClientID)) {
		mux.HandleFunc(pattern+" "+APIPath+path, func(w http.ResponseWriter, req *http.Request) {
			s, err := civibus.ParseClientID(req.Header.Get(civibus.HeaderClient))
			if err != nil || !slices.ContainsFunc(r.Parts, func(p Part) bool { return p.Subsystem == s }) {
				fail(w, http.StatusForbidden, "no_part", fmt.Sprintf("%s names no subsystem that plays roles by this node's configuration ([[process]])", civibus.HeaderClient))
				return
			}
			fn(w, req, s)
		})
	}
	handle("GET", "turns", func(w http.ResponseWriter, _ *http.Request, s civibus.ClientID) {
		turns, err := r.Turns(s)
		if err != nil {
			failWith(w, err)
			return
		}
		answer(w, http.StatusOK, map[string]any{"turns": turns})
	})
	handle("GET", "instances", func(w http.ResponseWriter, req *http.Request, s civibus.ClientID) {
		items, next, err := r.Instances(s, req.URL.Query().Get("after"))
		if err != nil {
			failWith(w, err)
			return
		}
		answer(w, http.StatusOK, map[string]any{"instances": items, "next": next})
	})
	handle("GET", "instances/{instance}", func(w http.ResponseWriter, req *http.Request, s civibus.ClientID) {
		status, err := r.Status(s, req.PathValue("instance"))
		if err != nil {
			failWith(w, err)
			return
		}
		answer(w, http.StatusOK, status)
	})
	handle("POST", "instances", func(w http.ResponseWriter, req *http.Request, s civibus.ClientID) {
		b := new(Beginning)
		if !read(w, req, b) {
			return
		}
		id, err := r.Start(req.Context(), s, b)
		if err != nil {
			failWith(w, err)
			return
		}
		answer(w, http.StatusCreated, map[string]string{"instance": id})
	})
	handle("POST", "instances/{instance}/steps/{step}/{attempt}", func(w http.ResponseWriter, req *http.Request, s civibus.ClientID) {
		attempt, err := strconv.ParseUint(req.PathValue("attempt"), 10, 32)
		if err != nil {
			fail(w, http.StatusBadRequest, "bad_attempt", "the attempt is a number from 1 on")
			return
		}
		report := new(Report)
		if !read(w, req, report) {
			return
		}
		if err := r.Report(req.Context(), s, req.PathValue("instance"), req.PathValue("step"), uint32(attempt), report); err != nil {
			failWith(w, err)
			return
		}
		answer(w, http.StatusOK, map[string]bool{"posted": true})
	})
	return mux
}

// read reads a request's JSON, strictly.
func read(w http.ResponseWriter, req *http.Request, to any) bool {
	text, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxAnswer))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the rule is at most %d bytes", maxAnswer))
		return false
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		fail(w, http.StatusBadRequest, "bad_json", err.Error())
		return false
	}
	return true
}
