package gateway_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/test/fixture"
	"github.com/civibus/civibus/transport"
)

// The evidence index's database lets its buffer pool drain after it is closed.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/syndtr/goleveldb/leveldb.(*DB).mpoolDrain"))
}

const (
	client  = "TEST/MUN/TOWN/desk"
	persons = "/r1/TEST/GOV/OFFICE/register/persons"
)

// pair is a consumer and a provider with one service that counts its calls and
// echoes.
type pair struct {
	*fixture.World
	town, office   *fixture.Body
	desk, register civibus.ClientID
	service        civibus.ServiceID
	hop            *hop
	calls          atomic.Int32 // that the service saw the end of
	begun          atomic.Int32 // that the service saw the head of
}

func newPair(t testing.TB, town, office fixture.Options) *pair {
	t.Helper()
	p := &pair{World: fixture.New(t), hop: &hop{}}
	p.office = p.AddBody("GOV", "OFFICE", office)
	change := town.Gateway
	town.Gateway = func(c *gateway.Config) {
		p.hop.next, c.Transport = c.Transport, p.hop
		if change != nil {
			change(c)
		}
	}
	p.town = p.AddBody("MUN", "TOWN", town)
	p.register, p.desk = p.office.AddSubsystem("register"), p.town.AddSubsystem("desk")
	p.service = p.office.AddService(p.register, "persons", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.begun.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		p.calls.Add(1)
		_, _ = w.Write(body)
	}), nil)
	p.Grant("r1", p.desk, p.service)
	return p
}

func (p *pair) call(method, rest string, body io.Reader, fields ...string) *fixture.Answer {
	p.T.Helper()
	return p.town.Call(method, persons+rest, body, append([]string{"X-Road-Client", client}, fields...)...)
}

// hop stands between the consumer's gateway and its transport and does what an
// attacker on the way might.
type hop struct {
	next     gateway.Transport
	request  func(*http.Request)
	response func(*http.Response)
	instead  func(context.Context, *http.Request) (*http.Response, transport.Peer, error)
}

func (h *hop) Do(ctx context.Context, provider civibus.MemberID, code string, r *http.Request, again func(context.Context) (*http.Request, error)) (*http.Response, transport.Peer, error) {
	if h.instead != nil {
		return h.instead(ctx, r)
	}
	if h.request != nil {
		h.request(r)
		again = nil
	}
	resp, peer, err := h.next.Do(ctx, provider, code, r, again)
	if err == nil && h.response != nil {
		h.response(resp)
	}
	return resp, peer, err
}

func wantError(t *testing.T, a *fixture.Answer, typ, says string) {
	t.Helper()
	var doc struct{ Type, Message string }
	if err := json.Unmarshal(a.Body, &doc); err != nil {
		t.Fatalf("%d %v %q: %v", a.StatusCode, a.Header, a.Body, err)
	}
	if a.StatusCode != 500 || a.Header.Get("X-Road-Error") != typ || doc.Type != typ || !strings.Contains(doc.Message, says) {
		t.Errorf("%d %s, want 500 %s saying %q", a.StatusCode, a.Body, typ, says)
	}
}
