package civibus

import (
	"fmt"
	"time"
)

// ServiceType is X-Road's service type.
type ServiceType int

// The service types.
const (
	REST ServiceType = iota + 1
	OpenAPI3
	WSDL
)

// String returns X-Road's name: REST, OPENAPI or WSDL.
func (t ServiceType) String() string {
	switch t {
	case REST:
		return "REST"
	case OpenAPI3:
		return "OPENAPI"
	case WSDL:
		return "WSDL"
	}
	return "UNSPECIFIED"
}

// ReservedService reports whether code is one of X-Road's own service codes
// (metadata and monitoring): the registry takes no service under one of them, and
// no gateway calls one.
func ReservedService(code string) bool {
	switch code {
	case "listMethods", "allowedMethods", "getOpenAPI", "getWsdl",
		"getSecurityServerHealthData", "getSecurityServerMetrics", "getSecurityServerOperationalData":
		return true
	}
	return false
}

// MethodSubscribe is the method by which a subscriber's gateway asks for the events of a
// topic, and by which rights say who may: the path is the topic.
const MethodSubscribe = "SUBSCRIBE"

// Endpoint is a method and a path pattern of a service. Method "*" is any.
// In the path "*" is any run of characters but "/", "**" any run, "\*" a star.
type Endpoint struct {
	Method string
	Path   string
}

// Service is one published service version.
type Service struct {
	ID                ServiceID
	Type              ServiceType
	Title             string
	Endpoints         []Endpoint
	DescriptionDigest []byte // SHA-256 of the description; empty if none
	Status            Status // Suspended: disabled
	Notice            string // why it is disabled
	Periods           []Period
}

// RateLimit bounds calls under a right. Zero: no limit.
type RateLimit struct {
	Requests uint32
	Per      time.Duration
}

// AccessRight is a provider's permission for a consumer to call a service.
// Exactly one of Client and Group is set.
type AccessRight struct {
	ID         string // 32 hex digits
	Service    ServiceID
	Endpoints  []Endpoint // empty: the whole service
	Client     ClientID
	Group      string // "global/CODE" or "local/I/C/M/S/CODE"
	Purpose    string
	LegalBasis string
	ValidFrom  time.Time // zero: at once
	ValidUntil time.Time // zero: until ended; exclusive
	Limit      RateLimit
	Supersedes string
	Status     Status
	Periods    []Period

	// What a person whom a call concerns is told of it, and when.
	Disclosure    Disclosure
	DisclosedFrom time.Time // of ShownLater
	Sentence      string
	GrantedBy     KeyID // where a second person must approve: the key that did not
}

// Disclosure says when a person is shown that a call under a right concerned her.
type Disclosure uint8

// The classes of disclosure.
const (
	NoPerson   Disclosure = iota // calls do not concern persons
	Shown                        // at once
	ShownLater                   // from a date on
	NeverShown                   // counted in public
)

// String returns the class as configuration and interfaces write it.
func (d Disclosure) String() string {
	switch d {
	case Shown:
		return "shown"
	case ShownLater:
		return "later"
	case NeverShown:
		return "never"
	}
	return ""
}

// ParseDisclosure reads what String writes.
func ParseDisclosure(s string) (Disclosure, error) {
	for _, d := range [...]Disclosure{NoPerson, Shown, ShownLater, NeverShown} {
		if d.String() == s {
			return d, nil
		}
	}
	return 0, fmt.Errorf("disclosure %.40q, the rule is shown, later or never", s)
}

// Group is a named set of clients: global, or local to a provider's subsystem.
type Group struct {
	ID    string
	Title string
}

// Log is the registry's latest knowledge of a body's evidence log.
type Log struct {
	Origin   string // C2SP checkpoint origin
	Member   MemberID
	Size     uint64
	Root     [32]byte
	Anchored uint64 // height
}
