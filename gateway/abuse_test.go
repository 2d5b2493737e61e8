package gateway_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/test/fixture"
	"github.com/civibus/civibus/transport"
)

// brokenUpstreams panic, as a fault of this program might make them.
type brokenUpstreams struct{ gateway.Upstreams }

func (brokenUpstreams) Call(context.Context, civibus.ServiceID, string, string, string, http.Header, io.Reader, int64) (*http.Response, error) {
	panic("a fault of the program")
}

// TestPanicLeavesEvidence holds that an exchange that a fault of the program
// ends is recorded on both sides, whatever the service has seen of it.
func TestPanicLeavesEvidence(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{Gateway: func(c *gateway.Config) { c.Upstreams = brokenUpstreams{c.Upstreams} }})
	failed := func(r *evidencepb.Record, fault string) {
		t.Helper()
		if r.Outcome != evidencepb.Outcome_OUTCOME_FAILED || r.Fault != fault || r.Request == nil || r.Response != nil || r.Status != 0 {
			t.Errorf("record: %v", r)
		}
	}
	a := p.call("POST", "/x", nil)
	if a.StatusCode != 500 {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	id := a.Header.Get("X-Road-Request-Id")
	failed(p.town.Record(id), "network_error")
	failed(p.office.Record(id), "internal_error")

	var sent string
	p.hop.instead = func(_ context.Context, r *http.Request) (*http.Response, transport.Peer, error) {
		sent = r.Header.Get("X-Road-Request-Id")
		panic("a fault of the program")
	}
	if a, err := p.town.TryCall("POST", persons, nil, "X-Road-Client", client); err == nil {
		t.Errorf("answered: %d %s", a.StatusCode, a.Body)
	}
	fixture.Eventually(t, "the consumer has recorded it", func() bool { return len(p.town.Records(sent)) == 1 })
	failed(p.town.Record(sent), "internal_error")
}

// TestUninvitedCalls holds that a body without a right can make another one keep
// only so many records, and that calls under a right do not suffer from it.
func TestUninvitedCalls(t *testing.T) {
	p := newPair(t, fixture.Options{Gateway: func(c *gateway.Config) { c.AskProvider = true }}, fixture.Options{Gateway: func(c *gateway.Config) {
		c.Uninvited = civibus.RateLimit{Requests: 3, Per: time.Hour}
	}})
	p.town.AddSubsystem("other")
	call := func(path string) *fixture.Answer {
		return p.town.Call("GET", path, nil, "X-Road-Client", "TEST/MUN/TOWN/other")
	}
	for i, c := range []struct {
		path, typ string
		records   int
	}{
		{persons, "Server.ServerProxy.AccessDenied", 1},
		{"/r1/TEST/GOV/OFFICE/register/listMethods", "", 1},
		{persons, "Server.ServerProxy.AccessDenied", 1},
		{persons, "Server.ServerProxy.RateLimitExceeded", 0},
		{"/r1/TEST/GOV/OFFICE/register/listMethods", "Server.ServerProxy.RateLimitExceeded", 0},
	} {
		a := call(c.path)
		if got := a.Header.Get("X-Road-Error"); got != c.typ {
			t.Errorf("call %d: %d %s, want %q", i, a.StatusCode, a.Body, c.typ)
		}
		id := a.Header.Get("X-Road-Request-Id")
		if n := len(p.office.Records(id)); n != c.records {
			t.Errorf("call %d: the provider keeps %d records, want %d", i, n, c.records)
		}
		if r := p.town.Record(id); c.records == 0 && (r.Fault != "rate_limited" || r.Response == nil) {
			t.Errorf("call %d: the consumer's record: %v", i, r)
		}
	}
	if a := p.call("GET", "/x", nil); a.StatusCode != 200 {
		t.Errorf("a call under a right: %d %s", a.StatusCode, a.Body)
	}
}
