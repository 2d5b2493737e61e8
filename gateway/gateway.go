package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/problem"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/seal"
)

// Gateway is one body's front door. It is safe for concurrent use and starts no
// goroutine that outlives a call.
type Gateway struct {
	beside   Beside // Evidence, where usage records are kept
	config   Config
	problems *problem.Writer // for client systems
	hop      *problem.Writer // for other bodies' gateways: always the same style
	limiter  *policy.Limiter
	metrics  *metrics
	verifier *seal.Verifier
	signers  atomic.Pointer[signerAt]

	uninvited *policy.Limiter // a bucket for each other body
}

// signerAt is the seal key in force at one height.
type signerAt struct {
	height uint64
	signer civibus.Signer
}

// New makes a gateway.
func New(c Config) (*Gateway, error) {
	if err := c.prepare(); err != nil {
		return nil, err
	}
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		config:   c,
		problems: problem.New(c.Vocabulary, c.CorrectStatuses),
		hop:      problem.New(problem.Camel, true),
		limiter:  policy.NewLimiter(c.MaxLimitedRights),
		metrics:  m,

		uninvited: policy.NewLimiter(c.MaxLimitedRights),
	}
	g.verifier = &seal.Verifier{
		Key: g.sealKey, Now: c.Clock, MaxAge: c.MaxAge, MaxSkew: c.MaxSkew, MaxWhole: c.BufferLimit, Replay: c.Replay,
		NeedSecond: c.SecondSeals,
	}
	g.beside, _ = c.Evidence.(Beside) // prepare has asked for it where it is needed
	return g, nil
}

// Consumer returns the face towards the body's own systems: /r1/..., the
// metadata calls and listClients. A server with TLS must ask for client
// certificates without verifying them (internal/httpd does).
func (g *Gateway) Consumer() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, _, _ := target(r)
		switch {
		case strings.HasPrefix(path, "/r1/"):
			g.consume(w, r)
		case versioned(path):
			g.refuseVersion(w, r, path)
		case path == "/listClients" && r.Method == http.MethodGet:
			g.listClients(w, r)
		case path == "/asic" || path == "/verificationconf":
			http.Error(w, "This gateway serves no ASiC containers. Evidence comes as receipts: civibus receipt get", http.StatusNotFound)
		default:
			refuseSOAP(w, r)
		}
	})
}

// Provider returns the face towards other bodies' gateways, to stand behind
// transport.Server.
func (g *Gateway) Provider() http.Handler { return http.HandlerFunc(g.provide) }

// signer returns the body's seal key that is in force in the view.
func (g *Gateway) signer(place civibus.Place, v View) (civibus.Signer, error) {
	height := v.Height()
	if s := g.signers.Load(); s != nil && s.height == height && s.signer != nil {
		return s.signer, nil
	}
	s, err := g.config.Signer(v)
	if err != nil {
		fault := civibus.Faultf(place, civibus.FaultInternal, "this body has no seal key in force")
		fault.Err = err
		return nil, fault
	}
	g.signers.Store(&signerAt{height, s})
	return s, nil
}

// sealKey returns a key if it is a seal key in force in the newest view. Whose
// it is, checkSealer says.
func (g *Gateway) sealKey(id civibus.KeyID) (civibus.PublicKey, error) {
	v := g.config.View()
	k, ok := v.Key(id)
	switch height := v.Height(); {
	case !ok:
		return civibus.PublicKey{}, fmt.Errorf("key %s is not registered", id)
	case k.Purpose != civibus.SealKey:
		return civibus.PublicKey{}, fmt.Errorf("key %s is a %s key", id, k.Purpose)
	case k.Revoke != 0 && height >= k.Revoke:
		return civibus.PublicKey{}, fmt.Errorf("key %s was revoked at registry height %d (%s)", id, k.Revoke, k.Reason)
	case !k.InForce(height):
		return civibus.PublicKey{}, fmt.Errorf("key %s is in force from registry height %d, and this is %d", id, k.Activate, height)
	}
	return k.PublicKey, nil
}

// sealsAt reports whether a key is a seal key in force in a view.
func sealsAt(v View, id civibus.KeyID) bool {
	k, ok := v.Key(id)
	return ok && seals(&k, v.Height())
}

func seals(k *civibus.RegisteredKey, height uint64) bool {
	return k.Purpose == civibus.SealKey && k.InForce(height)
}

// checkSealer holds that a key that verified a message is the member's own, and
// in force in the view that the exchange is decided and recorded with: who checks
// the evidence later knows no other.
// So must the key of its second signature, if it has one.
func checkSealer(place civibus.Place, v View, m *seal.Verified, member civibus.MemberID) error {
	if err := checkKey(place, v, m.Key.ID, member); err != nil {
		return err
	}
	if second, ok := m.Second(); ok {
		return checkKey(place, v, second, member)
	}
	return nil
}

func checkKey(place civibus.Place, v View, id civibus.KeyID, member civibus.MemberID) error {
	k, ok := v.Key(id)
	if ok && k.Member != member {
		return civibus.Faultf(place, civibus.FaultSeal, "the seal's key %s is not a key of %s", id, member)
	}
	if !ok || !seals(&k, v.Height()) {
		return civibus.Faultf(place, civibus.FaultSeal, "the seal's key %s is not in force at registry height %d, with which this exchange was decided; ask again", id, v.Height())
	}
	return nil
}

// earlier is a view with the eyes of an earlier height: what was registered
// since is not in force there.
type earlier struct {
	View
	height uint64
}

// Height returns the earlier height.
func (e earlier) Height() uint64 { return e.height }
