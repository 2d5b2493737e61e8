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
	"strconv"
	"strings"
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

// birthBody is a body of the birth: the role that it plays and how its system works.
type birthBody struct {
	class, code, name, role, subsystem, stack string
}

// The bodies of the birth, by their place in the network; in the order of the roles.
const (
	hospital = iota
	civilRegistry
	residence
	insurance
	benefits
	kindergarten
)

func birthBodies() []birthBody {
	return []birthBody{
		{"COM", "6001", "Hospital of Exampleton (fictitious)", "hospital", "maternity", "gets signed CloudEvents and answers at once"},
		{"GOV", "6002", "Civil Registry (fictitious)", "civil-registry", "registry", "a batch program over a folder of CSV files, which asks for its turns"},
		{"GOV", "6003", "Residence Register (fictitious)", "residence", "residents", "gets signed CloudEvents, answers 202 and reports later"},
		{"GOV", "6004", "Health Insurance Fund (fictitious)", "health-insurance", "members", "gets signed CloudEvents and answers at once"},
		{"GOV", "6005", "Benefits Office (fictitious)", "benefits", "grants", "a clerk at a desk, who asks for the turns"},
		{"MUN", "6006", "Kindergarten Authority (fictitious)", "education", "places", "gets signed CloudEvents and answers at once"},
	}
}

// shortened are the deadlines of the demo: nobody waits ten days for it.
func shortened(d *definition.Definition) {
	for n := range d.Steps {
		d.Steps[n].Deadline = definition.Duration(2 * time.Minute)
		if d.Steps[n].ID == "pay" {
			d.Steps[n].Deadline = definition.Duration(8 * time.Second)
		}
	}
}

// birth is the running birth.
type birth struct {
	*Demo
	bodies  []birthBody
	process *definition.Process
	id      registry.ProcessID
	clerk   *demostack.Desk
}

// RunBirth starts six bodies with systems of four kinds, and brings two births to an
// end: one in which a body is down for a while, and one in which a deadline is missed and
// what was done is taken back.
func RunBirth(ctx context.Context, o Options) (*Demo, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return &Demo{}, err
	}
	o.Dir = dir
	b := &birth{Demo: &Demo{opts: o}, bodies: birthBodies()}
	// 1. Six bodies, their systems, and the process that they agree on.
	if err := b.startBirth(ctx); err != nil {
		return b.Demo, err
	}
	if err := b.agree(ctx); err != nil {
		return b.Demo, err
	}
	// 2. A birth, while the residence register is down for a while.
	if err := b.complete(ctx); err != nil {
		return b.Demo, err
	}
	// 3. Another, in which the benefits office does nothing.
	if err := b.withdrawn(ctx); err != nil {
		return b.Demo, err
	}
	// 4. What no body can do.
	return b.Demo, b.deviations(ctx)
}

func (b *birth) desk(i int) *demostack.Desk {
	return &demostack.Desk{
		Gateway: func() string { return b.Network.Bodies[i].ConsumerURL() },
		Client:  civibus.ClientID{MemberID: b.member(i), Subsystem: b.bodies[i].subsystem}.String(),
	}
}

func (b *birth) member(i int) civibus.MemberID {
	return civibus.MemberID{Instance: "DEMO", Class: b.bodies[i].class, Code: b.bodies[i].code}
}

func (b *birth) startBirth(ctx context.Context) error {
	began := time.Now()
	port := func(n int) string {
		if b.opts.FirstPort == 0 {
			return "127.0.0.1:0"
		}
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(b.opts.FirstPort+6*testnet.PortsPerBody+n))
	}
	// 1. The systems. What they find out is invented.
	queue := 0
	webhook := func(n int, w demostack.Work) (string, error) {
		s, err := demostack.StartWebhook(ctx, port(n), w)
		if err != nil {
			return "", err
		}
		b.stacks = append(b.stacks, s)
		return s.URL, nil
	}
	systems := make([]string, len(b.bodies))
	var err error
	systems[hospital], err = webhook(0, func(t demostack.Turn) map[string]any {
		return facts(t, map[string]any{"live_birth": true, "born_on": "2026-11-23", "mother": digest("FIC-M-" + t.Instance)})
	})
	if err != nil {
		return err
	}
	systems[insurance], err = webhook(1, func(t demostack.Turn) map[string]any { return facts(t, map[string]any{"insured": true}) })
	if err != nil {
		return err
	}
	systems[kindergarten], err = webhook(2, func(t demostack.Turn) map[string]any {
		queue++
		return facts(t, map[string]any{"place_in_queue": queue})
	})
	if err != nil {
		return err
	}
	later, err := demostack.StartLater(ctx, port(3), 150*time.Millisecond, b.desk(residence), func(t demostack.Turn) map[string]any {
		return facts(t, map[string]any{"resident": true, "district": "north"})
	})
	if err != nil {
		return err
	}
	b.stacks = append(b.stacks, later)
	systems[residence] = later.URL
	b.clerk = b.desk(benefits)
	// 2. The bodies.
	var specs []testnet.BodySpec
	for _, body := range b.bodies {
		specs = append(specs, testnet.BodySpec{Class: body.class, Code: body.code, Name: body.name})
	}
	b.Network, err = testnet.Found(testnet.Options{
		Dir: filepath.Join(b.opts.Dir, "bodies"), Bodies: specs, FirstPort: b.opts.FirstPort, Logger: b.opts.Logger,
		Configure: func(i int, c *node.Config) {
			c.Process = []node.ProcessConfig{{Subsystem: b.bodies[i].subsystem, System: systems[i]}}
		},
	})
	if err != nil {
		return err
	}
	if err := b.Network.Start(ctx, 60*time.Second); err != nil {
		return err
	}
	// 3. The system that asks for its turns.
	batch, err := demostack.StartBatch(ctx, filepath.Join(b.opts.Dir, "registry-files"), 100*time.Millisecond, b.desk(civilRegistry), func(t demostack.Turn) map[string]any {
		return facts(t, map[string]any{"registered": true, "child": digest("FIC-C-" + t.Instance)})
	})
	if err != nil {
		return err
	}
	b.stacks = append(b.stacks, batch)
	b.report(began, Step{Kind: KindStart, Name: "six bodies and their systems", Detail: "each body has its own keys, data directory, gateway, validator and part of the process; nobody drives the whole", OK: true})
	for i, body := range b.bodies {
		b.report(time.Now(), Step{Kind: KindStart, Name: body.name, Client: b.member(i).String(), Detail: "its system: " + body.stack, OK: true})
	}
	return nil
}

// facts are what a system answers: nothing if it takes something back.
func facts(t demostack.Turn, found map[string]any) map[string]any {
	if t.Undo {
		return nil
	}
	return found
}

// agree has the bodies register the process, who plays which role, and who opens
// facts to whom.
func (b *birth) agree(ctx context.Context) error {
	began := time.Now()
	text, err := examples.Files.ReadFile("birth.yaml")
	if err != nil {
		return err
	}
	d, err := definition.Read(text)
	if err != nil {
		return err
	}
	shortened(d)
	document, err := d.Encode()
	if err != nil {
		return err
	}
	if b.process, err = d.Compile(); err != nil {
		return err
	}
	owner := b.Network.Bodies[civilRegistry]
	b.id = registry.ProcessID{Owner: owner.ID, Name: d.ID, Version: d.Version}
	// 1. The subsystems, and the process by the civil registry.
	count := 0
	register := func(changes []testnet.Change) error {
		count += len(changes)
		_, err := b.Network.Register(ctx, changes...)
		return err
	}
	change := func(i int, tx *registrypb.Tx) testnet.Change { return testnet.Change{By: b.Network.Bodies[i], Tx: tx} }
	first := []testnet.Change{change(civilRegistry, &registrypb.Tx{Body: &registrypb.Tx_SetProcess{SetProcess: &registrypb.SetProcess{Owner: owner.ID.String(), Definition: document}}})}
	for i, body := range b.bodies {
		first = append(first, b.Network.Bodies[i].Subsystem(body.subsystem, body.name))
	}
	if err := register(first); err != nil {
		return fmt.Errorf("register the process: %w", err)
	}
	// 2. Each takes its role, and offers the service by which facts come.
	var second, third []testnet.Change
	for i, body := range b.bodies {
		client := b.Network.Bodies[i].Client(body.subsystem)
		second = append(second,
			change(i, &registrypb.Tx{Body: &registrypb.Tx_TakeRole{TakeRole: &registrypb.TakeRole{Process: b.id.String(), Role: body.role, Subsystem: client.String()}}}),
			b.Network.Bodies[i].Publish(civibus.Service{ID: civibus.ServiceID{ClientID: client, Service: process.ServiceCode}, Type: civibus.REST, Title: "Facts of processes (fictitious)"}))
		if i != civilRegistry {
			third = append(third, change(civilRegistry, &registrypb.Tx{Body: &registrypb.Tx_ApproveRole{ApproveRole: &registrypb.ApproveRole{Process: b.id.String(), Role: body.role, Subsystem: client.String()}}}))
		}
	}
	if err := register(second); err != nil {
		return fmt.Errorf("take the roles: %w", err)
	}
	// 3. The owner approves; and who is shown facts lets in who shows them.
	openings, err := b.process.Openings("")
	if err != nil {
		return err
	}
	for _, o := range openings {
		from, to := b.role(o.From), b.role(o.To)
		third = append(third, b.Network.Bodies[to].Grant(civibus.AccessRight{
			Service: civibus.ServiceID{ClientID: b.Network.Bodies[to].Client(b.bodies[to].subsystem), Service: process.ServiceCode},
			Client:  b.Network.Bodies[from].Client(b.bodies[from].subsystem), Purpose: process.Purpose, LegalBasis: d.Law.Act + ", " + d.Law.Provision,
		}))
	}
	if err := register(third); err != nil {
		return fmt.Errorf("approve the roles: %w", err)
	}
	b.report(began, Step{
		Kind: KindRegister, Name: "process " + b.id.String(), OK: true,
		Detail: fmt.Sprintf("%d steps, %d facts, %d roles taken and approved: %d transactions of six bodies; in this demo its deadlines are seconds and minutes instead of days", len(d.Steps), len(d.Facts), len(d.Roles), count),
	})
	return nil
}

func (b *birth) role(id string) int {
	for i, body := range b.bodies {
		if body.role == id {
			return i
		}
	}
	return -1
}

// begin starts an instance at the hospital.
func (b *birth) begin(ctx context.Context) (string, error) {
	began := time.Now()
	in := process.Beginning{Process: b.id.String(), Parts: make(map[string]string)}
	for i, body := range b.bodies {
		in.Parts[body.role] = b.Network.Bodies[i].Client(body.subsystem).String()
	}
	var out struct{ Instance string }
	if err := b.ask(ctx, hospital, http.MethodPost, "instances", in, &out); err != nil {
		return "", fmt.Errorf("begin an instance: %w", err)
	}
	b.report(began, Step{Kind: KindProcess, Name: "a child is born", Client: b.member(hospital).String(), Detail: "the hospital begins instance " + out.Instance, OK: true})
	return out.Instance, nil
}

// ask calls a body's interface for its own systems.
func (b *birth) ask(ctx context.Context, i int, method, path string, in, out any) error {
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
	req.Header.Set(civibus.HeaderClient, b.Network.Bodies[i].Client(b.bodies[i].subsystem).String())
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
func (b *birth) look(ctx context.Context, i int, instance string) (*process.InstanceStatus, error) {
	out := new(process.InstanceStatus)
	return out, b.ask(ctx, i, http.MethodGet, "instances/"+instance, nil, out)
}

// patience is how long the demo waits for anything.
const patience = 90 * time.Second

// await waits until a body sees what it should.
func (b *birth) await(ctx context.Context, i int, instance string, done func(*process.InstanceStatus) bool) (*process.InstanceStatus, error) {
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
			return s, fmt.Errorf("instance %s at %s: %w", instance, b.bodies[i].name, ctx.Err())
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

// clerkPays is the clerk of the benefits office, who pays.
func (b *birth) clerkPays(ctx context.Context, instance string) error {
	began := time.Now()
	if _, err := b.await(ctx, benefits, instance, func(s *process.InstanceStatus) bool { return stepAt(s, "pay").Status == "open" }); err != nil {
		return err
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		turns, err := b.clerk.Turns(ctx)
		if err != nil {
			return err
		}
		for _, t := range turns {
			if t.Instance != instance || len(t.Missing) > 0 {
				continue
			}
			if err := b.clerk.Done(ctx, t, nil); err != nil {
				return err
			}
			b.report(began, Step{Kind: KindProcess, Name: "pay", Client: b.member(benefits).String(), Detail: "the clerk sees the digest of the child's entry, and nothing else, and pays the benefit", OK: true})
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// complete is a birth in which the residence register is down for a while.
func (b *birth) complete(ctx context.Context) error {
	// 1. It goes down before the child is born.
	began := time.Now()
	if err := b.Network.Bodies[residence].Stop(); err != nil {
		return err
	}
	b.report(began, Step{Kind: KindProcess, Name: "the residence register goes down", Client: b.member(residence).String(), Detail: "its whole node: gateway, validator, process", OK: true})
	instance, err := b.begin(ctx)
	if err != nil {
		return err
	}
	// 2. The others go on as far as they can, and see who is waited for.
	began = time.Now()
	s, err := b.await(ctx, hospital, instance, func(s *process.InstanceStatus) bool { return stepAt(s, "live-at").Status == "open" })
	if err != nil {
		return err
	}
	waiting := stepAt(s, "live-at")
	b.report(began, Step{Kind: KindProcess, Name: "the birth is registered", Client: b.member(civilRegistry).String(), OK: stepAt(s, "register").Status == "done" && waiting.Due != nil,
		Detail: fmt.Sprintf("all see that %s is to do \"live-at\" by %s", waiting.Body, waiting.Due.Local().Format(time.TimeOnly))})
	// 3. It comes back and catches up.
	began = time.Now()
	if err := b.Network.Bodies[residence].Start(ctx, 60*time.Second); err != nil {
		return err
	}
	if _, err := b.await(ctx, hospital, instance, func(s *process.InstanceStatus) bool { return stepAt(s, "live-at").Status == "done" }); err != nil {
		return err
	}
	b.report(began, Step{Kind: KindProcess, Name: "the residence register is back", Client: b.member(residence).String(), Detail: "it catches up with the blocks, gets the facts that were kept for it, and enters the child", OK: true})
	// 4. The rest follows side by side.
	if err := b.clerkPays(ctx, instance); err != nil {
		return err
	}
	began = time.Now()
	if s, err = b.await(ctx, hospital, instance, func(s *process.InstanceStatus) bool { return s.Phase == "ended" }); err != nil {
		return err
	}
	b.report(began, Step{Kind: KindProcess, Name: "the end", OK: s.End == "complete", Detail: fmt.Sprintf("%s: %s (%d events on the ledger)", s.End, s.EndTitle, s.Events)})
	if err := b.views(ctx, instance); err != nil {
		return err
	}
	return b.picture(instance, "complete.svg")
}

// withdrawn is a birth in which the benefits office misses its deadline.
func (b *birth) withdrawn(ctx context.Context) error {
	instance, err := b.begin(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	s, err := b.await(ctx, kindergarten, instance, func(s *process.InstanceStatus) bool { return s.Phase != "running" })
	if err != nil {
		return err
	}
	late := stepAt(s, "pay")
	b.report(began, Step{Kind: KindProcess, Name: "a deadline is missed", Client: b.member(benefits).String(), OK: late.Late == 1,
		Detail: fmt.Sprintf("%s has not done \"pay\" in time; the others say so on the ledger, and the process takes back what was done", late.Body)})
	began = time.Now()
	if s, err = b.await(ctx, kindergarten, instance, func(s *process.InstanceStatus) bool { return s.Phase == "ended" }); err != nil {
		return err
	}
	back := []string{}
	ok := s.End == "withdrawn"
	for _, id := range []string{"queue", "insure", "live-at", "register"} {
		step := stepAt(s, id)
		ok = ok && step.Status == "reverted"
		back = append(back, id)
	}
	b.report(began, Step{Kind: KindProcess, Name: "the end", OK: ok, Detail: fmt.Sprintf("%s: %s; taken back: %s", s.End, s.EndTitle, strings.Join(back, ", "))})
	return b.picture(instance, "withdrawn.svg")
}

// views tells an instance as each body sees it.
func (b *birth) views(ctx context.Context, instance string) error {
	for i, body := range b.bodies {
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
		b.report(began, Step{Kind: KindView, Name: body.name, Client: b.member(i).String(), OK: s.End == "complete",
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
func (b *birth) picture(instance, file string) error {
	v := b.Network.Bodies[hospital].Node().Admin().View()
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
func (b *birth) deviations(ctx context.Context) error {
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
	if _, err := b.await(ctx, benefits, instance, func(s *process.InstanceStatus) bool { return stepAt(s, "pay").Status == "open" }); err != nil {
		return err
	}
	post(kindergarten, "another body's step", "not_your_step", &registrypb.PostStep{Step: "register", Attempt: 1, Kind: done})
	post(civilRegistry, "the same step otherwise", "conflict", &registrypb.PostStep{Step: "register", Attempt: 1, Kind: registrypb.StepKind_STEP_KIND_FAILED})
	post(insurance, "a deadline that is not over", "not_due", &registrypb.PostStep{Step: "pay", Attempt: 1, Kind: registrypb.StepKind_STEP_KIND_TIMEOUT})
	post(hospital, "a step that there is not", "unknown_step", &registrypb.PostStep{Step: "name-the-child", Attempt: 1, Kind: done})
	return nil
}

func digest(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }
