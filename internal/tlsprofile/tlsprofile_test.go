package tlsprofile_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/internal/tlsprofile"
)

// connect makes a connection between a server of the profile and a client, and
// says what was agreed.
func connect(t *testing.T, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	server := tlsprofile.New()
	server.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Server(a, server).Handshake(); a.Close() }()
	client.InsecureSkipVerify = true
	c := tls.Client(b, client)
	err = c.Handshake()
	if served := <-done; err == nil {
		err = served
	}
	return c.ConnectionState(), err
}

// TestProfile: what both sides agree on, and who is turned away.
func TestProfile(t *testing.T) {
	state, err := connect(t, tlsprofile.New())
	if err != nil || state.Version != tls.VersionTLS13 || state.CurveID != tls.X25519MLKEM768 || state.NegotiatedProtocol != "http/1.1" {
		t.Errorf("agreed on version %x, group %v, protocol %q: %v", state.Version, state.CurveID, state.NegotiatedProtocol, err)
	}
	for name, c := range map[string]*tls.Config{
		"X25519": {CurvePreferences: []tls.CurveID{tls.X25519}}, "P-256": {CurvePreferences: []tls.CurveID{tls.CurveP256}},
	} {
		if state, err := connect(t, c); err != nil || state.CurveID != c.CurvePreferences[0] {
			t.Errorf("%s: group %v, %v", name, state.CurveID, err)
		}
	}
	for name, c := range map[string]*tls.Config{
		"TLS 1.2": {MaxVersion: tls.VersionTLS12}, "P-521": {CurvePreferences: []tls.CurveID{tls.CurveP521}}, "P-384": {CurvePreferences: []tls.CurveID{tls.CurveP384}},
		"another protocol": {NextProtos: []string{"h2"}},
	} {
		if _, err := connect(t, c); err == nil {
			t.Errorf("%s is served", name)
		}
	}
}

// TestLoadPair: a key that others may read is refused, with what to do.
func TestLoadPair(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, secret := filepath.Join(t.TempDir(), "c.pem"), filepath.Join(t.TempDir(), "k.pem")
	for name, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: der}, secret: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if pair, err := tlsprofile.LoadPair(certificate, secret); err != nil || len(pair.Certificate) != 1 {
		t.Errorf("%d certificates, %v", len(pair.Certificate), err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o644} {
		if err := os.Chmod(secret, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := tlsprofile.LoadPair(certificate, secret); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

// TestNoResumption: a client that keeps sessions gets none.
func TestNoResumption(t *testing.T) {
	if !tlsprofile.New().SessionTicketsDisabled {
		t.Error("servers give out tickets")
	}
	if tlsprofile.New().ClientSessionCache != nil {
		t.Error("clients keep sessions")
	}
}
