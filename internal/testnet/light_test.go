package testnet_test

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/registry"
)

// exchanged makes an exchange and holds the receipts of both bodies to be whole and
// valid offline.
func exchanged(t *testing.T, consumer *testnet.Body, subsystem string, service civibus.ServiceID, provider *testnet.Body) {
	t.Helper()
	caller := &client.Client{Gateway: consumer.ConsumerURL(), Client: consumer.Client(subsystem), HTTP: oneShot(t)}
	answer, err := caller.Do(t.Context(), client.Call{Service: service, Path: "/1", Purpose: "residence-check"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("answer %d %s %v", answer.StatusCode, body, err)
	}
	for _, b := range []*testnet.Body{consumer, provider} {
		if r := receiptOf(t, b, answer.Exchange); len(r.Summary.Sides) != 2 {
			t.Errorf("receipt at %s says %+v", b.ID, r.Summary)
		}
	}
}

// TestLightBody: a body without a ledger node changes the registry, consumes and
// provides, anchors its evidence and makes receipts that verify, also when the full
// node that it asks first is gone, and after a restart.
func TestLightBody(t *testing.T) {
	n := networkWith(t, func(o *testnet.Options) {
		o.Bodies[3].Light = true
		o.Bodies[3].Services = o.Bodies[0].Services
	})
	full, light := n.Bodies[0], n.Bodies[3]
	if s := light.Node().Admin().Status(); s.Ledger.Mode != "light" || s.Ledger.Height == 0 || !s.Ledger.Healthy || s.Ledger.BlockHash == "" && s.Ledger.EventSize == 0 {
		t.Fatalf("status %+v", s.Ledger)
	}
	// It consumes.
	exchanged(t, light, "portal", full.Service("population", "persons"), full)
	// It provides what it registers itself.
	register(t, n, light.Subsystem("population", "Population register"), n.Bodies[1].Subsystem("desk", "Desk"))
	register(t, n, light.Publish(civibus.Service{ID: light.Service("population", "persons"), Type: civibus.REST, Title: "Persons"}))
	register(t, n, light.Grant(civibus.AccessRight{Service: light.Service("population", "persons"), Client: n.Bodies[1].Client("desk"), Purpose: "residence-check", LegalBasis: "https://law.example/act/1 (fictitious)"}))
	exchanged(t, n.Bodies[1], "desk", light.Service("population", "persons"), light)

	// The first full node is gone: three of the three validators are needed for
	// blocks, so it comes back, but reading goes on meanwhile.
	if err := full.Stop(); err != nil {
		t.Fatal(err)
	}
	caller := &client.Client{Gateway: n.Bodies[1].ConsumerURL(), Client: n.Bodies[1].Client("desk"), HTTP: oneShot(t)}
	answer, err := caller.Do(t.Context(), client.Call{Service: light.Service("population", "persons"), Path: "/2", Purpose: "residence-check"})
	if err != nil {
		t.Fatalf("without a full node: %v", err)
	}
	answer.Body.Close()
	if err := full.Start(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}

	// After a restart it is where it was.
	before := light.Node().Admin().View().Height()
	if err := light.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := light.Start(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if after := light.Node().Admin().View().Height(); after < before {
		t.Errorf("after the restart at height %d, was at %d", after, before)
	}
	exchanged(t, light, "portal", full.Service("population", "persons"), full)
	if err := n.Await(t.Context(), func(v *registry.View) bool { return v.Height() >= before }); err != nil {
		t.Fatal(err)
	}
}

// TestLedgerFaceKnowsWhoAsks: what the ledger node tells is for registered bodies;
// a stranger is refused in the handshake.
func TestLedgerFaceKnowsWhoAsks(t *testing.T) {
	n := network(t)
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 20 * time.Second}
	defer h.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+n.Bodies[0].ProviderAddress()+"/civibus/ledger/v1/status", strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.Do(req)
	if err == nil {
		resp.Body.Close()
		t.Fatalf("a stranger is answered with status %d", resp.StatusCode)
	}
}
