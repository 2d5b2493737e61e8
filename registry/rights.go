package registry

import (
	"encoding/hex"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// grantRight lets a subject call a service or some of its endpoints. The terms
// never change; a right with other terms supersedes this one.
func (x *txn) grantRight(m *registrypb.GrantRight) ([]record, *refusal) {
	// 1. The terms.
	next, known := x.knownGrant()
	if !known {
		var r *refusal
		if next, r = x.terms(m); r != nil {
			return nil, r
		}
	}
	// 2. Who grants, and whether what is granted exists.
	if r := x.mustAdminister(next.Service.MemberID, rightsScope); r != nil {
		return nil, r
	}
	if !known {
		if r := x.mustExist(next); r != nil {
			return nil, r
		}
		x.facts.grant = &grantFact{x.directory, next}
	}
	// 3. The right, and the end of the one it supersedes.
	next.ID = hex.EncodeToString(x.hash[:16])
	next.Status, next.Periods = civibus.Active, begin(nil, x.height)
	if next.Disclosure > civibus.Shown { // until a second person approves
		next.Status, next.Periods, next.GrantedBy = civibus.Suspended, nil, x.key.ID
	}
	if old, ok := x.rights.Get(next.ID); ok {
		return nil, refuse(AlreadyExists, "right %s is already registered", old.ID)
	}
	if m.Supersedes == "" {
		return []record{rightRecord{next}}, nil
	}
	old, ok := x.rights.Get(m.Supersedes)
	switch {
	case !ok:
		return nil, refuse(NotFound, "supersedes: right %.40q is not registered", m.Supersedes)
	case old.Status == civibus.Ended:
		return nil, refuse(Ended, "supersedes: right %s has ended", old.ID)
	case old.Service.ClientID != next.Service.ClientID:
		return nil, refuse(InvalidField, "supersedes: right %s is of %s, the rule is a right of the same subsystem", old.ID, old.Service.ClientID)
	}
	ended := *old
	ended.Status, ended.Periods = civibus.Ended, end(old.Periods, x.height)
	return []record{rightRecord{&ended}, rightRecord{next}}, nil
}

// knownGrant is what the steps before the last found out about the same grant, if
// they would find the same now.
func (x *txn) knownGrant() (*civibus.AccessRight, bool) {
	f := x.facts.grant
	if f == nil || f.directory != x.directory || !f.right.ValidUntil.IsZero() && !f.right.ValidUntil.After(x.now) || f.right.Disclosure == civibus.ShownLater {
		return nil, false
	}
	right := *f.right
	return &right, true
}

// mustExist checks that the service and the subject of a right are there.
func (x *txn) mustExist(right *civibus.AccessRight) *refusal {
	if r := x.mustHaveService(right.Service); r != nil {
		return r
	}
	if right.Group == "" {
		return x.mustLiveClient(right.Client)
	}
	if _, ok := x.groups.Get(right.Group); !ok {
		return refuse(NotFound, "group %s is not registered", right.Group)
	}
	return nil
}

// terms checks the fields of a grant.
func (x *txn) terms(m *registrypb.GrantRight) (*civibus.AccessRight, *refusal) {
	out := &civibus.AccessRight{Purpose: m.Purpose, LegalBasis: m.LegalBasis, Supersedes: m.Supersedes}
	var r *refusal
	if out.Service, r = x.serviceID("service", m.Service); r != nil {
		return nil, r
	}
	if out.Endpoints, r = checkEndpoints(m.Endpoints); r != nil {
		return nil, r
	}
	switch s := m.Subject.(type) {
	case *registrypb.GrantRight_Client:
		if out.Client, r = x.clientID("client", s.Client); r != nil {
			return nil, r
		}
	case *registrypb.GrantRight_Group:
		owner, r := x.groupID("group", s.Group)
		if r != nil {
			return nil, r
		}
		if owner != (civibus.ClientID{}) && owner != out.Service.ClientID {
			return nil, refuse(InvalidField, "group: %s is local to another subsystem than the service's", s.Group)
		}
		out.Group = s.Group
	default:
		return nil, refuse(InvalidField, "the subject is missing, the rule is a client or a group")
	}
	if r := checkPurpose(m.Purpose); r != nil {
		return nil, r
	}
	if r := checkText("legal_basis", m.LegalBasis, 1, maxLegalBasis); r != nil {
		return nil, r
	}
	if l := m.RateLimit; l != nil {
		if l.Requests == 0 || l.PerSeconds == 0 || l.PerSeconds > maxPerSeconds {
			return nil, refuse(InvalidField, "rate_limit: %d requests per %d seconds, the rule is at least 1 request per 1 to %d seconds", l.Requests, l.PerSeconds, maxPerSeconds)
		}
		out.Limit = civibus.RateLimit{Requests: l.Requests, Per: time.Duration(l.PerSeconds) * time.Second}
	}
	if r := x.validity(m, out); r != nil {
		return nil, r
	}
	return out, x.disclosure(m, out)
}

// disclosure checks what a person is told of calls under the right, and when.
func (x *txn) disclosure(m *registrypb.GrantRight, out *civibus.AccessRight) *refusal {
	if m.Disclosure > registrypb.Disclosure_DISCLOSURE_NEVER {
		return refuse(InvalidField, "disclosure: %d, the rule is shown, later or never, or absent where calls do not concern persons", m.Disclosure)
	}
	out.Disclosure = civibus.Disclosure(m.Disclosure)
	min, max := 1, maxSentence
	if out.Disclosure == civibus.NoPerson {
		min, max = 0, 0
	}
	if r := checkText("sentence", m.Sentence, min, max); r != nil {
		return r
	}
	out.Sentence = m.Sentence
	if out.Disclosure != civibus.ShownLater {
		if m.DisclosedFrom != 0 {
			return refuse(InvalidField, "disclosed_from: %d, the rule is none unless the disclosure is later", m.DisclosedFrom)
		}
		return nil
	}
	// It ends by itself, and so that those whom it concerns may live to see it.
	now := x.now.Unix()
	if m.DisclosedFrom <= now || m.DisclosedFrom > now+maxWithheld {
		return refuse(InvalidField, "disclosed_from: %d, the rule is Unix seconds after now (%d) and at most %d later", m.DisclosedFrom, now, maxWithheld)
	}
	out.DisclosedFrom = timeOf(m.DisclosedFrom)
	return nil
}

// mustApprove checks that a right that keeps something from persons comes into force by
// another key than the one that granted it.
func (x *txn) mustApprove(right *civibus.AccessRight) *refusal {
	if right.GrantedBy == (civibus.KeyID{}) || len(right.Periods) > 0 || right.GrantedBy != x.key.ID {
		return nil
	}
	return refuse(NotAuthorised, "right %s has the disclosure %s and was granted with this key, the rule is that a second person approves with another admin key", right.ID, right.Disclosure)
}

// validity checks when the right begins and expires. Whether it is in time at a
// later moment is the policy's question.
func (x *txn) validity(m *registrypb.GrantRight, out *civibus.AccessRight) *refusal {
	for field, t := range [...]int64{m.ValidFrom, m.ValidUntil} {
		if t < 0 || t > maxUnixSeconds {
			return refuse(InvalidField, "%s: %d, the rule is 0 or Unix seconds up to the year 9999", [...]string{"valid_from", "valid_until"}[field], t)
		}
	}
	if m.ValidUntil != 0 && m.ValidUntil <= max(m.ValidFrom, x.now.Unix()) {
		return refuse(InvalidField, "valid_until: %d, the rule is after valid_from and after now", m.ValidUntil)
	}
	out.ValidFrom, out.ValidUntil = timeOf(m.ValidFrom), timeOf(m.ValidUntil)
	return nil
}

// setRightStatus suspends, resumes or ends a right.
func (x *txn) setRightStatus(m *registrypb.SetRightStatus) ([]record, *refusal) {
	if b, err := hex.DecodeString(m.Id); err != nil || len(b) != 16 || hex.EncodeToString(b) != m.Id {
		return nil, refuse(InvalidField, "id: %.40q, the rule is 32 lower-case hex digits", m.Id)
	}
	old, ok := x.rights.Get(m.Id)
	if !ok {
		return nil, refuse(NotFound, "right %s is not registered", m.Id)
	}
	if r := x.mustAdminister(old.Service.MemberID, rightsScope); r != nil {
		return nil, r
	}
	next := *old
	next.Status = civibus.Status(m.Status)
	if next.Status == civibus.Active {
		if r := x.mustApprove(old); r != nil {
			return nil, r
		}
	}
	var r *refusal
	if next.Periods, r = x.changeStatus("right "+m.Id, old.Status, next.Status, old.Periods); r != nil {
		return nil, r
	}
	return []record{rightRecord{&next}}, nil
}
