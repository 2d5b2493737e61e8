package keys_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/keys"
)

var (
	now    = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	member = civibus.MemberID{Instance: "DEMO", Class: "GOV", Code: "1000"}
	both   = []civibus.Algorithm{civibus.Ed25519, civibus.ECDSAP256SHA256}
)

func generate(t *testing.T, purpose civibus.Purpose, algorithm civibus.Algorithm) *keys.Key {
	t.Helper()
	k, err := keys.Generate(purpose, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeySignsAfterItsFileIsOpenedAgain(t *testing.T) {
	sizes := map[civibus.Algorithm]int{civibus.Ed25519: 64, civibus.ECDSAP256SHA256: 64, civibus.MLDSA44: 2420, civibus.MLDSA65: 3309, civibus.MLDSA87: 4627}
	for algorithm, size := range sizes {
		k := generate(t, civibus.SealKey, algorithm)
		path := filepath.Join(t.TempDir(), k.FileName(now))
		if err := k.Write(path); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, error %v", info.Mode(), err)
		}
		opened, err := keys.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if opened.Key().ID != k.Key().ID || opened.Purpose() != civibus.SealKey || opened.Key().Algorithm != algorithm {
			t.Errorf("opened %v, wrote %v", opened, k)
		}
		signature, err := opened.Sign(context.Background(), []byte("message"))
		if err != nil || len(signature) != size {
			t.Fatalf("signature of %d bytes, error %v", len(signature), err)
		}
		if !k.Key().Verify([]byte("message"), signature) || k.Key().Verify([]byte("massage"), signature) {
			t.Errorf("%s signature does not verify as it should", algorithm)
		}
	}
}

func TestGenerateRefuses(t *testing.T) {
	for _, c := range []struct {
		purpose   civibus.Purpose
		algorithm civibus.Algorithm
	}{{0, civibus.Ed25519}, {99, civibus.Ed25519}, {civibus.SealKey, "rsa"}, {civibus.LogKey, civibus.ECDSAP256SHA256}, {civibus.ValidatorKey, civibus.ECDSAP256SHA256}, {civibus.WitnessKey, civibus.ECDSAP256SHA256}, {civibus.TransportKey, civibus.MLDSA44}, {civibus.AdminKey, civibus.MLDSA65}, {civibus.ValidatorKey, civibus.MLDSA44}, {civibus.LogKey, civibus.MLDSA65}, {civibus.WitnessKey, civibus.MLDSA87}} {
		if _, err := keys.Generate(c.purpose, c.algorithm); err == nil {
			t.Errorf("a %v key of %q was made", c.purpose, c.algorithm)
		}
	}
}

func TestKeysAreNeverOverwritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "seal-x.pem")
	first := generate(t, civibus.SealKey, civibus.Ed25519)
	if err := first.Write(path); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	var wins sync.Map
	var group sync.WaitGroup
	other := filepath.Join(dir, "seal-y.pem")
	for i := range 8 {
		group.Go(func() {
			k := generate(t, civibus.SealKey, civibus.Ed25519)
			if err := k.Write(path); !errors.Is(err, fs.ErrExist) {
				t.Errorf("writing over a key gave %v", err)
			}
			if k.Write(other) == nil {
				wins.Store(i, k.Key().ID)
			}
		})
	}
	group.Wait()
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the key file changed")
	}
	count := 0
	wins.Range(func(_, id any) bool {
		count++
		if k, err := keys.Open(other); err != nil || k.Key().ID != id {
			t.Errorf("the file holds %v (%v), the writer was %v", k, err, id)
		}
		return true
	})
	if count != 1 {
		t.Errorf("%d writers created the same file", count)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 2 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestOpenRefuses(t *testing.T) {
	good := generate(t, civibus.SealKey, civibus.Ed25519)
	dir := t.TempDir()
	goodPath := filepath.Join(dir, "seal-good.pem")
	if err := good.Write(goodPath); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(goodPath)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, _ := x509.MarshalPKCS8PrivateKey(rsaKey)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	for _, c := range []struct {
		name, file string
		content    []byte
		mode       fs.FileMode
		want       string
	}{
		{"group may read", "seal-a.pem", text, 0o640, "chmod 600"},
		{"world may read", "seal-b.pem", text, 0o604, "chmod 600"},
		{"group may write", "seal-c.pem", text, 0o620, "chmod 600"},
		{"no purpose", "key.pem", text, 0o600, "PURPOSE-ANYTHING.pem"},
		{"unknown purpose", "house-x.pem", text, 0o600, "PURPOSE-ANYTHING.pem"},
		{"empty", "seal-d.pem", nil, 0o600, "no PEM block"},
		{"not PKCS#8", "seal-e.pem", block("EC PRIVATE KEY", []byte("x")), 0o600, "openssl pkcs8"},
		{"encrypted", "seal-f.pem", block("ENCRYPTED PRIVATE KEY", []byte("x")), 0o600, "no passphrase"},
		{"garbage in the block", "seal-g.pem", block("PRIVATE KEY", []byte("secret garbage")), 0o600, "not a PKCS#8"},
		{"RSA", "seal-h.pem", block("PRIVATE KEY", rsaDER), 0o600, "Ed25519 or ECDSA"},
		{"two keys", "seal-i.pem", append(bytes.Clone(text), text...), 0o600, "more than one"},
		{"too large", "seal-j.pem", bytes.Repeat([]byte("a"), 70<<10), 0o600, "at most"},
		{"wrong kind for a log", "log-k.pem", ecdsaFile(t), 0o600, "for this purpose"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, c.file)
			if err := os.WriteFile(path, c.content, c.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := keys.Open(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.file) {
				t.Fatalf("error %v, want one with %q that names the file", err, c.want)
			}
			if strings.Contains(err.Error(), "secret garbage") {
				t.Error("the error quotes the content")
			}
		})
	}
	if _, err := keys.Open(filepath.Join(dir, "seal-none.pem")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "seal-dir.pem"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Open(filepath.Join(dir, "seal-dir.pem")); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("a directory: %v", err)
	}
}

func ecdsaFile(t *testing.T) []byte {
	path := filepath.Join(t.TempDir(), "seal-x.pem")
	if err := generate(t, civibus.SealKey, civibus.ECDSAP256SHA256).Write(path); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	return text
}

// TestNothingPrintsASecret prints keys in every way there is and looks for the
// private bytes in every spelling.
func TestNothingPrintsASecret(t *testing.T) {
	held, path := passphraseFile(t, phraseA)
	ring, err := keys.CreateRing(t.TempDir(), keys.WithPassphrase(held))
	if err != nil {
		t.Fatal(err)
	}
	printed := func(v any) string {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		if j, err := json.Marshal(v); err == nil {
			out.Write(j)
		}
		return out.String()
	}
	spellings := func(secret []byte) []string {
		return []string{
			string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)), strings.Trim(fmt.Sprint(secret), "[]"),
			fmt.Sprintf("%q", secret)[1:20], base64.StdEncoding.EncodeToString(secret)[:20],
		}
	}
	// The passphrase, and errors about it and about keys under another one.
	_, wrong := keys.OpenRing(encrypted(t, phraseB), keys.WithPassphrase(held))
	_, missing := keys.OpenRing(encrypted(t, phraseB))
	out := printed(held) + printed(ring) + printed(ring.Warnings(now)) + printed(ring.List()) + printed(wrong) + printed(missing)
	for _, phrase := range []string{phraseA, phraseB} {
		for _, spelling := range spellings([]byte(phrase)) {
			if strings.Contains(out, spelling) {
				t.Errorf("the passphrase is printed as %.20q...", spelling)
			}
		}
	}
	if !strings.Contains(out, path) {
		t.Error("the passphrase's file is not printed: the test prints nothing useful")
	}
	for _, purpose := range []civibus.Algorithm{civibus.MLDSA44, civibus.MLDSA65, civibus.MLDSA87} {
		k, err := ring.Create(civibus.SealKey, purpose, now)
		if err != nil {
			t.Fatal(err)
		}
		out := printed(k) + printed(*k) + printed(k.Signer()) + printed(ring) + printed(ring.List())
		for _, spelling := range spellings(seed(t, k)) {
			if strings.Contains(out, spelling) {
				t.Errorf("%s: the seed is printed as %.20q...", purpose, spelling)
			}
		}
	}
	for _, algorithm := range both {
		k, der, err := ring.CreateTransport(member, []string{"gw.example:443"}, algorithm, now)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := keys.TLSCertificate(k, der)
		if err != nil {
			t.Fatal(err)
		}
		secret := privateBytes(t, k)
		out := ""
		for _, v := range []any{k, *k, k.Signer(), *certificate, certificate.PrivateKey, ring, ring.List(), []*keys.Key{k}, map[string]any{"k": k}, struct{ K *keys.Key }{k}} {
			out += printed(v)
		}
		for _, spelling := range spellings(secret) {
			if strings.Contains(out, spelling) {
				t.Errorf("%s: the private key is printed as %.20q...", algorithm, spelling)
			}
		}
		if !strings.Contains(out, k.Key().ID.String()) {
			t.Error("the key's id is not printed: the test prints nothing useful")
		}
	}
}

// encrypted makes a directory with a key under a passphrase.
func encrypted(t *testing.T, phrase string) string {
	t.Helper()
	dir := t.TempDir()
	ring, err := keys.CreateRing(dir, keys.WithPassphrase(passphrase(t, phrase)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Create(civibus.SealKey, civibus.Ed25519, now); err != nil {
		t.Fatal(err)
	}
	return dir
}

// seed reads an ML-DSA key's seed back from the key's file.
func seed(t *testing.T, k *keys.Key) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), k.FileName(now))
	if err := k.Write(path); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	block, _ := pem.Decode(text)
	return block.Bytes[len(block.Bytes)-32:]
}

// privateBytes reads the secret scalar or seed back from the key's file.
func privateBytes(t *testing.T, k *keys.Key) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), k.FileName(now))
	if err := k.Write(path); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	block, _ := pem.Decode(text)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if seed, ok := parsed.(ed25519.PrivateKey); ok {
		return seed.Seed()
	}
	raw, err := parsed.(interface{ Bytes() ([]byte, error) }).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestEd25519HandsOverOnlyEd25519(t *testing.T) {
	k := generate(t, civibus.ValidatorKey, civibus.Ed25519)
	private, err := k.Ed25519()
	if err != nil || !k.Key().Verify([]byte("m"), ed25519.Sign(private, []byte("m"))) {
		t.Errorf("error %v", err)
	}
	if _, err := generate(t, civibus.SealKey, civibus.ECDSAP256SHA256).Ed25519(); err == nil {
		t.Error("an ECDSA key was handed over as Ed25519")
	}
}

// TestValidatorKeys: the consensus engine gets its key, of either kind, out of an
// encrypted file, and no other key is handed out so.
func TestValidatorKeys(t *testing.T) {
	ring, err := keys.CreateRing(t.TempDir(), keys.WithPassphrase(passphrase(t, phraseA)))
	if err != nil {
		t.Fatal(err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := ring.Take(civibus.ValidatorKey, private, now)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ring.All(civibus.ValidatorKey)[0].Ed25519(); err != nil || !got.Equal(private) || taken.Key().Algorithm != civibus.Ed25519 {
		t.Errorf("error %v", err)
	}
	made, err := ring.Create(civibus.ValidatorKey, civibus.MLDSA65, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := ring.All(civibus.ValidatorKey)[1].Seed()
	if err != nil {
		t.Fatal(err)
	}
	again, err := mldsa.NewPrivateKey(civibus.MLDSA65, secret)
	if err != nil || !again.Public().Equal(made.Key().Key) {
		t.Errorf("the seed is another key's: %v", err)
	}
	if signer, err := ring.For(civibus.ValidatorKey, all); err != nil || signer.Key().ID != made.Key().ID || len(ring.AllSecond(civibus.ValidatorKey)) != 0 {
		t.Errorf("the newest validator key is %v (%v)", signer, err)
	}
	for _, k := range []*keys.Key{taken, generate(t, civibus.SealKey, civibus.MLDSA65)} {
		if _, err := k.Seed(); err == nil {
			t.Errorf("the seed of %s was handed out", k)
		}
	}
	for _, other := range []any{nil, "not a key", ed25519.PrivateKey{1}} {
		if _, err := ring.Take(civibus.LogKey, other, now); err == nil {
			t.Errorf("%T was taken as a key", other)
		}
	}
}

func TestPossession(t *testing.T) {
	for _, algorithm := range both {
		k := generate(t, civibus.TransportKey, algorithm)
		proof, err := k.ProvePossession(context.Background(), "demo-1", member)
		if err != nil {
			t.Fatal(err)
		}
		other := civibus.MemberID{Instance: "DEMO", Class: "GOV", Code: "2"}
		for _, c := range []struct {
			chain   string
			member  civibus.MemberID
			purpose civibus.Purpose
			want    bool
		}{
			{"demo-1", member, civibus.TransportKey, true},
			{"demo-2", member, civibus.TransportKey, false},
			{"demo-1", other, civibus.TransportKey, false},
			{"demo-1", member, civibus.SealKey, false},
		} {
			if got := keys.VerifyPossession(k.Key(), c.chain, c.member, c.purpose, proof); got != c.want {
				t.Errorf("%+v: %v", c, got)
			}
		}
	}
	k := generate(t, civibus.SealKey, civibus.Ed25519)
	want := "civibus/key-possession/v1\ndemo-1\nDEMO/GOV/1000\n1\n" + string(k.Key().SPKI)
	if got := keys.PossessionMessage("demo-1", member, civibus.SealKey, k.Key().SPKI); string(got) != want {
		t.Errorf("message %q", got)
	}
	if _, err := k.ProvePossession(context.Background(), "", member); err == nil {
		t.Error("a proof without a ledger was made")
	}
}

func TestCertificate(t *testing.T) {
	for _, algorithm := range both {
		k := generate(t, civibus.TransportKey, algorithm)
		der, err := keys.Certificate(k, member, []string{"gw.example:443", "10.0.0.1:8443", "[::1]:1", "plain.example"}, now)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := certificate.CheckSignature(certificate.SignatureAlgorithm, certificate.RawTBSCertificate, certificate.Signature); err != nil {
			t.Error(err)
		}
		if fmt.Sprint(certificate.DNSNames, certificate.IPAddresses) != "[gw.example plain.example] [10.0.0.1 ::1]" {
			t.Errorf("names %v %v", certificate.DNSNames, certificate.IPAddresses)
		}
		if certificate.NotAfter.Before(now.AddDate(10, 0, 0)) || certificate.NotBefore.After(now) || certificate.IsCA {
			t.Errorf("valid %s to %s, CA %v", certificate.NotBefore, certificate.NotAfter, certificate.IsCA)
		}
		other := generate(t, civibus.TransportKey, algorithm)
		if _, err := keys.TLSCertificate(other, der); err == nil {
			t.Error("a certificate of another key was taken")
		}
	}
	if _, err := keys.Certificate(generate(t, civibus.SealKey, civibus.Ed25519), member, nil, now); err == nil {
		t.Error("a transport certificate over a seal key was made")
	}
}

// The fast implementation signs exactly as crypto/ed25519: RFC 8032 leaves no choice.
func TestEd25519SignaturesAreThoseOfTheStandardLibrary(t *testing.T) {
	k, err := keys.Generate(civibus.SealKey, civibus.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	private, err := k.Ed25519()
	if err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 300)
	for n := range message {
		message[n] = byte(n)
		got, err := k.Sign(t.Context(), message[:n])
		if err != nil {
			t.Fatal(err)
		}
		if want := ed25519.Sign(private, message[:n]); !bytes.Equal(got, want) {
			t.Fatalf("signature of %d bytes is %x, want %x", n, got, want)
		}
	}
}
