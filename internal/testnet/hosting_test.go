package testnet_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/internal/backup"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// office is a small office without a node: its keys, and what others know of it.
type office struct {
	t      *testing.T
	n      *testnet.Network
	parent *testnet.Body
	id     civibus.MemberID
	ring   *keys.Ring
}

func (o *office) client(subsystem string) civibus.ClientID {
	return civibus.ClientID{MemberID: o.id, Subsystem: subsystem}
}

func (o *office) service(subsystem, service string) civibus.ServiceID {
	return civibus.ServiceID{ClientID: o.client(subsystem), Service: service}
}

// newOffice makes the office's keys in a folder: the office does that, and nobody
// else ever sees them but the host that it gives them to.
func newOffice(t *testing.T, n *testnet.Network, parent *testnet.Body, id civibus.MemberID, dir string) *office {
	t.Helper()
	ring, err := keys.CreateRing(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ring.Close() })
	o := &office{t: t, n: n, parent: parent, id: id, ring: ring}
	for _, p := range []civibus.Purpose{civibus.SealKey, civibus.LogKey} {
		if _, err := ring.Create(p, civibus.Ed25519, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// addKey is the change with which the parent registers one of the office's keys, by
// a proof that the office made.
func (o *office) addKey(k *keys.Key, purpose civibus.Purpose, certificate []byte) testnet.Change {
	o.t.Helper()
	possession, err := registry.ProvePossession(o.t.Context(), k, o.n.ChainID, o.id, purpose)
	if err != nil {
		o.t.Fatal(err)
	}
	return o.by(o.parent, &registrypb.Tx{Body: &registrypb.Tx_AddKey{AddKey: &registrypb.AddKey{
		Member: o.id.String(), Purpose: registrypb.Purpose(purpose), Spki: k.Key().SPKI, Certificate: certificate, Possession: possession,
	}}})
}

func (o *office) by(b *testnet.Body, tx *registrypb.Tx) testnet.Change {
	return testnet.Change{By: b, Tx: tx}
}

func (o *office) setMember(gateways ...*registrypb.Gateway) *registrypb.Tx {
	return &registrypb.Tx{Body: &registrypb.Tx_SetMember{SetMember: &registrypb.SetMember{
		Id: o.id.String(), Name: "Village Office (fictitious)", Parent: o.parent.ID.String(), Gateways: gateways,
	}}}
}

func (o *office) setHost(host string) *registrypb.Tx {
	return &registrypb.Tx{Body: &registrypb.Tx_SetHost{SetHost: &registrypb.SetHost{Member: o.id.String(), Host: host}}}
}

func (o *office) setStatus(s registrypb.Status) *registrypb.Tx {
	return &registrypb.Tx{Body: &registrypb.Tx_SetMemberStatus{SetMemberStatus: &registrypb.SetMemberStatus{Id: o.id.String(), Status: s}}}
}

// asks makes a call in the name of a subsystem through a gateway.
func asks(t *testing.T, gateway string, from civibus.ClientID, to civibus.ServiceID) (exchange string, err error) {
	t.Helper()
	c := &client.Client{Gateway: gateway, Client: from, HTTP: oneShot(t)}
	answer, err := c.Do(t.Context(), client.Call{Service: to, Path: "/1", Purpose: "residence-check"})
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("answer %d %s %w", answer.StatusCode, body, err)
	}
	return answer.Exchange, nil
}

// refused holds that a call is refused with an error of a type.
func refused(t *testing.T, err error, suffix ...string) {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want one of a gateway", err)
	}
	for _, s := range suffix {
		if strings.HasSuffix(e.Type, s) {
			return
		}
	}
	t.Fatalf("refused with %s (%v), want one of %v", e.Type, e, suffix)
}

// receiptAt fetches a receipt with both halves and verifies it with the policy of
// another body.
func receiptAt(t *testing.T, a *admin.Client, verifier *testnet.Body, exchange string) (*proof.Report, []byte) {
	t.Helper()
	raw, err := a.Receipt(t.Context(), exchange, 60*time.Second, true)
	if err != nil {
		t.Fatalf("receipt of %s: %v", exchange, err)
	}
	return verified(t, verifier, raw), raw
}

func verified(t *testing.T, verifier *testnet.Body, raw []byte) *proof.Report {
	t.Helper()
	policy, err := verifier.Admin().Policy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	report, err := proof.Verify(raw, policy)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// awaitServed waits until a host says that it serves its hosted member, or that it
// does not and why.
func awaitServed(t *testing.T, host *testnet.Body, served bool, why string) admin.HostedStatus {
	t.Helper()
	var got admin.HostedStatus
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s, err := host.Admin().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got = s.Hosted[0]; got.Serving == served && strings.Contains(got.Problem, why) {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: hosted member %+v, want serving %v, %q", host.ID, got, served, why)
		}
	}
}

// TestHostedOfficeMoves is the life of a small office without a node: its parent
// registers it and hosts it, suspends and reinstates it, delegates and revokes that,
// without its keys; it moves to another host and then to a node of its own, with its
// evidence, and receipts of every time can be had and verify at the end.
func TestHostedOfficeMoves(t *testing.T) {
	forms := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "form") }))
	t.Cleanup(forms.Close)
	id := civibus.MemberID{Instance: "DEMO", Class: "MUN", Code: "3001"}
	hosted := node.HostedConfig{
		Member: id.String(), DataDir: "office",
		Clients:  []node.ClientConfig{{Subsystem: "desk", Networks: []string{"127.0.0.1/32"}}},
		Services: []node.ServiceConfig{{ID: "desk/forms", URL: forms.URL}},
	}
	hosted.Evidence.BatchAge = node.Duration(20 * time.Millisecond)
	hosted.Evidence.CheckpointInterval = node.Duration(50 * time.Millisecond)
	hosted.Evidence.AnchorInterval = node.Duration(100 * time.Millisecond)
	hosted.Evidence.Reserve = node.Size(16 << 20)
	// What is wrong with one hosted member is its own affair.
	bad := node.HostedConfig{Member: "DEMO/MUN/3002", Services: []node.ServiceConfig{{ID: "desk/forms", URL: "no address"}}}
	n := networkWith(t, func(o *testnet.Options) {
		o.Configure = func(i int, c *node.Config) {
			if i == 1 || i == 2 {
				c.Hosted = []node.HostedConfig{hosted, bad}
			}
		}
	})
	population, hostA, hostB, town := n.Bodies[0], n.Bodies[1], n.Bodies[2], n.Bodies[3]
	folderA, folderB := hostA.Config.Hosted[0].DataDir, hostB.Config.Hosted[0].DataDir

	// 1. The parent registers the office with the keys that the office has made, and
	// hosts it. It holds none of them: its own key folder is as it was.
	awaitServed(t, hostA, false, "not in the registry")
	o := newOffice(t, n, hostA, id, folderA)
	register(t, n, o.by(hostA, o.setMember()))
	seal, log := o.ring.All(civibus.SealKey)[0], o.ring.All(civibus.LogKey)[0]
	register(t, n, o.addKey(seal, civibus.SealKey, nil), o.addKey(log, civibus.LogKey, nil))
	register(t, n, o.by(hostA, &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: o.client("desk").String(), Name: "Front desk"}}}))
	register(t, n,
		o.by(hostA, &registrypb.Tx{Body: &registrypb.Tx_SetService{SetService: &registrypb.SetService{Id: o.service("desk", "forms").String(), Type: registrypb.ServiceType(civibus.REST), Title: "Forms"}}}),
		population.Grant(civibus.AccessRight{Service: population.Service("population", "persons"), Client: o.client("desk"), Purpose: "residence-check", LegalBasis: "https://law.example/act/2 (fictitious)"}))
	register(t, n, hostA.Grant(civibus.AccessRight{Service: o.service("desk", "forms"), Client: town.Client("portal"), Purpose: "residence-check", LegalBasis: "https://law.example/act/3 (fictitious)"}))
	awaitServed(t, hostA, false, "nobody hosts")
	register(t, n, o.by(hostA, o.setHost(hostA.ID.String())))
	awaitServed(t, hostA, true, "")
	awaitServed(t, hostB, false, "hosted by "+hostA.ID.String())

	// 2. Exchanges in both directions, proved by both bodies.
	asOffice := func(gateway string) (string, error) {
		return asks(t, gateway, o.client("desk"), population.Service("population", "persons"))
	}
	toOffice := func() (string, error) {
		return asks(t, town.ConsumerURL(), town.Client("portal"), o.service("desk", "forms"))
	}
	must := func(exchange string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return exchange
	}
	prove := func(at *admin.Client, asked, served string) (receipts [][]byte) {
		t.Helper()
		for _, x := range []struct {
			exchange string
			other    *admin.Client
			client   civibus.ClientID
			service  civibus.ServiceID
		}{
			{asked, population.Admin(), o.client("desk"), population.Service("population", "persons")},
			{served, town.Admin(), town.Client("portal"), o.service("desk", "forms")},
		} {
			for _, a := range []*admin.Client{at, x.other} {
				report, raw := receiptAt(t, a, town, x.exchange)
				if s := report.Summary; len(s.Sides) != 2 || s.Client != x.client.String() || s.Service != x.service.String() || s.Status != 200 {
					t.Errorf("receipt says %+v", s)
				}
				receipts = append(receipts, raw)
			}
		}
		return receipts
	}
	asked1, served1 := must(asOffice(hostA.ConsumerURL())), must(toOffice())
	// One of them concerns a person.
	register(t, n, hostA.Grant(civibus.AccessRight{Service: o.service("desk", "forms"), Client: town.Client("portal"), Purpose: "permit", LegalBasis: "https://law.example/act/7 (fictitious)", Disclosure: civibus.Shown, Sentence: "The town asked for your form."}))
	concerned := concerns(t, town, o.service("desk", "forms"), "/1", "FIC-0001", "")
	findsHer := func(at *admin.Client) {
		t.Helper()
		wait(t, "the usage record is found", func() bool {
			out, err := at.Usage(t.Context(), admin.UsageQuery{Subject: "FIC-0001"})
			return err == nil && len(out.Records) == 1 && out.Records[0].Exchange == concerned
		})
	}
	atA := hostA.Admin().For(id.String())
	receipts := prove(atA, asked1, served1)
	findsHer(atA)
	// What the host itself has recorded is not the office's, and the other way round.
	if _, err := hostA.Admin().Exchange(t.Context(), asked1); err == nil {
		t.Error("the host's own log has an exchange of its hosted office")
	}

	// 3. Only by a rule, only for the hosted, and only through its host.
	_, err := asks(t, hostA.ConsumerURL(), o.client("cellar"), population.Service("population", "persons"))
	refused(t, err, "UnknownMember")
	_, err = asOffice(hostB.ConsumerURL())
	refused(t, err, "MaintenanceMode")
	_, err = asOffice(town.ConsumerURL())
	refused(t, err, "UnknownMember")
	_, err = asks(t, hostA.ConsumerURL(), civibus.ClientID{MemberID: civibus.MemberID{Instance: "DEMO", Class: "MUN", Code: "3002"}, Subsystem: "desk"}, population.Service("population", "persons"))
	refused(t, err, "MaintenanceMode")
	if s, err := hostA.Admin().Status(t.Context()); err != nil || !strings.Contains(s.Hosted[1].Problem, "hosted[1].services[0].url") || !s.Ready {
		t.Errorf("status of the host: %+v %v", s.Hosted, err)
	}

	// 4. What the office offers is listed for it, through the hop.
	list := fetchAs(t, town.ConsumerURL()+"/r1/"+o.service("desk", "listMethods").String(), town.Client("portal"))
	if !strings.Contains(list, `"service_code":"forms"`) || strings.Contains(list, "persons") {
		t.Errorf("listMethods of the office: %s", list)
	}

	// The host itself calls it too, over its own connections; each has its own record.
	register(t, n, hostA.Subsystem("audit", "Audit"))
	register(t, n, hostA.Grant(civibus.AccessRight{Service: o.service("desk", "forms"), Client: hostA.Client("audit"), Purpose: "residence-check", LegalBasis: "https://law.example/act/3 (fictitious)"}))
	within := must(asks(t, hostA.ConsumerURL(), hostA.Client("audit"), o.service("desk", "forms")))
	for _, a := range []*admin.Client{atA, hostA.Admin()} {
		if report, _ := receiptAt(t, a, town, within); len(report.Summary.Sides) != 2 {
			t.Errorf("receipt of the host's own call: %+v", report.Summary)
		}
	}

	// 5. Suspended by its parent, reinstated.
	register(t, n, o.by(hostA, o.setStatus(registrypb.Status_STATUS_SUSPENDED)))
	_, err = asOffice(hostA.ConsumerURL())
	refused(t, err, "UnknownMember")
	_, err = toOffice()
	refused(t, err, "UnknownMember")
	register(t, n, o.by(hostA, o.setStatus(registrypb.Status_STATUS_ACTIVE)))
	asked2, served2 := must(asOffice(hostA.ConsumerURL())), must(toOffice())

	// 6. Another body may act for the office as far as the parent has delegated it,
	// and no longer than that.
	title := func(text string) testnet.Change {
		return o.by(town, &registrypb.Tx{Body: &registrypb.Tx_SetService{SetService: &registrypb.SetService{Id: o.service("desk", "forms").String(), Type: registrypb.ServiceType(civibus.REST), Title: text}}})
	}
	deny := func(c testnet.Change) {
		t.Helper()
		_, err := c.By.Admin().Change(t.Context(), c.Tx)
		var p *admin.Problem
		if !errors.As(err, &p) || p.Code != registry.NotAuthorised.String() {
			t.Errorf("change by %s: %v, want %s", c.By.ID, err, registry.NotAuthorised)
		}
	}
	deny(title("Taken over"))
	register(t, n, o.by(hostA, &registrypb.Tx{Body: &registrypb.Tx_Delegate{Delegate: &registrypb.Delegate{Root: id.String(), To: town.ID.String(), Catalogue: true}}}))
	register(t, n, title("Forms, kept by the town"))
	deny(o.by(town, o.setHost(town.ID.String()))) // which was not delegated
	register(t, n, o.by(hostA, &registrypb.Tx{Body: &registrypb.Tx_RevokeDelegation{RevokeDelegation: &registrypb.RevokeDelegation{Root: id.String(), To: town.ID.String()}}}))
	deny(title("Forms"))

	// 7. It moves to another host. From the block on the old one speaks for it no more;
	// until its folder is at the new one, calls are refused and nothing is lost.
	register(t, n, o.by(hostA, o.setHost(hostB.ID.String())))
	deny(o.by(town, &registrypb.Tx{Body: &registrypb.Tx_AcceptHost{AcceptHost: &registrypb.AcceptHost{Member: id.String(), Host: hostB.ID.String()}}}))
	asked3 := must(asOffice(hostA.ConsumerURL())) // asked is not yet accepted
	if _, err := hostA.Config.ExportHosted(t.Context(), hostA.ConfigFile, id.String(), false, io.Discard); !errors.Is(err, node.ErrStillServed) {
		t.Errorf("exported while it is served: %v", err)
	}
	acknowledged := underLoad(t, 4, func() (string, error) { return asOffice(hostA.ConsumerURL()) }, toOffice)
	register(t, n, o.by(hostB, &registrypb.Tx{Body: &registrypb.Tx_AcceptHost{AcceptHost: &registrypb.AcceptHost{Member: id.String(), Host: hostB.ID.String()}}}))
	_, err = asOffice(hostA.ConsumerURL())
	refused(t, err, "UnknownMember", "MaintenanceMode")
	_, err = asOffice(hostB.ConsumerURL())
	refused(t, err, "MaintenanceMode")
	_, err = toOffice()
	refused(t, err, "MaintenanceMode")
	awaitServed(t, hostA, false, "hosted by "+hostB.ID.String())
	awaitServed(t, hostB, false, "keys")
	// The keys alone are no history: the same log is not begun a second time.
	handOver(t, filepath.Join(folderA, "keys"), filepath.Join(folderB, "keys"))
	awaitServed(t, hostB, false, "holds no log")
	file := export(t, hostA.Config, hostA.ConfigFile, id.String())
	if err := takeOver(t, hostB.Config, id.String(), file[:len(file)-1000]); err == nil {
		t.Error("a file that is cut off was taken over")
	}
	if left, err := os.ReadDir(folderB); err != nil || len(left) != 1 {
		t.Errorf("a refused import left %v, %v", left, err)
	}
	if err := takeOver(t, hostB.Config, id.String(), file); err != nil {
		t.Fatal(err)
	}
	// The key by which persons are found is a private one too, and another is none.
	awaitServed(t, hostB, false, "the usage key is not the one")
	key, err := os.ReadFile(filepath.Join(folderA, "usage.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folderB, "usage.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	before := awaitServed(t, hostB, true, "")
	if before.Size < 5 || before.AnchoredSize != before.Size {
		t.Errorf("the log came with %+v", before)
	}
	atB := hostB.Admin().For(id.String())
	calls := acknowledged()
	if len(calls) == 0 {
		t.Error("no exchange was made while the office moved")
	}
	t.Logf("%d exchanges were made while the office moved", len(calls))
	for _, exchange := range calls {
		if x, err := atB.Exchange(t.Context(), exchange); err != nil || len(x.Entries) == 0 || x.Entries[0].Outcome != "answered" {
			t.Errorf("exchange %s was acknowledged before the move and is lost: %+v %v", exchange, x, err)
		}
	}
	asked4, served4 := must(asOffice(hostB.ConsumerURL())), must(toOffice())
	receipts = append(receipts, prove(atB, asked4, served4)...)
	receipts = append(receipts, prove(atB, asked1, served1)...) // of before the move
	receipts = append(receipts, prove(atB, asked2, served2)...)
	receiptAt(t, atB, town, asked3)
	findsHer(atB)

	// 8. It moves to a node of its own.
	own := ownNode(t, o, hostB)
	register(t, n, o.by(hostA, o.setHost("")))
	awaitServed(t, hostB, false, "nobody hosts")
	if err := takeOver(t, own.cfg, id.String(), exportWith(t, hostB.Config, hostB.ConfigFile, id.String(), true)); err != nil {
		t.Fatal(err)
	}
	own.start()
	atOwn := func() (string, error) { return asOffice("http://" + own.cfg.Consumer.Listen) }
	asked5, served5 := must(caughtUp(t, atOwn)), must(caughtUp(t, toOffice))
	_, err = asOffice(hostB.ConsumerURL())
	refused(t, err, "MaintenanceMode")
	at := admin.NewClient(own.cfg.Admin.Socket)
	findsHer(at)
	receipts = append(receipts, prove(at, asked5, served5)...)
	receipts = append(receipts, prove(at, asked4, served4)...)
	receipts = append(receipts, prove(at, asked1, served1)...)

	// 9. It was one log all the time, and every receipt that was ever given verifies.
	logs, err := town.Admin().Logs(t.Context(), admin.ListOptions{})
	own1 := slices.DeleteFunc(logs.Items, func(l admin.Log) bool { return l.Member != id.String() })
	if err != nil || len(own1) != 1 || own1[0].Size < 10 {
		t.Fatalf("logs of the office: %+v %v", own1, err)
	}
	for _, raw := range receipts {
		verified(t, population, raw)
	}

	// 10. A host with an older copy does not go on with it.
	register(t, n, o.by(hostA, o.setHost(hostB.ID.String())))
	register(t, n, o.by(hostB, &registrypb.Tx{Body: &registrypb.Tx_AcceptHost{AcceptHost: &registrypb.AcceptHost{Member: id.String(), Host: hostB.ID.String()}}}))
	awaitServed(t, hostB, false, "copy all of it there")
	if _, err := hostA.Config.ExportHosted(t.Context(), hostA.ConfigFile, id.String(), false, io.Discard); err == nil || !strings.Contains(err.Error(), "the whole log is elsewhere") {
		t.Errorf("exported an older copy: %v", err)
	}
	if err := os.Rename(filepath.Join(folderB, "evidence"), filepath.Join(folderB, "older")); err != nil {
		t.Fatal(err)
	}
	if err := takeOver(t, hostB.Config, id.String(), file); err == nil || !strings.Contains(err.Error(), "the whole log is elsewhere") {
		t.Errorf("an older file was taken over: %v", err)
	}
	_, err = atOwn() // the own node has stopped speaking for it
	refused(t, err, "UnknownMember")
}

// caughtUp makes a call until it is no longer refused because a gateway that has just
// started is behind its peers.
func caughtUp(t *testing.T, call func() (string, error)) (string, error) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		id, err := call()
		var e *client.Error
		if !errors.As(err, &e) || !strings.HasSuffix(e.Type, "OutdatedGlobalConf") || time.Now().After(deadline) {
			return id, err
		}
	}
}

// underLoad makes calls one after the other on each of some lanes, until all are
// refused or the function that it returns is called, which returns the ids of those
// that were answered. A call that fails otherwise than by a gateway's word is an error.
func underLoad(t *testing.T, lanes int, calls ...func() (string, error)) func() []string {
	t.Helper()
	var mu sync.Mutex
	var ids []string
	var wg sync.WaitGroup
	for i := range lanes {
		call := calls[i%len(calls)]
		wg.Go(func() {
			for {
				id, err := call()
				var e *client.Error
				switch {
				case errors.As(err, &e):
					return // refused, as it must be sooner or later
				case err != nil:
					t.Errorf("a call while the office moved: %v", err)
					return
				}
				mu.Lock()
				ids = append(ids, id)
				mu.Unlock()
			}
		})
	}
	return func() []string { wg.Wait(); return ids }
}

// fetchAs gets a path of a consumer face in the name of a client.
func fetchAs(t *testing.T, url string, from civibus.ClientID) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(civibus.HeaderClient, from.String())
	resp, err := oneShot(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s %v", url, resp.StatusCode, body, err)
	}
	return string(body)
}

// export writes what a host keeps for a member that it no longer serves into a file,
// as civibus hosted export does.
func export(t *testing.T, c node.Config, configFile, member string) []byte {
	t.Helper()
	return exportWith(t, c, configFile, member, false)
}

func exportWith(t *testing.T, c node.Config, configFile, member string, keys bool) []byte {
	t.Helper()
	var file bytes.Buffer
	sealed, err := backup.Encrypt(&file, []age.Recipient{handOverKey.Recipient()})
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.ExportHosted(t.Context(), configFile, member, keys, sealed)
	if err := errors.Join(err, sealed.Close()); err != nil {
		t.Fatal(err)
	}
	for _, f := range out.Manifest.Files {
		if keys {
			break
		}
		if strings.HasPrefix(f.Path, "keys/") || strings.HasSuffix(f.Path, ".key") {
			t.Errorf("%s is in a file that is to have no private key", f.Path)
		}
	}
	return file.Bytes()
}

// takeOver puts it into the member's folder at a node, as civibus hosted import does.
func takeOver(t *testing.T, c node.Config, member string, file []byte) error {
	t.Helper()
	r, err := backup.Decrypt(bytes.NewReader(file), []age.Identity{handOverKey})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.ImportHosted(t.Context(), member, r, t.TempDir())
	return err
}

// handOverKey encrypts what one place hands to another.
var handOverKey = func() *age.X25519Identity {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		panic(err)
	}
	return key
}()

// handOver copies a folder: whole, or not there.
func handOver(t *testing.T, from, to string) {
	t.Helper()
	part := to + ".part"
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(part, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	// The copy has the modes that private keys need.
	err := filepath.WalkDir(part, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
	if err == nil {
		err = os.Rename(part, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ownedNode is a node that the office gets for itself.
type ownedNode struct {
	t   *testing.T
	cfg node.Config
}

// ownNode makes the office's own transport and node keys, has its parent register
// them with the new address, and writes the configuration.
func ownNode(t *testing.T, o *office, host *testnet.Body) *ownedNode {
	t.Helper()
	dir := filepath.Join(o.n.Dir, "own")
	c := node.Config{Member: o.id.String(), DataDir: filepath.Join(dir, "data")}
	c.Keys.Dir = filepath.Join(dir, "keys")
	handOver(t, host.Config.Hosted[0].Keys.Dir, c.Keys.Dir)
	c.Services = host.Config.Hosted[0].Services
	c.Evidence = host.Config.Hosted[0].Evidence
	c.Consumer.Listen, c.Consumer.PlainHTTP, c.Provider.Listen, c.Metrics.Listen = freePort(t), "loopback", freePort(t), "off"
	c.Ledger.Mode, c.Ledger.Listen = "follower", freePort(t)
	c.Ledger.Genesis = host.Config.Ledger.Genesis
	for _, b := range o.n.Bodies {
		s, err := b.Admin().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.Ledger.Peers = append(c.Ledger.Peers, s.LedgerID+"@"+b.Config.Ledger.Listen)
	}
	c.Admin.Socket = filepath.Join(dir, "s")
	ring, err := keys.OpenRing(c.Keys.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	key, certificate, err := ring.CreateTransport(o.id, []string{c.Provider.Listen}, civibus.ECDSAP256SHA256, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	named, err := ring.Create(keys.NodeKey, civibus.Ed25519, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id := ledger.NodeID(named.Key().Key.(ed25519.PublicKey))
	register(t, o.n, o.addKey(key, civibus.TransportKey, certificate))
	register(t, o.n, o.by(o.parent, o.setMember(&registrypb.Gateway{Code: "gateway-1", Address: c.Provider.Listen})))
	register(t, o.n, o.by(o.parent, &registrypb.Tx{Body: &registrypb.Tx_SetNodes{SetNodes: &registrypb.SetNodes{
		Member: o.id.String(), Nodes: []*registrypb.NodeAddress{{Id: id, Address: c.Ledger.Listen, Role: registrypb.NodeRole_NODE_ROLE_FOLLOWER}},
	}}}))
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return &ownedNode{t, c}
}

// freePort finds a port that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs the node until the test ends.
func (o *ownedNode) start() {
	o.t.Helper()
	ready := make(chan struct{})
	nd, err := node.New(o.cfg, node.Options{Ready: func() { close(ready) }})
	if err != nil {
		o.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(o.t.Context()))
	done := make(chan error, 1)
	go func() { done <- nd.Run(ctx) }()
	o.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			o.t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		o.t.Fatalf("the office's own node stopped: %v", err)
	case <-time.After(60 * time.Second):
		o.t.Fatalf("the office's own node is not ready: %v", nd.Admin().Status().Components)
	}
}
