package civibus

import "time"

// Question is what the policy is asked about one call.
type Question struct {
	Client  ClientID
	Service ServiceID
	Method  string
	Path    string // service path: raw (percent-encoded) part after the service code, "" or "/..."
	Purpose string // purpose code the caller states; empty: not stated
	// Sealed is when the call says that it was sealed; zero: not sealed yet. A
	// right must be valid then and now, because whoever checks the evidence later
	// knows the seal's time only.
	Sealed time.Time
}

// Decision is the policy's answer. Code is empty when the call is allowed.
type Decision struct {
	Height  uint64    // registry height of the view
	Right   string    // id of the right that allows the call
	Limit   RateLimit // of that right
	Person  bool      // calls under that right concern persons
	Code    FaultCode // why not
	Message string    // for the caller

	// Of the right, which rules may ask for.
	Purpose, LegalBasis string
}

// Allowed reports whether the call may happen.
func (d Decision) Allowed() bool { return d.Code == "" }
