package definition

import (
	"fmt"
	"time"
)

// MaxEvents bounds the events of an instance, those that are refused not counted.
const MaxEvents = 4096

// Phase is where an instance stands.
type Phase uint8

// The phases.
const (
	Running Phase = iota + 1
	Undoing       // it was cancelled, and what was done is taken back, the last first
	Ended
)

// String returns the lower-case name.
func (p Phase) String() string {
	names := [...]string{"unspecified", "running", "undoing", "ended"}
	if int(p) < len(names) {
		return names[p]
	}
	return names[0]
}

// Status is where a step stands.
type Status uint8

// The statuses of steps.
const (
	Waiting Status = iota // for those before it
	Open                  // its role may do it, until it is due
	Done
	Skipped
	Reverting // its role is to take it back, until it is due
	Reverted
	Abandoned // it was not taken back, although a civil servant was asked more than once
)

var statusNames = [...]string{"waiting", "open", "done", "skipped", "reverting", "reverted", "abandoned"}

// String returns the lower-case name.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return "unknown"
}

// StepState is where one step of an instance stands.
type StepState struct {
	Status  Status
	Attempt uint32 // from 1, once it was open
	// Human says that a civil servant has to see to it: a system was late or failed.
	Human bool
	Late  uint8     // how often it was not done in time
	Since time.Time // when it became what it is
	Due   time.Time // when it has to be done; zero: nothing is to be done
	// Escalated says that it was handed to a civil servant, which happens once.
	Escalated bool
	Place     uint32 // among the steps done, from 1
	Last      Closed // the event that closed the present or the last attempt
}

// Closed is what is kept of a step's last event, to know it again.
type Closed struct {
	Attempt uint32
	Kind    EventKind // 0: there was no event yet
	Digest  [32]byte
}

// Commitment binds a value that only those concerned know.
type Commitment [32]byte

// Known is what is known of a fact: its value if it is public, a commitment otherwise.
type Known struct {
	Commitment Commitment
	Value      Value // nil: it is sealed
	Step       string
	Attempt    uint32
}

// Instance is one run of a process: what its events made of it.
type Instance struct {
	process *Process
	plan    *plan
	Variant string
	Bodies  map[string]string // by role: who plays it
	Phase   Phase
	End     string // once it ended
	Steps   []StepState
	Facts   map[string]Known
	Events  int
	Done    uint32 // steps done so far
}

// Start begins an instance at a block's time. Every role has a body.
func (p *Process) Start(variant string, bodies map[string]string, at time.Time) (*Instance, error) {
	plan, ok := p.plans[variant]
	if !ok {
		return nil, fmt.Errorf("process %s has no variant %.64q", p.ID, variant)
	}
	for _, r := range p.Roles {
		if bodies[r.ID] == "" {
			return nil, fmt.Errorf("process %s: nobody plays the role %s", p.ID, r.ID)
		}
	}
	if len(bodies) != len(p.Roles) {
		return nil, fmt.Errorf("process %s: %d bodies for %d roles", p.ID, len(bodies), len(p.Roles))
	}
	i := &Instance{
		process: p, plan: plan, Variant: variant, Bodies: bodies, Phase: Running,
		Steps: make([]StepState, len(plan.steps)), Facts: make(map[string]Known),
	}
	for n := range plan.steps {
		if plan.left[n] {
			i.Steps[n] = StepState{Status: Skipped, Since: at}
		}
	}
	var closed []int
	for _, n := range plan.sorted {
		if i.open(n, at); i.Steps[n].Status == Skipped {
			closed = append(closed, n)
		}
	}
	i.settle(at, closed...)
	return i, nil
}

// Step returns a step of the instance's variant and where it stands.
func (i *Instance) Step(id string) (*Step, StepState, bool) {
	n, ok := i.plan.index[id]
	if !ok {
		return nil, StepState{}, false
	}
	return &i.plan.steps[n], i.Steps[n], true
}

// Turn is something that a body has to do now.
type Turn struct {
	Step    string
	Attempt uint32
	Role    string
	Body    string
	Undo    bool // it is to be taken back
	Human   bool
	Due     time.Time
}

// Turns are what has to be done now, in the order of the steps. An instance that has
// not ended has at least one: every wait has an owner and a deadline.
func (i *Instance) Turns() (turns []Turn) {
	for n := range i.Steps {
		s := &i.Steps[n]
		if s.Status != Open && s.Status != Reverting {
			continue
		}
		step := &i.plan.steps[n]
		turns = append(turns, Turn{step.ID, s.Attempt, step.From, i.Bodies[step.From], s.Status == Reverting, s.Human, s.Due})
	}
	return turns
}

// Process returns the definition of the instance.
func (i *Instance) Process() *Process { return i.process }

// Clone returns a copy that shares nothing that Apply changes.
func (i *Instance) Clone() *Instance {
	c := *i
	c.Steps = append([]StepState(nil), i.Steps...)
	c.Facts = make(map[string]Known, len(i.Facts))
	for k, v := range i.Facts {
		c.Facts[k] = v
	}
	return &c
}
