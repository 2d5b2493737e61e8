package registry

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry/registrypb"
)

// ProcessInstance is one run of a process: who takes part, and what its events made
// of it.
type ProcessInstance struct {
	ID      string // 32 hex digits
	Process ProcessID
	Variant string
	Parts   []Part // one for each role, in the definition's order
	Starter civibus.MemberID
	Started time.Time
	// Begun and Ended are heights: of the first block with it, and of the one in
	// which it ended, 0 while it goes on.
	Begun, Ended uint64
	State        definition.State
	Consents     []Consent // by subsystem
}

// Part says who plays a role.
type Part struct {
	Role      string
	Subsystem civibus.ClientID
}

// Consent is a body's word for going on under another version.
type Consent struct {
	Subsystem civibus.ClientID
	Version   uint32
}

// Resume returns the instance as the fold has it. The process is that of its id.
func (i *ProcessInstance) Resume(p *definition.Process) (*definition.Instance, error) {
	out, err := p.Resume(i.Variant, bodiesOf(i.Parts), i.State)
	if err != nil {
		return nil, fmt.Errorf("instance %s: %w", i.ID, err)
	}
	return out, nil
}

// Plays reports whether a member plays a role.
func (i *ProcessInstance) Plays(member civibus.MemberID) bool {
	return slices.ContainsFunc(i.Parts, func(p Part) bool { return p.Subsystem.MemberID == member })
}

func bodiesOf(parts []Part) map[string]string {
	out := make(map[string]string, len(parts))
	for _, p := range parts {
		out[p.Role] = p.Subsystem.String()
	}
	return out
}

// units is how many records an instance counts for: one for each eight steps and
// facts that it begins. It is charged for good.
func (i *ProcessInstance) units(d *definition.Process) uint64 {
	return 1 + uint64(len(i.State.Steps)+len(d.Facts))/8
}

// instanceRecord is an instance with what happened to it.
type instanceRecord struct {
	*ProcessInstance
	posted *registrypb.PostStep // nil: it began, or it is about its version
	by     string
	at     time.Time
	charge uint64 // when it begins
}

func (r instanceRecord) stateKey() string { return instancePrefix + r.ID }

// put keeps an instance while it goes on. One that ended stays in the store, where
// it is found by its id, and for one more block here, as the store has it only after that.
func (r instanceRecord) put(s *state) {
	_, known := s.instances.Get(r.ID)
	switch {
	case r.Ended == 0:
		s.instances.Set(r.ID, r.ProcessInstance)
	case known:
		s.instances.Set(r.ID, r.ProcessInstance)
		s.ended = append(s.ended[:len(s.ended):len(s.ended)], r.ProcessInstance)
	}
	for _, p := range r.Parts {
		key := pair(p.Subsystem.String(), r.ID)
		if r.Ended == 0 {
			s.instancesOf.Set(key, struct{}{})
		} else {
			s.instancesOf.Delete(key)
		}
	}
	if !s.uncounted {
		s.charge(r.Starter, r.charge)
	}
}

// dropEnded forgets the instances that ended in the block before: the store has them.
func (s *state) dropEnded() {
	for _, i := range s.ended {
		s.instances.Delete(i.ID)
	}
	s.ended = nil
}

func (r instanceRecord) eventField() protowire.Number {
	if r.posted == nil {
		return 33
	}
	return 34
}

// eventBody is what the event log says: all of an instance when it begins, and
// then each of its events.
func (r instanceRecord) eventBody(value []byte) []byte {
	if r.posted == nil {
		return value
	}
	event, err := encodeCanonical(r.posted)
	if err != nil {
		event = nil // it was decoded from a canonical encoding
	}
	return writer{}.message(1, event).str(2, r.by).num(3, uint64(r.at.UnixNano())).str(4, r.State.End)
}

func (r instanceRecord) encode() []byte {
	w := make(writer, 0, 512).str(1, r.ID).str(2, r.Process.String()).str(3, r.Variant)
	for _, p := range r.Parts {
		w = w.message(4, writer{}.str(1, p.Role).str(2, p.Subsystem.String()))
	}
	w = w.str(5, r.Starter.String()).num(6, uint64(r.Started.UnixNano())).num(7, r.Begun).num(8, r.Ended)
	s := &r.State
	w = w.num(9, uint64(s.Phase)).str(10, s.End).num(11, uint64(s.Events)).num(12, uint64(s.Done))
	var room [192]byte
	for n := range s.Steps {
		w = w.message(13, encodeStep(room[:0], &s.Steps[n]))
	}
	for n := range s.Facts {
		f := &s.Facts[n]
		m := writer(room[:0]).str(1, f.Fact)
		if f.Value == "" {
			m = m.bytes(2, f.Commitment[:])
		}
		w = w.message(14, m.str(3, f.Value).str(4, f.Step).num(5, uint64(f.Attempt)))
	}
	for _, c := range r.Consents {
		w = w.message(15, writer{}.str(1, c.Subsystem.String()).num(2, uint64(c.Version)))
	}
	return w
}

func encodeStep(w writer, s *definition.StepState) writer {
	w = w.num(1, uint64(s.Status)).num(2, uint64(s.Attempt)).flag(3, s.Human).num(4, uint64(s.Late)).
		num(5, nanosOf(s.Since)).num(6, nanosOf(s.Due)).flag(7, s.Escalated).num(8, uint64(s.Place))
	if s.Last.Kind != 0 {
		w = w.num(9, uint64(s.Last.Attempt)).num(10, uint64(s.Last.Kind)).bytes(11, s.Last.Digest[:])
	}
	return w
}

// nanosOf is the wire form of a time that may be absent.
func nanosOf(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

func timeOfNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

func decodeInstance(value []byte) (record, error) {
	var m registrypb.Instance
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	out := &ProcessInstance{ID: m.Id, Variant: m.Variant, Started: time.Unix(0, m.StartedUnixNano).UTC(), Begun: m.StartedHeight, Ended: m.EndedHeight}
	var err error
	if out.Process, err = ParseProcessID(m.Process); err != nil {
		return nil, err
	}
	if out.Starter, err = civibus.ParseMemberID(m.Starter); err != nil {
		return nil, err
	}
	for _, p := range m.Parts {
		subsystem, err := civibus.ParseClientID(p.Subsystem)
		if err != nil {
			return nil, err
		}
		out.Parts = append(out.Parts, Part{p.Role, subsystem})
	}
	for _, c := range m.Consents {
		subsystem, err := civibus.ParseClientID(c.Subsystem)
		if err != nil {
			return nil, err
		}
		out.Consents = append(out.Consents, Consent{subsystem, c.Version})
	}
	out.State, err = decodeInstanceState(&m)
	return instanceRecord{ProcessInstance: out}, err
}

func decodeInstanceState(m *registrypb.Instance) (definition.State, error) {
	s := definition.State{Phase: definition.Phase(m.Phase), End: m.End, Events: int(m.Events), Done: m.Done}
	for _, p := range m.Steps {
		step := definition.StepState{
			Status: definition.Status(p.Status), Attempt: p.Attempt, Human: p.Human, Late: uint8(p.Late),
			Since: timeOfNanos(p.SinceUnixNano), Due: timeOfNanos(p.DueUnixNano), Escalated: p.Escalated, Place: p.Place,
		}
		if p.LastKind != 0 {
			if len(p.LastDigest) != 32 {
				return s, errors.New("the digest of a step's last event has not 32 bytes")
			}
			step.Last = definition.Closed{Attempt: p.LastAttempt, Kind: definition.EventKind(p.LastKind), Digest: [32]byte(p.LastDigest)}
		}
		s.Steps = append(s.Steps, step)
	}
	for _, f := range m.Facts {
		known := definition.KnownFact{Fact: f.Fact, Value: f.Value, Step: f.Step, Attempt: f.Attempt}
		if f.Value == "" {
			if len(f.Commitment) != 32 {
				return s, errors.New("the commitment to a fact has not 32 bytes")
			}
			known.Commitment = definition.Commitment(f.Commitment)
		}
		s.Facts = append(s.Facts, known)
	}
	return s, nil
}

// startInstance begins an instance, by the word of a body that has to do a first
// step.
func (x *txn) startInstance(m *registrypb.StartInstance) ([]record, *refusal) {
	// 1. The process and its variant.
	p, r := x.process("process", m.Process)
	if r != nil {
		return nil, r
	}
	if p.Status != civibus.Active {
		return nil, refuse(NotInForce, "process %s is %s: %s", p.ID, p.Status, p.Notice)
	}
	d, r := x.compile(p)
	if r != nil {
		return nil, r
	}
	// 2. Who plays which role.
	next := &ProcessInstance{
		ID: hex.EncodeToString(x.hash[:16]), Process: p.ID, Variant: m.Variant, Starter: x.author.ID, Started: x.now, Begun: x.height,
	}
	if len(m.Parts) != len(d.Roles) {
		return nil, refuse(InvalidField, "parts: %d, the rule is one for each of the %d roles", len(m.Parts), len(d.Roles))
	}
	for n, part := range m.Parts {
		id, r := x.mayPlay(p.ID, d.Roles[n].ID, part)
		if r != nil {
			return nil, r
		}
		next.Parts = append(next.Parts, Part{part.Role, id})
	}
	// 3. Its first steps.
	run, err := d.Start(m.Variant, bodiesOf(next.Parts), x.now)
	if err != nil {
		return nil, refuse(InvalidField, "%v", err)
	}
	first := slices.ContainsFunc(run.Turns(), func(t definition.Turn) bool { return memberOf(t.Body) == x.author.ID.String() })
	if !first {
		return nil, refuse(NotAuthorised, "member %s has none of the first steps of process %s, the rule is that one who does begins it", x.author.ID, p.ID)
	}
	next.State = run.State()
	return []record{instanceRecord{ProcessInstance: next, charge: next.units(d)}}, nil
}

// compile works out a registered definition.
func (x *txn) compile(p *Process) (*definition.Process, *refusal) {
	d, err := p.Compile()
	if err != nil {
		x.err = fmt.Errorf("process %s: %w", p.ID, err)
		return nil, refuse(Unavailable, "the process could not be worked out")
	}
	return d, nil
}

// mayPlay checks one part of a new instance.
func (x *txn) mayPlay(p ProcessID, role string, part *registrypb.Part) (civibus.ClientID, *refusal) {
	if part.GetRole() != role {
		return civibus.ClientID{}, refuse(InvalidField, "parts: %.64q, the rule here is role %s", part.GetRole(), role)
	}
	id, r := x.subsystemID("parts", part.GetSubsystem())
	if r != nil {
		return id, r
	}
	known, ok := x.roles.Get(roleKey(p, role, id))
	if !ok || !known.InForce() {
		return id, refuse(NotInForce, "%s does not play role %s of process %s: it has not taken the role, or the process's owner has not approved it", id, role, p)
	}
	if m := x.member(id.MemberID); m == nil || m.Status != civibus.Active {
		return id, refuse(NotInForce, "member %s, which is to play role %s, is not active", id.MemberID, role)
	}
	if s, ok := x.subsystems.Get(id.String()); !ok || s.Status != civibus.Active {
		return id, refuse(NotInForce, "subsystem %s, which is to play role %s, is not active", id, role)
	}
	return id, nil
}

// memberOf is the member of a subsystem, both in canonical form.
func memberOf(subsystem string) string {
	member, _, _ := cutLast(subsystem)
	return member
}

// instance looks an instance up, wherever it is.
func (x *txn) instance(id string) (*ProcessInstance, *refusal) {
	if !isLowerHex(id, 16) {
		return nil, refuse(InvalidField, "instance: %.40q, the rule is 32 lower-case hex digits", id)
	}
	if i, ok := x.instances.Get(id); ok {
		return i, nil
	}
	i, err := storedInstance(x.store, id)
	if err != nil {
		x.err = fmt.Errorf("look up instance %s: %w", id, err)
		return nil, refuse(Unavailable, "the registry's store could not be read")
	}
	if i == nil {
		return nil, refuse(NotFound, "instance %s is not registered", id)
	}
	return i, nil
}

// storedInstance reads an instance that ended.
func storedInstance(store Store, id string) (*ProcessInstance, error) {
	b, err := store.Get(stateStoreKey(instancePrefix + id))
	if err != nil || b == nil {
		return nil, err
	}
	r, err := decodeInstance(b)
	if err != nil {
		return nil, err
	}
	return r.(instanceRecord).ProcessInstance, nil
}

// postStep is an event of an instance: the fold takes it or refuses it.
func (x *txn) postStep(m *registrypb.PostStep) ([]record, *refusal) {
	// 1. The instance, and the process under which it runs.
	if x.checking && !isLowerHex(m.Instance, 16) {
		return nil, refuse(InvalidField, "instance: %.40q, the rule is 32 lower-case hex digits", m.Instance)
	}
	if x.checking {
		return nil, nil // what else there is to say depends on the events before it
	}
	old, r := x.instance(m.Instance)
	if r != nil {
		return nil, r
	}
	p, ok := x.processes.Get(old.Process.String())
	if !ok {
		return nil, refuse(NotFound, "process %s is not registered", old.Process)
	}
	d, r := x.compile(p)
	if r != nil {
		return nil, r
	}
	run, err := old.Resume(d)
	if err != nil {
		x.err = err
		return nil, refuse(Unavailable, "the instance could not be worked out")
	}
	// 2. The event, by the body that plays the step's role or by whoever it is.
	event := definition.Event{Step: m.Step, Attempt: m.Attempt, Kind: definition.EventKind(m.Kind), By: x.author.ID.String(), At: x.now}
	if step, _, ok := run.Step(m.Step); ok && memberOf(run.Bodies[step.From]) == event.By {
		event.By = run.Bodies[step.From]
	}
	for _, y := range m.Yields {
		yield, r := yieldOf(d, y)
		if r != nil {
			return nil, r
		}
		event.Yields = append(event.Yields, yield)
	}
	// 3. What becomes of it.
	if err := run.Apply(event); err != nil {
		var refused *definition.Refusal
		if !errors.As(err, &refused) {
			x.err = fmt.Errorf("instance %s: %w", old.ID, err)
			return nil, refuse(Unavailable, "the event could not be applied")
		}
		return nil, refuse(foldCode(refused.Code), "%s", refused.Reason)
	}
	next := *old
	next.State = run.State()
	if next.State.Phase == definition.Ended {
		next.Ended = x.height
	}
	return []record{instanceRecord{ProcessInstance: &next, posted: m, by: event.By, at: x.now}}, nil
}

// yieldOf reads a fact of an event. Whether the step yields it is for the fold.
func yieldOf(d *definition.Process, y *registrypb.Yield) (definition.Yield, *refusal) {
	out := definition.Yield{Fact: y.GetFact()}
	if y.GetValue() != "" {
		var err error
		if out.Value, err = d.PublicValue(y.Fact, y.Value); err != nil {
			return out, refuse(BadFacts, "%v", err)
		}
	}
	switch len(y.GetCommitment()) {
	case 0:
	case 32:
		out.Commitment = definition.Commitment(y.Commitment)
	default:
		return out, refuse(BadFacts, "fact %.64q: its commitment has %d bytes, the rule is 32", y.Fact, len(y.Commitment))
	}
	return out, nil
}

// foldCode is the result code for what the fold refuses.
func foldCode(c definition.RefusalCode) Code {
	switch c {
	case definition.Already:
		return Already
	case definition.UnknownStep:
		return UnknownStep
	case definition.NotYourStep:
		return NotYourStep
	case definition.NotYourTurn:
		return NotYourTurn
	case definition.BadAttempt:
		return BadAttempt
	case definition.Conflict:
		return Conflict
	case definition.NotDue:
		return NotDue
	case definition.BadFacts:
		return BadFacts
	case definition.GuardPublic:
		return GuardPublic
	case definition.HasEnded:
		return Ended
	case definition.TooMany:
		return LimitReached
	}
	return InvalidField
}

// ProcessInstance looks up an instance, whether it goes on or ended. An error means that the
// store could not be read.
func (v *View) ProcessInstance(id string) (ProcessInstance, bool, error) {
	if i, ok := v.state.instances.Get(id); ok {
		return *i, true, nil
	}
	if !isLowerHex(id, 16) {
		return ProcessInstance{}, false, nil
	}
	i, err := storedInstance(v.store, id)
	if err != nil || i == nil || i.Ended == 0 || i.Ended > v.height {
		return ProcessInstance{}, false, err
	}
	return *i, true, nil
}

// InstancesOf lists the instances that go on and in which a subsystem plays a role, by
// id, like Members.
func (v *View) InstancesOf(subsystem civibus.ClientID, after string, limit int) (items []ProcessInstance, next string) {
	each(v.state.instancesOf, pair(subsystem.String(), ""), after, limit, func(id string, _ struct{}) {
		if i, ok := v.state.instances.Get(id); ok {
			items = append(items, *i)
		}
	}, &next)
	return items, next
}

// ProcessInstances lists the instances that go on, by id, like Members.
func (v *View) ProcessInstances(after string, limit int) (items []ProcessInstance, next string) {
	each(v.state.instances, "", after, limit, func(_ string, i *ProcessInstance) {
		if i.Ended == 0 {
			items = append(items, *i)
		}
	}, &next)
	return items, next
}

// endedInstances returns the state keys of the instances that ended in or before the
// view.
func (v *View) endedInstances() ([]string, error) {
	var keys []string
	err := v.store.Iterate(stateStoreKey(instancePrefix), func(key, value []byte) error {
		name := string(key[len(storeState):])
		r, err := decodeInstance(value)
		if i, ok := r.(instanceRecord); err == nil && ok && i.Ended != 0 && i.Ended <= v.height {
			keys = append(keys, name)
		}
		return err
	})
	return keys, err
}

// migrateInstance is the consent of a body that the instance goes on under another
// version of its process. With the last one it does.
func (x *txn) migrateInstance(m *registrypb.MigrateInstance) ([]record, *refusal) {
	// 1. The instance, and what the author has to say about it.
	old, r := x.instance(m.Instance)
	if r != nil {
		return nil, r
	}
	if old.Ended != 0 {
		return nil, refuse(Ended, "instance %s has ended", old.ID)
	}
	if !old.Plays(x.author.ID) {
		return nil, refuse(NotAuthorised, "member %s has no part in instance %s", x.author.ID, old.ID)
	}
	next := *old
	next.Consents = x.consents(old, m.Version)
	if slices.Equal(next.Consents, old.Consents) {
		return nil, refuse(NoChange, "member %s has said so of instance %s already", x.author.ID, old.ID)
	}
	if m.Version == 0 {
		return []record{instanceRecord{ProcessInstance: &next}}, nil
	}
	// 2. Whether it can be.
	to := old.Process
	to.Version = m.Version
	p, r := x.process("version", to.String())
	if r != nil {
		return nil, r
	}
	if p.Status != civibus.Active {
		return nil, refuse(NotInForce, "process %s is %s: %s", p.ID, p.Status, p.Notice)
	}
	run, r := x.migrated(old, p)
	if r != nil {
		return nil, r
	}
	// 3. It is when all have said so.
	for _, part := range old.Parts {
		if !slices.Contains(next.Consents, Consent{part.Subsystem, m.Version}) {
			return []record{instanceRecord{ProcessInstance: &next}}, nil
		}
	}
	next.Process, next.State, next.Consents = to, run.State(), nil
	if next.State.Phase == definition.Ended {
		next.Ended = x.height
	}
	return []record{instanceRecord{ProcessInstance: &next}}, nil
}

// consents are an instance's with the author's: one for each subsystem, by subsystem.
func (x *txn) consents(i *ProcessInstance, version uint32) (out []Consent) {
	for _, c := range i.Consents {
		if c.Subsystem.MemberID != x.author.ID {
			out = append(out, c)
		}
	}
	for _, p := range i.Parts {
		c := Consent{p.Subsystem, version}
		if version != 0 && p.Subsystem.MemberID == x.author.ID && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Consent) int { return strings.Compare(a.Subsystem.String(), b.Subsystem.String()) })
	return out
}

// migrated is an instance as it would go on.
func (x *txn) migrated(i *ProcessInstance, to *Process) (*definition.Instance, *refusal) {
	from, ok := x.processes.Get(i.Process.String())
	if !ok {
		return nil, refuse(NotFound, "process %s is not registered", i.Process)
	}
	before, r := x.compile(from)
	if r != nil {
		return nil, r
	}
	after, r := x.compile(to)
	if r != nil {
		return nil, r
	}
	run, err := i.Resume(before)
	if err != nil {
		x.err = err
		return nil, refuse(Unavailable, "the instance could not be worked out")
	}
	if run, err = run.Migrate(after, x.now); err != nil {
		return nil, refuse(BadMigration, "instance %s: %v", i.ID, err)
	}
	return run, nil
}
