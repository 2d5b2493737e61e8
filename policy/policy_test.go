package policy_test

import (
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/policy"
)

// view is a registry view written down by hand.
type view struct {
	members    map[civibus.MemberID]civibus.Status
	subsystems map[civibus.ClientID]civibus.Status
	services   map[civibus.ServiceID]civibus.Service
	rights     []*civibus.AccessRight
	groups     map[string][]civibus.ClientID
}

func (v *view) Height() uint64 { return 7 }

func (v *view) Member(id civibus.MemberID) (civibus.Member, bool) {
	s, ok := v.members[id]
	return civibus.Member{ID: id, Status: s}, ok
}

func (v *view) Subsystem(id civibus.ClientID) (civibus.Subsystem, bool) {
	s, ok := v.subsystems[id]
	return civibus.Subsystem{ID: id, Status: s}, ok
}

func (v *view) Service(id civibus.ServiceID) (civibus.Service, bool) {
	s, ok := v.services[id]
	return s, ok
}

func (v *view) RightsFor(s civibus.ServiceID, c civibus.ClientID) iter.Seq[*civibus.AccessRight] {
	return func(yield func(*civibus.AccessRight) bool) {
		for _, r := range v.rights {
			subject := r.Client == c && r.Group == ""
			for _, m := range v.groups[r.Group] {
				subject = subject || m == c
			}
			if r.Service == s && subject && !yield(r) {
				return
			}
		}
	}
}

var (
	pop      = civibus.MemberID{Instance: "T", Class: "GOV", Code: "POP"}
	town     = civibus.MemberID{Instance: "T", Class: "MUN", Code: "TOWN"}
	register = civibus.ClientID{MemberID: pop, Subsystem: "register"}
	desk     = civibus.ClientID{MemberID: town, Subsystem: "desk"}
	other    = civibus.ClientID{MemberID: town, Subsystem: "other"}
	persons  = civibus.ServiceID{ClientID: register, Service: "persons"}
	noon     = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

// world has one service that desk may call; change makes the case.
func world(change func(*view)) *view {
	v := &view{
		members:    map[civibus.MemberID]civibus.Status{pop: civibus.Active, town: civibus.Active},
		subsystems: map[civibus.ClientID]civibus.Status{register: civibus.Active, desk: civibus.Active, other: civibus.Active},
		services: map[civibus.ServiceID]civibus.Service{
			persons: {ID: persons, Type: civibus.OpenAPI3, Status: civibus.Active},
		},
		rights: []*civibus.AccessRight{{ID: "aa", Service: persons, Client: desk, Purpose: "care", Status: civibus.Active}},
		groups: map[string][]civibus.ClientID{},
	}
	if change != nil {
		change(v)
	}
	return v
}

func TestDecide(t *testing.T) {
	get := civibus.Question{Client: desk, Service: persons, Method: "GET", Path: "/p/1"}
	with := func(change func(*civibus.Question)) civibus.Question { q := get; change(&q); return q }
	endpoint := func(method, path string) func(*view) {
		return func(v *view) { v.rights[0].Endpoints = []civibus.Endpoint{{Method: method, Path: path}} }
	}
	for _, c := range []struct {
		name   string
		change func(*view)
		q      civibus.Question
		code   civibus.FaultCode
		says   string
	}{
		{"allowed", nil, get, "", ""},
		{"provider member unknown", func(v *view) { delete(v.members, pop) }, get, civibus.FaultUnknownMember, "Service provider 'SUBSYSTEM:T/GOV/POP/register' not found"},
		{"provider member suspended", func(v *view) { v.members[pop] = civibus.Suspended }, get, civibus.FaultUnknownMember, "Service provider"},
		{"provider subsystem unknown", func(v *view) { delete(v.subsystems, register) }, get, civibus.FaultUnknownMember, "Service provider"},
		{"provider subsystem ended", func(v *view) { v.subsystems[register] = civibus.Ended }, get, civibus.FaultUnknownMember, "Service provider"},
		{"client member unknown", func(v *view) { delete(v.members, town) }, get, civibus.FaultUnknownMember, "Client 'SUBSYSTEM:T/MUN/TOWN/desk' not found"},
		{"client subsystem suspended", func(v *view) { v.subsystems[desk] = civibus.Suspended }, get, civibus.FaultUnknownMember, "Client"},
		{"service unknown", func(v *view) { delete(v.services, persons) }, get, civibus.FaultUnknownService, "Unknown service: SERVICE:T/GOV/POP/register/persons"},
		{"service ended", func(v *view) { s := v.services[persons]; s.Status = civibus.Ended; v.services[persons] = s }, get, civibus.FaultUnknownService, "Unknown service"},
		{"version unknown", nil, with(func(q *civibus.Question) { q.Service.Version = "v9" }), civibus.FaultUnknownService, "persons/v9"},
		{"SOAP service", func(v *view) { s := v.services[persons]; s.Type = civibus.WSDL; v.services[persons] = s }, get, civibus.FaultServiceType, "SOAP"},
		{"no right", func(v *view) { v.rights = nil }, get, civibus.FaultAccessDenied, "Request is not allowed: SERVICE:T/GOV/POP/register/persons: SUBSYSTEM:T/MUN/TOWN/desk has no access right"},
		{"right of another subsystem", nil, with(func(q *civibus.Question) { q.Client = other }), civibus.FaultAccessDenied, "has no access right"},
		{"a member's right does not cover its subsystems", func(v *view) { v.rights[0].Client = civibus.ClientID{MemberID: town} }, get, civibus.FaultAccessDenied, "has no access right"},
		{"a subsystem's right does not cover its member", nil, with(func(q *civibus.Question) { q.Client.Subsystem = "" }), civibus.FaultAccessDenied, "MEMBER:T/MUN/TOWN has no access right"},
		{"member's own right", func(v *view) { v.rights[0].Client = civibus.ClientID{MemberID: town} }, with(func(q *civibus.Question) { q.Client.Subsystem = "" }), "", ""},
		{"group right", func(v *view) {
			v.rights[0].Client, v.rights[0].Group = civibus.ClientID{}, "global/TOWNS"
			v.groups["global/TOWNS"] = []civibus.ClientID{desk}
		}, get, "", ""},
		{"group without the client", func(v *view) {
			v.rights[0].Client, v.rights[0].Group = civibus.ClientID{}, "global/TOWNS"
			v.groups["global/TOWNS"] = []civibus.ClientID{other}
		}, get, civibus.FaultAccessDenied, "has no access right"},
		{"right suspended", func(v *view) { v.rights[0].Status = civibus.Suspended }, get, civibus.FaultAccessDenied, "access right aa is suspended"},
		{"right not yet valid", func(v *view) { v.rights[0].ValidFrom = noon.Add(time.Second) }, get, civibus.FaultAccessDenied, "is valid from 2026-11-22T12:00:01Z"},
		{"right valid from now", func(v *view) { v.rights[0].ValidFrom = noon }, get, "", ""},
		{"right expired this instant", func(v *view) { v.rights[0].ValidUntil = noon }, get, civibus.FaultAccessDenied, "was valid until 2026-11-22T12:00:00Z"},
		{"purpose not stated", nil, get, "", ""},
		{"purpose stated", nil, with(func(q *civibus.Question) { q.Purpose = "care" }), "", ""},
		{"other purpose stated", nil, with(func(q *civibus.Question) { q.Purpose = "tax" }), civibus.FaultAccessDenied, "no access right for the purpose tax; access right aa is for care"},
		{"endpoint covers", endpoint("GET", "/p/*"), get, "", ""},
		{"any method", endpoint("*", "/p/*"), get, "", ""},
		{"other method", endpoint("GET", "/p/*"), with(func(q *civibus.Question) { q.Method = "PATCH" }), civibus.FaultAccessDenied, "no access right covers PATCH on this path"},
		{"method is case-sensitive", endpoint("GET", "/p/*"), with(func(q *civibus.Question) { q.Method = "get" }), civibus.FaultAccessDenied, "covers"},
		{"events under a right that concerns persons", func(v *view) { v.rights[0].Disclosure = civibus.Shown }, with(func(q *civibus.Question) { q.Method = "SUBSCRIBE" }), civibus.FaultAccessDenied, "access right aa concerns persons, and under such a right no events are delivered"},
		{"events under another right beside it", func(v *view) {
			v.rights[0].Disclosure = civibus.Shown
			v.rights = append(v.rights, &civibus.AccessRight{ID: "bb", Service: persons, Client: desk, Status: civibus.Active})
		}, with(func(q *civibus.Question) { q.Method = "SUBSCRIBE" }), "", ""},
		{"calls under a right that concerns persons", func(v *view) { v.rights[0].Disclosure = civibus.Shown }, get, "", ""},
		{"one star stops at a slash", endpoint("GET", "/p/*"), with(func(q *civibus.Question) { q.Path = "/p/1/2" }), civibus.FaultAccessDenied, "covers"},
		{"two stars do not", endpoint("GET", "/p/**"), with(func(q *civibus.Question) { q.Path = "/p/1/2" }), "", ""},
		{"encoded character", endpoint("GET", "/p/a b"), with(func(q *civibus.Question) { q.Path = "/p/a%20b" }), "", ""},
		{"dots resolved into the right", endpoint("GET", "/p/*"), with(func(q *civibus.Question) { q.Path = "/x/../p/1" }), "", ""},
		{"dots resolved out of the right", endpoint("GET", "/p/**"), with(func(q *civibus.Question) { q.Path = "/p/../admin" }), civibus.FaultAccessDenied, "covers"},
		{"encoded dots resolved out of the right", endpoint("GET", "/p/**"), with(func(q *civibus.Question) { q.Path = "/p/%2e%2e/admin" }), civibus.FaultAccessDenied, "covers"},
		{"encoded traversal", endpoint("GET", "/p/**"), with(func(q *civibus.Question) { q.Path = "/p/%2e%2e%2fadmin" }), civibus.FaultAccessDenied, "\"..\""},
		{"traversal out of the service even with the whole service", nil, with(func(q *civibus.Question) { q.Path = "/../admin" }), civibus.FaultAccessDenied, "\"..\""},
		{"disabled", func(v *view) {
			s := v.services[persons]
			s.Status, s.Notice = civibus.Suspended, "back on Monday"
			v.services[persons] = s
		}, get, civibus.FaultServiceDisabled, "Service SERVICE:T/GOV/POP/register/persons is disabled: back on Monday"},
		{"disabled is hidden from those without a right", func(v *view) {
			s := v.services[persons]
			s.Status, s.Notice = civibus.Suspended, "back on Monday"
			v.services[persons] = s
			v.rights = nil
		}, get, civibus.FaultAccessDenied, "has no access right"},
		{"metadata needs no right", func(v *view) { v.rights = nil }, with(func(q *civibus.Question) { q.Service.Service, q.Path = "listMethods", "" }), "", ""},
		{"metadata with a path is an unknown service", nil, with(func(q *civibus.Question) { q.Service.Service = "listMethods" }), civibus.FaultUnknownService, "listMethods"},
		{"sealed in time", func(v *view) {
			v.rights[0].ValidFrom, v.rights[0].ValidUntil = noon.Add(-time.Minute), noon.Add(time.Minute)
		}, with(func(q *civibus.Question) { q.Sealed = noon.Add(-time.Minute) }), "", ""},
		{"sealed before the right", func(v *view) { v.rights[0].ValidFrom = noon.Add(-time.Minute) }, with(func(q *civibus.Question) { q.Sealed = noon.Add(-61 * time.Second) }), civibus.FaultAccessDenied, "is valid from"},
		{"sealed after the right", func(v *view) { v.rights[0].ValidUntil = noon.Add(time.Second) }, with(func(q *civibus.Question) { q.Sealed = noon.Add(time.Second) }), civibus.FaultAccessDenied, "was valid until"},
		{"metadata by POST is an unknown service", nil, with(func(q *civibus.Question) { q.Service.Service, q.Method = "listMethods", "POST" }), civibus.FaultUnknownService, "listMethods"},
		{"a reserved code cannot be registered over", func(v *view) {
			id := persons
			id.Service = "getOpenAPI"
			v.services[id] = civibus.Service{ID: id, Type: civibus.REST, Status: civibus.Active}
			v.rights = append(v.rights, &civibus.AccessRight{ID: "bb", Service: id, Client: desk, Status: civibus.Active})
		}, with(func(q *civibus.Question) { q.Service.Service, q.Method = "getOpenAPI", "POST" }), civibus.FaultUnknownService, "getOpenAPI"},
		{"metadata still needs a known client", func(v *view) { delete(v.subsystems, desk) }, with(func(q *civibus.Question) { q.Service.Service = "listMethods" }), civibus.FaultUnknownMember, "Client"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := policy.Decide(world(c.change), c.q, noon)
			if d.Code != c.code {
				t.Fatalf("code %q (%s), want %q", d.Code, d.Message, c.code)
			}
			if c.says != "" && !strings.Contains(d.Message, c.says) {
				t.Errorf("message %q does not say %q", d.Message, c.says)
			}
			if d.Height != 7 {
				t.Errorf("height %d, want the view's", d.Height)
			}
			if wantRight := c.code == "" && !policy.Metadata(c.q.Method, c.q.Service); (d.Right != "") != wantRight {
				t.Errorf("right %q", d.Right)
			}
		})
	}
}

func TestDecidePrefersUnlimitedThenSmallestRight(t *testing.T) {
	limit := civibus.RateLimit{Requests: 1, Per: time.Second}
	v := world(func(v *view) {
		v.rights = []*civibus.AccessRight{
			{ID: "00", Service: persons, Client: desk, Status: civibus.Active, Limit: limit},
			{ID: "cc", Service: persons, Client: desk, Status: civibus.Active},
			{ID: "bb", Service: persons, Client: desk, Status: civibus.Active},
			{ID: "01", Service: persons, Client: desk, Status: civibus.Suspended},
		}
	})
	q := civibus.Question{Client: desk, Service: persons, Method: "GET"}
	if d := policy.Decide(v, q, noon); d.Right != "bb" || d.Limit != (civibus.RateLimit{}) {
		t.Errorf("chose %q with %v, want bb without a limit", d.Right, d.Limit)
	}
	v.rights = v.rights[:1]
	if d := policy.Decide(v, q, noon); d.Right != "00" || d.Limit != limit {
		t.Errorf("chose %q with %v, want 00 with its limit", d.Right, d.Limit)
	}
}

func TestDecideAllocatesLittle(t *testing.T) {
	v := world(func(v *view) {
		v.rights[0].Endpoints = []civibus.Endpoint{{Method: "POST", Path: "/x/**"}, {Method: "GET", Path: "/p/*/children/**"}}
	})
	q := civibus.Question{Client: desk, Service: persons, Method: "GET", Path: "/p/1234/children/5"}
	n := testing.AllocsPerRun(100, func() {
		if d := policy.Decide(v, q, noon); !d.Allowed() {
			t.Fatal(d.Message)
		}
	})
	if n > 6 { // the iterator and what its loop captures
		t.Errorf("%v allocations a decision", n)
	}
}
