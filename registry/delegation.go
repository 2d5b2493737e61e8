package registry

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// Delegation lets a member act for another one and all its descendants.
type Delegation struct {
	Root, To                           civibus.MemberID
	Directory, Keys, Catalogue, Rights bool
	Until                              time.Time // zero: until revoked
	Periods                            []civibus.Period
}

// scope is what an act is about, as far as it can be delegated.
type scope int

const (
	ownAuthority   scope = iota // cannot be delegated
	directoryScope              // members, nodes, hosts
	keysScope                   // all but admin keys
	catalogueScope              // subsystems, services
	rightsScope                 // access rights, local groups
)

// covers reports whether the delegation is about s.
func (d *Delegation) covers(s scope) bool {
	switch s {
	case directoryScope:
		return d.Directory
	case keysScope:
		return d.Keys
	case catalogueScope:
		return d.Catalogue
	case rightsScope:
		return d.Rights
	}
	return false
}

// InForce reports whether the delegate may act now.
func (d *Delegation) InForce(now time.Time) bool {
	return openPeriod(d.Periods) && (d.Until.IsZero() || now.Before(d.Until))
}

// delegated reports whether a member has delegated a scope to the author.
func (x *txn) delegated(root civibus.MemberID, s scope) bool {
	if s == ownAuthority || x.delegations.Len() == 0 {
		return false
	}
	d, ok := x.delegations.Get(delegationKey(root, x.author.ID))
	return ok && d.covers(s) && d.InForce(x.now)
}

type delegationRecord struct{ *Delegation }

func delegationKey(root, to civibus.MemberID) string { return pair(root.String(), to.String()) }

func (r delegationRecord) stateKey() string { return delegationPrefix + delegationKey(r.Root, r.To) }
func (r delegationRecord) put(s *state) {
	set(s, s.delegations, delegationKey(r.Root, r.To), r.Delegation, r.Root, 1)
}
func (delegationRecord) eventField() protowire.Number { return 25 }

func (r delegationRecord) encode() []byte {
	return writer{}.str(1, r.Root.String()).str(2, r.To.String()).flag(3, r.Directory).flag(4, r.Keys).flag(5, r.Catalogue).flag(6, r.Rights).
		num(7, unixSeconds(r.Until)).periods(8, r.Periods)
}

func decodeDelegation(value []byte) (record, error) {
	var m registrypb.Delegation
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	out := &Delegation{
		Directory: m.Directory, Keys: m.Keys, Catalogue: m.Catalogue, Rights: m.Rights, Until: timeOf(m.Until), Periods: periodsOf(m.Periods),
	}
	var err error
	if out.Root, err = civibus.ParseMemberID(m.Root); err != nil {
		return nil, err
	}
	out.To, err = civibus.ParseMemberID(m.To)
	return delegationRecord{out}, err
}

// delegate lets another member act for a member and those under it, or changes
// in what and until when.
func (x *txn) delegate(m *registrypb.Delegate) ([]record, *refusal) {
	// 1. The fields.
	next := &Delegation{Directory: m.Directory, Keys: m.Keys, Catalogue: m.Catalogue, Rights: m.Rights}
	var r *refusal
	if next.Root, r = x.memberID("root", m.Root); r != nil {
		return nil, r
	}
	if next.To, r = x.memberID("to", m.To); r != nil {
		return nil, r
	}
	switch {
	case next.Root == next.To:
		return nil, refuse(InvalidField, "to: %s is the root itself", m.To)
	case !m.Directory && !m.Keys && !m.Catalogue && !m.Rights:
		return nil, refuse(InvalidField, "there is nothing to delegate, the rule is at least one of directory, keys, catalogue, rights")
	case m.Until != 0 && (m.Until <= x.now.Unix() || m.Until > maxUnixSeconds):
		return nil, refuse(InvalidField, "until: %d, the rule is 0 or Unix seconds after now and up to the year 9999", m.Until)
	}
	next.Until = timeOf(m.Until)
	// 2. Who may do it: a delegate does not delegate on.
	if r := x.mustAdminister(next.Root, ownAuthority); r != nil {
		return nil, r
	}
	if r := x.mustLive(next.Root); r != nil {
		return nil, r
	}
	if r := x.mustLive(next.To); r != nil {
		return nil, r
	}
	// 3. The delegation, with its history.
	if old, ok := x.delegations.Get(delegationKey(next.Root, next.To)); ok {
		next.Periods = old.Periods
		same := old.Directory == next.Directory && old.Keys == next.Keys && old.Catalogue == next.Catalogue && old.Rights == next.Rights
		switch {
		case openPeriod(old.Periods) && same && old.Until.Equal(next.Until):
			return nil, refuse(NoChange, "%s has delegated so to %s already", m.Root, m.To)
		case len(old.Periods) >= maxPeriods && !openPeriod(old.Periods):
			return nil, refuse(LimitReached, "%s has delegated %d times to %s, the rule is at most %d", m.Root, len(old.Periods), m.To, maxPeriods)
		}
	}
	next.Periods = begin(next.Periods, x.height)
	return []record{delegationRecord{next}}, nil
}

// revokeDelegation ends a delegation; the delegate may do it too.
func (x *txn) revokeDelegation(m *registrypb.RevokeDelegation) ([]record, *refusal) {
	root, r := x.memberID("root", m.Root)
	if r != nil {
		return nil, r
	}
	to, r := x.memberID("to", m.To)
	if r != nil {
		return nil, r
	}
	if to != x.author.ID {
		if r := x.mustAdminister(root, ownAuthority); r != nil {
			return nil, r
		}
	}
	old, ok := x.delegations.Get(delegationKey(root, to))
	if !ok {
		return nil, refuse(NotFound, "%s has delegated nothing to %s", root, to)
	}
	if !openPeriod(old.Periods) {
		return nil, refuse(Ended, "the delegation of %s to %s has ended", root, to)
	}
	next := *old
	next.Periods = end(old.Periods, x.height)
	return []record{delegationRecord{&next}}, nil
}

// Delegation looks up a delegation, whether or not it is in force.
func (v *View) Delegation(root, to civibus.MemberID) (Delegation, bool) {
	return get(v.state.delegations, delegationKey(root, to))
}

// Delegations lists delegations by root and delegate, the ended ones included,
// like Members. The key of a page is root|to.
func (v *View) Delegations(after string, limit int) (items []Delegation, next string) {
	return page(v.state.delegations, "", after, limit)
}

// DelegationsOf lists the delegations of one root, by delegate, like Members.
func (v *View) DelegationsOf(root civibus.MemberID, after string, limit int) (items []Delegation, next string) {
	return page(v.state.delegations, pair(root.String(), ""), after, limit)
}
