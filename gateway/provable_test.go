package gateway_test

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/test/fixture"
	"github.com/civibus/civibus/transport"
)

// The tests here are of bodies that seal what they like with their own keys, so
// that an exchange happens and the other side's evidence of it does not verify
// (spec/receipt.md section 8). What could not be proven later is refused now.

// resealed has every request changed and sealed anew by the town, as the town's
// own gateway could if the town wished.
func (p *pair) resealed(at func() time.Time, change func(*http.Request)) {
	p.hop.instead = func(ctx context.Context, r *http.Request) (*http.Response, transport.Peer, error) {
		r = r.Clone(ctx)
		change(r)
		if _, err := seal.SealRequest(ctx, p.town.Seal, r, nil, at()); err != nil {
			return nil, transport.Peer{}, err
		}
		return p.hop.next.Do(ctx, p.office.ID, "", made(r))
	}
}

func TestRequestsThatCouldNotBeProven(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	in := func(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(d) } }
	set := func(name string, values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = values }
	}
	valid := func(from, until time.Duration) {
		now := time.Now()
		p.Registry.Change(func(v *fixture.View) {
			right := civibus.AccessRight{ID: "r1", Service: p.service, Client: p.desk, Purpose: "test", Status: civibus.Active, ValidFrom: now.Add(from)}
			if until != 0 {
				right.ValidUntil = now.Add(until)
			}
			v.SetRight(right)
		})
	}
	for _, c := range []struct {
		name        string
		from, until time.Duration
		sealed      time.Duration
		change      func(*http.Request)
		fault       string
	}{
		{"as it should be", -time.Hour, time.Hour, 0, set("Civibus-Purpose", "test"), ""},
		{"two purposes", -time.Hour, time.Hour, 0, set("Civibus-Purpose", "other", "test"), "bad_request"},
		{"an empty purpose", -time.Hour, time.Hour, 0, set("Civibus-Purpose", ""), "bad_request"},
		{"a message id that is no text", -time.Hour, time.Hour, 0, set("X-Road-Id", "\xff\xfe"), "bad_request"},
		{"another protocol's path", -time.Hour, time.Hour, 0, func(r *http.Request) {
			r.URL.Path, r.URL.RawPath = strings.Replace(r.URL.Path, "/r1/", "/r2/", 1), ""
		}, "bad_request"},
		{"an encoded protocol version", -time.Hour, time.Hour, 0, func(r *http.Request) {
			r.URL.RawPath = strings.Replace(r.URL.Path, "/r1/", "/%721/", 1)
		}, "bad_request"},
		{"sealed before the right began", -10 * time.Second, time.Hour, -30 * time.Second, set("X-Custom", ""), "access_denied"},
		{"sealed after the right ended", -time.Hour, 20 * time.Second, 40 * time.Second, set("X-Custom", ""), "access_denied"},
		{"metadata with a path", -time.Hour, time.Hour, 0, func(r *http.Request) {
			r.URL.Path = "/r1/TEST/GOV/OFFICE/register/listMethods/x"
		}, "unknown_service"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.T, p.town.World.T = t, t
			valid(c.from, c.until)
			p.resealed(in(c.sealed), c.change)
			begun := p.begun.Load()
			a := p.call("GET", "/x", nil)
			records := p.office.Records(a.Header.Get("X-Road-Request-Id"))
			if len(records) != 1 {
				t.Fatalf("the provider keeps %d records; %d %s", len(records), a.StatusCode, a.Body)
			}
			if r := records[0]; r.Fault != c.fault || (c.fault == "") != (p.begun.Load() > begun) || (c.fault == "") != (r.Outcome == evidencepb.Outcome_OUTCOME_ANSWERED) {
				t.Errorf("record %v %q, service called %d times; %s", r.Outcome, r.Fault, p.begun.Load()-begun, a.Body)
			}
		})
	}
}

// TestKeyNewerThanTheDecision is a provider that answers with a key that came
// into force after the consumer had decided.
func TestKeyNewerThanTheDecision(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	p.hop.request = func(*http.Request) { p.office.RotateSeal() }
	a := p.call("GET", "/x", nil)
	wantError(t, a, "Server.ClientProxy.InvalidSignatureValue", "not in force at registry height")
	if r := p.town.Record(a.Header.Get("X-Road-Request-Id")); r.Outcome == evidencepb.Outcome_OUTCOME_ANSWERED {
		t.Errorf("the consumer's record: %v", r)
	}
	p.hop.request = nil
	if a := p.call("GET", "/x", nil); a.StatusCode != 200 {
		t.Errorf("afterwards: %d %s", a.StatusCode, a.Body)
	}
}

// TestRotationDuringAnExchange holds that an honest provider's rotation costs no
// exchange under way: it answers with a key that was in force already.
func TestRotationDuringAnExchange(t *testing.T) {
	var ring []*keys.Key
	newest := func(v gateway.View) (civibus.Signer, error) {
		for i := len(ring) - 1; i >= 0; i-- {
			if k, ok := v.Key(ring[i].Key().ID); ok && k.InForce(v.Height()) {
				return ring[i], nil
			}
		}
		t.Error("no key is in force")
		return ring[0], nil
	}
	p := newPair(t, fixture.Options{}, fixture.Options{Gateway: func(c *gateway.Config) { c.Signer = newest }})
	ring = append(ring, p.office.Seal)
	p.hop.request = func(*http.Request) {
		k, err := keys.Generate(civibus.SealKey, civibus.Ed25519)
		if err != nil {
			t.Error(err)
			return
		}
		p.Registry.Change(func(v *fixture.View) {
			v.SetKey(civibus.RegisteredKey{PublicKey: k.Key(), Member: p.office.ID, Purpose: civibus.SealKey, Activate: v.Height()})
		})
		ring = append(ring, k)
	}
	for range 2 {
		if a := p.call("GET", "/x", nil); a.StatusCode != 200 {
			t.Errorf("%d %s", a.StatusCode, a.Body)
		}
	}
	p.hop.request = nil
	a := p.call("GET", "/x", nil)
	if r := p.town.Record(a.Header.Get("X-Road-Request-Id")); civibus.KeyID(r.Response.KeyId) != ring[2].Key().ID {
		t.Error("afterwards it does not answer with its newest key")
	}
}

// TestAnswersThatCouldNotBeProven is the provider's side of it.
func TestAnswersThatCouldNotBeProven(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	for name, codes := range map[string][]string{"empty": {""}, "two": {"", "timeout"}, "no code": {"Not a code!"}} {
		p.hop.instead = func(ctx context.Context, r *http.Request) (*http.Response, transport.Peer, error) {
			return p.answer(ctx, r, http.Header{"Civibus-Fault": codes})
		}
		a := p.call("GET", "/x", nil)
		wantError(t, a, "Server.ClientProxy.InconsistentResponse", "malformed")
		if r := p.town.Record(a.Header.Get("X-Road-Request-Id")); r.Fault != "inconsistent_response" || r.Response != nil || r.Status != 0 {
			t.Errorf("%s: the consumer's record: %v", name, r)
		}
	}
	// A code that this version does not know is recorded as it was sealed.
	p.hop.instead = func(ctx context.Context, r *http.Request) (*http.Response, transport.Peer, error) {
		return p.answer(ctx, r, http.Header{"Civibus-Fault": {"new_reason"}})
	}
	a := p.call("GET", "/x", nil)
	if r := p.town.Record(a.Header.Get("X-Road-Request-Id")); a.StatusCode != 500 || r.Fault != "new_reason" || r.Response == nil {
		t.Errorf("%d; the consumer's record: %v", a.StatusCode, r)
	}
	// An answer that is not bound to the whole of a streamed request.
	p.hop.instead = func(ctx context.Context, r *http.Request) (*http.Response, transport.Peer, error) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, transport.Peer{}, err
		}
		h := http.Header{}
		received := &http.Request{Method: r.Method, URL: &url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}, Header: r.Header}
		if _, err := seal.SealResponse(ctx, p.office.Seal, h, 404, seal.Unverified(received), nil, time.Now()); err != nil {
			return nil, transport.Peer{}, err
		}
		return &http.Response{StatusCode: 404, Header: h, Body: http.NoBody}, transport.Peer{Member: p.office.ID, Key: p.office.TLS.Key().ID}, nil
	}
	wantError(t, p.call("POST", "/x", strings.NewReader(strings.Repeat("x", 3<<20))), "Server.ClientProxy.InconsistentResponse", "bound to the head")
}
