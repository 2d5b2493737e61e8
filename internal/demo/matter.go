package demo

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/internal/demostack"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/process"
	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/process/draw"
	"github.com/civibus/civibus/process/examples"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// The kinds of steps of the birth.
const (
	KindProcess = "process" // something that happened in a process
	KindView    = "view"    // an instance as one body sees it
)

// office is a body that takes part in a matter: its role and how its system works.
type office struct {
	class, code, name, role, subsystem string
	stack                              stack
}

// stack is a kind of system.
type stack int

const (
	answers stack = iota // is sent its turns and answers at once
	reports              // is sent its turns and reports later
	batch                // asks for its turns, and works over files
	desk                 // a clerk does everything
)

func (s stack) String() string {
	return [...]string{
		"gets signed CloudEvents and answers at once", "gets signed CloudEvents, answers 202 and reports later",
		"a batch program over a folder of CSV files, which asks for its turns", "a clerk at a desk, who asks for the turns",
	}[s]
}

// Matter is a matter that several bodies carry out together.
type Matter struct {
	// Name is its definition's among the examples.
	Name    string
	Variant string
	Bodies  int // how many take part

	offices []office
	begins  string         // what begins it
	down    int            // who is down for a while, and
	waits   string         // for which step it is waited meanwhile
	late    string         // the step that nobody does the second time
	found   map[string]any // what the systems find out; a function is asked
	ends    [2]string
}

// Matters are those that can be shown, by name.
func Matters() map[string]Matter {
	all := map[string]Matter{
		"birth": {
			begins: "a child is born", down: 2, waits: "live-at", late: "pay", ends: [2]string{"complete", "withdrawn"},
			offices: []office{
				{"COM", "6001", "Hospital of Exampleton (fictitious)", "hospital", "maternity", answers},
				{"GOV", "6002", "Civil Registry (fictitious)", "civil-registry", "registry", batch},
				{"GOV", "6003", "Residence Register (fictitious)", "residence", "residents", reports},
				{"GOV", "6004", "Health Insurance Fund (fictitious)", "health-insurance", "members", answers},
				{"GOV", "6005", "Benefits Office (fictitious)", "benefits", "grants", desk},
				{"MUN", "6006", "Kindergarten Authority (fictitious)", "education", "places", answers},
			},
			found: map[string]any{
				"live_birth": true, "born_on": "2026-11-23", "mother": digestOf("FIC-M"), "registered": true, "child": digestOf("FIC-C"),
				"resident": true, "district": "north", "insured": true, "place_in_queue": 17,
			},
		},
		"moving": {
			begins: "a person moves house", down: 1, waits: "confirm", late: "tax-office", ends: [2]string{"moved", "withdrawn"},
			offices: []office{
				{"MUN", "6101", "Municipality of Newtown (fictitious)", "new-municipality", "residents", answers},
				{"MUN", "6102", "Municipality of Oldham (fictitious)", "old-municipality", "residents", batch},
				{"GOV", "6103", "Vehicle Register (fictitious)", "vehicles", "holders", reports},
				{"GOV", "6104", "Tax Office (fictitious)", "tax", "taxpayers", answers},
				{"GOV", "6105", "School Authority (fictitious)", "schools", "pupils", desk},
			},
			found: map[string]any{
				"from_here": true, "address": digestOf("FIC-A"), "known_there": true, "since": "2026-11-20", "owns_vehicle": true, "school_children": 2,
			},
		},
		"asylum": {
			begins: "a person asks for asylum", down: 1, waits: "apply", late: "permit", ends: [2]string{"protected", "withdrawn"},
			offices: []office{
				{"GOV", "6201", "State Reception Centre (fictitious)", "reception", "arrivals", answers},
				{"GOV", "6202", "Federal Office for Migration (fictitious)", "federal-office", "cases", reports},
				{"MUN", "6203", "Foreigners Authority (fictitious)", "foreigners-authority", "permits", answers},
				{"MUN", "6204", "Health Office (fictitious)", "health-office", "examinations", desk},
			},
			found: map[string]any{
				"identity": digestOf("FIC-I"), "arrived_on": "2026-11-20", "minor": false, "responsible": true, "decision": "protection", "file": digestOf("FIC-F"),
			},
		},
	}
	for name, m := range all {
		m.Name, m.Bodies = name, len(m.offices)
		all[name] = m
	}
	return all
}

// digestOf is a digest that differs from instance to instance.
func digestOf(what string) func(instance string) any {
	return func(instance string) any { return digest(what + "-" + instance) }
}

// shortened are the deadlines of the demo: nobody waits ten days for it.
func (m *Matter) shortened(d *definition.Definition) {
	shorten := func(steps []definition.Step) {
		for n := range steps {
			steps[n].Deadline = definition.Duration(2 * time.Minute)
			if steps[n].ID == m.late {
				steps[n].Deadline = definition.Duration(8 * time.Second)
			}
		}
	}
	shorten(d.Steps)
	for n := range d.Variants {
		shorten(d.Variants[n].Steps)
	}
}

// matter is a matter while it runs.
type matter struct {
	*Demo
	Matter
	process *definition.Process
	id      registry.ProcessID
	place   map[string]int // role: its body
	idle    atomic.Bool    // nobody does the late step
}

// RunMatter starts the bodies of a matter with systems of several kinds, and brings two
// instances to an end: one in which a body is down for a while, and one in which a deadline
// is missed and what was done is taken back.
func RunMatter(ctx context.Context, o Options, what Matter) (*Demo, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return &Demo{}, err
	}
	o.Dir = dir
	b := &matter{Demo: &Demo{opts: o}, Matter: what, place: make(map[string]int)}
	for i, body := range b.offices {
		b.place[body.role] = i
	}
	// 1. The bodies, their systems, and the process that they agree on.
	if err := b.startAll(ctx); err != nil {
		return b.Demo, err
	}
	if err := b.agree(ctx); err != nil {
		return b.Demo, err
	}
	// 2. An instance, while a body is down for a while.
	if err := b.complete(ctx); err != nil {
		return b.Demo, err
	}
	// 3. Another, in which a body does nothing.
	b.idle.Store(true)
	if err := b.withdrawn(ctx); err != nil {
		return b.Demo, err
	}
	// 4. What no body can do.
	return b.Demo, b.deviations(ctx)
}

func (b *matter) desk(i int) *demostack.Desk {
	return &demostack.Desk{
		Gateway: func() string { return b.Network.Bodies[i].ConsumerURL() },
		Client:  civibus.ClientID{MemberID: b.member(i), Subsystem: b.offices[i].subsystem}.String(),
	}
}

func (b *matter) member(i int) civibus.MemberID {
	return civibus.MemberID{Instance: "DEMO", Class: b.offices[i].class, Code: b.offices[i].code}
}

// work is what a system does: what it is there for, unless the step is the late one and
// nobody does it.
func (b *matter) work(t demostack.Turn) (map[string]any, bool) {
	if b.idle.Load() && t.Step == b.late && !t.Undo {
		return nil, false
	}
	if t.Undo {
		return nil, true
	}
	found := make(map[string]any)
	for n := range b.process.Steps {
		if b.process.Steps[n].ID != t.Step {
			continue
		}
		for _, fact := range b.process.Steps[n].Yields {
			found[fact] = b.found[fact]
			if of, ok := b.found[fact].(func(string) any); ok {
				found[fact] = of(t.Instance)
			}
		}
	}
	return found, true
}

func (b *matter) startAll(ctx context.Context) error {
	began := time.Now()
	next := 0
	port := func() string {
		if b.opts.FirstPort == 0 {
			return "127.0.0.1:0"
		}
		next++
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(b.opts.FirstPort+len(b.offices)*testnet.PortsPerBody+next-1))
	}
	text, err := examples.Files.ReadFile(b.Name + ".yaml")
	if err != nil {
		return err
	}
	d, err := definition.Read(text)
	if err != nil {
		return err
	}
	b.shortened(d)
	if b.process, err = d.Compile(); err != nil {
		return err
	}
	// 1. The systems that are sent their turns. What they find out is invented.
	systems := make([]string, len(b.offices))
	for i, body := range b.offices {
		switch body.stack {
		case answers:
			s, err := demostack.StartWebhook(ctx, port(), b.work)
			if err != nil {
				return err
			}
			b.stacks = append(b.stacks, s)
			systems[i] = s.URL
		case reports:
			s, err := demostack.StartLater(ctx, port(), 150*time.Millisecond, b.desk(i), b.work)
			if err != nil {
				return err
			}
			b.stacks = append(b.stacks, s)
			systems[i] = s.URL
		}
	}
	// 2. The bodies.
	var specs []testnet.BodySpec
	for _, body := range b.offices {
		specs = append(specs, testnet.BodySpec{Class: body.class, Code: body.code, Name: body.name})
	}
	b.Network, err = testnet.Found(testnet.Options{
		Dir: filepath.Join(b.opts.Dir, "bodies"), Bodies: specs, FirstPort: b.opts.FirstPort, Logger: b.opts.Logger,
		Configure: func(i int, c *node.Config) {
			c.Process = []node.ProcessConfig{{Subsystem: b.offices[i].subsystem, System: systems[i]}}
		},
	})
	if err != nil {
		return err
	}
	if err := b.Network.Start(ctx, 60*time.Second); err != nil {
		return err
	}
	// 3. The systems that ask for their turns, and the people.
	for i, body := range b.offices {
		if body.stack == batch {
			s, err := demostack.StartBatch(ctx, filepath.Join(b.opts.Dir, "files-"+body.code), 100*time.Millisecond, b.desk(i), b.work)
			if err != nil {
				return err
			}
			b.stacks = append(b.stacks, s)
		}
		b.stacks = append(b.stacks, demostack.StartClerk(ctx, 100*time.Millisecond, b.desk(i), body.stack == desk, b.work))
	}
	b.report(began, Step{Kind: KindStart, Name: fmt.Sprintf("%d bodies and their systems", len(b.offices)), Detail: "each body has its own keys, data directory, gateway, validator and part of the process; nobody drives the whole", OK: true})
	for i, body := range b.offices {
		b.report(time.Now(), Step{Kind: KindStart, Name: body.name, Client: b.member(i).String(), Detail: "its system: " + body.stack.String(), OK: true})
	}
	return nil
}

// agree has the bodies register the process, who plays which role, and who opens
// facts to whom.
func (b *matter) agree(ctx context.Context) error {
	began := time.Now()
	d := b.process.Definition
	document, err := d.Encode()
	if err != nil {
		return err
	}
	const owning = 1 // the second body answers for the process
	owner := b.Network.Bodies[owning]
	b.id = registry.ProcessID{Owner: owner.ID, Name: d.ID, Version: d.Version}
	// 1. The subsystems, and the process by the civil registry.
	count := 0
	register := func(changes []testnet.Change) error {
		count += len(changes)
		_, err := b.Network.Register(ctx, changes...)
		return err
	}
	change := func(i int, tx *registrypb.Tx) testnet.Change { return testnet.Change{By: b.Network.Bodies[i], Tx: tx} }
	first := []testnet.Change{change(owning, &registrypb.Tx{Body: &registrypb.Tx_SetProcess{SetProcess: &registrypb.SetProcess{Owner: owner.ID.String(), Definition: document}}})}
	for i, body := range b.offices {
		first = append(first, b.Network.Bodies[i].Subsystem(body.subsystem, body.name))
	}
	if err := register(first); err != nil {
		return fmt.Errorf("register the process: %w", err)
	}
	// 2. Each takes its role, and offers the service by which facts come.
	var second, third []testnet.Change
	for i, body := range b.offices {
		client := b.Network.Bodies[i].Client(body.subsystem)
		second = append(second,
			change(i, &registrypb.Tx{Body: &registrypb.Tx_TakeRole{TakeRole: &registrypb.TakeRole{Process: b.id.String(), Role: body.role, Subsystem: client.String()}}}),
			b.Network.Bodies[i].Publish(civibus.Service{ID: civibus.ServiceID{ClientID: client, Service: process.ServiceCode}, Type: civibus.REST, Title: "Facts of processes (fictitious)"}))
		if i != owning {
			third = append(third, change(owning, &registrypb.Tx{Body: &registrypb.Tx_ApproveRole{ApproveRole: &registrypb.ApproveRole{Process: b.id.String(), Role: body.role, Subsystem: client.String()}}}))
		}
	}
	if err := register(second); err != nil {
		return fmt.Errorf("take the roles: %w", err)
	}
	// 3. The owner approves; and who is shown facts lets in who shows them.
	openings, err := b.process.Openings(b.Variant)
	if err != nil {
		return err
	}
	for _, o := range openings {
		from, to := b.place[o.From], b.place[o.To]
		third = append(third, b.Network.Bodies[to].Grant(civibus.AccessRight{
			Service: civibus.ServiceID{ClientID: b.Network.Bodies[to].Client(b.offices[to].subsystem), Service: process.ServiceCode},
			Client:  b.Network.Bodies[from].Client(b.offices[from].subsystem), Purpose: process.Purpose, LegalBasis: d.Law.Act + ", " + d.Law.Provision,
		}))
	}
	if err := register(third); err != nil {
		return fmt.Errorf("approve the roles: %w", err)
	}
	b.report(began, Step{
		Kind: KindRegister, Name: "process " + b.id.String(), OK: true,
		Detail: fmt.Sprintf("%d steps, %d facts, %d roles taken and approved: %d transactions ; in this demo its deadlines are seconds and minutes instead of days", len(d.Steps), len(d.Facts), len(d.Roles), count),
	})
	return nil
}

// begin starts an instance at the body that has the first step.
func (b *matter) begin(ctx context.Context) (string, error) {
	began := time.Now()
	in := process.Beginning{Process: b.id.String(), Variant: b.Variant, Parts: make(map[string]string)}
	for i, body := range b.offices {
		in.Parts[body.role] = b.Network.Bodies[i].Client(body.subsystem).String()
	}
	var out struct{ Instance string }
	if err := b.ask(ctx, 0, http.MethodPost, "instances", in, &out); err != nil {
		return "", fmt.Errorf("begin an instance: %w", err)
	}
	b.report(began, Step{Kind: KindProcess, Name: b.begins, Client: b.member(0).String(), Detail: b.offices[0].name + " begins instance " + out.Instance, OK: true})
	return out.Instance, nil
}

// ask calls a body's interface for its own systems.
func (b *matter) ask(ctx context.Context, i int, method, path string, in, out any) error {
	var text []byte
	if in != nil {
		var err error
		if text, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, b.Network.Bodies[i].ConsumerURL()+process.APIPath+path, strings.NewReader(string(text)))
	if err != nil {
		return err
	}
	req.Header.Set(civibus.HeaderClient, b.Network.Bodies[i].Client(b.offices[i].subsystem).String())
	resp, err := oneShot().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		var f refusal
		_ = json.NewDecoder(resp.Body).Decode(&f) // what cannot be read is empty
		f.Status = resp.StatusCode
		return &f
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// refusal is what a gateway says of a request that it does not do.
type refusal struct {
	Code    string `json:"error"`
	Message string `json:"message"`
	Status  int    `json:"-"`
}

func (r *refusal) Error() string { return fmt.Sprintf("%d %s: %s", r.Status, r.Code, r.Message) }

// look returns an instance as a body sees it.
func (b *matter) look(ctx context.Context, i int, instance string) (*process.InstanceStatus, error) {
	out := new(process.InstanceStatus)
	return out, b.ask(ctx, i, http.MethodGet, "instances/"+instance, nil, out)
}

// patience is how long the demo waits for anything.
const patience = 90 * time.Second

// await waits until a body sees what it should.
func (b *matter) await(ctx context.Context, i int, instance string, done func(*process.InstanceStatus) bool) (*process.InstanceStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		s, err := b.look(ctx, i, instance)
		var f *refusal
		if err != nil && !errors.As(err, &f) && ctx.Err() == nil {
			return nil, err
		}
		if err == nil && done(s) {
			return s, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return s, fmt.Errorf("instance %s at %s: %w", instance, b.offices[i].name, ctx.Err())
		}
	}
}

func stepAt(s *process.InstanceStatus, id string) process.StepStatus {
	for _, step := range s.Steps {
		if step.Step == id {
			return step
		}
	}
	return process.StepStatus{}
}

// complete is an instance in which a body is down for a while.
func (b *matter) complete(ctx context.Context) error {
	// 1. It goes down before anything begins.
	began := time.Now()
	down := b.offices[b.down]
	if err := b.Network.Bodies[b.down].Stop(); err != nil {
		return err
	}
	b.report(began, Step{Kind: KindProcess, Name: "a body goes down", Client: b.member(b.down).String(), Detail: down.name + ", its whole node: gateway, validator, process", OK: true})
	instance, err := b.begin(ctx)
	if err != nil {
		return err
	}
	// 2. The others go on as far as they can, and see who is waited for.
	began = time.Now()
	s, err := b.await(ctx, 0, instance, func(s *process.InstanceStatus) bool { return stepAt(s, b.waits).Status == "open" })
	if err != nil {
		return err
	}
	waiting := stepAt(s, b.waits)
	b.report(began, Step{Kind: KindProcess, Name: "it is waited for", Client: b.member(0).String(), OK: waiting.Due != nil && waiting.Body == b.Network.Bodies[b.down].Client(down.subsystem).String(),
		Detail: fmt.Sprintf("all see that %s is to do %q by %s", waiting.Body, b.waits, waiting.Due.Local().Format(time.TimeOnly))})
	// 3. It comes back and catches up.
	began = time.Now()
	if err := b.Network.Bodies[b.down].Start(ctx, 60*time.Second); err != nil {
		return err
	}
	if _, err := b.await(ctx, 0, instance, func(s *process.InstanceStatus) bool { return stepAt(s, b.waits).Status == "done" }); err != nil {
		return err
	}
	b.report(began, Step{Kind: KindProcess, Name: "it is back", Client: b.member(b.down).String(), Detail: "it catches up with the blocks, gets the facts that were kept for it, and does its step", OK: true})
	// 4. The rest follows.
	began = time.Now()
	if s, err = b.await(ctx, 0, instance, func(s *process.InstanceStatus) bool { return s.Phase == "ended" }); err != nil {
		return err
	}
	b.report(began, Step{Kind: KindProcess, Name: "the end", OK: s.End == b.ends[0], Detail: fmt.Sprintf("%s: %s (%d events on the ledger)", s.End, s.EndTitle, s.Events)})
	if err := b.views(ctx, instance); err != nil {
		return err
	}
	return b.picture(instance, "complete.svg")
}

// withdrawn is an instance in which a body misses its deadline, and so does its civil
// servant if the definition asks her.
func (b *matter) withdrawn(ctx context.Context) error {
	instance, err := b.begin(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	last := len(b.offices) - 1
	before, err := b.await(ctx, last, instance, func(s *process.InstanceStatus) bool { return s.Phase != "running" })
	if err != nil {
		return err
	}
	late := stepAt(before, b.late)
	b.report(began, Step{Kind: KindProcess, Name: "a deadline is missed", Client: memberText(late.Body), OK: late.Late >= 1,
		Detail: fmt.Sprintf("%s has not done %q in time; the others say so on the ledger, and the process takes back what was done", late.Body, b.late)})
	began = time.Now()
	s, err := b.await(ctx, last, instance, func(s *process.InstanceStatus) bool { return s.Phase == "ended" })
	if err != nil {
		return err
	}
	back, ok := []string{}, s.End == b.ends[1]
	for _, step := range b.process.Steps {
		status := stepAt(s, step.ID).Status
		if status == "reverted" {
			back = append(back, step.ID)
		}
		ok = ok && (status != "done" || step.Final)
	}
	slices.Reverse(back)
	b.report(began, Step{Kind: KindProcess, Name: "the end", OK: ok && len(back) > 0, Detail: fmt.Sprintf("%s: %s; taken back, the last first: %s", s.End, s.EndTitle, strings.Join(back, ", "))})
	return b.picture(instance, "withdrawn.svg")
}

func memberText(subsystem string) string { return subsystem[:strings.LastIndexByte(subsystem, '/')] }

// views tells an instance as each body sees it.
func (b *matter) views(ctx context.Context, instance string) error {
	for i, body := range b.offices {
		began := time.Now()
		s, err := b.await(ctx, i, instance, func(s *process.InstanceStatus) bool { return s.Phase == "ended" })
		if err != nil {
			return err
		}
		var knows, sealed []string
		for _, f := range s.Facts {
			if f.Sealed {
				sealed = append(sealed, f.Fact)
			} else {
				knows = append(knows, fmt.Sprintf("%s=%s", f.Fact, short(f.Value)))
			}
		}
		b.report(began, Step{Kind: KindView, Name: body.name, Client: b.member(i).String(), OK: s.End == b.ends[0],
			Detail: fmt.Sprintf("sees %s; does not see: %s", strings.Join(knows, " "), orNone(sealed))})
	}
	return nil
}

func short(v any) string {
	s := fmt.Sprint(v)
	if len(s) > 12 {
		return s[:12] + "..."
	}
	return s
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}

// picture draws an instance as it ended.
func (b *matter) picture(instance, file string) error {
	v := b.Network.Bodies[0].Node().Admin().View()
	in, ok, err := v.ProcessInstance(instance)
	if err != nil || !ok {
		return errors.Join(err, errors.New("the instance is not there to be drawn"))
	}
	run, err := in.Resume(b.process)
	if err != nil {
		return err
	}
	text, err := draw.Instance(b.process, run)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.opts.Dir, file), text, 0o644)
}

// deviations are what the ledger refuses: no body can do another's step, nor
// something else than the definition says.
func (b *matter) deviations(ctx context.Context) error {
	instance, err := b.begin(ctx)
	if err != nil {
		return err
	}
	post := func(i int, name, want string, m *registrypb.PostStep) {
		began := time.Now()
		m.Instance = instance
		_, err := b.Network.Bodies[i].Admin().Change(ctx, &registrypb.Tx{Body: &registrypb.Tx_PostStep{PostStep: m}})
		var refused *admin.Problem
		if !errors.As(err, &refused) {
			b.report(began, Step{Kind: KindAttack, Name: name, Client: b.member(i).String(), Detail: fmt.Sprintf("not refused: %v", err)})
			return
		}
		b.report(began, Step{Kind: KindAttack, Name: name, Client: b.member(i).String(), OK: refused.Code == want, Detail: fmt.Sprintf("refused with %s: %s", refused.Code, refused.Detail)})
	}
	done := registrypb.StepKind_STEP_KIND_DONE
	s, err := b.await(ctx, 0, instance, func(s *process.InstanceStatus) bool { return stepAt(s, b.late).Status == "open" })
	if err != nil {
		return err
	}
	late, first := stepAt(s, b.late), b.process.Steps[0]
	other := b.place[first.From] + 1 // who does not have the first step
	post(other, "another body's step", "not_your_step", &registrypb.PostStep{Step: first.ID, Attempt: 1, Kind: done})
	post(b.place[first.From], "the same step otherwise", "conflict", &registrypb.PostStep{Step: first.ID, Attempt: 1, Kind: registrypb.StepKind_STEP_KIND_FAILED})
	post(other, "a deadline that is not over", "not_due", &registrypb.PostStep{Step: b.late, Attempt: late.Attempt, Kind: registrypb.StepKind_STEP_KIND_TIMEOUT})
	post(0, "a step that there is not", "unknown_step", &registrypb.PostStep{Step: "something-else", Attempt: 1, Kind: done})
	return nil
}

func digest(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }
