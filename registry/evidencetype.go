package registry

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// The limits of an evidence type.
const (
	maxEvidenceName = 64
	maxRequirements = 16
	maxRequirement  = 256 // bytes
	maxEvidenceLaw  = 512
)

// EvidenceTypeID names a type of evidence: the service that provides it, and its name.
type EvidenceTypeID struct {
	Service civibus.ServiceID
	Name    string
}

// String returns INSTANCE/CLASS/MEMBER/SUBSYSTEM/SERVICE/TYPE.
func (id EvidenceTypeID) String() string { return id.Service.String() + "/" + id.Name }

// ParseEvidenceTypeID reads what String writes, and nothing else.
func ParseEvidenceTypeID(s string) (EvidenceTypeID, error) {
	service, name, ok := cutLast(s)
	if !ok {
		return EvidenceTypeID{}, fmt.Errorf("evidence type %.200q, the rule is INSTANCE/CLASS/MEMBER/SUBSYSTEM/SERVICE/TYPE", s)
	}
	id, err := civibus.ParseServiceID(service)
	if err != nil {
		return EvidenceTypeID{}, fmt.Errorf("evidence type %.200q: %w", s, err)
	}
	if id.Version != "" {
		return EvidenceTypeID{}, fmt.Errorf("evidence type %.200q: the service has a version, the rule is one without", s)
	}
	if err := checkTopicName(name); err != nil {
		return EvidenceTypeID{}, fmt.Errorf("evidence type %.200q: %w", s, err)
	}
	if id.String() != service {
		return EvidenceTypeID{}, fmt.Errorf("evidence type %.200q: it is not in canonical form", s)
	}
	return EvidenceTypeID{id, name}, nil
}

// EvidenceType is what a service can give evidence of, and which requirements of
// procedures that satisfies: the catalogue of the once-only principle.
type EvidenceType struct {
	ID    EvidenceTypeID
	Title string
	Law   string // the provision under which it is given
	// Requirements are the URIs of the requirements that it proves, in order.
	Requirements []string
	Status       civibus.Status
	Notice       string
	Periods      []civibus.Period
}

type evidenceTypeRecord struct{ *EvidenceType }

func (r evidenceTypeRecord) stateKey() string           { return evidenceTypePrefix + r.ID.String() }
func (r evidenceTypeRecord) put(s *state)               { s.putEvidenceType(r.EvidenceType) }
func (evidenceTypeRecord) eventField() protowire.Number { return 50 }

func (r evidenceTypeRecord) encode() []byte {
	w := writer{}.str(1, r.ID.String()).str(2, r.Title).str(3, r.Law)
	for _, u := range r.Requirements {
		w = w.str(4, u)
	}
	return w.num(5, uint64(r.Status)).str(6, r.Notice).periods(7, r.Periods)
}

func decodeEvidenceType(value []byte) (record, error) {
	var m registrypb.EvidenceType
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	id, err := ParseEvidenceTypeID(m.Id)
	return evidenceTypeRecord{&EvidenceType{id, m.Title, m.Law, m.Requirements, civibus.Status(m.Status), m.Notice, periodsOf(m.Periods)}}, err
}

// putEvidenceType keeps the index of the types by requirement.
func (s *state) putEvidenceType(t *EvidenceType) {
	id := t.ID.String()
	old, had := s.evidenceTypes.Get(id)
	set(s, s.evidenceTypes, id, t, t.ID.Service.MemberID, 1)
	if had {
		for _, u := range old.Requirements {
			s.typesOf.Delete(pair(url.QueryEscape(u), id))
		}
	}
	for _, u := range t.Requirements {
		s.typesOf.Set(pair(url.QueryEscape(u), id), struct{}{})
	}
}

// setEvidenceType registers a type of evidence, or changes all but its name.
func (x *txn) setEvidenceType(m *registrypb.SetEvidenceType) ([]record, *refusal) {
	// 1. The fields.
	id, err := ParseEvidenceTypeID(m.Id)
	if err != nil {
		return nil, refuse(InvalidField, "id: %v", err)
	}
	if r := checkText("title", m.Title, 1, maxName); r != nil {
		return nil, r
	}
	if r := checkText("law", m.Law, 1, maxEvidenceLaw); r != nil {
		return nil, r
	}
	if r := checkRequirements(m.Requirements); r != nil {
		return nil, r
	}
	status := civibus.Status(m.Status)
	min, max := 0, maxNotice
	switch status {
	case civibus.Active:
		max = 0 // a notice says why no evidence is given
	case civibus.Suspended:
		min = 1
	}
	if r := checkText("notice", m.Notice, min, max); r != nil {
		return nil, r
	}
	// 2. Who may do it, and to what.
	if r := x.mustAdminister(id.Service.MemberID, catalogueScope); r != nil {
		return nil, r
	}
	next := &EvidenceType{ID: id, Title: m.Title, Law: m.Law, Requirements: m.Requirements, Status: status, Notice: m.Notice}
	old, ok := x.evidenceTypes.Get(id.String())
	if !ok {
		if status != civibus.Active {
			return nil, refuse(InvalidField, "status: %d, the rule is active for an evidence type that is new", m.Status)
		}
		if r := x.mustLiveSubsystem(id.Service.ClientID); r != nil {
			return nil, r
		}
		if r := x.mustHaveService(id.Service); r != nil {
			return nil, r
		}
		next.Periods = begin(nil, x.height)
		return []record{evidenceTypeRecord{next}}, nil
	}
	// 3. What changes.
	next.Periods = old.Periods
	same := old.Title == next.Title && old.Law == next.Law && old.Notice == next.Notice && slices.Equal(old.Requirements, next.Requirements)
	if old.Status == status && status != civibus.Ended && !same {
		return []record{evidenceTypeRecord{next}}, nil
	}
	var r *refusal
	if next.Periods, r = x.changeStatus("evidence type "+id.String(), old.Status, status, old.Periods); r != nil {
		return nil, r
	}
	return []record{evidenceTypeRecord{next}}, nil
}

// checkRequirements checks URIs of requirements: in order, none twice.
func checkRequirements(list []string) *refusal {
	if len(list) == 0 || len(list) > maxRequirements {
		return refuse(InvalidField, "requirements: %d, the rule is 1 to %d", len(list), maxRequirements)
	}
	for i, u := range list {
		if r := checkText("requirements", u, 1, maxRequirement); r != nil {
			return r
		}
		if parsed, err := url.Parse(u); err != nil || !parsed.IsAbs() || strings.ContainsAny(u, " |") {
			return refuse(InvalidField, "requirements[%d]: %.80q, the rule is an absolute URI", i, u)
		}
		if i > 0 && list[i-1] >= u {
			return refuse(InvalidField, "requirements[%d]: %.80q, the rule is ascending order and none twice", i, u)
		}
	}
	return nil
}

// EvidenceType looks up a type of evidence.
func (v *View) EvidenceType(id EvidenceTypeID) (EvidenceType, bool) {
	return get(v.state.evidenceTypes, id.String())
}

// EvidenceTypes lists the types of evidence by identifier, like Members.
func (v *View) EvidenceTypes(after string, limit int) (items []EvidenceType, next string) {
	return page(v.state.evidenceTypes, "", after, limit)
}

// EvidenceTypesFor lists the types of evidence, the ended ones included, that prove a
// requirement, by identifier, like Members.
func (v *View) EvidenceTypesFor(requirement, after string, limit int) (items []EvidenceType, next string) {
	each(v.state.typesOf, pair(url.QueryEscape(requirement), ""), after, limit, func(id string, _ struct{}) {
		if t, ok := v.state.evidenceTypes.Get(id); ok {
			items = append(items, *t)
		}
	}, &next)
	return items, next
}
