package registry

import (
	"slices"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// isRegistrar reports whether the author is one of the instance's registrars.
func (x *txn) isRegistrar() bool { return slices.Contains(x.params.Registrars, x.author.ID) }

// administers reports whether the author may act for the member in matters of
// scope: it is the member itself or one of its ancestors, or one of these has
// delegated that to it.
func (x *txn) administers(id civibus.MemberID, s scope) bool {
	for range maxDepth {
		if id == x.author.ID || x.delegated(id, s) {
			return true
		}
		m := x.member(id)
		if m == nil || m.Parent.IsZero() {
			return false
		}
		id = m.Parent
	}
	return false
}

func (x *txn) mustAdminister(id civibus.MemberID, s scope) *refusal {
	if !x.administers(id, s) {
		return refuse(NotAuthorised, "member %s is neither %s nor one of its ancestors, and has no delegation for this", x.author.ID, id)
	}
	return nil
}

// mayPlace reports whether the author may put a member under parent, or take
// one away from there.
func (x *txn) mayPlace(parent civibus.MemberID) *refusal {
	if !parent.IsZero() {
		return x.mustAdminister(parent, directoryScope)
	}
	if !x.isRegistrar() {
		return refuse(NotAuthorised, "member %s is not a registrar; only registrars place top-level members", x.author.ID)
	}
	return nil
}

// setMember creates a member or changes its name, parent or gateways.
func (x *txn) setMember(m *registrypb.SetMember) ([]record, *refusal) {
	// 1. The fields.
	id, r := x.memberID("id", m.Id)
	if r != nil {
		return nil, r
	}
	if r := checkText("name", m.Name, 1, maxName); r != nil {
		return nil, r
	}
	gateways, r := checkGateways(m.Gateways)
	if r != nil {
		return nil, r
	}
	next := &civibus.Member{ID: id, Name: m.Name, Gateways: gateways}
	if m.Parent != "" {
		if next.Parent, r = x.memberID("parent", m.Parent); r != nil {
			return nil, r
		}
	}
	// 2. Who may do it, and where the member then stands.
	old := x.member(id)
	if old == nil {
		next.Status, next.Periods = civibus.Active, begin(nil, x.height)
		if r := x.mayPlace(next.Parent); r != nil {
			return nil, r
		}
		return []record{memberRecord{next}}, x.checkPlace(next)
	}
	if r := x.mustAdminister(id, directoryScope); r != nil {
		return nil, r
	}
	if old.Status == civibus.Ended {
		return nil, refuse(Ended, "member %s has ended, which is final", id)
	}
	if old.Name == next.Name && old.Parent == next.Parent && slices.Equal(old.Gateways, next.Gateways) {
		return nil, refuse(NoChange, "member %s is already so", id)
	}
	next.Status, next.Periods = old.Status, old.Periods
	if next.Parent == old.Parent {
		return []record{memberRecord{next}}, nil
	}
	if r := x.mayPlace(old.Parent); r != nil {
		return nil, r
	}
	if r := x.mayPlace(next.Parent); r != nil {
		return nil, r
	}
	out := []record{memberRecord{next}}
	if votes, ok := x.votes.Get(id.String()); ok && votes.votes > 0 && !next.Parent.IsZero() {
		out = append(out, votesRecord{&memberVotes{id, 0}}) // for good, not only while it is there
	}
	return out, x.checkPlace(next)
}

// checkPlace checks that the hierarchy stays a forest of limited depth when m
// stands where it says.
func (x *txn) checkPlace(m *civibus.Member) *refusal {
	above := 0
	for id := m.Parent; !id.IsZero(); above++ {
		if id == m.ID {
			return refuse(BadHierarchy, "member %s would be its own ancestor", m.ID)
		}
		p := x.member(id)
		if p == nil {
			return refuse(NotFound, "parent %s is not registered", id)
		}
		if above == 0 && p.Status == civibus.Ended {
			return refuse(Ended, "parent %s has ended", id)
		}
		if above >= maxDepth {
			break
		}
		id = p.Parent
	}
	budget := maxDescendants
	below := x.levelsBelow(m.ID, maxDepth, &budget)
	if budget < 0 {
		return refuse(BadHierarchy, "member %s has more than %d descendants and cannot be moved at once", m.ID, maxDescendants)
	}
	if above+1+below > maxDepth {
		return refuse(BadHierarchy, "the hierarchy would have %d levels, the rule is at most %d", above+1+below, maxDepth)
	}
	return nil
}

// levelsBelow returns how many levels of descendants a member has.
func (x *txn) levelsBelow(id civibus.MemberID, limit int, budget *int) int {
	if limit < 0 {
		return 0
	}
	levels := 0
	for child := range x.childrenOf(id) {
		*budget--
		if *budget < 0 {
			break
		}
		levels = max(levels, 1+x.levelsBelow(child.ID, limit-1, budget))
	}
	return levels
}

// childrenOf yields the members directly under id.
func (s *state) childrenOf(id civibus.MemberID) func(yield func(*civibus.Member) bool) {
	return func(yield func(*civibus.Member) bool) {
		prefix := pair(id.String(), "")
		s.children.Ascend(prefix, func(key string, _ struct{}) bool {
			child, ok := strings.CutPrefix(key, prefix)
			if !ok {
				return false
			}
			m, ok := s.members.Get(child)
			return !ok || yield(m)
		})
	}
}

// setMemberStatus suspends, reactivates or ends a member.
func (x *txn) setMemberStatus(m *registrypb.SetMemberStatus) ([]record, *refusal) {
	id, r := x.memberID("id", m.Id)
	if r != nil {
		return nil, r
	}
	old := x.member(id)
	if old == nil {
		return nil, refuse(NotFound, "member %s is not registered", id)
	}
	if !x.administers(id, directoryScope) && !(x.isRegistrar() && old.Parent.IsZero()) {
		return nil, refuse(NotAuthorised, "member %s is neither %s, nor an ancestor of it, nor a registrar over top-level members", x.author.ID, id)
	}
	next := *old
	next.Status = civibus.Status(m.Status)
	if next.Periods, r = x.changeStatus("member "+id.String(), old.Status, next.Status, old.Periods); r != nil {
		return nil, r
	}
	if next.Status != civibus.Active && x.lastRegistrar(id) {
		return nil, refuse(LastRegistrar, "member %s is the last active registrar", id)
	}
	if next.Status == civibus.Ended {
		for child := range x.childrenOf(id) {
			if child.Status != civibus.Ended {
				return nil, refuse(InUse, "member %s still has %s under it; end or move that first", id, child.ID)
			}
		}
		if x.params.Protocol > 0 {
			return append([]record{memberRecord{&next}}, x.endedKeys(id)...), nil
		}
	}
	return []record{memberRecord{&next}}, nil
}

// lastRegistrar reports whether no registrar but id is active.
func (x *txn) lastRegistrar(id civibus.MemberID) bool {
	if !slices.Contains(x.params.Registrars, id) {
		return false
	}
	for _, r := range x.params.Registrars {
		if m := x.member(r); r != id && m != nil && m.Status == civibus.Active {
			return false
		}
	}
	return true
}
