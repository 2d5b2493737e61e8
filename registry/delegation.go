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

func (r delegationRecord) stateKey() string           { return delegationPrefix + delegationKey(r.Root, r.To) }
func (r delegationRecord) put(s *state)               { s.delegations.Set(delegationKey(r.Root, r.To), r.Delegation) }
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
