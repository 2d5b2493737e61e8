package registry

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/rule"
)

// maxRulesPerScope is how many versions of rules that have not ended may be enacted
// for one member, subsystem, service or step. A gateway looks at all of them.
const maxRulesPerScope = 32

// RuleID names a version of a rule: the member that answers for it, its number and the
// version.
type RuleID struct {
	Owner   civibus.MemberID
	Number  string
	Version uint32
}

// String returns INSTANCE/CLASS/MEMBER/NUMBER/VERSION.
func (id RuleID) String() string {
	return id.Owner.String() + "/" + id.Number + "/" + strconv.FormatUint(uint64(id.Version), 10)
}

// ParseRuleID reads what String writes, and nothing else.
func ParseRuleID(s string) (RuleID, error) {
	rest, version, ok := cutLast(s)
	owner, number, more := cutLast(rest)
	if !ok || !more {
		return RuleID{}, fmt.Errorf("rule %.200q, the rule is INSTANCE/CLASS/MEMBER/NUMBER/VERSION", s)
	}
	member, err := civibus.ParseMemberID(owner)
	if err != nil {
		return RuleID{}, fmt.Errorf("rule %.200q: %w", s, err)
	}
	n, err := strconv.ParseUint(version, 10, 32)
	id := RuleID{member, number, uint32(n)}
	if err != nil || n == 0 || number == "" || id.String() != s {
		return RuleID{}, fmt.Errorf("rule %.200q: it is not in canonical form, INSTANCE/CLASS/MEMBER/NUMBER/VERSION", s)
	}
	return id, nil
}

// EnactedRule is one version of a rule with its law. Its document never changes.
type EnactedRule struct {
	ID       RuleID
	Document []byte // in canonical form
	Status   civibus.Status
	Notice   string
	Periods  []civibus.Period
	scope    string // key of the index
	compiled *compiledRule
}

// compiledRule is a rule that is worked out when somebody needs it, once.
type compiledRule struct {
	once sync.Once
	rule *rule.Rule
}

// Rule works the rule out. It was checked before it was enacted; where this software
// does not take it all the same, nothing can be judged by it and it refuses.
func (r *EnactedRule) Rule() *rule.Rule {
	c := r.compiled
	c.once.Do(func() {
		d, err := rule.Parse(r.Document)
		if err == nil {
			if c.rule, err = d.Compile(); err == nil {
				return
			}
		} else {
			d = &rule.Document{Number: r.ID.Number, Version: r.ID.Version}
		}
		c.rule = rule.Broken(r.ID.String(), *d, err)
	})
	return c.rule
}

// units is how many records a rule counts for: one for each KiB that it begins.
func (r *EnactedRule) units() uint64 { return 1 + uint64(len(r.Document))/1024 }

type ruleRecord struct{ *EnactedRule }

func (r ruleRecord) stateKey() string           { return rulePrefix + r.ID.String() }
func (r ruleRecord) put(s *state)               { s.putRule(r.EnactedRule) }
func (ruleRecord) eventField() protowire.Number { return 40 }

func (r ruleRecord) encode() []byte {
	return writer{}.str(1, r.ID.String()).bytes(2, r.Document).num(3, uint64(r.Status)).str(4, r.Notice).periods(5, r.Periods)
}

func decodeRule(value []byte) (record, error) {
	var m registrypb.EnactedRule
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	id, err := ParseRuleID(m.Id)
	if err != nil {
		return nil, err
	}
	d, err := rule.Parse(m.Document)
	if err != nil {
		return nil, err
	}
	return ruleRecord{&EnactedRule{id, m.Document, civibus.Status(m.Status), m.Notice, periodsOf(m.Periods), ruleScope(&d.Scope), new(compiledRule)}}, nil
}

// ruleScope is what the index of rules finds those of a scope by. The identifiers are
// canonical: a checked rule has no others.
func ruleScope(s *rule.Scope) string {
	switch {
	case s.All != "":
		return everywhere
	case s.Member != "":
		return s.Member
	case s.Subsystem != "":
		return s.Subsystem
	case s.Service != "":
		return s.Service
	}
	return stepScope(s.Process, s.Step)
}

// everywhere is the scope of rules for the whole instance; no identifier is it.
const everywhere = "*"

// stepScope cannot be taken for another scope: "|" is in none.
func stepScope(process, step string) string { return pair(process, step) }

// putRule keeps the rules of a scope that have not ended by number and version.
func (s *state) putRule(r *EnactedRule) {
	set(s, s.enacted, r.ID.String(), r, r.ID.Owner, r.units())
	list, _ := s.rulesOf.Get(r.scope)
	order := func(a, b *EnactedRule) int {
		return cmp.Or(strings.Compare(a.ID.Number, b.ID.Number), cmp.Compare(a.ID.Version, b.ID.Version))
	}
	if r.Status != civibus.Ended {
		s.rulesOf.Set(r.scope, upsert(list, r, order))
		return
	}
	kept := make([]*EnactedRule, 0, len(list))
	for _, o := range list {
		if o.ID != r.ID {
			kept = append(kept, o)
		}
	}
	if len(kept) == 0 {
		s.rulesOf.Delete(r.scope)
	} else {
		s.rulesOf.Set(r.scope, kept)
	}
}

// setRule enacts a version of a rule for what is the sender's, or, by vote, for anything.
func (x *txn) setRule(m *registrypb.SetRule) ([]record, *refusal) {
	// 1. The document, of which everything is checked here and now.
	d, err := rule.Parse(m.Document)
	if err != nil {
		return nil, refuse(BadRule, "%v", err)
	}
	compiled, err := d.Compile()
	if err != nil {
		return nil, refuse(BadRule, "%v", err)
	}
	owner, r := x.memberID("scope", compiled.Owner().String())
	if r != nil {
		return nil, r
	}
	next := &EnactedRule{RuleID{owner, d.Number, d.Version}, m.Document, civibus.Active, "", begin(nil, x.height), ruleScope(&d.Scope), new(compiledRule)}
	// 2. Who may do it, and for what.
	if r := x.mayRule(owner, d.Scope.All != ""); r != nil {
		return nil, r
	}
	if r := x.mustHaveScope(owner, &d.Scope); r != nil {
		return nil, r
	}
	if until := compiled.Until(); !until.IsZero() && !until.After(x.now) {
		return nil, refuse(InvalidField, "document: the rule's validity ended at %s, the rule is a time to come", until)
	}
	// 3. Version after version, all for the same.
	if _, ok := x.enacted.Get(next.ID.String()); ok {
		return nil, refuse(AlreadyExists, "rule %s is registered, and a version never changes", next.ID)
	}
	if d.Version > 1 {
		before, ok := x.enacted.Get(RuleID{owner, d.Number, d.Version - 1}.String())
		if !ok {
			return nil, refuse(NotFound, "the version before it, %s, is not registered", RuleID{owner, d.Number, d.Version - 1})
		}
		if before.scope != next.scope {
			return nil, refuse(InvalidField, "document: the scope is not that of the version before it; another scope is another rule, with another number")
		}
	}
	if list, _ := x.rulesOf.Get(next.scope); len(list) >= maxRulesPerScope {
		return nil, refuse(LimitReached, "there are %d versions of rules for the same scope, the rule is at most %d; end those that no longer apply", len(list), maxRulesPerScope)
	}
	return []record{ruleRecord{next}}, nil
}

// mayRule checks who enacts, suspends, reinstates or ends a rule: for the whole instance
// the members do it by vote, who may decide on any other too.
func (x *txn) mayRule(owner civibus.MemberID, everywhere bool) *refusal {
	switch {
	case x.voted:
		return nil
	case everywhere:
		return refuse(NotAuthorised, "the rule is for the whole instance: members decide on it by a proposal of the kind %s or %s", KindEnactRule, KindSetRuleStatus)
	}
	return x.mustAdminister(owner, rightsScope)
}

// mustHaveScope checks that what a rule is enacted for is there.
func (x *txn) mustHaveScope(owner civibus.MemberID, s *rule.Scope) *refusal {
	if r := x.mustLive(owner); r != nil {
		return r
	}
	switch {
	case s.Subsystem != "":
		id, err := civibus.ParseClientID(s.Subsystem)
		if err != nil {
			return refuse(BadRule, "scope: %v", err)
		}
		return x.mustLiveSubsystem(id)
	case s.Service != "":
		id, r := x.serviceID("scope", s.Service)
		if r != nil {
			return r
		}
		return x.mustHaveService(id)
	case s.Process != "":
		if _, ok := x.processes.Get(s.Process + "/1"); !ok {
			return refuse(NotFound, "process %s is not registered", s.Process)
		}
	}
	return nil
}

// setRuleStatus suspends, reinstates or ends a version of a rule.
func (x *txn) setRuleStatus(m *registrypb.SetRuleStatus) ([]record, *refusal) {
	// 1. The fields.
	id, err := ParseRuleID(m.Rule)
	if err != nil {
		return nil, refuse(InvalidField, "rule: %v", err)
	}
	min, max := 0, maxNotice
	switch civibus.Status(m.Status) {
	case civibus.Active:
		max = 0 // a notice says why the rule does not apply
	case civibus.Suspended:
		min = 1
	}
	if r := checkText("notice", m.Notice, min, max); r != nil {
		return nil, r
	}
	// 2. Who may do it.
	old, ok := x.enacted.Get(id.String())
	if !ok {
		return nil, refuse(NotFound, "rule %s is not registered", id)
	}
	if r := x.mayRule(id.Owner, old.scope == everywhere); r != nil {
		return nil, r
	}
	// 3. The change.
	next := *old
	next.Status, next.Notice = civibus.Status(m.Status), m.Notice
	if old.Status == civibus.Suspended && next.Status == civibus.Suspended && old.Notice != next.Notice {
		return []record{ruleRecord{&next}}, nil // another notice
	}
	var r *refusal
	if next.Periods, r = x.changeStatus("rule "+id.String(), old.Status, next.Status, old.Periods); r != nil {
		return nil, r
	}
	return []record{ruleRecord{&next}}, nil
}

// EnactedRule looks up a version of a rule.
func (v *View) EnactedRule(id RuleID) (EnactedRule, bool) { return get(v.state.enacted, id.String()) }

// EnactedRules lists the rules, of which none are left out, by identifier, like Members.
func (v *View) EnactedRules(after string, limit int) (items []EnactedRule, next string) {
	return page(v.state.enacted, "", after, limit)
}

// RulesFor returns the active rules for calls of a service, nil if there are none:
// those of the whole instance, its member, its subsystem, the service and its version, in this order, and
// for each by number and version. Which of them are law at a time is rule.Judge's
// question. Where the instance has no rules it costs nothing.
func (v *View) RulesFor(service civibus.ServiceID) []*rule.Rule {
	if v.state.enacted.Len() == 0 {
		return nil
	}
	var room [keyRoom]byte
	out := v.state.activeRules(nil, everywhere)
	out = v.state.activeRules(out, string(service.MemberID.Append(room[:0])))
	out = v.state.activeRules(out, string(service.ClientID.Append(room[:0])))
	if service.Version != "" {
		all := service
		all.Version = ""
		out = v.state.activeRules(out, string(all.Append(room[:0])))
	}
	return v.state.activeRules(out, string(service.Append(room[:0])))
}

// RulesForStep returns the active rules for a step of a process, like RulesFor. The
// version of the process does not matter.
func (v *View) RulesForStep(process ProcessID, step string) []*rule.Rule {
	if v.state.enacted.Len() == 0 {
		return nil
	}
	return v.state.activeRules(nil, stepScope(process.Owner.String()+"/"+process.Name, step))
}

func (s *state) activeRules(out []*rule.Rule, scope string) []*rule.Rule {
	list, _ := s.rulesOf.Get(scope)
	for _, r := range list {
		if r.Status == civibus.Active {
			out = append(out, r.Rule())
		}
	}
	return out
}
