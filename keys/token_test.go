package keys_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/keys/pkcs11"
	"github.com/civibus/civibus/keys/pkcs11/softhsm"
)

// tokenRing is a ring with a token, with keys of all purposes that may be there.
func tokenRing(t *testing.T, s *softhsm.Token, dir string) *keys.Ring {
	t.Helper()
	ring, err := keys.CreateRing(dir, keys.WithToken(s.Config), keys.WithPassphrase(passphrase(t, phraseA)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ring.Close(); err != nil {
			t.Error(err)
		}
	})
	return ring
}

func TestKeysInAToken(t *testing.T) {
	s := softhsm.New(t)
	dir := t.TempDir()
	ring := tokenRing(t, s, dir)
	for i, algorithm := range both {
		when := now.Add(time.Duration(i) * time.Hour)
		for _, purpose := range []civibus.Purpose{civibus.SealKey, civibus.TransportKey, civibus.AdminKey} {
			k, err := ring.CreateInToken(purpose, algorithm, when)
			if err != nil {
				t.Fatal(err)
			}
			if purpose == civibus.TransportKey {
				if _, err := ring.Certify(k.Key().ID, member, []string{"gw.example:443"}, when); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	made := ids(ring)
	again := tokenRing(t, s, dir)
	if len(made) != 6 || strings.Join(ids(again), " ") != strings.Join(made, " ") {
		t.Fatalf("keys %v, opened again %v", made, ids(again))
	}
	for _, h := range again.List() {
		if h.Custody != keys.InToken || filepath.Ext(h.File) != ".pkcs11" {
			t.Errorf("%s: %s", h.File, h.Custody)
		}
		// Signatures have low s, as the registry wants them: 32 of them show it.
		for range 32 {
			signature, err := h.Sign(t.Context(), []byte("m"))
			if err != nil || !h.Key.Key().Verify([]byte("m"), signature) {
				t.Fatalf("%s: %v", h.Key, err)
			}
			if h.Key.Key().Algorithm == civibus.ECDSAP256SHA256 && signature[32]&0x80 != 0 {
				t.Fatalf("%s: high s", h.Key)
			}
		}
		if _, err := h.Ed25519(); err == nil {
			t.Errorf("%s is handed out", h.Key)
		}
		if err := h.Write(filepath.Join(t.TempDir(), h.File)); !errors.Is(err, keys.ErrInToken) {
			t.Errorf("%s is written to a file: %v", h.Key, err)
		}
		if _, err := h.ProvePossession(t.Context(), "demo-1", member); err != nil {
			t.Errorf("%s: %v", h.Key, err)
		}
	}
	if w := again.Warnings(now); len(w) != 0 {
		t.Errorf("warnings %+v", w)
	}
	// A seal key in the token gets its certificate as another does.
	seal := again.All(civibus.SealKey)[1]
	if _, err := keys.Request(seal, body); err != nil {
		t.Error(err)
	}
	a := newAuthority(t)
	if _, err := again.Bind(seal.Key().ID, a.issue(t, a.leaf(), seal.Key().Key), now); err != nil || again.Chain(seal.Key().ID) == nil {
		t.Errorf("bind: %v", err)
	}
	handshakes(t, again)
}

// handshakes makes TLS connections with each transport key of the ring.
func handshakes(t *testing.T, ring *keys.Ring) {
	t.Helper()
	for _, k := range ring.All(civibus.TransportKey) {
		certificate, err := ring.TLS(func(id civibus.KeyID) bool { return id == k.Key().ID })
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AddCert(certificate.Leaf)
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS13})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			c, err := l.Accept()
			if err == nil {
				err = c.(*tls.Conn).Handshake()
				_ = c.Close()
			}
			done <- err
		}()
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "gw.example"})
		if err != nil {
			t.Fatalf("%s: %v", k, err)
		}
		_ = c.Close()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", k, err)
		}
		_ = l.Close()
	}
}

func TestAKeyMadeByTheTokensTools(t *testing.T) {
	s := softhsm.New(t)
	m, err := pkcs11.Open(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	uri, _, err := m.Generate(t.Context(), "made elsewhere", civibus.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ring := tokenRing(t, s, dir)
	k, err := ring.TakeFromToken(civibus.AdminKey, uri.String(), now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(t.Context(), []byte("m")); err != nil {
		t.Error(err)
	}
	if _, err := ring.TakeFromToken(civibus.SealKey, uri.String(), now); err == nil || !strings.Contains(err.Error(), "the same key") {
		t.Errorf("one key for two purposes: %v", err)
	}
	_ = os.Remove(filepath.Join(dir, strings.TrimSuffix(k.FileName(now), ".pem")+".pkcs11"))
	_ = os.Remove(filepath.Join(dir, "seal-"+strings.TrimPrefix(strings.TrimSuffix(k.FileName(now), ".pem"), "admin-")+".pkcs11"))
	// A file that is written by hand has only the name; then the token says the public half.
	if err := os.WriteFile(filepath.Join(dir, "seal-by-hand.pkcs11"), []byte("# our seal\n"+uri.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ring.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := ring.All(civibus.SealKey); len(got) != 1 || got[0].Key().ID != k.Key().ID {
		t.Errorf("keys %v", got)
	}
}

func TestTheRingOpensWhileTheTokenIsAway(t *testing.T) {
	s := softhsm.New(t)
	dir := t.TempDir()
	first := tokenRing(t, s, dir)
	if _, err := first.CreateInToken(civibus.SealKey, civibus.ECDSAP256SHA256, now); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Create(civibus.LogKey, civibus.Ed25519, now); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	bringBack := s.TakeAway()
	ring := tokenRing(t, s, dir)
	seal, log := ring.All(civibus.SealKey)[0], ring.All(civibus.LogKey)[0]
	if _, err := seal.Sign(t.Context(), []byte("m")); !errors.Is(err, pkcs11.ErrAway) {
		t.Errorf("away: %v", err)
	}
	if _, err := log.Sign(t.Context(), []byte("m")); err != nil {
		t.Errorf("a key in a file waits for the token: %v", err)
	}
	bringBack()
	s.Wait(2 * time.Second)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := seal.Sign(context.Background(), []byte("m")); err != nil {
				t.Errorf("back: %v", err)
			}
		})
	}
	group.Wait()
}

func TestTokenRefusals(t *testing.T) {
	s := softhsm.New(t)
	ring := tokenRing(t, s, t.TempDir())
	for _, c := range []struct {
		purpose   civibus.Purpose
		algorithm civibus.Algorithm
	}{{civibus.LogKey, civibus.Ed25519}, {civibus.ValidatorKey, civibus.Ed25519}, {civibus.WitnessKey, civibus.Ed25519}, {civibus.SealKey, civibus.MLDSA44}} {
		if k, err := ring.CreateInToken(c.purpose, c.algorithm, now); err == nil {
			t.Errorf("%s is in the token", k)
		}
	}
	if _, err := ring.TakeFromToken(civibus.SealKey, "pkcs11:token=civibus%20test;id=%01;type=private", now); !errors.Is(err, pkcs11.ErrNoKey) {
		t.Errorf("a key that is not there: %v", err)
	}
	plain, err := keys.CreateRing(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.CreateInToken(civibus.SealKey, civibus.Ed25519, now); err == nil || !strings.Contains(err.Error(), "no token is configured") {
		t.Errorf("no token: %v", err)
	}
}

// TestReferences reads files that name keys in a token, where no token is.
func TestReferences(t *testing.T) {
	k := generate(t, civibus.SealKey, civibus.Ed25519)
	dir := t.TempDir()
	name := strings.TrimSuffix(k.FileName(now), ".pem") + ".pkcs11"
	if err := os.WriteFile(filepath.Join(dir, name), []byte("pkcs11:token=t;id=%01\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := keys.OpenRing(dir)
	want := "no token is configured"
	if !pkcs11.Built {
		want = "-tags pkcs11"
	}
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
		t.Errorf("error %v, want one with %q", err, want)
	}
	if !pkcs11.Built {
		if _, err := keys.OpenRing(t.TempDir(), keys.WithToken(pkcs11.Config{Module: "m"})); !errors.Is(err, pkcs11.ErrNotBuilt) {
			t.Errorf("a token is configured: %v", err)
		}
		ring, err := keys.OpenRing(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ring.CreateInToken(civibus.SealKey, civibus.Ed25519, now); !errors.Is(err, pkcs11.ErrNotBuilt) {
			t.Errorf("error %v", err)
		}
		return
	}
	s := softhsm.New(t)
	other := "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n"
	const uri = "pkcs11:token=civibus%20test;id=%01;type=private\n"
	for file, c := range map[string]struct{ text, want string }{
		"seal-a.pkcs11":  {"nothing\n", "0 lines"},
		"seal-b.pkcs11":  {uri + uri, "2 lines"},
		"seal-c.pkcs11":  {"pkcs11:token=other;id=%01\n" + other, "configured token"},
		"seal-d.pkcs11":  {uri + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "PUBLIC KEY"},
		"seal-e.pkcs11":  {uri + other + other, "more than one"},
		"log-f.pkcs11":   {uri + other, "seal, transport or admin"},
		"house-g.pkcs11": {uri + other, "PURPOSE-ANYTHING.pkcs11"},
		name:             {uri + other, "damaged or exchanged"},
		"seal-h.pkcs11":  {"pkcs11:token=civibus%20test;id=%01?pin-value=4711\n" + other, "configured elsewhere"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := keys.OpenRing(dir, keys.WithToken(s.Config))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "4711") {
			t.Errorf("%s: error %v, want one with %q", file, err, c.want)
		}
	}
}
