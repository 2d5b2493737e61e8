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
	answered       http.Header  // of the last answer on the hop, where a test keeps it
}

func newPair(t testing.TB, town, office fixture.Options) *pair {
	t.Helper()
	p := &pair{World: fixture.New(t), hop: &hop{}}
	p.office = p.AddBody("GOV", "OFFICE", office)
	p.hop.to = transport.Peer{Member: p.office.ID, Key: p.office.TLS.Key().ID}
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
	to       transport.Peer // for whom requests are made that go elsewhere
	request  func(*http.Request)
	response func(*http.Response)
	instead  func(context.Context, *http.Request) (*http.Response, transport.Peer, error)
}

func (h *hop) Do(ctx context.Context, provider civibus.MemberID, code string, request transport.Request) (*http.Response, transport.Peer, error) {
	if h.instead != nil {
		r, err := request(ctx, h.to)
		if err != nil {
			return nil, transport.Peer{}, err
		}
		return h.instead(ctx, r)
	}
	resp, peer, err := h.next.Do(ctx, provider, code, func(ctx context.Context, to transport.Peer) (*http.Request, error) {
		r, err := request(ctx, to)
		if err == nil && h.request != nil {
			h.request(r)
		}
		return r, err
	})
	if err == nil && h.response != nil {
		h.response(resp)
	}
	return resp, peer, err
}

// made is a request that is there already, for whomever.
func made(r *http.Request) transport.Request {
	return func(context.Context, transport.Peer) (*http.Request, error) { return r, nil }
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
