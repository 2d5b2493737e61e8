package registry

import (
	"bytes"
	"slices"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// setSubsystem registers a subsystem or changes its name.
func (x *txn) setSubsystem(m *registrypb.SetSubsystem) ([]record, *refusal) {
	id, r := x.subsystemID("id", m.Id)
	if r != nil {
		return nil, r
	}
	if r := checkText("name", m.Name, 1, maxName); r != nil {
		return nil, r
	}
	if r := x.mustAdminister(id.MemberID, catalogueScope); r != nil {
		return nil, r
	}
	if r := x.mustLive(id.MemberID); r != nil {
		return nil, r
	}
	old, ok := x.subsystems.Get(id.String())
	if !ok {
		return []record{subsystemRecord{&civibus.Subsystem{ID: id, Name: m.Name, Status: civibus.Active, Periods: begin(nil, x.height)}}}, nil
	}
	switch {
	case old.Status == civibus.Ended:
		return nil, refuse(Ended, "subsystem %s has ended, which is final", id)
	case old.Name == m.Name:
		return nil, refuse(NoChange, "subsystem %s is already so", id)
	}
	next := *old
	next.Name = m.Name
	return []record{subsystemRecord{&next}}, nil
}

// mustLive checks that a member is registered and has not ended.
func (x *txn) mustLive(id civibus.MemberID) *refusal {
	m := x.member(id)
	if m == nil {
		return refuse(NotFound, "member %s is not registered", id)
	}
	if m.Status == civibus.Ended {
		return refuse(Ended, "member %s has ended, which is final", id)
	}
	return nil
}

// mustLiveSubsystem checks that a subsystem is registered and that neither it
// nor its member has ended.
func (x *txn) mustLiveSubsystem(id civibus.ClientID) *refusal {
	if r := x.mustLive(id.MemberID); r != nil {
		return r
	}
	s, ok := x.subsystems.Get(id.String())
	if !ok {
		return refuse(NotFound, "subsystem %s is not registered", id)
	}
	if s.Status == civibus.Ended {
		return refuse(Ended, "subsystem %s has ended, which is final", id)
	}
	return nil
}

// mustLiveClient checks the same of a member or a subsystem.
func (x *txn) mustLiveClient(id civibus.ClientID) *refusal {
	if id.Subsystem == "" {
		return x.mustLive(id.MemberID)
	}
	return x.mustLiveSubsystem(id)
}

// setSubsystemStatus suspends, reactivates or ends a subsystem.
func (x *txn) setSubsystemStatus(m *registrypb.SetSubsystemStatus) ([]record, *refusal) {
	id, r := x.subsystemID("id", m.Id)
	if r != nil {
		return nil, r
	}
	if r := x.mustAdminister(id.MemberID, catalogueScope); r != nil {
		return nil, r
	}
	old, ok := x.subsystems.Get(id.String())
	if !ok {
		return nil, refuse(NotFound, "subsystem %s is not registered", id)
	}
	next := *old
	next.Status = civibus.Status(m.Status)
	if next.Periods, r = x.changeStatus("subsystem "+id.String(), old.Status, next.Status, old.Periods); r != nil {
		return nil, r
	}
	return []record{subsystemRecord{&next}}, nil
}

// setService publishes a service version or changes its description.
func (x *txn) setService(m *registrypb.SetService) ([]record, *refusal) {
	// 1. The fields.
	id, r := x.serviceID("id", m.Id)
	if r != nil {
		return nil, r
	}
	if civibus.ReservedService(id.Service) {
		return nil, refuse(InvalidField, "id: service code %s is one of X-Road's own, the rule is another code", id.Service)
	}
	if m.Type < registrypb.ServiceType_SERVICE_TYPE_REST || m.Type > registrypb.ServiceType_SERVICE_TYPE_WSDL {
		return nil, refuse(InvalidField, "type: %d, the rule is REST, OPENAPI3 or WSDL", m.Type)
	}
	if r := checkText("title", m.Title, 0, maxName); r != nil {
		return nil, r
	}
	endpoints, r := checkEndpoints(m.Endpoints)
	if r != nil {
		return nil, r
	}
	if n := len(m.DescriptionDigest); n != 0 && n != 32 {
		return nil, refuse(InvalidField, "description_digest has %d bytes, the rule is 32 or none", n)
	}
	// 2. Who may do it, and to what.
	if r := x.mustAdminister(id.MemberID, catalogueScope); r != nil {
		return nil, r
	}
	if r := x.mustLiveSubsystem(id.ClientID); r != nil {
		return nil, r
	}
	next := &civibus.Service{
		ID: id, Type: civibus.ServiceType(m.Type), Title: m.Title, Endpoints: endpoints, DescriptionDigest: m.DescriptionDigest,
		Status: civibus.Active, Periods: begin(nil, x.height),
	}
	old, ok := x.services.Get(id.String())
	if !ok {
		return []record{serviceRecord{next}}, nil
	}
	switch {
	case old.Status == civibus.Ended:
		return nil, refuse(Ended, "service %s has ended, which is final", id)
	case old.Type == next.Type && old.Title == next.Title && slices.Equal(old.Endpoints, next.Endpoints) && bytes.Equal(old.DescriptionDigest, next.DescriptionDigest):
		return nil, refuse(NoChange, "service %s is already so", id)
	}
	next.Status, next.Notice, next.Periods = old.Status, old.Notice, old.Periods
	return []record{serviceRecord{next}}, nil
}

// setServiceStatus enables a service, disables it with a notice, or ends it.
func (x *txn) setServiceStatus(m *registrypb.SetServiceStatus) ([]record, *refusal) {
	id, r := x.serviceID("id", m.Id)
	if r != nil {
		return nil, r
	}
	min, max := 0, maxNotice
	switch civibus.Status(m.Status) {
	case civibus.Active:
		max = 0 // a notice says why a service is not there
	case civibus.Suspended:
		min = 1
	}
	if r := checkText("notice", m.Notice, min, max); r != nil {
		return nil, r
	}
	if r := x.mustAdminister(id.MemberID, catalogueScope); r != nil {
		return nil, r
	}
	old, ok := x.services.Get(id.String())
	if !ok {
		return nil, refuse(NotFound, "service %s is not registered", id)
	}
	next := *old
	next.Status, next.Notice = civibus.Status(m.Status), m.Notice
	if old.Status == civibus.Suspended && next.Status == civibus.Suspended && old.Notice != next.Notice {
		return []record{serviceRecord{&next}}, nil // another notice
	}
	if next.Periods, r = x.changeStatus("service "+id.String(), old.Status, next.Status, old.Periods); r != nil {
		return nil, r
	}
	return []record{serviceRecord{&next}}, nil
}

// mustHaveService checks that the service, or without a version some version of
// it, is registered and has not ended.
func (x *txn) mustHaveService(id civibus.ServiceID) *refusal {
	if r := x.mustLiveSubsystem(id.ClientID); r != nil {
		return r
	}
	found, live := false, false
	if id.Version != "" {
		var s *civibus.Service
		s, found = x.services.Get(id.String())
		live = found && s.Status != civibus.Ended
	} else {
		for s := range x.versionsOf(id) {
			found, live = true, live || s.Status != civibus.Ended
		}
	}
	switch {
	case live:
		return nil
	case found:
		return refuse(Ended, "service %s has ended, which is final", id)
	}
	return refuse(NotFound, "service %s is not registered", id)
}

// versionsOf yields the service without a version, if there is one, and all
// versions of it.
func (s *state) versionsOf(id civibus.ServiceID) func(yield func(*civibus.Service) bool) {
	id.Version = ""
	bare := id.String()
	return func(yield func(*civibus.Service) bool) {
		if v, ok := s.services.Get(bare); ok && !yield(v) {
			return
		}
		s.services.Ascend(bare+"/", func(key string, v *civibus.Service) bool {
			return strings.HasPrefix(key, bare+"/") && yield(v)
		})
	}
}
