package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// startCaddy is the yardstick: two plain Caddy hops with mutual TLS and
// HTTP/1.1 keep-alive between them, nothing sealed, nothing kept.
func startCaddy(ctx context.Context, b *bench) (*variant, error) {
	dir := filepath.Join(b.dir, "caddy")
	if err := writeCertificates(dir); err != nil {
		return nil, err
	}
	front, err := freePort()
	if err != nil {
		return nil, err
	}
	back, err := freePort()
	if err != nil {
		return nil, err
	}
	global := "{\n\tadmin off\n\tauto_https off\n\tpersist_config off\n\tlog {\n\t\tlevel ERROR\n\t}\n\tservers {\n\t\tprotocols h1\n\t}\n}\n"
	consumer := global + fmt.Sprintf(`http://127.0.0.1:%d {
	bind 127.0.0.1
	reverse_proxy https://127.0.0.1:%d {
		header_up Host hop.invalid
		transport http {
			versions 1.1
			keepalive_idle_conns_per_host 256
			tls_server_name hop.invalid
			tls_client_auth %s %s
			tls_trust_pool file %s
		}
	}
}
`, front, back, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem"))
	provider := global + fmt.Sprintf(`https://:%d {
	bind 127.0.0.1
	tls %s %s {
		protocols tls1.3
		client_auth {
			mode require_and_verify
			trust_pool file %s
		}
	}
	reverse_proxy %s {
		transport http {
			versions 1.1
			keepalive_idle_conns_per_host 256
		}
	}
}
`, back, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem"), b.upstream)
	v := &variant{name: "caddy", call: call{address: fmt.Sprintf("127.0.0.1:%d", front), target: "/r1/bench", body: payload("question")}}
	for name, text := range map[string]string{"provider": provider, "consumer": consumer} {
		file := filepath.Join(dir, name+".caddyfile")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		p, err := start(ctx, b.log, b.caddy, "run", "--adapter", "caddyfile", "--config", file)
		if err != nil {
			return nil, err
		}
		v.hops = append(v.hops, p)
	}
	for _, port := range []int{front, back} {
		if err := waitListening(ctx, fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
			v.stop()
			return nil, err
		}
	}
	return v, nil
}

// writeCertificates makes one self-signed P-256 certificate that serves as
// server certificate, client certificate and trust anchor of the bench.
func writeCertificates(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "hop.invalid"},
		DNSNames:              []string{"hop.invalid"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}
