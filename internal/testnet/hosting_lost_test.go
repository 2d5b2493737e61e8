package testnet_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry/registrypb"
)

// carried is an office that the second body of a network hosts, and that has the
// first body above it. The second and third bodies have a table of it.
type carried struct {
	*office
	t                             *testing.T
	population, hostA, hostB, far *testnet.Body
}

// carriedOffice starts a network and an office with a client system and a service.
// logB is the number of its log in the third body's table.
func carriedOffice(t *testing.T, logB int) *carried {
	t.Helper()
	forms := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "form") }))
	t.Cleanup(forms.Close)
	id := civibus.MemberID{Instance: "DEMO", Class: "MUN", Code: "3004"}
	hosted := node.HostedConfig{
		Member: id.String(), DataDir: "office",
		Clients:  []node.ClientConfig{{Subsystem: "desk", Networks: []string{"127.0.0.1/32"}}},
		Services: []node.ServiceConfig{{ID: "desk/forms", URL: forms.URL}},
	}
	hosted.Evidence.BatchAge = node.Duration(20 * time.Millisecond)
	hosted.Evidence.CheckpointInterval = node.Duration(50 * time.Millisecond)
	hosted.Evidence.AnchorInterval = node.Duration(100 * time.Millisecond)
	hosted.Evidence.Reserve = node.Size(16 << 20)
	n := networkWith(t, func(o *testnet.Options) {
		o.Configure = func(i int, c *node.Config) {
			switch i {
			case 1:
				c.Hosted = []node.HostedConfig{hosted}
			case 2:
				h := hosted
				h.Evidence.Log = logB
				c.Hosted = []node.HostedConfig{h}
			}
		}
	})
	c := &carried{t: t, population: n.Bodies[0], hostA: n.Bodies[1], hostB: n.Bodies[2], far: n.Bodies[3]}
	c.office = newOffice(t, n, c.population, id, c.hostA.Config.Hosted[0].DataDir)
	register(t, n, c.by(c.population, c.setMember()))
	c.addKeys(c.ring)
	register(t, n, c.by(c.population, &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: c.client("desk").String(), Name: "Front desk"}}}))
	register(t, n,
		c.by(c.population, &registrypb.Tx{Body: &registrypb.Tx_SetService{SetService: &registrypb.SetService{Id: c.service("desk", "forms").String(), Type: registrypb.ServiceType(civibus.REST), Title: "Forms"}}}),
		c.population.Grant(civibus.AccessRight{Service: c.population.Service("population", "persons"), Client: c.client("desk"), Purpose: "residence-check", LegalBasis: "https://law.example/act/2 (fictitious)"}))
	register(t, n, c.population.Grant(civibus.AccessRight{Service: c.service("desk", "forms"), Client: c.far.Client("portal"), Purpose: "residence-check", LegalBasis: "https://law.example/act/3 (fictitious)"}))
	c.goTo(c.hostA)
	return c
}

// addKeys has the body above register the seal and log key of a ring.
func (c *carried) addKeys(ring *keys.Ring) {
	c.t.Helper()
	for _, p := range []civibus.Purpose{civibus.SealKey, civibus.LogKey} {
		register(c.t, c.n, c.addKey(ring.All(p)[0], p, nil))
	}
}

// goTo has the body above ask a host, and the host accept.
func (c *carried) goTo(host *testnet.Body) {
	c.t.Helper()
	register(c.t, c.n, c.by(c.population, c.setHost(host.ID.String())))
	register(c.t, c.n, c.by(host, &registrypb.Tx{Body: &registrypb.Tx_AcceptHost{AcceptHost: &registrypb.AcceptHost{Member: c.id.String(), Host: host.ID.String()}}}))
	awaitServed(c.t, host, true, "")
}

func (c *carried) must(exchange string, err error) string {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
	return exchange
}

// asks and serves make an exchange of the office through its host.
func (c *carried) asks(host *testnet.Body) (string, error) {
	return asks(c.t, host.ConsumerURL(), c.client("desk"), c.population.Service("population", "persons"))
}

func (c *carried) serves() (string, error) {
	return asks(c.t, c.far.ConsumerURL(), c.far.Client("portal"), c.service("desk", "forms"))
}

// proved fetches a receipt of both halves and verifies it.
func (c *carried) proved(at *admin.Client, exchange string) []byte {
	c.t.Helper()
	report, raw := receiptAt(c.t, at, c.far, exchange)
	if len(report.Summary.Sides) != 2 || report.Summary.Status != 200 {
		c.t.Errorf("receipt of %s says %+v", exchange, report.Summary)
	}
	return raw
}

// logs are the office's logs as the registry knows them, by origin.
func (c *carried) logs(at *testnet.Body) map[string]uint64 {
	c.t.Helper()
	page, err := at.Admin().Logs(c.t.Context(), admin.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	out := map[string]uint64{}
	for _, l := range page.Items {
		if l.Member == c.id.String() {
			out[l.Origin] = l.Size
		}
	}
	return out
}

// TestHostedOfficeLosesItsHost: an office whose host is gone with all that it kept
// goes on elsewhere with new keys in a log with the next number. The registry keeps
// the first log as it was witnessed, receipts that were given verify, and those that
// nobody had fetched are had from the bodies on the other side.
func TestHostedOfficeLosesItsHost(t *testing.T) {
	c := carriedOffice(t, 2)
	first, second := "civibus/DEMO/MUN/3004/evidence/1", "civibus/DEMO/MUN/3004/evidence/2"

	// 1. Exchanges, of which the office has fetched some receipts; the other bodies have
	// the halves of all.
	var given [][]byte
	at := c.hostA.Admin().For(c.id.String())
	given = append(given, c.proved(at, c.must(c.asks(c.hostA))), c.proved(at, c.must(c.serves())))
	asked, served := c.must(c.asks(c.hostA)), c.must(c.serves())
	c.proved(c.population.Admin(), asked) // so the halves have arrived
	c.proved(c.far.Admin(), served)
	before := c.logs(c.far)
	if before[first] != 4 || len(before) != 1 {
		t.Fatalf("before the loss the registry has witnessed %v", before)
	}

	// 2. The host is gone, and its disk. The body above revokes the keys that it held and
	// registers new ones, and asks another host.
	if err := c.hostA.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.hostA.Dir); err != nil {
		t.Fatal(err)
	}
	for _, p := range []civibus.Purpose{civibus.SealKey, civibus.LogKey} {
		id := c.ring.All(p)[0].Key().ID
		register(t, c.n, c.by(c.population, &registrypb.Tx{Body: &registrypb.Tx_RevokeKey{RevokeKey: &registrypb.RevokeKey{
			KeyId: id[:], Reason: registrypb.RevocationReason_REVOCATION_REASON_COMPROMISED,
		}}}))
	}
	renewed := newOffice(t, c.n, c.population, c.id, c.hostB.Config.Hosted[0].DataDir)
	c.addKeys(renewed.ring)
	c.goTo(c.hostB)

	// 3. It goes on, in a second log.
	at = c.hostB.Admin().For(c.id.String())
	asked2, served2 := c.must(c.asks(c.hostB)), c.must(c.serves())
	for _, x := range []string{asked2, served2} {
		given = append(given, c.proved(at, x))
	}
	c.proved(c.population.Admin(), asked2)
	c.proved(c.far.Admin(), served2)
	after := c.logs(c.far)
	if after[first] != before[first] || after[second] != 2 || len(after) != 2 {
		t.Errorf("the registry has witnessed %v, before the loss %v", after, before)
	}

	// 4. What was given before verifies, and what was not fetched is at the other side,
	// with the lost log's half. The new host says plainly that it does not have it.
	for _, raw := range given {
		verified(t, c.population, raw)
	}
	c.proved(c.population.Admin(), asked)
	c.proved(c.far.Admin(), served)
	if _, err := at.Receipt(t.Context(), asked, 0, false); err == nil || !strings.Contains(err.Error(), "is not in this body's evidence") {
		t.Errorf("a receipt of the lost log at the new host: %v", err)
	}
	// 5. The first log is not begun a second time.
	if _, err := os.Stat(filepath.Join(c.hostB.Config.Hosted[0].DataDir, "evidence", "1")); err == nil {
		t.Error("the new host has begun the first log a second time")
	}
}

// TestRestoredHostGoesOn: the backup of a host holds what it keeps for a hosted
// office. Restored, it goes on with the office's log where the backup is the newest
// of it; refuses requests for the office that it may have answered before; and where
// the registry has seen more of the log, serves the office only in a new one.
func TestRestoredHostGoesOn(t *testing.T) {
	c := carriedOffice(t, 1)
	host := c.hostA
	at := host.Admin().For(c.id.String())
	asked, served := c.must(c.asks(host)), c.must(c.serves())
	c.proved(at, asked)
	c.proved(at, served)
	archive := backUp(t, host)

	// 1. Restored with nothing lost: the same log goes on.
	restore := func() {
		t.Helper()
		if err := host.Stop(); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "restored")
		out, err := node.RestoreBackup(t.Context(), bytes.NewReader(archive), erasureKeys(t, host.Config), dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Logs) != 2 {
			t.Fatalf("restored logs %+v, want the host's and the office's", out.Logs)
		}
		if host.Config, err = node.LoadConfig(filepath.Join(dir, "civibus.toml")); err != nil {
			t.Fatal(err)
		}
		if in := host.Config.Hosted[0]; !strings.HasPrefix(in.DataDir, dir) || !strings.HasPrefix(in.Keys.Dir, dir) {
			t.Fatalf("the restored table points to %s and %s", in.DataDir, in.Keys.Dir)
		}
	}
	restore()
	if err := host.Start(t.Context(), 60*time.Second); err != nil {
		t.Fatal(err)
	}
	if s := awaitServed(t, host, true, ""); s.Size != 2 {
		t.Errorf("the restored log: %+v", s)
	}
	at = host.Admin().For(c.id.String())
	c.proved(at, asked)
	c.proved(at, served)
	_, err := c.serves() // which requests were answered before is not in the backup
	var e *client.Error
	if !errors.As(err, &e) || !strings.Contains(e.Error(), "cannot rule out that it saw this request before") {
		t.Errorf("a request for the office right after the restore: %v", err)
	}
	lost := c.must(caughtUp(t, func() (string, error) { return c.asks(host) }))
	c.proved(at, lost)

	// 2. Restored once more from the same backup: what was exchanged since is missing in
	// the office's log. The host goes on, and the office only in a new log.
	restore()
	if err := host.Start(t.Context(), 60*time.Second); err != nil {
		t.Fatal(err)
	}
	awaitServed(t, host, false, "the registry has witnessed")
	_, err = c.asks(host)
	refused(t, err, "MaintenanceMode")
	if s, err := host.Admin().Status(t.Context()); err != nil || !s.Ready {
		t.Errorf("the host itself: %+v %v", s, err)
	}
	if err := host.Stop(); err != nil {
		t.Fatal(err)
	}
	host.Config.Hosted[0].Evidence.Log = 2
	if err := host.Start(t.Context(), 60*time.Second); err != nil {
		t.Fatal(err)
	}
	awaitServed(t, host, true, "")
	at = host.Admin().For(c.id.String())
	c.proved(at, c.must(caughtUp(t, func() (string, error) { return c.asks(host) })))
	// Receipts of the first log are made at the other bodies, which have both halves: a
	// node makes those of the log that it goes on with.
	c.proved(c.population.Admin(), lost)
	c.proved(c.population.Admin(), asked)
	c.proved(c.far.Admin(), served)
	if _, err := at.Receipt(t.Context(), asked, 0, false); err == nil || !strings.Contains(err.Error(), "is not in this body's evidence") {
		t.Errorf("a receipt of the first log, asked for at the host: %v", err)
	}
}
