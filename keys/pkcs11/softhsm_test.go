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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys/pkcs11"
	"github.com/civibus/civibus/keys/pkcs11/softhsm"
)

func open(t *testing.T, s *softhsm.Token) *pkcs11.Module {
	t.Helper()
	m, err := pkcs11.Open(s.Config)
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
	m := open(t, softhsm.New(t))
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
	s := softhsm.New(t)
	m := open(t, s)
	k := generate(t, m, civibus.ECDSAP256SHA256)
	other := generate(t, m, civibus.ECDSAP256SHA256)
	find := func(u pkcs11.URI) error { _, err := m.Find(t.Context(), u); return err }
	if err := find(pkcs11.URI{Token: softhsm.Label, ID: []byte{1}}); !errors.Is(err, pkcs11.ErrNoKey) {
		t.Errorf("another id: %v", err)
	}
	if err := find(pkcs11.URI{Token: softhsm.Label, ID: k.URI().ID, Object: "transport test"}); !errors.Is(err, pkcs11.ErrNoKey) {
		t.Errorf("another softhsm.Label: %v", err)
	}
	if err := find(pkcs11.URI{Token: softhsm.Label, ID: k.URI().ID, Object: "seal test"}); err != nil {
		t.Errorf("the right softhsm.Label: %v", err)
	}
	if err := find(pkcs11.URI{Token: "other", ID: k.URI().ID}); err == nil || !strings.Contains(err.Error(), softhsm.Label) {
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
	s.Config.Module = "/nonexistent.so"
	if _, err := pkcs11.Open(s.Config); err == nil || !strings.Contains(err.Error(), "nonexistent") {
		t.Errorf("missing module: %v", err)
	}
}

func TestManySignAtATime(t *testing.T) {
	m := open(t, softhsm.New(t))
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
	s := softhsm.New(t)
	s.Config.Sessions = 1
	m := open(t, s)
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
	s := softhsm.New(t)
	m := open(t, s)
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
	bringBack := s.TakeAway()
	m.Finalise()
	if err := sign(); !errors.Is(err, pkcs11.ErrAway) || !strings.Contains(err.Error(), softhsm.Label) {
		t.Errorf("away: %v", err)
	}
	bringBack()
	if err := sign(); !errors.Is(err, pkcs11.ErrAway) {
		t.Errorf("within the second: %v", err)
	}
	s.Wait(time.Second)
	if err := sign(); err != nil {
		t.Errorf("back: %v", err)
	}
}

func TestOpenWhileTheTokenIsAway(t *testing.T) {
	s := softhsm.New(t)
	made := open(t, s)
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
	bringBack := s.TakeAway()
	m := open(t, s)
	k, err = m.Key(k.URI(), named)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(t.Context(), digest(civibus.ECDSAP256SHA256, "m")); !errors.Is(err, pkcs11.ErrAway) {
		t.Errorf("away: %v", err)
	}
	bringBack()
	s.Wait(2 * time.Second)
	if _, err := k.Sign(t.Context(), digest(civibus.ECDSAP256SHA256, "m")); err != nil {
		t.Errorf("back: %v", err)
	}
}

// TestAWrongPINDoesNotLockTheToken signs often with a wrong PIN, which would
// lock a token if each attempt reached it, and then with the right one.
func TestAWrongPINDoesNotLockTheToken(t *testing.T) {
	s := softhsm.New(t)
	made := open(t, s)
	k := generate(t, made, civibus.Ed25519)
	public, err := made.Find(t.Context(), k.URI())
	if err != nil {
		t.Fatal(err)
	}
	named, _ := civibus.NewPublicKey(public)
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	s.SetPIN("99999999")
	m := open(t, s)
	k, err = m.Key(k.URI(), named)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		_, err := k.Sign(t.Context(), []byte("m"))
		if !errors.Is(err, pkcs11.ErrPIN) || strings.Contains(err.Error(), "99999999") || i > 0 && !strings.Contains(err.Error(), "not tried again") {
			t.Errorf("attempt %d: %v", i, err)
		}
		s.Wait(2 * time.Second)
	}
	s.SetPIN(softhsm.PIN)
	if _, err := k.Sign(t.Context(), []byte("m")); err != nil {
		t.Errorf("right PIN: %v", err)
	}
	if err := os.Chmod(s.PINFile(), 0o644); err != nil {
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
	m := open(t, softhsm.New(t))
	k := generate(t, m, civibus.ECDSAP256SHA256)
	if value, err := m.PrivateValue(k); err == nil || len(value) > 0 {
		t.Errorf("the token gave %d bytes of the private key", len(value))
	}
	if bytes.Contains([]byte(k.URI().String()), []byte(softhsm.PIN)) {
		t.Error("the reference holds the PIN")
	}
}
