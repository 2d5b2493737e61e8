package gateway

import (
	"net/http"

	"github.com/civibus/civibus/internal/problem"
	"github.com/civibus/civibus/policy"
)

// Gateway is one body's front door. It is safe for concurrent use and starts no
// goroutine that outlives a call.
type Gateway struct {
	Config
	errors  *problem.Writer // for client systems
	limiter *policy.Limiter
}

// New makes a gateway.
func New(c Config) (*Gateway, error) {
	if err := c.prepare(); err != nil {
		return nil, err
	}
	return &Gateway{Config: c, errors: problem.New(c.Vocabulary, c.CorrectStatuses), limiter: policy.NewLimiter(c.MaxLimitedRights)}, nil
}

// Consumer returns the face towards the body's own systems: /r1/..., the
// metadata calls and listClients. A server with TLS must ask for client
// certificates without verifying them (tls.RequestClientCert).
func (g *Gateway) Consumer() http.Handler { return http.NotFoundHandler() }

// Provider returns the face towards other bodies' gateways, to stand behind
// transport.Server.
func (g *Gateway) Provider() http.Handler { return http.NotFoundHandler() }
