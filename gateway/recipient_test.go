package gateway_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/test/fixture"
	"github.com/civibus/civibus/transport"
)

// addSibling gives the office a second gateway, with a key and a record of nonces
// of its own. It listens at the sibling's address.
func (p *pair) addSibling() *fixture.Body {
	p.T.Helper()
	sibling := p.AddBody("GOV", "SIBLING", fixture.Options{Gateway: p.office.Serves})
	p.Registry.Change(func(v *fixture.View) {
		m, _ := v.Member(p.office.ID)
		m.Gateways = append(m.Gateways, civibus.Gateway{Code: "gw2", Address: sibling.Address})
		v.SetMember(m)
		k, _ := v.Key(sibling.TLS.Key().ID)
		k.Member = p.office.ID
		v.SetKey(k)
	})
	return sibling
}

// TestReplayAtSibling: a request that one gateway of a body has answered counts at
// no other of its gateways, and one that names nobody only where there is no other.
func TestReplayAtSibling(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	var kept *http.Request
	p.hop.request = func(r *http.Request) {
		kept = r.Clone(context.Background())
		kept.Body = io.NopCloser(strings.NewReader("the body"))
	}
	p.addSibling()
	for _, first := range []string{"gw1", "gw2"} {
		server := "TEST/GOV/OFFICE/" + first
		before := p.calls.Load()
		if a := p.call("POST", "/x", strings.NewReader("the body"), "X-Road-Security-Server", server); a.StatusCode != 200 || p.calls.Load() != before+1 {
			t.Fatalf("%d %s", a.StatusCode, a.Body)
		}
		for _, again := range []string{"gw1", "gw2"} {
			want := "misdirected_request"
			if again == first {
				want = "replayed_request"
			}
			kept.Body = io.NopCloser(strings.NewReader("the body"))
			resp, _, err := p.town.Transport.Do(context.Background(), p.office.ID, again, made(kept))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if got := resp.Header.Get("Civibus-Fault"); got != want || p.calls.Load() != before+1 {
				t.Errorf("seen by %s, sent again to %s: %d %s, %d calls; want %s and no call", first, again, resp.StatusCode, got, p.calls.Load()-before-1, want)
			}
		}
	}
}

// TestRequestForNobody: what a gateway sends that does not know the rule.
func TestRequestForNobody(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	p.hop.instead = func(ctx context.Context, r *http.Request) (*http.Response, transport.Peer, error) {
		if r.Header.Get(civibus.HeaderRecipient) != p.office.TLS.Key().ID.String() {
			t.Errorf("the request is for %q", r.Header[civibus.HeaderRecipient])
		}
		r.Header.Del(civibus.HeaderRecipient)
		if _, err := seal.SealRequest(ctx, p.town.Seal, r, nil, time.Now()); err != nil {
			return nil, transport.Peer{}, err
		}
		resp, peer, err := p.hop.next.Do(ctx, p.office.ID, "", made(r))
		if err == nil {
			p.answered = resp.Header.Clone()
		}
		return resp, peer, err
	}
	if _ = p.call("GET", "/x", nil); p.answered.Get("Civibus-Fault") != "" || p.calls.Load() != 1 {
		t.Errorf("the only gateway: %v, %d calls", p.answered, p.calls.Load())
	}
	p.addSibling()
	if _ = p.call("GET", "/x", nil); p.answered.Get("Civibus-Fault") != "misdirected_request" || p.calls.Load() != 1 {
		t.Errorf("one of two gateways: %v, %d calls", p.answered, p.calls.Load())
	}
}
