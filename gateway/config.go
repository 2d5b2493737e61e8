package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/internal/problem"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/rule"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/transport"
	"github.com/civibus/civibus/usage"
)

// View is one registry view as the gateway needs it; *registry.View is one.
type View interface {
	policy.View
	Instance() string
	Key(civibus.KeyID) (civibus.RegisteredKey, bool)
	ServicesOf(civibus.ClientID) []civibus.Service
	// Carrier returns the member whose gateways carry a member's exchanges: its
	// host, or itself. Carries tells whether they may go over a member's transport
	// key.
	Carrier(civibus.MemberID) civibus.MemberID
	Carries(transport, member civibus.MemberID) bool
	Members(after string, limit int) (items []civibus.Member, next string)
	// RulesFor returns the active rules for calls of a service, in their order; nil if
	// there are none.
	RulesFor(civibus.ServiceID) []*rule.Rule
	Subsystems(after string, limit int) (items []civibus.Subsystem, next string)
}

// Evidence keeps records and bodies; *evidence.Log is one.
type Evidence interface {
	Admit() error
	Append(ctx context.Context, record *evidencepb.Record) error
	NewBody(ctx context.Context, exchangeID string, side evidencepb.Side) (*evidence.Body, error)
}

// Beside keeps something beside a record, by the same write; *evidence.Log is one.
type Beside interface {
	AppendBeside(ctx context.Context, record *evidencepb.Record, beside []byte) error
}

// Transport carries requests to other bodies, which are sealed when it is known
// to which gateway; *transport.Client is one.
type Transport interface {
	Do(ctx context.Context, provider civibus.MemberID, serverCode string, r transport.Request) (*http.Response, transport.Peer, error)
}

// Upstreams are the body's own services; *service.Set is one.
type Upstreams interface {
	// Call calls a service. It follows no redirects. length is -1 when it is not known.
	Call(ctx context.Context, id civibus.ServiceID, method, rawPath, rawQuery string, header http.Header,
		body io.Reader, length int64) (*http.Response, error)
	// Description fetches a service's OpenAPI description as it is now.
	Description(ctx context.Context, id civibus.ServiceID) (body []byte, contentType string, err error)
}

// PlainHTTP says where client systems may call without TLS.
type PlainHTTP int

// The settings.
const (
	PlainNever    PlainHTTP = iota // TLS only
	PlainLoopback                  // from the same machine
	PlainAnywhere                  // whoever is on the network may read and alter calls before they are sealed
)

// ClientRule lets client systems call in the name of one client of this body.
// A system must satisfy every list that is not empty; at least one must not
// be. Several rules for one client are alternatives.
type ClientRule struct {
	Client       civibus.ClientID
	Certificates [][sha256.Size]byte // SHA-256 of the client certificates (DER) that are accepted, inside their validity
	Networks     []netip.Prefix      // networks that calls are accepted from
}

// Fingerprint returns what ClientRule.Certificates holds for a certificate.
func Fingerprint(c *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(c.Raw) }

// Config is what a Gateway is made of. Fields without a stated default are
// required.
type Config struct {
	// Member is the body that this gateway speaks for.
	Member civibus.MemberID
	// Carrier is the body whose transport keys this gateway shows: Member itself,
	// or the one that hosts it. Default: Member.
	Carrier civibus.MemberID
	// View returns the newest registry view.
	View func() View
	// Fresh reports why the registry view is too old to decide on, which callers are
	// told; nil means it is not. Default: never too old.
	Fresh func() error
	// Signer returns the body's seal key that is in force in the view.
	Signer func(View) (civibus.Signer, error)
	// SecondSeals reports whether the instance requires second, post-quantum
	// signatures of seals. Default: it does not.
	SecondSeals func() bool
	// Evidence keeps the body's evidence.
	Evidence Evidence
	// Usage finds whom exchanges concern and makes usage records, which Evidence must
	// then take beside its own (Beside). Default: none, and exchanges under rights that
	// concern persons are refused.
	Usage *usage.Keeper
	// Archive is the evidence log's policy for bodies. Default: digest.
	Archive evidence.ArchivePolicy
	// Transport reaches other bodies.
	Transport Transport
	// Upstreams are the body's services.
	Upstreams Upstreams
	// Replay remembers the requests that were seen.
	Replay seal.ReplayGuard
	// MaxAge and MaxSkew bound the age of seals and the difference of clocks.
	// Defaults: 5 min, 60 s.
	MaxAge, MaxSkew time.Duration
	// BufferLimit is the size up to which bodies are held in memory and sealed
	// in the head; longer ones stream. Default: 1 MiB.
	BufferLimit int64
	// Clients says which systems may call for which client of this body. Empty:
	// every system that reaches the gateway from the same machine may, for every
	// client of the body, unless ClientsByRule is set: then none may.
	Clients       []ClientRule
	ClientsByRule bool
	// PlainHTTP says where client systems may call without TLS. Default: nowhere.
	PlainHTTP PlainHTTP
	// Vocabulary of the error types that client systems get. Default: X-Road 7.0 to 7.7.
	Vocabulary problem.Vocabulary
	// CorrectStatuses answers errors with fitting HTTP statuses instead of 500.
	CorrectStatuses bool
	// AskProvider sends calls on that this side's policy refuses for want of a
	// right, so that the refusal is the provider's and bears its seal.
	AskProvider bool
	// Maintenance returns the notice that every call is refused with, or "".
	// Default: never.
	Maintenance func() string
	// MaxLimitedRights bounds the rate limiter's memory. Default: 65536.
	MaxLimitedRights int
	// Uninvited bounds how often one other body gets records of calls that no
	// right covers: refusals before the service is called, and metadata. What is
	// beyond is refused with a seal and leaves no record. Default: 1200 in 10 min.
	Uninvited civibus.RateLimit
	// Clock tells the time. Default: time.Now.
	Clock civibus.Clock
	// Logger gets refusals and failures. Default: none.
	Logger *slog.Logger
	// Metrics gets the gateway's metrics. Default: none.
	Metrics prometheus.Registerer
}

// prepare fills defaults in and reports every problem.
func (c *Config) prepare() error {
	var errs []error
	for _, m := range []struct {
		missing bool
		name    string
	}{
		{c.Member.IsZero(), "Member"}, {c.View == nil, "View"}, {c.Signer == nil, "Signer"},
		{c.Evidence == nil, "Evidence"}, {c.Transport == nil, "Transport"},
		{c.Upstreams == nil, "Upstreams"}, {c.Replay == nil, "Replay"},
	} {
		if m.missing {
			errs = append(errs, errors.New("gateway: "+m.name+" is required"))
		}
	}
	if _, ok := c.Evidence.(Beside); c.Usage != nil && !ok {
		errs = append(errs, errors.New("gateway: Evidence keeps nothing beside a record, which Usage needs"))
	}
	for _, r := range c.Clients {
		if r.Client.MemberID != c.Member {
			errs = append(errs, errors.New("gateway: client rule for "+r.Client.String()+": the rule is a client of "+c.Member.String()))
		}
		if len(r.Certificates) == 0 && len(r.Networks) == 0 {
			errs = append(errs, errors.New("gateway: client rule for "+r.Client.String()+": it names no certificate and no network"))
		}
	}
	setDefault(&c.Carrier, c.Member)
	if c.Fresh == nil {
		c.Fresh = func() error { return nil }
	}
	if c.Maintenance == nil {
		c.Maintenance = func() string { return "" }
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Archive == "" {
		c.Archive = evidence.ArchiveDigest
	}
	setDefault(&c.MaxAge, 5*time.Minute)
	setDefault(&c.MaxSkew, time.Minute)
	setDefault(&c.BufferLimit, 1<<20)
	setDefault(&c.MaxLimitedRights, 1<<16)
	setDefault(&c.Uninvited, civibus.RateLimit{Requests: 1200, Per: 10 * time.Minute})
	return errors.Join(errs...)
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}
