package registry

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry/registrypb"
)

// ProcessID names a version of a process: the member that answers for it, the id in
// its definition, and the version.
type ProcessID struct {
	Owner   civibus.MemberID
	Name    string
	Version uint32
}

// String returns INSTANCE/CLASS/MEMBER/ID/VERSION.
func (id ProcessID) String() string {
	return id.Owner.String() + "/" + id.Name + "/" + strconv.FormatUint(uint64(id.Version), 10)
}

// ParseProcessID reads what String writes, and nothing else.
func ParseProcessID(s string) (ProcessID, error) {
	rest, version, ok := cutLast(s)
	owner, name, more := cutLast(rest)
	if !ok || !more {
		return ProcessID{}, fmt.Errorf("process %.200q, the rule is INSTANCE/CLASS/MEMBER/ID/VERSION", s)
	}
	member, err := civibus.ParseMemberID(owner)
	if err != nil {
		return ProcessID{}, fmt.Errorf("process %.200q: %w", s, err)
	}
	n, err := strconv.ParseUint(version, 10, 32)
	id := ProcessID{member, name, uint32(n)}
	if err != nil || id.String() != s {
		return ProcessID{}, fmt.Errorf("process %.200q: it is not in canonical form, INSTANCE/CLASS/MEMBER/ID/VERSION", s)
	}
	return id, nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// Process is one version of a process. Its definition never changes.
type Process struct {
	ID       ProcessID
	Document []byte // the definition in canonical form
	Status   civibus.Status
	Notice   string
	Periods  []civibus.Period
	compiled *compiled
}

// compiled is a definition that is worked out when somebody needs it, once.
type compiled struct {
	once    sync.Once
	process *definition.Process
	err     error
}

// Compile works the definition out. It was checked before it was registered.
func (p *Process) Compile() (*definition.Process, error) {
	c := p.compiled
	c.once.Do(func() {
		var d *definition.Definition
		if d, c.err = definition.Parse(p.Document); c.err == nil {
			c.process, c.err = d.Compile()
		}
	})
	return c.process, c.err
}

// units is how many records a process counts for: one for each KiB that it begins.
func (p *Process) units() uint64 { return 1 + uint64(len(p.Document))/1024 }

type processRecord struct{ *Process }

func (r processRecord) stateKey() string { return processPrefix + r.ID.String() }
func (r processRecord) put(s *state) {
	set(s, s.processes, r.ID.String(), r.Process, r.ID.Owner, r.units())
}
func (processRecord) eventField() protowire.Number { return 31 }

func (r processRecord) encode() []byte {
	return writer{}.str(1, r.ID.String()).bytes(2, r.Document).num(3, uint64(r.Status)).str(4, r.Notice).periods(5, r.Periods)
}

func decodeProcess(value []byte) (record, error) {
	var m registrypb.Process
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	id, err := ParseProcessID(m.Id)
	return processRecord{&Process{id, m.Definition, civibus.Status(m.Status), m.Notice, periodsOf(m.Periods), new(compiled)}}, err
}

// ProcessRole is who may play a role of a process: a subsystem that its member has
// taken the role for and that the process's owner has approved.
type ProcessRole struct {
	Process   ProcessID
	Role      string
	Subsystem civibus.ClientID
	Taken     bool // by the subsystem's member
	Approved  bool // by the process's owner
	Periods   []civibus.Period
}

// InForce reports whether the subsystem may play the role now.
func (r *ProcessRole) InForce() bool { return openPeriod(r.Periods) }

type roleRecord struct{ *ProcessRole }

func roleKey(process ProcessID, role string, subsystem civibus.ClientID) string {
	return process.String() + "/" + pair(role, subsystem.String())
}

func (r roleRecord) key() string                { return roleKey(r.Process, r.Role, r.Subsystem) }
func (r roleRecord) stateKey() string           { return rolePrefix + r.key() }
func (r roleRecord) put(s *state)               { set(s, s.roles, r.key(), r.ProcessRole, r.Subsystem.MemberID, 1) }
func (roleRecord) eventField() protowire.Number { return 32 }

func (r roleRecord) encode() []byte {
	return writer{}.str(1, r.Process.String()).str(2, r.Role).str(3, r.Subsystem.String()).flag(4, r.Taken).flag(5, r.Approved).periods(6, r.Periods)
}

func decodeRole(value []byte) (record, error) {
	var m registrypb.ProcessRole
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	process, err := ParseProcessID(m.Process)
	if err != nil {
		return nil, err
	}
	subsystem, err := civibus.ParseClientID(m.Subsystem)
	return roleRecord{&ProcessRole{process, m.Role, subsystem, m.Taken, m.Approved, periodsOf(m.Periods)}}, err
}

// setProcess registers a version of a process.
func (x *txn) setProcess(m *registrypb.SetProcess) ([]record, *refusal) {
	// 1. The definition, of which everything is checked here and now.
	owner, r := x.memberID("owner", m.Owner)
	if r != nil {
		return nil, r
	}
	d, err := definition.Parse(m.Definition)
	if err != nil {
		return nil, refuse(BadDefinition, "%v", err)
	}
	next := &Process{ProcessID{owner, d.ID, d.Version}, m.Definition, civibus.Active, "", begin(nil, x.height), new(compiled)}
	if _, err := next.Compile(); err != nil {
		return nil, refuse(BadDefinition, "%v", err)
	}
	// 2. Who may do it.
	if r := x.mustAdminister(owner, catalogueScope); r != nil {
		return nil, r
	}
	if r := x.mustLive(owner); r != nil {
		return nil, r
	}
	// 3. Version after version.
	if _, ok := x.processes.Get(next.ID.String()); ok {
		return nil, refuse(AlreadyExists, "process %s is registered, and a version never changes", next.ID)
	}
	if before := (ProcessID{owner, d.ID, d.Version - 1}); d.Version > 1 {
		if _, ok := x.processes.Get(before.String()); !ok {
			return nil, refuse(NotFound, "the version before it, %s, is not registered", before)
		}
	}
	return []record{processRecord{next}}, nil
}

// process looks up a version of a process by what a transaction says.
func (x *txn) process(field, s string) (*Process, *refusal) {
	id, err := ParseProcessID(s)
	if err != nil {
		return nil, refuse(InvalidField, "%s: %v", field, err)
	}
	p, ok := x.processes.Get(id.String())
	if !ok {
		return nil, refuse(NotFound, "process %s is not registered", id)
	}
	return p, nil
}

// setProcessStatus says whether new instances may begin. Those that run go on.
func (x *txn) setProcessStatus(m *registrypb.SetProcessStatus) ([]record, *refusal) {
	min, max := 0, maxNotice
	switch civibus.Status(m.Status) {
	case civibus.Active:
		max = 0 // a notice says why there can be no new instances
	case civibus.Suspended:
		min = 1
	}
	if r := checkText("notice", m.Notice, min, max); r != nil {
		return nil, r
	}
	old, r := x.process("process", m.Process)
	if r != nil {
		return nil, r
	}
	if r := x.mustAdminister(old.ID.Owner, catalogueScope); r != nil {
		return nil, r
	}
	next := *old
	next.Status, next.Notice = civibus.Status(m.Status), m.Notice
	if old.Status == civibus.Suspended && next.Status == civibus.Suspended && old.Notice != next.Notice {
		return []record{processRecord{&next}}, nil // another notice
	}
	if next.Periods, r = x.changeStatus("process "+old.ID.String(), old.Status, next.Status, old.Periods); r != nil {
		return nil, r
	}
	return []record{processRecord{&next}}, nil
}

// roleOf looks up what a transaction says of a role: the record there is, or an
// empty one.
func (x *txn) roleOf(process, role, subsystem string) (*ProcessRole, *refusal) {
	p, r := x.process("process", process)
	if r != nil {
		return nil, r
	}
	id, r := x.subsystemID("subsystem", subsystem)
	if r != nil {
		return nil, r
	}
	d, r := x.compile(p)
	if r != nil {
		return nil, r
	}
	if !slices.ContainsFunc(d.Roles, func(o definition.Role) bool { return o.ID == role }) {
		return nil, refuse(InvalidField, "role: process %s has no role %.64q", p.ID, role)
	}
	old, ok := x.roles.Get(roleKey(p.ID, role, id))
	if !ok {
		return &ProcessRole{Process: p.ID, Role: role, Subsystem: id}, nil
	}
	next := *old
	return &next, nil
}

// takeRole is the word of who plays a role. Who may speak for the process's owner too
// gives both.
func (x *txn) takeRole(m *registrypb.TakeRole) ([]record, *refusal) {
	next, r := x.roleOf(m.Process, m.Role, m.Subsystem)
	if r != nil {
		return nil, r
	}
	if r := x.mustAdminister(next.Subsystem.MemberID, catalogueScope); r != nil {
		return nil, r
	}
	if m.End {
		return x.settleRole(next, false, next.Approved)
	}
	if r := x.mustLiveSubsystem(next.Subsystem); r != nil {
		return nil, r
	}
	return x.settleRole(next, true, next.Approved || x.administers(next.Process.Owner, catalogueScope))
}

// approveRole is the word of the process's owner.
func (x *txn) approveRole(m *registrypb.ApproveRole) ([]record, *refusal) {
	next, r := x.roleOf(m.Process, m.Role, m.Subsystem)
	if r != nil {
		return nil, r
	}
	if r := x.mustAdminister(next.Process.Owner, catalogueScope); r != nil {
		return nil, r
	}
	if m.End {
		return x.settleRole(next, next.Taken, false)
	}
	if r := x.mustLiveSubsystem(next.Subsystem); r != nil {
		return nil, r
	}
	return x.settleRole(next, next.Taken, true)
}

// settleRole is the record after one of the two has spoken.
func (x *txn) settleRole(next *ProcessRole, taken, approved bool) ([]record, *refusal) {
	if next.Taken == taken && next.Approved == approved {
		return nil, refuse(NoChange, "role %s of process %s and %s are already so", next.Role, next.Process, next.Subsystem)
	}
	next.Taken, next.Approved = taken, approved
	if !taken || !approved {
		next.Periods = end(next.Periods, x.height)
		return []record{roleRecord{next}}, nil
	}
	if len(next.Periods) >= maxPeriods {
		return nil, refuse(LimitReached, "%s played role %s %d times, the rule is at most %d", next.Subsystem, next.Role, len(next.Periods), maxPeriods)
	}
	next.Periods = begin(next.Periods, x.height)
	return []record{roleRecord{next}}, nil
}

// Process looks up a version of a process.
func (v *View) Process(id ProcessID) (Process, bool) { return get(v.state.processes, id.String()) }

// Processes lists the versions of processes by identifier, like Members.
func (v *View) Processes(after string, limit int) (items []Process, next string) {
	return page(v.state.processes, "", after, limit)
}

// ProcessRoles lists who may play the roles of a version of a process, those that no
// longer do included, by role and subsystem, like Members.
func (v *View) ProcessRoles(id ProcessID, after string, limit int) (items []ProcessRole, next string) {
	return page(v.state.roles, id.String()+"/", after, limit)
}
