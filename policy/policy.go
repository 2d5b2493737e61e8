// Package policy answers one question: may this client make this call now?
//
// The answer is a pure function of one registry view, the question and the
// time, so that the consumer's gateway and the provider's gateway come to the
// same decision from the same view, and so that a decision can be repeated
// later against the state at its height.
//
// Trust: an attacker who controls a question can at most have it refused; it
// decides nothing that the registry view does not say. An attacker who
// controls a consumer's gateway gains nothing from that gateway's decision,
// because the provider decides again.
package policy

import (
	"iter"
	"strings"
	"time"

	"github.com/civibus/civibus"
)

// View is what the policy needs to know of the registry at one height.
type View interface {
	Height() uint64
	Member(civibus.MemberID) (civibus.Member, bool)
	Subsystem(civibus.ClientID) (civibus.Subsystem, bool)
	Service(civibus.ServiceID) (civibus.Service, bool)
	// RightsFor yields the rights whose service is the given one (or every
	// version of it) and whose subject is exactly the client or a group that
	// the client is in.
	RightsFor(civibus.ServiceID, civibus.ClientID) iter.Seq[*civibus.AccessRight]
}

// Metadata service codes that every gateway answers itself.
const (
	ListMethods    = "listMethods"
	AllowedMethods = "allowedMethods"
	GetOpenAPI     = "getOpenAPI"
)

// Metadata reports whether a call is one of the metadata calls, which need no
// access right: a GET of listMethods, allowedMethods or getOpenAPI.
func Metadata(method string, service civibus.ServiceID) bool {
	if method != "GET" || service.Version != "" {
		return false
	}
	return service.Service == ListMethods || service.Service == AllowedMethods || service.Service == GetOpenAPI
}

// Decide answers q from v. The order of the checks is X-Road's, so that a
// caller without a right never learns that a service is disabled:
//
//  1. the provider is registered and active
//  2. the client is registered and active
//  3. metadata calls need no right
//  4. the service exists
//  5. the service is a REST service
//  6. a right covers client, method, path, purpose and time (now and, of a
//     sealed call, the time of the seal)
//  7. the service is enabled
//
// Where several rights allow the call, one without a rate limit is preferred,
// then the one with the smallest id, so that both gateways name the same one.
func Decide(v View, q civibus.Question, now time.Time) civibus.Decision {
	d := civibus.Decision{Height: v.Height()}

	// 1. the provider is registered and active
	if !active(v, q.Service.ClientID) || q.Service.Subsystem == "" {
		return refuse(d, civibus.FaultUnknownMember, "Service provider '"+q.Service.ClientID.XRoad()+"' not found")
	}

	// 2. the client is registered and active
	if !active(v, q.Client) {
		return refuse(d, civibus.FaultUnknownMember, "Client '"+q.Client.XRoad()+"' not found")
	}

	// 3. metadata calls need no right; what they name has no path
	if Metadata(q.Method, q.Service) && q.Path == "" {
		return d
	}

	// 4. the service exists
	s, ok := v.Service(q.Service)
	if !ok || s.Status == civibus.Ended || civibus.ReservedService(q.Service.Service) {
		return refuse(d, civibus.FaultUnknownService, "Unknown service: "+q.Service.XRoad())
	}

	// 5. the service is a REST service
	if s.Type != civibus.REST && s.Type != civibus.OpenAPI3 {
		return refuse(d, civibus.FaultServiceType, "Service is a SOAP service and cannot be called using REST: "+q.Service.XRoad())
	}

	// 6. a right covers client, method, path, purpose and time
	path, err := NormalisePath(q.Path)
	if err != nil {
		return refuse(d, civibus.FaultAccessDenied, "Request is not allowed: "+q.Service.XRoad()+": "+err.Error())
	}
	right, why := choose(v, q, path, now)
	if right == nil {
		return refuse(d, civibus.FaultAccessDenied, denial(q, why))
	}

	// 7. the service is enabled
	if s.Status != civibus.Active {
		return refuse(d, civibus.FaultServiceDisabled, "Service "+q.Service.XRoad()+" is disabled: "+s.Notice)
	}

	d.Right, d.Limit, d.Person = right.ID, right.Limit, right.Disclosure != civibus.NoPerson
	d.Purpose, d.LegalBasis = right.Purpose, right.LegalBasis
	return d
}

// active reports whether a client or provider and the member it belongs to are
// registered and in force.
func active(v View, id civibus.ClientID) bool {
	m, ok := v.Member(id.MemberID)
	if !ok || m.Status != civibus.Active {
		return false
	}
	if id.Subsystem == "" {
		return true
	}
	s, ok := v.Subsystem(id)
	return ok && s.Status == civibus.Active
}

// near says how near a right came to allowing a call; the greatest one is what
// the caller is told.
type near struct {
	step  int
	right *civibus.AccessRight
}

// The steps that a right passes on its way to allowing a call.
const (
	noRight = iota
	notInForce
	notYetValid
	noLongerValid
	otherPurpose
	notCovered
	aboutPersons
	allowed
)

// search looks at rights one by one for the one that allows a call. It is what
// the view's iterator calls, in one piece, because what a loop's body captures
// is allocated variable by variable.
type search struct {
	question civibus.Question
	path     string // normalised
	now      time.Time
	chosen   *civibus.AccessRight // the best that allows the call
	best     near                 // of those that do not
}

// choose returns the right that allows the call, or how near the nearest came.
func choose(v View, q civibus.Question, path string, now time.Time) (*civibus.AccessRight, near) {
	s := &search{question: q, path: path, now: now}
	v.RightsFor(q.Service, q.Client)(s.examine)
	return s.chosen, s.best
}

// examine takes one right into account. It is always ready for the next.
func (s *search) examine(r *civibus.AccessRight) bool {
	switch step := examine(r, &s.question, s.path, s.now); {
	case step != allowed:
		if step > s.best.step {
			s.best = near{step, r}
		}
	case s.chosen == nil || better(r, s.chosen):
		s.chosen = r
	}
	return true
}

// InForce reports whether a right is active and inside its validity.
func InForce(r *civibus.AccessRight, now time.Time) bool {
	return r.Status == civibus.Active && (r.ValidFrom.IsZero() || !now.Before(r.ValidFrom)) &&
		(r.ValidUntil.IsZero() || now.Before(r.ValidUntil))
}

// examine walks one right through the conditions.
func examine(r *civibus.AccessRight, q *civibus.Question, path string, now time.Time) int {
	switch {
	case r.Status != civibus.Active:
		return notInForce
	case !r.ValidFrom.IsZero() && (now.Before(r.ValidFrom) || !q.Sealed.IsZero() && q.Sealed.Before(r.ValidFrom)):
		return notYetValid
	case !r.ValidUntil.IsZero() && (!now.Before(r.ValidUntil) || !q.Sealed.Before(r.ValidUntil)):
		return noLongerValid
	case q.Purpose != "" && r.Purpose != q.Purpose:
		return otherPurpose
	case !Covers(r.Endpoints, q.Method, path):
		return notCovered
	case q.Method == civibus.MethodSubscribe && r.Disclosure != civibus.NoPerson:
		return aboutPersons // a batch of events is about many, and a usage record about one
	}
	return allowed
}

// better reports whether a is preferred to b where both allow a call.
func better(a, b *civibus.AccessRight) bool {
	if (a.Limit == civibus.RateLimit{}) != (b.Limit == civibus.RateLimit{}) {
		return a.Limit == civibus.RateLimit{}
	}
	return a.ID < b.ID
}

// denial tells the caller what is missing.
func denial(q civibus.Question, why near) string {
	var b strings.Builder
	b.WriteString("Request is not allowed: ")
	b.WriteString(q.Service.XRoad())
	b.WriteString(": ")
	switch why.step {
	case noRight:
		b.WriteString(q.Client.XRoad() + " has no access right to the service; its provider can grant one")
	case notInForce:
		b.WriteString("access right " + why.right.ID + " is " + why.right.Status.String())
	case notYetValid:
		b.WriteString("access right " + why.right.ID + " is valid from " + why.right.ValidFrom.UTC().Format(time.RFC3339))
	case noLongerValid:
		b.WriteString("access right " + why.right.ID + " was valid until " + why.right.ValidUntil.UTC().Format(time.RFC3339))
	case otherPurpose:
		b.WriteString("no access right for the purpose " + q.Purpose + "; access right " + why.right.ID + " is for " + why.right.Purpose)
	case notCovered:
		b.WriteString("no access right covers " + q.Method + " on this path; access right " + why.right.ID + " covers other endpoints of the service")
	case aboutPersons:
		b.WriteString("access right " + why.right.ID + " concerns persons, and under such a right no events are delivered; its provider can grant one for SUBSCRIBE that does not")
	}
	return b.String()
}

func refuse(d civibus.Decision, code civibus.FaultCode, message string) civibus.Decision {
	d.Code, d.Message = code, message
	return d
}

// Covers reports whether a right's endpoints cover a method and a normalised
// path. No endpoints at all are the whole service.
func Covers(endpoints []civibus.Endpoint, method, path string) bool {
	if len(endpoints) == 0 {
		return true
	}
	for i := range endpoints {
		if e := &endpoints[i]; (e.Method == "*" || e.Method == method) && MatchPath(e.Path, path) {
			return true
		}
	}
	return false
}
