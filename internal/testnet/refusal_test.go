package testnet_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/registry/registrypb"
)

// TestBodyGoesOnWithoutAnother: three of four validators are enough, and a call
// to the body that is away fails as X-Road has it; when it is back, it has all
// that was agreed meanwhile.
func TestBodyGoesOnWithoutAnother(t *testing.T) {
	n := network(t)
	provider, away, consumer := n.Bodies[0], n.Bodies[1], n.Bodies[3]
	if err := away.Stop(); err != nil {
		t.Fatal(err)
	}
	register(t, n, provider.Subsystem("later", "Registered while a body was away"))
	answer := call(t, consumer, provider, "/1")
	if r := receiptOf(t, consumer, answer); len(r.Summary.Sides) != 2 || len(r.Summary.Registry.Witnesses) < 3 {
		t.Errorf("receipt without the body that is away: %+v", r.Summary)
	}
	portal := &client.Client{Gateway: consumer.ConsumerURL(), Client: consumer.Client("portal"), HTTP: oneShot(t)}
	_, err := portal.Do(t.Context(), client.Call{Service: away.Service("x", "y")})
	var e *client.Error
	if !errors.As(err, &e) || !strings.HasPrefix(e.Type, "Server.ClientProxy.") {
		t.Errorf("call of a body that is away: %v", err)
	}
	if err := away.Start(t.Context(), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the body that was away to know what was agreed", func() bool {
		_, err := away.Admin().Subsystem(t.Context(), provider.Client("later").String())
		return err == nil
	})
}

// TestRefusalIsEvidence: a call without a right is refused, and the refusal is in
// both bodies' evidence where the provider refused it.
func TestRefusalIsEvidence(t *testing.T) {
	n := network(t)
	provider, other := n.Bodies[0], n.Bodies[2]
	register(t, n, other.Subsystem("audit", "Audit"))
	caller := &client.Client{Gateway: other.ConsumerURL(), Client: other.Client("audit"), HTTP: oneShot(t)}
	_, err := caller.Do(t.Context(), client.Call{Service: provider.Service("population", "persons"), Path: "/1"})
	var e *client.Error
	if !errors.As(err, &e) || !strings.HasSuffix(e.Type, "AccessDenied") || e.Exchange == "" {
		t.Fatalf("call without a right: %v", err)
	}
	x, err := other.Admin().Exchange(t.Context(), e.Exchange)
	if err != nil || len(x.Entries) != 1 || x.Entries[0].Outcome != "refused" || x.Entries[0].Fault != string(civibus.FaultAccessDenied) {
		t.Errorf("record of the refusal: %+v %v", x, err)
	}
}

// TestAdministration looks at the interface's answers from a real node: paging,
// problems, and that no change is made in another body's name.
func TestAdministration(t *testing.T) {
	n := network(t)
	b := n.Bodies[0]
	a := b.Admin()
	first, err := a.Members(t.Context(), admin.ListOptions{Limit: 3})
	if err != nil || len(first.Items) != 3 || first.Next == "" {
		t.Fatalf("first page: %+v %v", first, err)
	}
	second, err := a.Members(t.Context(), admin.ListOptions{Limit: 3, After: first.Next})
	if err != nil || len(second.Items) != 1 || second.Next != "" || second.Items[0].ID == first.Items[2].ID {
		t.Errorf("second page: %+v %v", second, err)
	}
	keys, err := a.Keys(t.Context(), admin.ListOptions{Member: b.ID.String(), Purpose: "seal"})
	if err != nil || len(keys.Items) != 1 || !keys.Items[0].InForce {
		t.Errorf("seal keys: %+v %v", keys, err)
	}
	if _, err := a.Keys(t.Context(), admin.ListOptions{Purpose: "wings"}); !admin.IsCode(err, "invalid_parameter") {
		t.Errorf("a purpose that there is not: %v", err)
	}
	if _, err := a.Member(t.Context(), "DEMO/GOV/none"); !admin.IsCode(err, "not_found") {
		t.Errorf("a member that there is not: %v", err)
	}
	_, err = a.Change(t.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: n.Bodies[1].Client("stolen").String(), Name: "x"}}})
	if !admin.IsCode(err, "not_authorised") {
		t.Errorf("a change of another body: %v", err)
	}
	if _, err := a.Receipt(t.Context(), "none", 0, false); !admin.IsCode(err, "not_found") {
		t.Errorf("a receipt of no exchange: %v", err)
	}
	check, err := a.CheckLog(t.Context())
	if err != nil || !check.OK || len(check.Steps) == 0 {
		t.Errorf("check of the log: %+v %v", check, err)
	}
	s, err := a.Status(t.Context())
	if err != nil || !s.Ready || s.Components["evidence"] != "ok" || s.ConsumerURL != b.ConsumerURL() {
		t.Errorf("status: %+v %v", s, err)
	}
}

// TestTamperedHopIsRefused alters every request between the TLS and the gateway
// of the provider: the seal does not verify, whatever the header is that changed.
func TestTamperedHopIsRefused(t *testing.T) {
	n := networkWith(t, func(o *testnet.Options) {
		o.Hop = func(i int, next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.RequestURI, "/r1/") {
					r.Header.Set("X-Road-Userid", "EE-somebody-else")
				}
				next.ServeHTTP(w, r)
			})
		}
	})
	provider, consumer := n.Bodies[0], n.Bodies[3]
	portal := &client.Client{Gateway: consumer.ConsumerURL(), Client: consumer.Client("portal"), HTTP: oneShot(t)}
	_, err := portal.Do(t.Context(), client.Call{Service: provider.Service("population", "persons"), Path: "/1", UserID: "EE-me"})
	var e *client.Error
	if !errors.As(err, &e) || !strings.Contains(e.Type, "InvalidSignatureValue") {
		t.Errorf("an altered header: %v", err)
	}
}

// call makes one exchange and returns its id.
func call(t *testing.T, consumer, provider *testnet.Body, path string) string {
	t.Helper()
	portal := &client.Client{Gateway: consumer.ConsumerURL(), Client: consumer.Client("portal"), HTTP: oneShot(t)}
	answer, err := portal.Do(t.Context(), client.Call{Service: provider.Service("population", "persons"), Path: path, Purpose: "residence-check"})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("answer %d %s %v", answer.StatusCode, body, err)
	}
	return answer.Exchange
}

// oneShot makes an HTTP client that leaves no connection behind.
func oneShot(t *testing.T) *http.Client {
	t.Helper()
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
