package civibus

import (
	"errors"
	"fmt"
)

// Place says which gateway found a fault; X-Road's error types start with it.
type Place int

// The places.
const (
	ConsumerGateway Place = iota + 1 // X-Road's Server.ClientProxy
	ProviderGateway                  // X-Road's Server.ServerProxy
)

// FaultCode is the closed set of reasons for which a gateway does not answer
// with the service's own response. internal/problem maps each to X-Road's two
// vocabularies, an HTTP status and a help text.
type FaultCode string

// The fault codes.
const (
	FaultMissingClient      FaultCode = "missing_client"       // no X-Road-Client
	FaultUnknownMember      FaultCode = "unknown_member"       // client or provider not registered or without address
	FaultBadRequest         FaultCode = "bad_request"          // malformed URI, version, header or identifier
	FaultClientAuth         FaultCode = "client_auth"          // the client system did not authenticate to its gateway
	FaultRegistryStale      FaultCode = "registry_stale"       // the registry view is too old to decide
	FaultEvidence           FaultCode = "evidence_unavailable" // evidence cannot be kept, e.g. disk full
	FaultServerID           FaultCode = "invalid_security_server"
	FaultMaintenance        FaultCode = "maintenance"
	FaultInconsistentAnswer FaultCode = "inconsistent_response" // the answer does not belong to the request
	FaultNetwork            FaultCode = "network_error"
	FaultUnknownHost        FaultCode = "unknown_host"
	FaultTimeout            FaultCode = "timeout"
	FaultIO                 FaultCode = "io_error" // a body was cut or could not be read
	FaultUnknownService     FaultCode = "unknown_service"
	FaultServiceType        FaultCode = "service_type"
	FaultAccessDenied       FaultCode = "access_denied"
	FaultRule               FaultCode = "rule_not_kept" // a rule refuses the call; Fault.Rule says which
	FaultRateLimited        FaultCode = "rate_limited"
	FaultServiceDisabled    FaultCode = "service_disabled"
	FaultNoUpstream         FaultCode = "service_missing_url"
	FaultInvalidRequest     FaultCode = "invalid_request" // metadata call with bad parameters
	FaultSeal               FaultCode = "invalid_seal"    // signature, digest or key wrong
	FaultReplay             FaultCode = "replayed_request"
	FaultClockSkew          FaultCode = "clock_skew"
	FaultMisdirected        FaultCode = "misdirected_request" // sealed for another gateway
	FaultPeer               FaultCode = "peer_not_trusted"    // TLS peer is not the body it speaks for
	FaultInternal           FaultCode = "internal_error"

	// Of asynchronous messages.
	FaultUnknownTopic         FaultCode = "unknown_topic"          // the service has no such topic, or it has ended
	FaultTopicSuspended       FaultCode = "topic_suspended"        // its owner takes no events for it
	FaultNotPublisher         FaultCode = "not_publisher"          // the topic belongs to another subsystem
	FaultInvalidEvent         FaultCode = "invalid_event"          // it breaks CloudEvents or a limit
	FaultEventConflict        FaultCode = "event_conflict"         // its source and id are another event's
	FaultEventsGone           FaultCode = "events_gone"            // they are no longer kept
	FaultBadCursor            FaultCode = "bad_cursor"             // it points to where no event is yet
	FaultUnknownSubscription  FaultCode = "unknown_subscription"   // the client has no such subscription
	FaultTooManySubscriptions FaultCode = "too_many_subscriptions" // a limit on their number is reached
	FaultWebhook              FaultCode = "webhook_not_allowed"    // the operator did not allow this address
	FaultEventsOff            FaultCode = "events_off"             // this gateway carries no messages
)

// Fault is a refusal or failure that a caller is told about. Message never
// holds internals; Err, which is only logged, may.
type Fault struct {
	Place   Place
	Code    FaultCode
	Message string
	Rule    *RuleRefusal // of FaultRule
	Err     error
}

// Error returns the code and message.
func (f *Fault) Error() string { return string(f.Code) + ": " + f.Message }

// Unwrap returns the internal cause.
func (f *Fault) Unwrap() error { return f.Err }

// Faultf makes a fault.
func Faultf(place Place, code FaultCode, format string, args ...any) *Fault {
	return &Fault{Place: place, Code: code, Message: fmt.Sprintf(format, args...)}
}

// AsFault returns the Fault in err's chain, or an internal one at place that
// wraps err.
func AsFault(place Place, err error) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return &Fault{Place: place, Code: FaultInternal, Message: "the gateway could not process the request", Err: err}
}

// RuleRefusal is what someone is told whom a rule refuses: which rule, the law it
// carries out, and what to do.
type RuleRefusal struct {
	ID        string `json:"id"`     // OWNER/NUMBER/VERSION
	Number    string `json:"number"` // what people cite
	Version   uint32 `json:"version"`
	Title     string `json:"title"`
	Text      string `json:"text"`
	Act       string `json:"act"`
	Provision string `json:"provision"`
	URI       string `json:"uri,omitempty"`
	Remedy    string `json:"remedy"` // what to do
	// Undecided: nobody could say whether the rule is kept.
	Undecided bool `json:"undecided,omitempty"`
}
