package keys_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
)

func all(civibus.KeyID) bool { return true }

func TestRingGivesTheNewestKeyInForce(t *testing.T) {
	ring, err := keys.CreateRing(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.For(civibus.SealKey, all); err == nil || !strings.Contains(err.Error(), "no seal key") {
		t.Errorf("empty ring: %v", err)
	}
	var made []civibus.KeyID
	for i := range 3 {
		k, err := ring.Create(civibus.SealKey, both[i%2], now.Add(time.Duration(i)))
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, k.Key().ID)
	}
	if got := ring.All(civibus.SealKey); len(got) != 3 || got[0].Key().ID != made[0] || got[2].Key().ID != made[2] {
		t.Errorf("order %v, want %v", got, made)
	}
	// The view moves on: the second key comes into force, then the first ends, then all do.
	inForce := map[civibus.KeyID]bool{made[0]: true}
	for _, c := range []struct {
		change civibus.KeyID
		to     bool
		want   int
	}{{made[0], true, 0}, {made[1], true, 1}, {made[0], false, 1}, {made[2], true, 2}, {made[2], false, 1}} {
		inForce[c.change] = c.to
		signer, err := ring.For(civibus.SealKey, func(id civibus.KeyID) bool { return inForce[id] })
		if err != nil || signer.Key().ID != made[c.want] {
			t.Errorf("%+v: signer %v, error %v", c, signer, err)
		}
	}
	clear(inForce)
	if _, err := ring.For(civibus.SealKey, func(civibus.KeyID) bool { return false }); err == nil || !strings.Contains(err.Error(), made[2].String()) {
		t.Errorf("none in force: %v", err)
	}
}

func TestReloadIsAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	ring, err := keys.CreateRing(dir)
	if err != nil {
		t.Fatal(err)
	}
	first, err := ring.Create(civibus.SealKey, civibus.Ed25519, now)
	if err != nil {
		t.Fatal(err)
	}
	second := generate(t, civibus.SealKey, civibus.Ed25519)
	path := filepath.Join(dir, second.FileName(now.Add(time.Hour)))
	if err := second.Write(path); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"notes.txt", ".hidden.pem"} { // left alone
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	newest := func() civibus.KeyID {
		s, err := ring.For(civibus.SealKey, all)
		if err != nil {
			t.Fatal(err)
		}
		return s.Key().ID
	}
	if newest() != first.Key().ID {
		t.Error("the ring changed without a reload")
	}
	for _, name := range []string{"seal-bad.pem", "log-bad.pem"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err = ring.Reload()
	if err == nil || !strings.Contains(err.Error(), "seal-bad.pem") || !strings.Contains(err.Error(), "log-bad.pem") {
		t.Errorf("reload with two bad files: %v", err)
	}
	if newest() != first.Key().ID {
		t.Error("a failed reload changed the ring")
	}
	_ = os.Remove(filepath.Join(dir, "seal-bad.pem"))
	_ = os.Remove(filepath.Join(dir, "log-bad.pem"))
	if err := ring.Reload(); err != nil || newest() != second.Key().ID {
		t.Errorf("reload: %v", err)
	}
	text, _ := os.ReadFile(path)
	if err := os.WriteFile(filepath.Join(dir, "admin-copy.pem"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ring.Reload(); err == nil || !strings.Contains(err.Error(), "the same key") {
		t.Errorf("one key for two purposes: %v", err)
	}
}

func TestRingTLS(t *testing.T) {
	dir := t.TempDir()
	ring, err := keys.CreateRing(dir)
	if err != nil {
		t.Fatal(err)
	}
	k, der, err := ring.CreateTransport(member, []string{"gw.example:443"}, civibus.Ed25519, now)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := ring.TLS(all)
	if err != nil || !bytes.Equal(certificate.Certificate[0], der) {
		t.Fatalf("error %v", err)
	}
	// It serves: a handshake over a pipe.
	pool := x509.NewCertPool()
	pool.AddCert(certificate.Leaf)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*certificate}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
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
		t.Fatal(err)
	}
	_ = c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	crt := filepath.Join(dir, strings.TrimSuffix(k.FileName(now), ".pem")+".crt")
	if info, err := os.Stat(crt); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v %v", info, err)
	}
	// Another key's certificate in its place is found out; a missing one too.
	_, otherDER, err := ring.CreateTransport(member, nil, civibus.Ed25519, now.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(crt)
	if err := keys.WriteCertificate(crt, otherDER); err != nil {
		t.Fatal(err)
	}
	if err := ring.Reload(); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("wrong certificate: %v", err)
	}
	_ = os.Remove(crt)
	if err := ring.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.TLS(all); err == nil || !strings.Contains(err.Error(), ".crt") {
		t.Errorf("missing certificate: %v", err)
	}
}

func TestSecondSignaturesAreAskedForApart(t *testing.T) {
	ring, err := keys.CreateRing(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Second(civibus.SealKey, all); err == nil || !strings.Contains(err.Error(), "no seal key") {
		t.Errorf("no ML-DSA key: %v", err)
	}
	old, err := ring.Create(civibus.SealKey, civibus.Ed25519, now)
	if err != nil {
		t.Fatal(err)
	}
	var second *keys.Key
	for i, algorithm := range []civibus.Algorithm{civibus.MLDSA87, civibus.MLDSA44, civibus.MLDSA65} {
		if second, err = ring.Create(civibus.SealKey, algorithm, now.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if signer, err := ring.For(civibus.SealKey, all); err != nil || signer.Key().ID != old.Key().ID {
		t.Errorf("first signature by %v, error %v", signer, err)
	}
	signer, err := ring.Second(civibus.SealKey, all)
	if err != nil || signer.Key().ID != second.Key().ID {
		t.Fatalf("second signature by %v, error %v", signer, err)
	}
	if signature, err := signer.Sign(t.Context(), []byte("m")); err != nil || !signer.Key().Verify([]byte("m"), signature) {
		t.Errorf("second signature: %v", err)
	}
	if _, err := ring.Second(civibus.SealKey, func(civibus.KeyID) bool { return false }); err == nil || !strings.Contains(err.Error(), "none of the 3") {
		t.Errorf("none in force: %v", err)
	}
	if n, m := len(ring.All(civibus.SealKey)), len(ring.AllSecond(civibus.SealKey)); n != 1 || m != 3 || len(ring.List()) != 4 {
		t.Errorf("%d and %d keys, %d in all", n, m, len(ring.List()))
	}
}

// TestKeysOfEveryPurposeRotateUnderLoad adds and takes away keys of all purposes
// while others sign with what is in force, and no signature fails.
func TestKeysOfEveryPurposeRotateUnderLoad(t *testing.T) {
	dir := t.TempDir()
	ring, err := keys.CreateRing(dir, keys.WithPassphrase(passphrase(t, phraseA)))
	if err != nil {
		t.Fatal(err)
	}
	purposes := []civibus.Purpose{civibus.SealKey, civibus.LogKey, civibus.TransportKey, civibus.ValidatorKey, civibus.AdminKey, civibus.WitnessKey}
	create := func(p civibus.Purpose, when time.Time) *keys.Key {
		if p == civibus.TransportKey {
			k, _, err := ring.CreateTransport(member, []string{"gw.example:443"}, civibus.ECDSAP256SHA256, when)
			if err != nil {
				t.Error(err)
			}
			return k
		}
		k, err := ring.Create(p, civibus.Ed25519, when)
		if err != nil {
			t.Error(err)
		}
		return k
	}
	// The registry: each purpose's key in force.
	var inForce [7]atomic.Value
	for _, p := range purposes {
		inForce[p].Store(create(p, now).Key().ID)
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	for _, p := range purposes {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				view := inForce[p].Load().(civibus.KeyID) // of one request
				signer, err := ring.For(p, func(id civibus.KeyID) bool { return id == view })
				if err != nil {
					t.Errorf("%s: %v", p, err)
					return
				}
				signature, err := signer.Sign(t.Context(), []byte("m"))
				if err != nil || signer.Key().ID != view || !signer.Key().Verify([]byte("m"), signature) {
					t.Errorf("%s: signed with %s, in force is %s, error %v", p, signer.Key().ID, view, err)
				}
				if p == civibus.TransportKey {
					if _, err := ring.TLS(func(id civibus.KeyID) bool { return id == view }); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for round := range 3 {
		for _, p := range purposes {
			k := create(p, now.Add(time.Duration(round+1)*time.Hour))
			inForce[p].Store(k.Key().ID)
		}
	}
	close(stop)
	group.Wait()
	if n := len(ring.List()); n != 4*len(purposes) {
		t.Errorf("%d keys", n)
	}
}

func TestRefresh(t *testing.T) {
	dir := t.TempDir()
	p, path := passphraseFile(t, phraseA)
	ring, err := keys.CreateRing(dir, keys.WithPassphrase(p))
	if err != nil {
		t.Fatal(err)
	}
	refresh := func(when string, want bool, wantErr error) {
		t.Helper()
		if reloaded, err := ring.Refresh(); reloaded != want || !errors.Is(err, wantErr) {
			t.Errorf("%s: reloaded %v, error %v", when, reloaded, err)
		}
		if reloaded, err := ring.Refresh(); reloaded || err != nil {
			t.Errorf("%s, again: reloaded %v, error %v", when, reloaded, err)
		}
	}
	refresh("unchanged", false, nil)
	other, err := keys.OpenRing(dir, keys.WithPassphrase(passphrase(t, phraseA)))
	if err != nil {
		t.Fatal(err)
	}
	added, err := other.Create(civibus.SealKey, civibus.Ed25519, now)
	if err != nil {
		t.Fatal(err)
	}
	refresh("a key was added", true, nil)
	if signer, err := ring.For(civibus.SealKey, all); err != nil || signer.Key().ID != added.Key().ID {
		t.Errorf("after a key was added: %v", err)
	}
	if _, err := keys.ChangePassphrase(dir, passphrase(t, phraseA), passphrase(t, phraseB)); err != nil {
		t.Fatal(err)
	}
	refresh("the passphrase was changed", false, keys.ErrPassphrase)
	if err := os.WriteFile(path, []byte(phraseB), 0o600); err != nil {
		t.Fatal(err)
	}
	refresh("its file was changed", true, nil)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	refresh("the directory is gone", false, fs.ErrNotExist)
	if _, err := ring.For(civibus.SealKey, all); err != nil {
		t.Errorf("the keys are forgotten: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	k, err := keys.Generate(civibus.SealKey, civibus.Ed25519)
	if err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(f.TempDir(), "seal-x.pem")
	if err := k.Write(path); err != nil {
		f.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	f.Add(text)
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(dir, fmt.Sprintf("seal-%d.pem", os.Getpid()))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if k, err := keys.Open(path); err == nil && k.Key().ID.IsZero() {
			t.Error("a key without id was opened")
		}
	})
}
