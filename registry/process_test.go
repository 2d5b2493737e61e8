package registry_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// processDocument is a small process in canonical form: the office notifies, the
// register enters if the person is old enough, the office pays if the case is of
// kind a.
func processDocument(version uint32) []byte {
	hour := definition.Duration(time.Hour)
	d := &definition.Definition{
		Format: definition.Format, ID: "case", Version: version, Title: "A case", Law: definition.Law{Act: "Act"},
		Roles: []definition.Role{{ID: "office", Title: "Office"}, {ID: "register", Title: "Register"}},
		Facts: []definition.Fact{
			{ID: "kind", Title: "Kind", Type: definition.Code, Codes: []string{"a", "b"}, Public: true},
			{ID: "age", Title: "Age", Type: definition.Int},
		},
		Steps: []definition.Step{
			{ID: "notify", Title: "Notify", From: "office", To: "register", Kind: definition.ServiceStep, Service: "notify", Yields: []string{"kind", "age"}, Deadline: hour, Undo: "withdraw"},
			{ID: "enter", Title: "Enter", From: "register", Kind: definition.TaskStep, Needs: &definition.Needs{All: []string{"notify"}}, When: "age > 3", Deadline: hour, Retries: 1, Undo: "delete"},
			{ID: "pay", Title: "Pay", From: "office", Kind: definition.TaskStep, Needs: &definition.Needs{All: []string{"enter"}}, When: `kind == "a"`, Deadline: hour, OnTimeout: definition.Cancel, Final: true},
		},
		Ends: []definition.End{{ID: "closed", Title: "Closed"}, {ID: "cancelled", Title: "Cancelled", Cancelled: true}},
	}
	return must(d.Encode())
}

const (
	processID = idB + "/case/1"
	office    = idB + "/POP"
	register  = idC + "/APP"
)

var parts = []*registrypb.Part{{Role: "office", Subsystem: office}, {Role: "register", Subsystem: register}}

func takeRole(role, subsystem string) *registrypb.TakeRole {
	return &registrypb.TakeRole{Process: processID, Role: role, Subsystem: subsystem}
}

func startCase() *registrypb.StartInstance {
	return &registrypb.StartInstance{Process: processID, Parts: parts}
}

// furnishProcess registers the process with its two bodies, which are B and C; C is under B.
func furnishProcess(w *world) {
	w.t.Helper()
	w.ok(edKey("B/admin"), &registrypb.SetProcess{Owner: idB, Definition: processDocument(1)})
	w.ok(edKey("B/admin"), takeRole("office", office))
	w.ok(edKey("C/admin"), takeRole("register", register))
	w.ok(edKey("B/admin"), &registrypb.ApproveRole{Process: processID, Role: "register", Subsystem: register})
}

// begin starts a case and returns its id.
func (w *world) begin() string {
	w.t.Helper()
	b := w.ok(edKey("B/log"), startCase())
	return hex.EncodeToString(b.Results[0].TxHash[:16])
}

func step(instance, step string, kind registrypb.StepKind, attempt uint32) *registrypb.PostStep {
	return &registrypb.PostStep{Instance: instance, Step: step, Attempt: attempt, Kind: kind}
}

func notified(instance, kind string) *registrypb.PostStep {
	s := step(instance, "notify", registrypb.StepKind_STEP_KIND_DONE, 1)
	s.Yields = []*registrypb.Yield{{Fact: "kind", Value: kind}, {Fact: "age", Commitment: bytes.Repeat([]byte{7}, 32)}}
	return s
}

func (w *world) instance(id string) registry.ProcessInstance {
	w.t.Helper()
	i, ok, err := w.view().ProcessInstance(id)
	if err != nil || !ok {
		w.t.Fatalf("instance %s: %v", id, err)
	}
	return i
}

const (
	stepDone     = registrypb.StepKind_STEP_KIND_DONE
	stepSkipped  = registrypb.StepKind_STEP_KIND_SKIPPED
	stepFailed   = registrypb.StepKind_STEP_KIND_FAILED
	stepTimeout  = registrypb.StepKind_STEP_KIND_TIMEOUT
	stepReverted = registrypb.StepKind_STEP_KIND_REVERTED
)

// TestProcessLife: two bodies bring a case to its end; each event stands in the event
// log, and what ended is found and proved.
func TestProcessLife(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	furnishProcess(w)
	roles, _ := w.view().ProcessRoles(must(registry.ParseProcessID(processID)), "", 0)
	if len(roles) != 2 || !roles[0].InForce() || !roles[1].InForce() || roles[1].Role != "register" {
		t.Fatalf("roles %+v", roles)
	}
	id := w.begin()
	if of, _ := w.view().InstancesOf(must(civibus.ParseClientID(register)), "", 0); len(of) != 1 || of[0].ID != id || !of[0].Plays(member("C")) || of[0].Plays(member("A")) {
		t.Fatalf("instances of the register: %+v", of)
	}
	before := w.view()
	b := w.ok(edKey("B/log"), notified(id, "a"))
	var e registrypb.Event
	if err := proto.Unmarshal(b.Events[0], &e); err != nil {
		t.Fatal(err)
	}
	if p := e.GetStepPosted(); p.GetEvent().GetStep() != "notify" || p.By != office || p.TimeUnixNano != w.now.UnixNano() || p.End != "" || len(p.Event.Yields) != 2 {
		t.Errorf("event %v", &e)
	}
	w.refused(registry.Already, edKey("B/log"), notified(id, "a"))
	w.refused(registry.Conflict, edKey("B/log"), notified(id, "b"))
	w.ok(edKey("C/log"), step(id, "enter", stepFailed, 1))
	w.ok(edKey("C/log"), step(id, "enter", stepDone, 2))
	b = w.ok(edKey("B/log"), step(id, "pay", stepDone, 1))
	if err := proto.Unmarshal(b.Events[0], &e); err != nil || e.GetStepPosted().GetEnd() != "closed" {
		t.Errorf("last event %v", &e)
	}
	for range 2 { // in the block of the end, and later, when only the store has it
		i := w.instance(id)
		if i.State.End != "closed" || i.State.Phase != definition.Ended || i.Ended == 0 || i.State.Events != 4 {
			t.Errorf("%+v", i)
		}
		if all, _ := w.view().ProcessInstances("", 0); len(all) != 0 {
			t.Errorf("%d instances go on", len(all))
		}
		if value, _, err := w.view().ProveState("instance/" + id); err != nil || value == nil {
			t.Fatalf("no value to prove: %v", err)
		}
		proveAll(t, w.view(), "instance/"+id)
		w.refused(registry.Already, edKey("B/log"), step(id, "pay", stepDone, 1))
		w.refused(registry.Ended, edKey("B/log"), step(id, "pay", stepFailed, 1))
		w.ok(edKey("A/admin"), &registrypb.SetSubsystem{Id: fmt.Sprint(idA, "/S", w.m.Height()), Name: "S"})
	}
	// The view of then has the instance of then.
	if i, ok, err := before.ProcessInstance(id); err != nil || !ok || i.State.Events != 0 || i.Ended != 0 {
		t.Errorf("the earlier view has %+v, %v", i, err)
	}
	// A copy has the same.
	var dump bytes.Buffer
	if err := w.m.Dump(&dump); err != nil {
		t.Fatal(err)
	}
	store := registry.NewMemoryStore()
	if _, hash, err := registry.Import(&dump, store); err != nil || hash != w.m.AppHash() {
		t.Fatalf("import: %v", err)
	}
	other := must(registry.Open(store))
	if i, ok, err := other.View().ProcessInstance(id); err != nil || !ok || i.State.End != "closed" {
		t.Errorf("the copy has %+v, %v", i, err)
	}
	if other.View().Usage(member("B")) != w.view().Usage(member("B")) {
		t.Error("the copy charges something else")
	}
}

// TestProcessDeadlines: a deadline that is missed is said by anybody, not before, and
// what was done is taken back, the last first.
func TestProcessDeadlines(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	furnishProcess(w)
	id := w.begin()
	w.ok(edKey("B/log"), notified(id, "a"))
	w.ok(edKey("C/log"), step(id, "enter", stepDone, 1))
	w.refused(registry.NotDue, edKey("A/log"), step(id, "pay", stepTimeout, 1))
	w.now = w.now.Add(time.Hour)
	w.ok(edKey("A/log"), step(id, "pay", stepTimeout, 1))
	w.refused(registry.Conflict, edKey("B/log"), step(id, "notify", stepReverted, 1))
	w.ok(edKey("C/log"), step(id, "enter", stepReverted, 1))
	w.ok(edKey("B/log"), step(id, "notify", stepReverted, 1))
	if i := w.instance(id); i.State.End != "cancelled" {
		t.Errorf("%+v", i.State)
	}
}

func processRefusals(run runner, body bodyRun, after after, do doer) {
	process := func(w *world) { furnishProcess(w) }
	second := func(w *world, id string) {
		w.ok(edKey("B/admin"), &registrypb.SetProcess{Owner: idB, Definition: otherVersion()})
	}
	with := func(name string, code registry.Code, signer string, fn func(id string) any, before ...func(w *world, id string)) {
		run(name, code, func(w *world) []byte {
			furnishProcess(w)
			id := w.begin()
			for _, b := range before {
				b(w, id)
			}
			return w.tx(edKey(signer), fn(id))
		})
	}
	set := func(document []byte) *registrypb.SetProcess {
		return &registrypb.SetProcess{Owner: idB, Definition: document}
	}
	body("process: owner", registry.InvalidField, "B/admin", &registrypb.SetProcess{Owner: "B", Definition: processDocument(1)})
	body("process: no definition", registry.BadDefinition, "B/admin", set(nil))
	body("process: white space", registry.BadDefinition, "B/admin", set(append(processDocument(1), ' ')))
	body("process: unknown role", registry.BadDefinition, "B/admin", set(bytes.Replace(processDocument(1), []byte(`"from":"register"`), []byte(`"from":"registry"`), 1)))
	body("process: hostile guard", registry.BadDefinition, "B/admin", set(bytes.Replace(processDocument(1), []byte(`age > 3`), []byte(`[1].all(x, x > 0)`), 1)))
	body("process: cycle", registry.BadDefinition, "B/admin", set(bytes.Replace(processDocument(1), []byte(`"needs":{"all":["notify"]}`), []byte(`"needs":{"all":["pay"]}`), 1)))
	body("process of another", registry.NotAuthorised, "A/admin", set(processDocument(1)))
	body("process of nobody", registry.NotAuthorised, "A/admin", &registrypb.SetProcess{Owner: "TEST/GOV/X", Definition: processDocument(1)})
	body("process: second version first", registry.NotFound, "B/admin", set(processDocument(2)))
	after("process: twice", registry.AlreadyExists, "B/admin", set(processDocument(1)), process)
	status := func(s registrypb.Status, notice string) *registrypb.SetProcessStatus {
		return &registrypb.SetProcessStatus{Process: processID, Status: s, Notice: notice}
	}
	body("process status: unknown", registry.NotFound, "B/admin", status(ended, ""))
	body("process status: id", registry.InvalidField, "B/admin", &registrypb.SetProcessStatus{Process: idB + "/case/01", Status: ended})
	after("process status: same", registry.NoChange, "B/admin", status(active, ""), process)
	after("process status: no notice", registry.InvalidField, "B/admin", status(suspended, ""), process)
	after("process status: none", registry.InvalidField, "B/admin", status(0, ""), process)
	after("process status: of another", registry.NotAuthorised, "A/admin", status(ended, ""), process)
	after("process status: final", registry.Ended, "B/admin", status(active, ""), process, do("B/admin", status(ended, "")))
	role := func(role, subsystem string) *registrypb.TakeRole { return takeRole(role, subsystem) }
	body("role of nothing", registry.NotFound, "C/admin", role("register", register))
	after("role unknown", registry.InvalidField, "C/admin", role("registry", register), process)
	after("role: a member", registry.InvalidField, "C/admin", role("register", idC), process)
	after("role for another", registry.NotAuthorised, "A/admin", role("register", register), process)
	after("role: no such subsystem", registry.NotFound, "C/admin", role("register", idC+"/X"), process)
	after("role taken twice", registry.NoChange, "C/admin", role("register", register), process)
	approve := func(subsystem string, end bool) *registrypb.ApproveRole {
		return &registrypb.ApproveRole{Process: processID, Role: "register", Subsystem: subsystem, End: end}
	}
	after("role approved by another", registry.NotAuthorised, "C/admin", approve(register, true), process)
	after("role approved twice", registry.NoChange, "B/admin", approve(register, false), process)
	after("role of no subsystem approved", registry.NotFound, "B/admin", approve(idC+"/X", false), process)
	start := func(fn func(m *registrypb.StartInstance)) *registrypb.StartInstance {
		m := proto.Clone(startCase()).(*registrypb.StartInstance)
		fn(m)
		return m
	}
	body("start nothing", registry.NotFound, "B/log", startCase())
	after("start: admin key", registry.WrongPurpose, "B/admin", startCase(), process)
	after("start: variant", registry.InvalidField, "B/log", start(func(m *registrypb.StartInstance) { m.Variant = "south" }), process)
	after("start: too few parts", registry.InvalidField, "B/log", start(func(m *registrypb.StartInstance) { m.Parts = m.Parts[:1] }), process)
	after("start: parts in another order", registry.InvalidField, "B/log", start(func(m *registrypb.StartInstance) { m.Parts[0], m.Parts[1] = m.Parts[1], m.Parts[0] }), process)
	after("start: part of none", registry.InvalidField, "B/log", start(func(m *registrypb.StartInstance) { m.Parts[1].Subsystem = "x" }), process)
	after("start: who has not the role", registry.NotInForce, "B/log", start(func(m *registrypb.StartInstance) { m.Parts[1].Subsystem = office }), process)
	after("start: by who has no first step", registry.NotAuthorised, "C/log", startCase(), process)
	after("start: suspended process", registry.NotInForce, "B/log", startCase(), process, do("B/admin", status(suspended, "The form changes")))
	after("start: role ended", registry.NotInForce, "B/log", startCase(), process, do("B/admin", approve(register, true)))
	after("start: role given back", registry.NotInForce, "B/log", startCase(), process, do("C/admin", &registrypb.TakeRole{Process: processID, Role: "register", Subsystem: register, End: true}))
	after("start: member suspended", registry.NotInForce, "B/log", startCase(), process, do("B/admin", &registrypb.SetMemberStatus{Id: idC, Status: suspended}))
	after("start: subsystem suspended", registry.NotInForce, "B/log", startCase(), process, do("C/admin", &registrypb.SetSubsystemStatus{Id: register, Status: suspended}))

	with("migrate: by a stranger", registry.NotAuthorised, "A/admin", func(id string) any { return migrate(id, 2) }, second)
	with("migrate: no such version", registry.NotFound, "B/admin", func(id string) any { return migrate(id, 2) })
	with("migrate: log key", registry.WrongPurpose, "B/log", func(id string) any { return migrate(id, 2) }, second)
	with("migrate: same version", registry.BadMigration, "B/admin", func(id string) any { return migrate(id, 1) })
	with("migrate: suspended version", registry.NotInForce, "B/admin", func(id string) any { return migrate(id, 2) }, second, func(w *world, _ string) {
		w.ok(edKey("B/admin"), &registrypb.SetProcessStatus{Process: idB + "/case/2", Status: suspended, Notice: "Not yet"})
	})
	after("migrate: nothing", registry.NotFound, "B/admin", migrate("00000000000000000000000000000000", 2))
	body("migrate: instance", registry.InvalidField, "B/admin", migrate("x", 2))

	after("post: instance", registry.InvalidField, "B/log", notified("x", "a"), process)
	after("post: no instance", registry.NotFound, "B/log", notified("00000000000000000000000000000000", "a"), process)
	post := func(name string, code registry.Code, signer string, fn func(m *registrypb.PostStep), before ...func(w *world, id string)) {
		with("post: "+name, code, signer, func(id string) any {
			m := notified(id, "a")
			fn(m)
			return m
		}, before...)
	}
	known := func(w *world, id string) { w.ok(edKey("B/log"), notified(id, "a")) }
	post("unknown step", registry.UnknownStep, "B/log", func(m *registrypb.PostStep) { m.Step = "x" })
	post("another's step", registry.NotYourStep, "C/log", func(m *registrypb.PostStep) {})
	post("a stranger", registry.NotYourStep, "A/log", func(m *registrypb.PostStep) {})
	post("kind", registry.InvalidField, "B/log", func(m *registrypb.PostStep) { m.Kind = 7 })
	post("too early", registry.NotYourTurn, "C/log", func(m *registrypb.PostStep) { m.Step, m.Yields = "enter", nil })
	post("attempt", registry.BadAttempt, "B/log", func(m *registrypb.PostStep) { m.Attempt = 2 })
	post("facts missing", registry.BadFacts, "B/log", func(m *registrypb.PostStep) { m.Yields = m.Yields[:1] })
	post("facts in another order", registry.BadFacts, "B/log", func(m *registrypb.PostStep) { m.Yields[0], m.Yields[1] = m.Yields[1], m.Yields[0] })
	post("no such code", registry.BadFacts, "B/log", func(m *registrypb.PostStep) { m.Yields[0].Value = "c" })
	post("no such fact", registry.BadFacts, "B/log", func(m *registrypb.PostStep) { m.Yields[0].Fact = "x" })
	post("sealed fact in the open", registry.BadFacts, "B/log", func(m *registrypb.PostStep) { m.Yields[1] = &registrypb.Yield{Fact: "age", Value: "7"} })
	post("short commitment", registry.BadFacts, "B/log", func(m *registrypb.PostStep) { m.Yields[1].Commitment = []byte{1} })
	post("other content", registry.Conflict, "B/log", func(m *registrypb.PostStep) { m.Yields[0].Value = "b" }, known)
	post("again", registry.Already, "B/log", func(m *registrypb.PostStep) {}, known)
	post("not due", registry.NotDue, "C/log", func(m *registrypb.PostStep) { m.Kind, m.Yields = stepTimeout, nil })
	post("skipped without a sealed guard", registry.GuardPublic, "B/log", func(m *registrypb.PostStep) { m.Kind, m.Yields = stepSkipped, nil })
	post("after the end", registry.Ended, "B/log", func(m *registrypb.PostStep) { m.Attempt = 3 }, known, func(w *world, id string) {
		w.ok(edKey("C/log"), step(id, "enter", stepSkipped, 1)) // and pay, which needs it
	})
}

// otherVersion is the process with one step more, which waits for the payment.
func otherVersion() []byte {
	d := must(definition.Parse(processDocument(2)))
	d.Steps = append(d.Steps, definition.Step{
		ID: "archive", Title: "Archive", From: "register", Kind: definition.TaskStep, Needs: &definition.Needs{All: []string{"pay"}}, Deadline: definition.Duration(time.Hour), Final: true,
	})
	return must(d.Encode())
}

func migrate(id string, version uint32) *registrypb.MigrateInstance {
	return &registrypb.MigrateInstance{Instance: id, Version: version}
}

// TestProcessMigration: an instance goes on under another version when all its bodies
// have said so, and not before.
func TestProcessMigration(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	furnishProcess(w)
	w.ok(edKey("B/admin"), &registrypb.SetProcess{Owner: idB, Definition: otherVersion()})
	id := w.begin()
	w.ok(edKey("B/log"), notified(id, "a"))
	w.ok(edKey("B/admin"), migrate(id, 2))
	w.refused(registry.NoChange, edKey("B/admin"), migrate(id, 2))
	w.ok(edKey("B/admin"), migrate(id, 0))
	w.refused(registry.NoChange, edKey("B/admin"), migrate(id, 0))
	w.ok(edKey("C/admin"), migrate(id, 2))
	if i := w.instance(id); i.Process.Version != 1 || len(i.Consents) != 1 {
		t.Errorf("%+v", i)
	}
	w.ok(edKey("C/log"), step(id, "enter", stepDone, 1)) // meanwhile it goes on
	w.ok(edKey("B/admin"), migrate(id, 2))
	if i := w.instance(id); i.Process.Version != 2 || len(i.Consents) != 0 || len(i.State.Steps) != 4 {
		t.Errorf("%+v", i)
	}
	w.ok(edKey("B/log"), step(id, "pay", stepDone, 1))
	if i := w.instance(id); i.Ended != 0 {
		t.Errorf("it ended without the new step: %+v", i)
	}
	w.ok(edKey("C/log"), step(id, "archive", stepDone, 1))
	if i := w.instance(id); i.State.End != "closed" {
		t.Errorf("%+v", i)
	}
	w.refused(registry.Ended, edKey("B/admin"), migrate(id, 1))
}

// drawProcessBody makes transactions of processes that may or may not be accepted.
func drawProcessBody(t *rapid.T, v *registry.View) (*testSigner, any) {
	admin := edKey(rapid.SampledFrom([]string{"B/admin", "C/admin"}).Draw(t, "admin"))
	log := edKey(rapid.SampledFrom([]string{"B/log", "C/log", "A/log"}).Draw(t, "log"))
	role := rapid.SampledFrom([]string{"office", "register"}).Draw(t, "role")
	subsystem := map[string]string{"office": idB + "/S", "register": idC + "/S"}[role]
	switch rapid.IntRange(0, 10).Draw(t, "kind of process") {
	case 10:
		if running, _ := v.ProcessInstances("", 5); len(running) > 0 {
			return admin, migrate(rapid.SampledFrom(running).Draw(t, "moved").ID, rapid.Uint32Range(0, 2).Draw(t, "to"))
		}
		return admin, &registrypb.SetProcess{Owner: idB, Definition: otherVersion()}
	case 0:
		return admin, &registrypb.SetProcess{Owner: idB, Definition: processDocument(rapid.Uint32Range(1, 2).Draw(t, "version"))}
	case 1:
		return admin, &registrypb.TakeRole{Process: processID, Role: role, Subsystem: subsystem, End: rapid.IntRange(0, 5).Draw(t, "end") == 0}
	case 2:
		return admin, &registrypb.ApproveRole{Process: processID, Role: role, Subsystem: subsystem, End: rapid.IntRange(0, 5).Draw(t, "end") == 0}
	case 3:
		return admin, &registrypb.SetSubsystem{Id: subsystem, Name: "Plays a role"}
	case 4, 5:
		return log, &registrypb.StartInstance{Process: processID, Parts: []*registrypb.Part{{Role: "office", Subsystem: idB + "/S"}, {Role: "register", Subsystem: idC + "/S"}}}
	}
	running, _ := v.ProcessInstances("", 5)
	if len(running) == 0 {
		return admin, &registrypb.SetProcessStatus{Process: processID, Status: active}
	}
	i := rapid.SampledFrom(running).Draw(t, "instance")
	p, _ := v.Process(i.Process)
	run := must(i.Resume(must(p.Compile())))
	turn := rapid.SampledFrom(run.Turns()).Draw(t, "turn")
	if rapid.IntRange(0, 3).Draw(t, "fits") > 0 {
		log = edKey(map[string]string{idB + "/S": "B/log", idC + "/S": "C/log"}[turn.Body])
	}
	m := step(i.ID, turn.Step, registrypb.StepKind(rapid.IntRange(1, 6).Draw(t, "step kind")), turn.Attempt)
	if turn.Step == "notify" && m.Kind == stepDone {
		m.Yields = notified("", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "case")).Yields
	}
	return log, m
}
