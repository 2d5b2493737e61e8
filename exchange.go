package civibus

// The X-Road message headers and those that Civibus adds. All are sealed when
// present, except Civibus-Subject.
const (
	HeaderClient           = "X-Road-Client"
	HeaderID               = "X-Road-Id"
	HeaderRequestID        = "X-Road-Request-Id"
	HeaderRequestHash      = "X-Road-Request-Hash"
	HeaderService          = "X-Road-Service"
	HeaderUserID           = "X-Road-UserId"
	HeaderIssue            = "X-Road-Issue"
	HeaderSecurityServer   = "X-Road-Security-Server"
	HeaderRepresentedParty = "X-Road-Represented-Party"
	HeaderError            = "X-Road-Error"

	HeaderPurpose    = "Civibus-Purpose"     // purpose code the caller states
	HeaderSubject    = "Civibus-Subject"     // the person whom a call concerns; not sealed, so that no evidence holds it
	HeaderRecipient  = "Civibus-Recipient"   // transport key of the gateway that a request is for, 64 hex digits
	HeaderHeight     = "Civibus-Height"      // registry height of the sealing side's decision
	HeaderFault      = "Civibus-Fault"       // canonical fault code of a sealed refusal, so that a receipt proves it
	HeaderBodyLength = "Civibus-Body-Length" // length of a streamed body when it is known
)

// Outcome says how an exchange ended.
type Outcome int

// The outcomes. The numbers are those of the evidence record.
const (
	Answered Outcome = iota + 1 // the service answered
	Refused                     // a gateway refused
	Failed                      // no answer could be had
)
