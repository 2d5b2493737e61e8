package keys_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
