package service

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"

	"github.com/civibus/civibus"
)

// classify says in a fault why the service gave no answer. sent is the request's
// body; nil where it was in memory.
func classify(ctx context.Context, err error, sent *sentBody) *civibus.Fault {
	var fault *civibus.Fault
	if cause := sent.cause(); cause != nil {
		if errors.As(*cause, &fault) {
			return fault
		}
		fault = civibus.Faultf(civibus.ProviderGateway, civibus.FaultIO, "the request's body could not be read to its end")
		fault.Err = *cause
		return fault
	}
	var (
		dns       *net.DNSError
		netErr    net.Error
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &fault):
		return fault
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		fault = civibus.Faultf(civibus.ProviderGateway, civibus.FaultTimeout, "the time allowed for the call is over")
	case ctx.Err() != nil:
		fault = civibus.Faultf(civibus.ProviderGateway, civibus.FaultIO, "the caller went away")
	case errors.As(err, &dns) && !dns.IsTimeout:
		fault = civibus.Faultf(civibus.ProviderGateway, civibus.FaultUnknownHost, "the service's host name cannot be resolved")
	case errors.As(err, &verify), errors.As(err, &authority), errors.As(err, &name), errors.As(err, &invalid):
		fault = civibus.Faultf(civibus.ProviderGateway, civibus.FaultNetwork, "the service's TLS certificate is not trusted")
	case errors.As(err, &netErr) && netErr.Timeout():
		fault = civibus.Faultf(civibus.ProviderGateway, civibus.FaultTimeout, "the service did not answer in time")
	default:
		fault = civibus.Faultf(civibus.ProviderGateway, civibus.FaultNetwork, "the service cannot be reached or broke the connection")
	}
	fault.Err = err
	return fault
}
