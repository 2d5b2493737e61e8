package registry

import (
	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// mustManageGroup checks that the author may change a group: registrars the
// global ones, a subsystem's administrators its local ones; proposals change
// global ones.
func (x *txn) mustManageGroup(owner civibus.ClientID) *refusal {
	if x.voted {
		if owner != (civibus.ClientID{}) {
			return refuse(InvalidField, "group: it is local to %s, the rule is a global group", owner)
		}
		return nil
	}
	if owner != (civibus.ClientID{}) {
		return x.mustAdminister(owner.MemberID, rightsScope)
	}
	if !x.isRegistrar() {
		return refuse(NotAuthorised, "member %s is not a registrar; only registrars change global groups", x.author.ID)
	}
	return nil
}

// setGroup registers a group or changes its title.
func (x *txn) setGroup(m *registrypb.SetGroup) ([]record, *refusal) {
	owner, r := x.groupID("id", m.Id)
	if r != nil {
		return nil, r
	}
	if r := checkText("title", m.Title, 1, maxName); r != nil {
		return nil, r
	}
	if r := x.mustManageGroup(owner); r != nil {
		return nil, r
	}
	if owner != (civibus.ClientID{}) {
		if r := x.mustLiveSubsystem(owner); r != nil {
			return nil, r
		}
	}
	if old, ok := x.groups.Get(m.Id); ok && old.Title == m.Title {
		return nil, refuse(NoChange, "group %s is already so", m.Id)
	}
	return []record{groupRecord{&civibus.Group{ID: m.Id, Title: m.Title}}}, nil
}

// setGroupMember adds a client to a group or removes it.
func (x *txn) setGroupMember(m *registrypb.SetGroupMember) ([]record, *refusal) {
	owner, r := x.groupID("group", m.Group)
	if r != nil {
		return nil, r
	}
	client, r := x.clientID("client", m.Client)
	if r != nil {
		return nil, r
	}
	if r := x.mustManageGroup(owner); r != nil {
		return nil, r
	}
	if _, ok := x.groups.Get(m.Group); !ok {
		return nil, refuse(NotFound, "group %s is not registered", m.Group)
	}
	next := &groupMember{group: m.Group, client: client}
	if old, ok := x.groupMembers.Get(pair(m.Group, client.String())); ok {
		next.periods = old.periods
	}
	switch {
	case next.open() == m.Member:
		return nil, refuse(NoChange, "whether %s is in group %s is already so", client, m.Group)
	case !m.Member: // also a client that has ended can be removed
		next.periods = end(next.periods, x.height)
		return []record{groupMemberRecord{next}}, nil
	case len(next.periods) >= maxPeriods:
		return nil, refuse(LimitReached, "%s was in group %s %d times, the rule is at most %d", client, m.Group, len(next.periods), maxPeriods)
	}
	next.periods = begin(next.periods, x.height)
	return []record{groupMemberRecord{next}}, x.mustLiveClient(client)
}
