package testnet_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/keys/pkcs11"
	"github.com/civibus/civibus/keys/pkcs11/softhsm"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry/registrypb"
)

// TestHostedSealKeyInAToken has an office hosted that keeps its seal key in a token:
// its host seals with the key and cannot copy it. The office's admin key, which is in
// its folder here, changes the registry through the host in the office's name.
func TestHostedSealKeyInAToken(t *testing.T) {
	token := softhsm.New(t)
	id := civibus.MemberID{Instance: "DEMO", Class: "MUN", Code: "3003"}
	hosted := node.HostedConfig{Member: id.String(), DataDir: "office", Clients: []node.ClientConfig{{Subsystem: "desk", Networks: []string{"127.0.0.1/32"}}}}
	hosted.Keys.PKCS11 = node.PKCS11Config{Module: token.Config.Module, Token: token.Config.Token, PIN: "file:" + token.PINFile()}
	hosted.Evidence.Reserve = node.Size(16 << 20)
	hosted.Evidence.BatchAge, hosted.Evidence.AnchorInterval = node.Duration(20*time.Millisecond), node.Duration(100*time.Millisecond)
	n := networkWith(t, func(o *testnet.Options) {
		o.Configure = func(i int, c *node.Config) {
			if i == 1 {
				c.Hosted = []node.HostedConfig{hosted}
			}
		}
	})
	population, host := n.Bodies[0], n.Bodies[1]

	// 1. The office's keys: one in its token, two in its folder.
	ring, err := keys.CreateRing(filepath.Join(host.Config.Hosted[0].DataDir, "keys"), keys.WithToken(pkcs11.Config{Module: token.Config.Module, Token: token.Config.Token, PIN: token.Config.PIN}))
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	o := &office{t: t, n: n, parent: host, id: id, ring: ring}
	seal, err := ring.CreateInToken(civibus.SealKey, civibus.ECDSAP256SHA256, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	register(t, n, o.by(host, o.setMember()))
	register(t, n, o.addKey(seal, civibus.SealKey, nil))
	for _, p := range []civibus.Purpose{civibus.LogKey, civibus.AdminKey} {
		k, err := ring.Create(p, civibus.Ed25519, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		register(t, n, o.addKey(k, p, nil))
	}
	register(t, n, o.by(host, o.setHost(host.ID.String())))
	awaitServed(t, host, true, "")

	// 2. The office changes the registry in its own name.
	as := host.Admin().For(id.String())
	change, err := as.Change(t.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: o.client("desk").String(), Name: "Front desk"}}})
	if err != nil {
		t.Fatal(err)
	}
	register(t, n, population.Grant(civibus.AccessRight{Service: population.Service("population", "persons"), Client: o.client("desk"), Purpose: "residence-check", LegalBasis: "https://law.example/act/2 (fictitious)"}))

	// 3. An exchange under the token's key, proved by both bodies.
	exchange, err := asks(t, host.ConsumerURL(), o.client("desk"), population.Service("population", "persons"))
	if err != nil {
		t.Fatalf("after the change at height %d: %v", change.Height, err)
	}
	for _, a := range []*admin.Client{as, population.Admin()} {
		if report, _ := receiptAt(t, a, population, exchange); report.Summary.Client != o.client("desk").String() || len(report.Summary.Sides) != 2 {
			t.Errorf("receipt says %+v", report.Summary)
		}
	}
}
