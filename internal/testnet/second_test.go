package testnet_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// TestSecondSignatures: while a network runs its bodies make ML-DSA keys for
// seals, logs and cosignatures and have their seal keys certified; what they seal
// and sign from then on has both signatures, the records name the certificates,
// and receipts verify offline with a policy that requires all of it, by both
// verifiers. Then the members vote that every seal needs two signatures, and one
// without a key for it takes part no more.
func TestSecondSignatures(t *testing.T) {
	n := network(t)
	provider, consumer := n.Bodies[0], n.Bodies[3]
	before := call(t, consumer, provider, "/0")
	if r := receiptOf(t, consumer, before); r.Summary.PostQuantum != nil || r.Summary.Certificates != nil {
		t.Errorf("before there were keys: %+v", r.Summary)
	}

	// 1. The keys, used without a restart.
	newKey := func(b *testnet.Body, purpose civibus.Purpose, a civibus.Algorithm) string {
		t.Helper()
		out, err := b.Admin().NewKey(t.Context(), admin.NewKey{Purpose: purpose.String(), Algorithm: string(a)})
		if err != nil {
			t.Fatalf("new %s key of %s: %v", purpose, b.ID, err)
		}
		return out.ID
	}
	for _, b := range n.Bodies {
		newKey(b, civibus.WitnessKey, civibus.MLDSA44)
	}
	newKey(provider, civibus.SealKey, civibus.MLDSA44)
	lost := newKey(consumer, civibus.SealKey, civibus.MLDSA65)
	newKey(provider, civibus.LogKey, civibus.MLDSA44)
	newKey(consumer, civibus.LogKey, civibus.MLDSA44)
	var root string
	for _, b := range []*testnet.Body{provider, consumer} {
		root += certify(t, n, b)
	}
	exchange := call(t, consumer, provider, "/1")
	r := receiptOf(t, consumer, exchange)
	for _, what := range []string{"request", "answer", "log civibus/" + consumer.ID.String() + "/evidence/1", "log civibus/" + provider.ID.String() + "/evidence/1"} {
		if !slices.Contains(r.Summary.PostQuantum, what) {
			t.Errorf("no second signature of %s: %v", what, r.Summary.PostQuantum)
		}
	}
	if c := r.Summary.Certificates; len(c) != 4 || !strings.Contains(c[0].Subject, consumer.ID.Code) {
		t.Errorf("certificates %+v", c)
	}

	// 2. The members require second seals.
	ids := register(t, n, testnet.Change{By: n.Bodies[0], Tx: &registrypb.Tx{Body: &registrypb.Tx_Propose{Propose: &registrypb.Propose{
		Change: &registrypb.Change{Change: &registrypb.Change_SetParams{SetParams: &registrypb.SetParams{SecondSeals: registrypb.SecondSeals_SECOND_SEALS_REQUIRED}}},
	}}}})
	if len(ids) != 1 {
		t.Fatal(ids)
	}
	open, _ := viewOf(t, n.Bodies[0]).OpenProposals("", 10)
	if len(open) != 1 {
		t.Fatalf("%d open proposals", len(open))
	}
	var votes []testnet.Change
	for _, b := range n.Bodies[1:3] {
		votes = append(votes, testnet.Change{By: b, Tx: &registrypb.Tx{Body: &registrypb.Tx_CastVote{CastVote: &registrypb.CastVote{Proposal: open[0].ID, Yes: true}}}})
	}
	register(t, n, votes...)
	if err := n.Await(t.Context(), func(v *registry.View) bool { return v.SecondSeals() }); err != nil {
		t.Fatal(err)
	}

	// 3. A court that requires everything, offline.
	exchange = call(t, consumer, provider, "/2")
	raw, err := consumer.Admin().Receipt(t.Context(), exchange, time.Minute, true)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := consumer.Admin().Policy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(policy, []byte("all ")) {
		t.Errorf("the policy does not require both cosignatures:\n%s", policy)
	}
	policy = append(policy, "require second-log-signatures\nrequire second-seals\nrequire chains\n"+root...)
	report, err := proof.Verify(raw, policy)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(report.Summary.PostQuantum, func(s string) bool { return strings.HasPrefix(s, "registry checkpoint by ") }) {
		t.Errorf("no second cosignature: %v", report.Summary.PostQuantum)
	}
	secondVerifier(t, raw, policy)

	// 4. Whoever has no second key takes part no more.
	id, err := hex.DecodeString(lost)
	if err != nil {
		t.Fatal(err)
	}
	register(t, n, testnet.Change{By: consumer, Tx: &registrypb.Tx{Body: &registrypb.Tx_RevokeKey{
		RevokeKey: &registrypb.RevokeKey{KeyId: id, Reason: registrypb.RevocationReason_REVOCATION_REASON_CEASED},
	}}})
	portal := &client.Client{Gateway: consumer.ConsumerURL(), Client: consumer.Client("portal"), HTTP: oneShot(t)}
	answer, err := portal.Do(t.Context(), client.Call{Service: provider.Service("population", "persons"), Path: "/3", Purpose: "residence-check"})
	if err == nil {
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			t.Error("a request without the required second signature was answered")
		}
	}
}

// viewOf is the newest registry view of a body.
func viewOf(t *testing.T, b *testnet.Body) (view *registry.View) {
	t.Helper()
	if err := b.Node().AwaitView(t.Context(), func(v *registry.View) bool { view = v; return true }); err != nil {
		t.Fatal(err)
	}
	return view
}

// certify has a new authority issue a certificate for the body's seal key, binds
// the chain in the registry, and returns the authority's own certificate.
func certify(t *testing.T, n *testnet.Network, b *testnet.Body) (root string) {
	t.Helper()
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := func(name string, ca bool) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageContentCommitment, BasicConstraintsValid: true, IsCA: ca}
		if ca {
			c.KeyUsage = x509.KeyUsageCertSign
		}
		return c
	}
	parent := template("Fictitious authority for "+b.ID.Code, true)
	rootDER, err := x509.CreateCertificate(rand.Reader, parent, parent, authority.Public(), authority)
	if err != nil {
		t.Fatal(err)
	}
	view := viewOf(t, b)
	var key civibus.RegisteredKey
	for _, k := range view.KeysOf(b.ID, civibus.SealKey) {
		if k.InForce(view.Height()) && !k.Algorithm.PostQuantum() {
			key = k
		}
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template("Seal of "+b.ID.Code, false), parent, key.Key, authority)
	if err != nil {
		t.Fatal(err)
	}
	register(t, n, testnet.Change{By: b, Tx: &registrypb.Tx{Body: &registrypb.Tx_SetChain{SetChain: &registrypb.SetChain{KeyId: key.ID[:], Certificates: [][]byte{leaf, rootDER}}}}})
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}))
}

// secondVerifier has the verifier in Python say of a receipt that it is valid.
func secondVerifier(t *testing.T, receipt, policy []byte) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Log("python3 is not installed: the second verifier was not run")
		return
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"r.receipt.json": receipt, "policy.txt": policy} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), python, "-B", "../../test/receipt-py/verify.py", filepath.Join(dir, "r.receipt.json"), "--policy", filepath.Join(dir, "policy.txt")).CombinedOutput()
	if err != nil || !bytes.HasPrefix(out, []byte("VALID")) {
		t.Errorf("the second verifier: %v\n%s", err, out)
	}
}
