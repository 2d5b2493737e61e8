package registry

import (
	"strings"

	"github.com/civibus/civibus"
)

// Usage returns how many records a member and its descendants have, of the
// MemberQuota that they may have.
func (v *View) Usage(member civibus.MemberID) uint64 {
	n, _ := v.state.charged.Get(member.String())
	return n
}

// withinQuota checks that nobody gets more records than he may have.
func (x *txn) withinQuota(records []record) *refusal {
	if x.params.Protocol == 0 || x.voted {
		return nil
	}
	var sum uint64
	for _, r := range records {
		owner, n := x.newUnits(r)
		if owner.IsZero() {
			continue
		}
		sum += n
		if r := x.mustFit(owner, sum); r != nil {
			return r
		}
	}
	return nil
}

// mustFit checks the quota of a member and of those above it. What one transaction
// makes is as a rule one owner's, and never much.
func (x *txn) mustFit(owner civibus.MemberID, n uint64) *refusal {
	for range maxDepth {
		key := owner.String()
		if used, _ := x.charged.Get(key); used+n > x.params.MemberQuota {
			return refuse(LimitReached, "member %s and its descendants have %d records, the rule is at most %d", key, used, x.params.MemberQuota)
		}
		m := x.member(owner)
		if m == nil || m.Parent.IsZero() {
			return nil
		}
		owner = m.Parent
	}
	return nil
}

// newUnits returns to whom a record is charged, and how much, if it is not in the
// state yet.
func (x *txn) newUnits(r record) (owner civibus.MemberID, n uint64) {
	old := true
	switch r := r.(type) {
	case memberRecord:
		if x.member(r.ID) != nil {
			return owner, 0
		}
		return r.Parent, 1 // it has no place yet: to the one above
	case keyRecord:
		owner, old = r.Member, x.state.key(r.ID) != nil
	case subsystemRecord:
		_, old = x.subsystems.Get(r.ID.String())
		owner = r.ID.MemberID
	case serviceRecord:
		_, old = x.services.Get(r.ID.String())
		owner = r.ID.MemberID
	case rightRecord:
		_, old = x.rights.Get(r.ID)
		owner = r.Service.MemberID
	case groupRecord:
		_, old = x.groups.Get(r.ID)
		owner = groupOwner(r.ID)
	case groupMemberRecord:
		_, old = x.groupMembers.Get(pair(r.group, r.client.String()))
		owner = groupOwner(r.group)
	case logRecord:
		_, old = x.logs.Get(r.Origin)
		owner = r.Member
	case notarisationRecord:
		owner, old = r.Member, false
	case delegationRecord:
		_, old = x.delegations.Get(delegationKey(r.Root, r.To))
		owner = r.Root
	case hostingRecord:
		_, old = x.hostings.Get(r.Member.String())
		owner = r.Member
	case voteRecord:
		_, old = x.ballots.Get(voteKey(r.Proposal, r.Member))
		owner = r.Member
	case chainRecord:
		_, old = x.chains.Get(r.key.String())
		owner = r.owner
	case processRecord:
		if _, ok := x.processes.Get(r.ID.String()); !ok {
			return r.ID.Owner, r.units()
		}
	case roleRecord:
		_, old = x.roles.Get(r.key())
		owner = r.Subsystem.MemberID
	case ruleRecord:
		if _, ok := x.enacted.Get(r.ID.String()); !ok {
			return r.ID.Owner, r.units()
		}
	case evidenceTypeRecord:
		_, old = x.evidenceTypes.Get(r.ID.String())
		owner = r.ID.Service.MemberID
	case topicRecord:
		_, old = x.topics.Get(r.ID.String())
		owner = r.ID.Service.MemberID
	case usageRecord:
		_, old = x.usage.Get(r.Origin)
		owner = r.Member
	case instanceRecord:
		return r.Starter, r.charge
	case proposalRecord:
		if x.proposal(r.ID) == nil {
			return r.Proposer, r.units()
		}
	}
	if old {
		return civibus.MemberID{}, 0
	}
	return owner, 1
}

// units is how many records a proposal counts for: one for each KiB that it
// begins.
func (p *Proposal) units() uint64 {
	change, err := encodeCanonical(p.Change)
	if err != nil {
		return 1 // it was decoded from a canonical encoding
	}
	return 1 + uint64(len(change))/1024
}

// groupOwner returns the member of a local group, the zero value of a global one.
func groupOwner(id string) civibus.MemberID {
	rest, ok := strings.CutPrefix(id, "local/")
	cut := strings.LastIndexByte(rest, '/')
	if !ok || cut < 0 {
		return civibus.MemberID{}
	}
	owner, err := civibus.ParseClientID(rest[:cut])
	if err != nil {
		return civibus.MemberID{} // groups are checked when they are made
	}
	return owner.MemberID
}

// set puts a value into a table and charges its owner if it is new.
func set[V any](s *state, t *table[V], key string, v V, owner civibus.MemberID, n uint64) {
	if _, had := t.Set(key, v); !had {
		s.charge(owner, n)
	}
}

// charge counts n more records of a member: for itself and for all above it, so
// that nobody gets more by having members under him.
func (s *state) charge(owner civibus.MemberID, n uint64) {
	if s.uncounted || owner.IsZero() {
		return
	}
	for range maxDepth {
		key := owner.String()
		used, _ := s.charged.Get(key)
		s.charged.Set(key, used+n) // n is the complement where something is taken away
		m, ok := s.members.Get(key)
		if !ok || m.Parent.IsZero() {
			return
		}
		owner = m.Parent
	}
}

// recount charges everything: after loading, which does not know parents ahead of
// children.
func (s *state) recount() {
	s.uncounted = false
	scan(s.members, func(_ string, m *civibus.Member) { s.charge(m.ID, 1) })
	scan(s.keys, func(_ string, k *civibus.RegisteredKey) { s.charge(k.Member, 1) })
	scan(s.subsystems, func(_ string, v *civibus.Subsystem) { s.charge(v.ID.MemberID, 1) })
	scan(s.services, func(_ string, v *civibus.Service) { s.charge(v.ID.MemberID, 1) })
	scan(s.rights, func(_ string, r *civibus.AccessRight) { s.charge(r.Service.MemberID, 1) })
	scan(s.groups, func(_ string, g *civibus.Group) { s.charge(groupOwner(g.ID), 1) })
	scan(s.groupMembers, func(_ string, g *groupMember) { s.charge(groupOwner(g.group), 1) })
	scan(s.logs, func(_ string, l *civibus.Log) { s.charge(l.Member, 1) })
	scan(s.chains, func(_ string, c *chain) { s.charge(c.owner, 1) })
	scan(s.delegations, func(_ string, d *Delegation) { s.charge(d.Root, 1) })
	scan(s.hostings, func(_ string, h *Hosting) { s.charge(h.Member, 1) })
	scan(s.processes, func(_ string, p *Process) { s.charge(p.ID.Owner, p.units()) })
	scan(s.roles, func(_ string, r *ProcessRole) { s.charge(r.Subsystem.MemberID, 1) })
	scan(s.enacted, func(_ string, r *EnactedRule) { s.charge(r.ID.Owner, r.units()) })
	scan(s.evidenceTypes, func(_ string, t *EvidenceType) { s.charge(t.ID.Service.MemberID, 1) })
	scan(s.topics, func(_ string, t *Topic) { s.charge(t.ID.Service.MemberID, 1) })
	scan(s.usage, func(_ string, u *UsagePeriod) { s.charge(u.Member, 1) })
	scan(s.proposals, func(_ string, p *Proposal) { s.charge(p.Proposer, p.units()) })
	scan(s.ballots, func(_ string, v *Vote) { s.charge(v.Member, 1) })
	scan(s.sequences, func(key string, q sequence) {
		if k, ok := s.keys.Get(key); ok {
			s.charge(k.Member, q.notarised+q.started)
		}
	})
}
