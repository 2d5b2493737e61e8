package problem

import (
	"net/http"

	"github.com/civibus/civibus"
)

// Entry is one line of the catalogue of faults.
type Entry struct {
	Code   civibus.FaultCode
	Title  string // RFC 9457 title
	Camel  string // X-Road 7.0 to 7.7, without the place's prefix
	Snake  string // X-Road 7.8 and later, without the place's prefix
	Status int    // HTTP status where correct statuses are set
	Help   string // what it means and what to do, for the reference page
}

// Catalogue returns every fault code once, in the order of the reference page.
func Catalogue() []Entry {
	return []Entry{
		{civibus.FaultMissingClient, "Client identifier missing", "InvalidClientIdentifier", "invalid_client_identifier", http.StatusBadRequest,
			"The call has no X-Road-Client header. Send the identifier of the calling subsystem, INSTANCE/CLASS/MEMBER/SUBSYSTEM."},
		{civibus.FaultBadRequest, "Malformed request", "InternalError", "internal_error", http.StatusBadRequest,
			"The path, the protocol version, a header or an identifier breaks the protocol; the message names it. X-Road reports these as internal errors, and so does the type."},
		{civibus.FaultUnknownMember, "Client or provider unknown", "UnknownMember", "unknown_member", http.StatusNotFound,
			"The client or the provider is not registered, not active, not a client of this gateway, or has no address. Check the identifiers; they are case-sensitive."},
		{civibus.FaultClientAuth, "Client system not authenticated", "SslAuthenticationFailed", "ssl_authentication_failed", http.StatusUnauthorized,
			"The calling system did not show a TLS client certificate, or does not call from a network, that the gateway's configuration allows for this client."},
		{civibus.FaultServerID, "No such server", "InvalidSecurityServer", "invalid_security_server", http.StatusNotFound,
			"X-Road-Security-Server names a server that the provider does not have. Leave the header out or correct it."},
		{civibus.FaultRegistryStale, "Registry out of date", "OutdatedGlobalConf", "global_conf_outdated", http.StatusServiceUnavailable,
			"The gateway's view of the registry is too old to decide on. Its operator should look at the ledger's connections."},
		{civibus.FaultEvidence, "Evidence cannot be kept", "LoggingFailed", "logging_failed", http.StatusServiceUnavailable,
			"The gateway cannot keep evidence, for instance because its disk is full, and takes no exchange until it can. Nothing was lost."},
		{civibus.FaultMaintenance, "Maintenance", "MaintenanceMode", "maintenance_mode", http.StatusServiceUnavailable,
			"The gateway's operator has put it into maintenance. The message is the operator's notice."},
		{civibus.FaultUnknownService, "Unknown service", "UnknownService", "unknown_service", http.StatusNotFound,
			"The provider has no such service. listMethods tells which it has."},
		{civibus.FaultServiceType, "Not a REST service", "ServiceType", "service_type", http.StatusBadRequest,
			"The service is registered as a SOAP service and cannot be called by REST."},
		{civibus.FaultAccessDenied, "Access denied", "AccessDenied", "access_denied", http.StatusForbidden,
			"No access right in force covers the client, the method, the path and the purpose. The message says what is missing; the provider can grant it. allowedMethods tells what is allowed."},
		{civibus.FaultRule, "Refused by a rule", "AccessDenied", "access_denied", http.StatusForbidden,
			"A rule that the service's owner has enacted does not allow the request, or it cannot be decided whether it does. The message and the member rule name the rule, cite its provision and say what to do."},
		{civibus.FaultRateLimited, "Too many requests", "RateLimitExceeded", "rate_limit_exceeded", http.StatusTooManyRequests,
			"The access right's rate limit is used up. Retry-After tells when the next call may succeed. X-Road has no such error."},
		{civibus.FaultServiceDisabled, "Service disabled", "ServiceDisabled", "service_disabled", http.StatusServiceUnavailable,
			"The provider has disabled the service. The message is the provider's notice."},
		{civibus.FaultNoUpstream, "Service without address", "ServiceMissingUrl", "service_missing_url", http.StatusServiceUnavailable,
			"The service is registered, but the provider's gateway is not told where it is. Its operator should add it to the configuration."},
		{civibus.FaultInvalidRequest, "Invalid metadata request", "InvalidRequest", "invalid_request", http.StatusBadRequest,
			"A metadata call lacks a parameter or has a bad one; the message names it."},
		{civibus.FaultNetwork, "Cannot connect", "NetworkError", "network_error", http.StatusBadGateway,
			"No connection could be made, to the provider's gateway (Server.ClientProxy) or to the provider's service (Server.ServerProxy), or it was reset."},
		{civibus.FaultUnknownHost, "Unknown host", "NetworkError", "unknown_host", http.StatusBadGateway,
			"The address of the provider's gateway or service does not resolve."},
		{civibus.FaultTimeout, "Timeout", "IOError", "io_error", http.StatusGatewayTimeout,
			"The provider's gateway or service did not answer in time. The call may have taken effect."},
		{civibus.FaultIO, "Message cut short", "IOError", "io_error", http.StatusBadGateway,
			"A message could not be read to its end. The call may have taken effect."},
		{civibus.FaultPeer, "Other body not trusted", "SslAuthenticationFailed", "ssl_authentication_failed", http.StatusBadGateway,
			"The gateway at the other end is not the body it speaks for: its TLS key is not a transport key in force of that body."},
		{civibus.FaultSeal, "Seal invalid", "InvalidSignatureValue", "invalid_signature_value", http.StatusBadGateway,
			"A seal does not verify: signature, digest or key is wrong, or the message was altered. If it lasts, the two operators should compare keys and clocks."},
		{civibus.FaultReplay, "Request replayed", "ReplayedRequest", "replayed_request", http.StatusBadRequest,
			"The provider has seen this sealed request before, or cannot rule it out after a restart. X-Road has no such error."},
		{civibus.FaultMisdirected, "Request misdirected", "MisdirectedRequest", "misdirected_request", http.StatusMisdirectedRequest,
			"The request was sealed for another gateway of the provider, or for none although the provider has several. Nothing between the two gateways may end TLS; a consumer's gateway that names no gateway must be updated. X-Road has no such error."},
		{civibus.FaultClockSkew, "Clocks differ", "ClockSkew", "clock_skew", http.StatusBadGateway,
			"The time in a seal is too far from the receiver's clock. One of the two gateways' clocks is wrong. X-Road has no such error."},
		{civibus.FaultInconsistentAnswer, "Answer does not fit", "InconsistentResponse", "inconsistent_response", http.StatusBadGateway,
			"The answer does not belong to the request that was sent; it was not delivered."},
		{civibus.FaultUnknownTopic, "Unknown topic", "UnknownTopic", "unknown_topic", http.StatusNotFound,
			"The service has no such topic, or it has ended. \"civibus events topics\" shows the topics. X-Road has no messages, nor this error and those that follow."},
		{civibus.FaultTopicSuspended, "Topic suspended", "TopicSuspended", "topic_suspended", http.StatusServiceUnavailable,
			"The topic's owner has suspended it and nothing can be published. What was published before is still delivered."},
		{civibus.FaultNotPublisher, "Not the publisher", "NotPublisher", "not_publisher", http.StatusForbidden,
			"Only the subsystem that a service belongs to publishes on its topics. Send its identifier in X-Road-Client."},
		{civibus.FaultInvalidEvent, "Invalid event", "InvalidEvent", "invalid_event", http.StatusBadRequest,
			"An event, or what was said about one, breaks CloudEvents 1.0 or a limit; the message names which and how. Nothing of the request was taken."},
		{civibus.FaultEventConflict, "Event conflicts", "EventConflict", "event_conflict", http.StatusConflict,
			"An event has the source and id of one that was published with other content. The same event may be sent again; another needs another id. Nothing of the request was taken."},
		{civibus.FaultEventsGone, "Events no longer kept", "EventsGone", "events_gone", http.StatusGone,
			"The events after the cursor are older than they are kept. The message names where to continue; what is missing has to be had from the provider in another way."},
		{civibus.FaultBadCursor, "Cursor ahead", "BadCursor", "bad_cursor", http.StatusConflict,
			"The cursor is beyond the newest event, or is no number."},
		{civibus.FaultUnknownSubscription, "Unknown subscription", "UnknownSubscription", "unknown_subscription", http.StatusNotFound,
			"The client has no subscription, or no dead letter, of that id. \"civibus events subscriptions\" shows them."},
		{civibus.FaultTooManySubscriptions, "Too many subscriptions", "TooManySubscriptions", "too_many_subscriptions", http.StatusTooManyRequests,
			"The limit on the number of subscriptions is reached. End one that is not needed."},
		{civibus.FaultWebhook, "Webhook not allowed", "WebhookNotAllowed", "webhook_not_allowed", http.StatusForbidden,
			"Events may be pushed only to addresses that begin as the gateway's configuration says (events.webhooks). Ask its operator, or fetch events instead."},
		{civibus.FaultEventsOff, "No messages here", "EventsOff", "events_off", http.StatusServiceUnavailable,
			"This gateway carries no messages: the body's other gateway does, or the body is hosted and its host does not carry them."},
		{civibus.FaultInternal, "Internal error", "InternalError", "internal_error", http.StatusInternalServerError,
			"The gateway failed. Its operator finds the cause in the log under the error's detail."},
	}
}
