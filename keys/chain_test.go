package keys_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
)

var body = keys.Subject{Country: "EE", Organization: "Näidisamet", OrganizationID: "NTREE-70000000", CommonName: "Civibus seal of Näidisamet"}

// authority is a root and an issuing authority of the tests.
type authority struct {
	key, rootKey *ecdsa.PrivateKey
	ca, root     *x509.Certificate
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	var err error
	for _, k := range []**ecdsa.PrivateKey{&a.key, &a.rootKey} {
		if *k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(10, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
	}
	root := template("Test root")
	a.root = sign(t, root, root, a.rootKey.Public(), a.rootKey)
	a.ca = sign(t, template("Test issuer of seals"), a.root, a.key.Public(), a.rootKey)
	return a
}

func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, private crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func (a *authority) leaf() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "seal"}, NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageContentCommitment,
	}
}

// issue returns the chain over a public key, leaf first, in PEM.
func (a *authority) issue(t testing.TB, template *x509.Certificate, public crypto.PublicKey) []byte {
	t.Helper()
	return chainPEM(sign(t, template, a.ca, public, a.key), a.ca, a.root)
}

func chainPEM(certificates ...*x509.Certificate) (out []byte) {
	for _, c := range certificates {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func id(numbers ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{0, 4, 0, 1862, 1}, numbers...)
}

func statements(t testing.TB, list ...any) []pkix.Extension {
	t.Helper()
	var raw []asn1.RawValue
	for _, s := range list {
		der, err := asn1.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, asn1.RawValue{FullBytes: der})
	}
	value, err := asn1.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 3}, Value: value}}
}

// The statements of RFC 3739, by their content.
type bare struct{ ID asn1.ObjectIdentifier }

type seals struct {
	ID    asn1.ObjectIdentifier
	Types []asn1.ObjectIdentifier
}

type law struct {
	ID        asn1.ObjectIdentifier
	Countries []string
}

func qualified(t testing.TB) []pkix.Extension {
	return statements(t, bare{id(1)}, bare{id(4)}, seals{id(6), []asn1.ObjectIdentifier{id(6, 2)}})
}

func TestRequest(t *testing.T) {
	for _, algorithm := range both {
		k := generate(t, civibus.SealKey, algorithm)
		text, err := keys.Request(k, body)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE REQUEST" || request.CheckSignature() != nil {
			t.Fatalf("%s: error %v", algorithm, err)
		}
		if !bytes.Equal(request.RawSubjectPublicKeyInfo, k.Key().SPKI) {
			t.Error("the request is over another key")
		}
		if got := request.Subject.String(); !strings.Contains(got, "CN=Civibus seal of Näidisamet") || !strings.Contains(got, "O=Näidisamet") || !strings.Contains(got, "C=EE") {
			t.Errorf("subject %s", got)
		}
		if program, err := exec.LookPath("openssl"); err == nil {
			path := filepath.Join(t.TempDir(), "request")
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(program, "req", "-in", path, "-noout", "-verify", "-subject", "-nameopt", "utf8").CombinedOutput()
			if err != nil || !strings.Contains(string(out), "organizationIdentifier") || !strings.Contains(string(out), "NTREE-70000000") || !strings.Contains(string(out), "OK") {
				t.Errorf("openssl: %v %s", err, out)
			}
		}
	}
	for name, c := range map[string]struct {
		key     *keys.Key
		subject keys.Subject
	}{
		"transport key": {generate(t, civibus.TransportKey, civibus.Ed25519), body},
		"ML-DSA":        {generate(t, civibus.SealKey, civibus.MLDSA44), body},
		"country":       {generate(t, civibus.SealKey, civibus.Ed25519), keys.Subject{Country: "Estonia", Organization: "x", OrganizationID: "y"}},
		"organization":  {generate(t, civibus.SealKey, civibus.Ed25519), keys.Subject{Country: "EE", OrganizationID: "y"}},
		"identifier":    {generate(t, civibus.SealKey, civibus.Ed25519), keys.Subject{Country: "EE", Organization: "x"}},
		"long name":     {generate(t, civibus.SealKey, civibus.Ed25519), keys.Subject{Country: "EE", Organization: strings.Repeat("x", 65), OrganizationID: "y"}},
	} {
		if _, err := keys.Request(c.key, c.subject); err == nil {
			t.Errorf("%s: a request was made", name)
		}
	}
}

func TestBind(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	ring, err := keys.CreateRing(dir)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ring.Create(civibus.SealKey, civibus.Ed25519, now)
	if err != nil {
		t.Fatal(err)
	}
	keyID := k.Key().ID
	if ring.Chain(keyID) != nil || ring.Chain(civibus.KeyID{}) != nil {
		t.Error("a key without a certificate has a chain")
	}
	bound, err := ring.Bind(keyID, a.issue(t, a.leaf(), k.Key().Key), now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := keys.OpenRing(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*keys.Chain{bound, ring.Chain(keyID), again.Chain(keyID)} {
		if c == nil || !slices.EqualFunc(c.DER(), bound.DER(), bytes.Equal) || len(c.DER()) != 3 || !bytes.Equal(c.DER()[2], a.root.Raw) {
			t.Fatalf("chain %v", c)
		}
	}
	// A renewed certificate takes the place; warnings come in time.
	renewed := a.leaf()
	renewed.NotAfter = now.AddDate(2, 0, 0)
	if _, err := ring.Bind(keyID, a.issue(t, renewed, k.Key().Key), now); err != nil {
		t.Fatal(err)
	}
	for when, want := range map[time.Time]string{now: "", now.AddDate(2, 0, -20): "ends on", now.AddDate(2, 0, 1): "ended on"} {
		said := ""
		for _, w := range ring.Warnings(when) {
			if strings.Contains(w.Message, "certificate") {
				said += w.Message
			}
		}
		if want == "" && said != "" || !strings.Contains(said, want) {
			t.Errorf("at %s: warnings %q, want %q", when, said, want)
		}
	}
	if err := ring.Reload(); err != nil {
		t.Errorf("a chain stops the body: %v", err)
	}
	// Another key's chain in its place is found out.
	other := generate(t, civibus.SealKey, civibus.Ed25519)
	path := filepath.Join(dir, strings.TrimSuffix(k.FileName(now), ".pem")+".crt")
	if err := os.WriteFile(path, a.issue(t, a.leaf(), other.Key().Key), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := ring.Reload(); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("another key's chain: %v", err)
	}
}

func TestBindRefuses(t *testing.T) {
	a := newAuthority(t)
	ring, err := keys.CreateRing(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	k, err := ring.Create(civibus.SealKey, civibus.ECDSAP256SHA256, now)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := ring.Create(civibus.AdminKey, civibus.ECDSAP256SHA256, now)
	if err != nil {
		t.Fatal(err)
	}
	public := k.Key().Key
	leaf := sign(t, a.leaf(), a.ca, public, a.key)
	encipher, authorityToo, old := a.leaf(), a.leaf(), a.leaf()
	encipher.KeyUsage = x509.KeyUsageKeyEncipherment
	authorityToo.IsCA, authorityToo.BasicConstraintsValid = true, true
	old.NotAfter = now.Add(-time.Minute)
	for _, c := range []struct {
		name string
		key  civibus.KeyID
		text []byte
		want string
	}{
		{"other key", k.Key().ID, a.issue(t, a.leaf(), admin.Key().Key), "another key"},
		{"wrong order", k.Key().ID, chainPEM(a.ca, leaf), "another key"},
		{"gap", k.Key().ID, chainPEM(leaf, a.root), "not signed by the next"},
		{"ended", k.Key().ID, a.issue(t, old, public), "valid from"},
		{"for encryption", k.Key().ID, a.issue(t, encipher, public), "allows no signatures"},
		{"authority", k.Key().ID, a.issue(t, authorityToo, public), "authority's own"},
		{"nothing", k.Key().ID, nil, "no PEM block"},
		{"key in the file", k.Key().ID, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}), "CERTIFICATE"},
		{"garbage", k.Key().ID, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "certificate 1"},
		{"too long", k.Key().ID, bytes.Repeat(chainPEM(a.root), 9), "more than 8"},
		{"admin key", admin.Key().ID, a.issue(t, a.leaf(), admin.Key().Key), "seal key"},
		{"unknown key", civibus.KeyID{1}, nil, "no key"},
	} {
		if _, err := ring.Bind(c.key, c.text, now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
	if ring.Chain(k.Key().ID) != nil {
		t.Error("a refused chain was kept")
	}
}

func TestFindingsClaimNoMoreThanWasChecked(t *testing.T) {
	a := newAuthority(t)
	k := generate(t, civibus.SealKey, civibus.Ed25519)
	outcomes := func(template *x509.Certificate, when time.Time) map[string]keys.Outcome {
		c, err := keys.ParseChain(a.issue(t, template, k.Key().Key))
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]keys.Outcome{}
		for _, f := range c.Findings(k.Key(), when) {
			out[f.Statement] = f.Outcome
		}
		if len(out) != 10 {
			t.Fatalf("findings %v", out)
		}
		return out
	}
	const (
		inTime    = "all certificates are in time"
		compliant = "it was issued as a qualified certificate"
		forSeals  = "it is for electronic seals"
		device    = "its private key is in a qualified device"
		granted   = "the issuer is a trust service that was granted for qualified seals"
		inDevice  = "the key is in a qualified device"
		revoked   = "no certificate is revoked"
	)
	full, plain, web := a.leaf(), a.leaf(), a.leaf()
	full.ExtraExtensions = qualified(t)
	web.ExtraExtensions = statements(t, bare{id(1)}, seals{id(6), []asn1.ObjectIdentifier{id(6, 3)}})
	broken := a.leaf()
	broken.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 3}, Value: []byte{0x30, 0x05, 0x30}}}
	for name, c := range map[string]struct {
		got  map[string]keys.Outcome
		want map[string]keys.Outcome
	}{
		"qualified":  {outcomes(full, now), map[string]keys.Outcome{inTime: keys.Holds, compliant: keys.Claimed, forSeals: keys.Claimed, device: keys.Claimed}},
		"later":      {outcomes(full, now.AddDate(3, 0, 0)), map[string]keys.Outcome{inTime: keys.Fails, compliant: keys.Claimed}},
		"plain":      {outcomes(plain, now), map[string]keys.Outcome{inTime: keys.Holds, compliant: keys.NotClaimed, forSeals: keys.NotClaimed, device: keys.NotClaimed}},
		"for web":    {outcomes(web, now), map[string]keys.Outcome{compliant: keys.Claimed, forSeals: keys.NotClaimed, device: keys.NotClaimed}},
		"unreadable": {outcomes(broken, now), map[string]keys.Outcome{compliant: keys.NotClaimed}},
	} {
		for statement, want := range c.want {
			if c.got[statement] != want {
				t.Errorf("%s: %s: %s, want %s", name, statement, c.got[statement], want)
			}
		}
		for _, statement := range []string{granted, inDevice, revoked} {
			if c.got[statement] != keys.NotChecked {
				t.Errorf("%s: %s: %s", name, statement, c.got[statement])
			}
		}
	}
	abroad := a.leaf()
	abroad.ExtraExtensions = statements(t, bare{id(1)}, law{id(7), []string{"UA"}})
	c, err := keys.ParseChain(a.issue(t, abroad, k.Key().Key))
	if err != nil {
		t.Fatal(err)
	}
	if s := keys.ParseQCStatements(c.Leaf()); !s.Compliance || !slices.Equal(s.Countries, []string{"UA"}) {
		t.Errorf("statements %+v", s)
	}
}

func FuzzParseChain(f *testing.F) {
	a := newAuthority(f)
	k, err := keys.Generate(civibus.SealKey, civibus.Ed25519)
	if err != nil {
		f.Fatal(err)
	}
	template := a.leaf()
	template.ExtraExtensions = qualified(f)
	f.Add(a.issue(f, template, k.Key().Key))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := keys.ParseChain(text)
		if err != nil {
			return
		}
		_ = c.Findings(k.Key(), now)
		if again, err := keys.ParseChain(c.PEM()); err != nil || !slices.EqualFunc(again.DER(), c.DER(), bytes.Equal) {
			t.Errorf("a chain is not what is written of it: %v", err)
		}
	})
}
