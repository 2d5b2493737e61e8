package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry"
)

// Process is a version of a process.
type Process struct {
	ID      string        `json:"id"` // INSTANCE/CLASS/MEMBER/ID/VERSION
	Title   string        `json:"title"`
	Act     string        `json:"act"`
	Status  string        `json:"status"`
	Notice  string        `json:"notice,omitempty"`
	Digest  string        `json:"digest"`
	Steps   int           `json:"steps"`
	Roles   []ProcessRole `json:"roles"`
	Periods []Period      `json:"periods"`
}

// ProcessRole is a role with those who may play it or are on the way there.
type ProcessRole struct {
	Role       string       `json:"role"`
	Title      string       `json:"title"`
	Subsystems []RolePlayer `json:"subsystems"`
}

// RolePlayer is a subsystem that plays a role or is on the way there.
type RolePlayer struct {
	Subsystem string `json:"subsystem"`
	Taken     bool   `json:"taken"`
	Approved  bool   `json:"approved"`
}

// ProcessInstance is an instance as the registry has it.
type ProcessInstance struct {
	ID      string         `json:"id"`
	Process string         `json:"process"`
	Variant string         `json:"variant,omitempty"`
	Starter string         `json:"starter"`
	Started time.Time      `json:"started"`
	Phase   string         `json:"phase"`
	End     string         `json:"end,omitempty"`
	Events  int            `json:"events"`
	Steps   []InstanceStep `json:"steps"`
}

// InstanceStep is where a step of an instance stands.
type InstanceStep struct {
	Step    string     `json:"step"`
	Body    string     `json:"body"`
	Status  string     `json:"status"`
	Attempt uint32     `json:"attempt,omitempty"`
	Human   bool       `json:"human,omitempty"`
	Late    uint8      `json:"late,omitempty"`
	Due     *time.Time `json:"due,omitempty"`
}

// Processes lists the versions of processes; Member filters by owner.
func (c *Client) Processes(ctx context.Context, o ListOptions) (Page[Process], error) {
	return get[Page[Process]](ctx, c, "/v1/processes"+o.query())
}

// ProcessDefinition returns a definition in canonical form.
func (c *Client) ProcessDefinition(ctx context.Context, id string) (*definition.Definition, error) {
	d, err := get[definition.Definition](ctx, c, "/v1/processes/"+(&url.URL{Path: id}).EscapedPath())
	return &d, err
}

// ProcessInstances lists the instances that go on; Member filters by who has a part.
func (c *Client) ProcessInstances(ctx context.Context, o ListOptions) (Page[ProcessInstance], error) {
	return get[Page[ProcessInstance]](ctx, c, "/v1/process-instances"+o.query())
}

// ProcessInstance looks up an instance, whether it goes on or ended.
func (c *Client) ProcessInstance(ctx context.Context, id string) (ProcessInstance, error) {
	return get[ProcessInstance](ctx, c, "/v1/process-instances/"+url.PathEscape(id))
}

func (s *Server) processes(r *http.Request) (any, error) {
	v := s.backend.View()
	member, err := memberFilter(r)
	if err != nil {
		return nil, err
	}
	convert := func(p registry.Process) Process { return processOf(v, p) }
	return list(r, v.Height(), v.Processes, convert, func(p registry.Process) bool { return member.IsZero() || p.ID.Owner == member })
}

func processOf(v *registry.View, p registry.Process) Process {
	out := Process{ID: p.ID.String(), Status: p.Status.String(), Notice: p.Notice, Periods: periods(p.Periods), Roles: []ProcessRole{}}
	d, err := p.Compile()
	if err != nil {
		return out // it was checked before it was registered
	}
	out.Title, out.Act, out.Digest, out.Steps = d.Title, d.Law.Act, fmt.Sprintf("%x", d.Digest), len(d.Steps)
	for _, role := range d.Roles {
		out.Roles = append(out.Roles, ProcessRole{Role: role.ID, Title: role.Title, Subsystems: []RolePlayer{}})
	}
	for after := ""; ; {
		items, next := v.ProcessRoles(p.ID, after, maxLimit)
		for _, item := range items {
			n := slices.IndexFunc(out.Roles, func(r ProcessRole) bool { return r.Role == item.Role })
			if n >= 0 && (item.Taken || item.Approved) {
				out.Roles[n].Subsystems = append(out.Roles[n].Subsystems, RolePlayer{item.Subsystem.String(), item.Taken, item.Approved})
			}
		}
		if after = next; next == "" {
			return out
		}
	}
}

func (s *Server) processDefinition(r *http.Request) (any, error) {
	id, err := registry.ParseProcessID(r.PathValue("id"))
	if err != nil {
		return nil, badID(err)
	}
	p, ok := s.backend.View().Process(id)
	if !ok {
		return nil, Problemf(http.StatusNotFound, "not_found", "process %s is not registered", id)
	}
	return definition.Parse(p.Document)
}

func (s *Server) processInstances(r *http.Request) (any, error) {
	v := s.backend.View()
	member, err := memberFilter(r)
	if err != nil {
		return nil, err
	}
	convert := func(i registry.ProcessInstance) ProcessInstance { return instanceOf(v, &i) }
	return list(r, v.Height(), v.ProcessInstances, convert, func(i registry.ProcessInstance) bool { return member.IsZero() || i.Plays(member) })
}

func (s *Server) processInstance(r *http.Request) (any, error) {
	v := s.backend.View()
	i, ok, err := v.ProcessInstance(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, Problemf(http.StatusNotFound, "not_found", "instance %.40q is not registered", r.PathValue("id"))
	}
	return instanceOf(v, &i), nil
}

func instanceOf(v *registry.View, i *registry.ProcessInstance) ProcessInstance {
	out := ProcessInstance{
		ID: i.ID, Process: i.Process.String(), Variant: i.Variant, Starter: i.Starter.String(), Started: i.Started,
		Phase: i.State.Phase.String(), End: i.State.End, Events: i.State.Events, Steps: []InstanceStep{},
	}
	p, ok := v.Process(i.Process)
	if !ok {
		return out
	}
	d, err := p.Compile()
	if err != nil {
		return out
	}
	run, err := i.Resume(d)
	if err != nil {
		return out
	}
	steps, err := d.Plan(i.Variant)
	if err != nil {
		return out
	}
	for _, s := range steps {
		_, state, _ := run.Step(s.ID)
		step := InstanceStep{Step: s.ID, Body: run.Bodies[s.From], Status: state.Status.String(), Attempt: state.Attempt, Human: state.Human, Late: state.Late}
		if !state.Due.IsZero() {
			due := state.Due
			step.Due = &due
		}
		out.Steps = append(out.Steps, step)
	}
	return out
}
