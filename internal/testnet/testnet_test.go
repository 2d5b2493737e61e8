package testnet_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/internal/obs"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
)

// network starts four bodies of which the first offers population/persons, which
// portal of the fourth may call.
func network(t *testing.T) *testnet.Network {
	t.Helper()
	return networkWith(t, func(*testnet.Options) {})
}

// networkWith starts it with other options.
func networkWith(t *testing.T, change func(*testnet.Options)) *testnet.Network {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"path":%q,"method":%q}`, r.URL.EscapedPath(), r.Method)
	}))
	t.Cleanup(upstream.Close)
	bodies := testnet.DefaultBodies()
	bodies[0].Services = []node.ServiceConfig{{ID: "population/persons", URL: upstream.URL + "/api"}}
	o := testnet.Options{Dir: t.TempDir(), Bodies: bodies}
	if os.Getenv("CIVIBUS_TEST_LOG") != "" {
		o.Logger, _ = obs.NewLogger(os.Stderr, os.Getenv("CIVIBUS_TEST_LOG"), "text")
	}
	change(&o)
	start := time.Now()
	n, err := testnet.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("four bodies ready after %v", time.Since(start))
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	provider, consumer := n.Bodies[0], n.Bodies[3]
	register(t, n, provider.Subsystem("population", "Population register"), consumer.Subsystem("portal", "Citizen portal"))
	register(t, n, provider.Publish(civibus.Service{ID: provider.Service("population", "persons"), Type: civibus.REST, Title: "Persons"}))
	register(t, n, provider.Grant(civibus.AccessRight{Service: provider.Service("population", "persons"), Client: consumer.Client("portal"), Purpose: "residence-check", LegalBasis: "https://law.example/act/1 (fictitious)"}))
	return n
}

func register(t *testing.T, n *testnet.Network, c ...testnet.Change) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ids, err := n.Register(ctx, c...)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// receiptOf fetches a receipt with both halves and verifies it.
func receiptOf(t *testing.T, b *testnet.Body, exchange string) *proof.Report {
	t.Helper()
	raw, err := b.Admin().Receipt(t.Context(), exchange, 30*time.Second, true)
	if err != nil {
		t.Fatalf("receipt at %s: %v", b.ID, err)
	}
	policy, err := b.Admin().Policy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	report, err := proof.Verify(raw, policy)
	if err != nil {
		t.Fatalf("receipt at %s: %v", b.ID, err)
	}
	return report
}

// TestExchangeIsProvedByBothBodies is the main job: an exchange, the records of
// both sides, receipts with both halves at both, and all of it again after a
// restart.
func TestExchangeIsProvedByBothBodies(t *testing.T) {
	n := network(t)
	provider, consumer := n.Bodies[0], n.Bodies[3]
	portal := &client.Client{Gateway: consumer.ConsumerURL(), Client: consumer.Client("portal"), HTTP: oneShot(t)}
	answer, err := portal.Do(t.Context(), client.Call{Service: provider.Service("population", "persons"), Path: "/38001010001", Purpose: "residence-check"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || answer.StatusCode != 200 {
		t.Fatalf("answer %d %s %v", answer.StatusCode, body, err)
	}
	var got struct{ Path, Method string }
	if err := json.Unmarshal(body, &got); err != nil || got.Path != "/api/38001010001" || got.Method != "GET" {
		t.Errorf("the service saw %+v, %v", got, err)
	}
	check := func(b *testnet.Body) {
		t.Helper()
		r := receiptOf(t, b, answer.Exchange)
		if len(r.Summary.Sides) != 2 || r.Summary.Client != consumer.Client("portal").String() || r.Summary.Service != provider.Service("population", "persons").String() || r.Summary.Status != 200 {
			t.Errorf("receipt at %s says %+v", b.ID, r.Summary)
		}
	}
	check(consumer)
	check(provider)

	// After a restart of the consumer everything is still there.
	if err := consumer.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := consumer.Start(t.Context(), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	check(consumer)
	x, err := consumer.Admin().Exchange(t.Context(), answer.Exchange)
	if err != nil || len(x.Entries) != 1 || !x.Counterpart {
		t.Errorf("after the restart: %+v %v", x, err)
	}
}
