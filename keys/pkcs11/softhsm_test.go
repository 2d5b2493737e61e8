//go:build pkcs11 && cgo

package pkcs11_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys/pkcs11"
	"github.com/civibus/civibus/keys/secret"
)

const (
	label = "civibus test"
	pin   = "471108154711"
)

// softToken makes a token of SoftHSM in a folder of the test's own.
type softToken struct {
	dir, pinFile string
	cfg          pkcs11.Config
	now          atomic.Int64 // Unix seconds
}

func newToken(t *testing.T) *softToken {
	t.Helper()
	module := ""
	for _, path := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"} {
		if _, err := os.Stat(path); err == nil {
			module = path
			break
		}
	}
	util, err := exec.LookPath("softhsm2-util")
	if module == "" || err != nil {
		t.Skip("SoftHSM is not installed (Debian: apt-get install softhsm2)")
	}
	s := &softToken{dir: filepath.Join(t.TempDir(), "tokens"), pinFile: filepath.Join(t.TempDir(), "pin")}
	conf := filepath.Join(t.TempDir(), "softhsm2.conf")
	write(t, conf, "directories.tokendir = "+s.dir+"\nobjectstore.backend = file\nlog.level = ERROR\n")
	write(t, s.pinFile, pin+"\n")
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	if out, err := exec.Command(util, "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", "0815").CombinedOutput(); err != nil {
		t.Fatalf("make token: %v\n%s", err, out)
	}
	s.cfg = pkcs11.Config{Module: module, Token: label, PIN: secret.File(s.pinFile), Sessions: 4, Clock: func() time.Time { return time.Unix(s.now.Load(), 0) }}
	return s
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *softToken) open(t *testing.T) *pkcs11.Module {
	t.Helper()
	m, err := pkcs11.Open(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func generate(t *testing.T, m *pkcs11.Module, algorithm civibus.Algorithm) *pkcs11.Key {
	t.Helper()
	uri, public, err := m.Generate(t.Context(), "seal test", algorithm)
	if err != nil {
		t.Fatal(err)
	}
	named, err := civibus.NewPublicKey(public)
	if err != nil || named.Algorithm != algorithm {
		t.Fatalf("public key %v, error %v", named.Algorithm, err)
	}
	k, err := m.Key(uri, named)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// digest is what Sign takes for a message.
func digest(algorithm civibus.Algorithm, message string) []byte {
	if algorithm == civibus.Ed25519 {
		return []byte(message)
	}
	sum := sha256.Sum256([]byte(message))
	return sum[:]
}

var algorithms = []civibus.Algorithm{civibus.Ed25519, civibus.ECDSAP256SHA256}

func TestKeysAreMadeFoundAndSign(t *testing.T) {
	m := newToken(t).open(t)
	for _, algorithm := range algorithms {
		k := generate(t, m, algorithm)
		public, err := m.Find(t.Context(), k.URI())
		if err != nil {
			t.Fatal(err)
		}
		named, err := civibus.NewPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := k.Sign(t.Context(), digest(algorithm, "message"))
		if err != nil || !named.Verify([]byte("message"), signature) {
			t.Errorf("%s: error %v", algorithm, err)
		}
		switch public.(type) {
		case ed25519.PublicKey, *ecdsa.PublicKey:
		default:
			t.Errorf("a %T", public)
		}
	}
}

func TestRefusals(t *testing.T) {
	s := newToken(t)
	m := s.open(t)
	k := generate(t, m, civibus.ECDSAP256SHA256)
	other := generate(t, m, civibus.ECDSAP256SHA256)
	find := func(u pkcs11.URI) error { _, err := m.Find(t.Context(), u); return err }
	if err := find(pkcs11.URI{Token: label, ID: []byte{1}}); !errors.Is(err, pkcs11.ErrNoKey) {
		t.Errorf("another id: %v", err)
	}
	if err := find(pkcs11.URI{Token: label, ID: k.URI().ID, Object: "transport test"}); !errors.Is(err, pkcs11.ErrNoKey) {
		t.Errorf("another label: %v", err)
	}
	if err := find(pkcs11.URI{Token: label, ID: k.URI().ID, Object: "seal test"}); err != nil {
		t.Errorf("the right label: %v", err)
	}
	if err := find(pkcs11.URI{Token: "other", ID: k.URI().ID}); err == nil || !strings.Contains(err.Error(), label) {
		t.Errorf("another token: %v", err)
	}
	// A reference that joins one key's name and another's public half.
	public, err := m.Find(t.Context(), other.URI())
	if err != nil {
		t.Fatal(err)
	}
	named, err := civibus.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	mixed, err := m.Key(k.URI(), named)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mixed.Sign(t.Context(), digest(civibus.ECDSAP256SHA256, "m")); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("mixed reference: %v", err)
	}
	if _, err := m.Key(k.URI(), civibus.PublicKey{Algorithm: civibus.MLDSA44}); err == nil {
		t.Error("an ML-DSA key in a token")
	}
	if _, _, err := m.Generate(t.Context(), "x", civibus.MLDSA44); err == nil || !strings.Contains(err.Error(), "ecdsa") {
		t.Errorf("generate ML-DSA: %v", err)
	}
	s.cfg.Module = "/nonexistent.so"
	if _, err := pkcs11.Open(s.cfg); err == nil || !strings.Contains(err.Error(), "nonexistent") {
		t.Errorf("missing module: %v", err)
	}
}

func TestManySignAtATime(t *testing.T) {
	m := newToken(t).open(t)
	keys := []*pkcs11.Key{generate(t, m, civibus.Ed25519), generate(t, m, civibus.ECDSAP256SHA256)}
	var group sync.WaitGroup
	for i := range 16 { // four sessions
		group.Go(func() {
			for j := range 8 {
				k := (i + j) % 2
				if _, err := keys[k].Sign(t.Context(), digest(algorithms[k], "message")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

func TestWaitingForASessionEndsWithTheContext(t *testing.T) {
	s := newToken(t)
	s.cfg.Sessions = 1
	m := s.open(t)
	k := generate(t, m, civibus.Ed25519)
	release := m.Occupy()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Sign(ctx, []byte("m")); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("error %v", err)
	}
	release()
	if _, err := k.Sign(t.Context(), []byte("m")); err != nil {
		t.Error(err)
	}
}

// TestTheTokenComesBack takes the token away in the ways that a library shows.
func TestTheTokenComesBack(t *testing.T) {
	s := newToken(t)
	m := s.open(t)
	k := generate(t, m, civibus.Ed25519)
	sign := func() error { _, err := k.Sign(t.Context(), []byte("m")); return err }
	for name, lose := range map[string]func(){"sessions end": m.EndSessions, "library starts anew": m.Finalise} {
		if err := sign(); err != nil {
			t.Fatal(err)
		}
		lose()
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if err := sign(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		group.Wait()
	}
	// The token is pulled out: errors say so, at most one attempt a second is made, and it comes back.
	away := s.dir + "-away"
	if err := os.Rename(s.dir, away); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m.Finalise()
	if err := sign(); !errors.Is(err, pkcs11.ErrAway) || !strings.Contains(err.Error(), label) {
		t.Errorf("away: %v", err)
	}
	if err := os.Remove(s.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, s.dir); err != nil {
		t.Fatal(err)
	}
	if err := sign(); !errors.Is(err, pkcs11.ErrAway) {
		t.Errorf("within the second: %v", err)
	}
	s.now.Add(1)
	if err := sign(); err != nil {
		t.Errorf("back: %v", err)
	}
}

func TestOpenWhileTheTokenIsAway(t *testing.T) {
	s := newToken(t)
	made := s.open(t)
	k := generate(t, made, civibus.ECDSAP256SHA256)
	public, err := made.Find(t.Context(), k.URI())
	if err != nil {
		t.Fatal(err)
	}
	named, err := civibus.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(t.Context(), digest(civibus.ECDSAP256SHA256, "m")); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("a closed module signs: %v", err)
	}
	away := s.dir + "-away"
	if err := os.Rename(s.dir, away); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m := s.open(t)
	k, err = m.Key(k.URI(), named)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(t.Context(), digest(civibus.ECDSAP256SHA256, "m")); !errors.Is(err, pkcs11.ErrAway) {
		t.Errorf("away: %v", err)
	}
	if err := os.Remove(s.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, s.dir); err != nil {
		t.Fatal(err)
	}
	s.now.Add(2)
	if _, err := k.Sign(t.Context(), digest(civibus.ECDSAP256SHA256, "m")); err != nil {
		t.Errorf("back: %v", err)
	}
}

// TestAWrongPINDoesNotLockTheToken signs often with a wrong PIN, which would
// lock a token if each attempt reached it, and then with the right one.
func TestAWrongPINDoesNotLockTheToken(t *testing.T) {
	s := newToken(t)
	made := s.open(t)
	k := generate(t, made, civibus.Ed25519)
	public, err := made.Find(t.Context(), k.URI())
	if err != nil {
		t.Fatal(err)
	}
	named, _ := civibus.NewPublicKey(public)
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, s.pinFile, "99999999")
	m := s.open(t)
	k, err = m.Key(k.URI(), named)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		_, err := k.Sign(t.Context(), []byte("m"))
		if !errors.Is(err, pkcs11.ErrPIN) || strings.Contains(err.Error(), "99999999") || i > 0 && !strings.Contains(err.Error(), "not tried again") {
			t.Errorf("attempt %d: %v", i, err)
		}
		s.now.Add(2)
	}
	write(t, s.pinFile, pin)
	if _, err := k.Sign(t.Context(), []byte("m")); err != nil {
		t.Errorf("right PIN: %v", err)
	}
	if err := os.Chmod(s.pinFile, 0o644); err != nil {
		t.Fatal(err)
	}
	m.Finalise()
	if _, err := k.Sign(t.Context(), []byte("m")); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a PIN file that others may read: %v", err)
	}
}

// TestTheKeyDoesNotLeaveTheToken looks for the private key in the token's files
// and asks for it.
func TestTheKeyDoesNotLeaveTheToken(t *testing.T) {
	m := newToken(t).open(t)
	k := generate(t, m, civibus.ECDSAP256SHA256)
	if value, err := m.PrivateValue(k); err == nil || len(value) > 0 {
		t.Errorf("the token gave %d bytes of the private key", len(value))
	}
	if bytes.Contains([]byte(k.URI().String()), []byte(pin)) {
		t.Error("the reference holds the PIN")
	}
}
