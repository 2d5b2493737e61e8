package keys

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"

	"github.com/civibus/civibus"
)

// certificateLife is how long a transport certificate says it is valid. The
// registry, not the certificate, says how long a key is in force.
const certificateLife = 20 * 365 * 24 * time.Hour

// Certificate makes the self-signed transport certificate of key. The subject
// is the member; addresses (host or host:port, from the registry) become the
// subject alternative names, for tools that show or check them: peers pin the
// key and look at nothing else.
func Certificate(key *Key, member civibus.MemberID, addresses []string, now time.Time) ([]byte, error) {
	if key.purpose != civibus.TransportKey {
		return nil, fmt.Errorf("certificate: the key is a %s key, the rule is a transport key", key.purpose)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               subject(member),
		NotBefore:             now.Add(-time.Hour).UTC(), // for peers whose clock is behind
		NotAfter:              now.Add(certificateLife).UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, address := range addresses {
		host := address
		if h, _, err := net.SplitHostPort(address); err == nil {
			host = h
		}
		if ip := net.ParseIP(strings.Trim(host, "[]")); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if host != "" {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.signer.Public(), key.signer)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", member, err)
	}
	return der, nil
}

// subject keeps to X.520's limit of 64 characters for a common name.
func subject(member civibus.MemberID) pkix.Name {
	cn := member.String()
	if len(cn) > 64 {
		cn = cn[:64]
	}
	return pkix.Name{CommonName: cn}
}

// TLSCertificate joins a transport key and its certificate for crypto/tls.
func TLSCertificate(key *Key, der []byte) (*tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("transport certificate: %w", err)
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, key.public.SPKI) {
		return nil, fmt.Errorf("transport certificate: it is over another key than %s", key)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key.signer, Leaf: leaf}, nil
}

// WriteCertificate creates a PEM file with the certificate. It never overwrites.
func WriteCertificate(path string, der []byte) error {
	return create(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// OpenCertificate reads the first certificate of a PEM file.
func OpenCertificate(path string) ([]byte, error) {
	raw, err := readCertificates(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("open certificate %s: %w", path, errors.New("the rule is a PEM block \"CERTIFICATE\""))
	}
	return block.Bytes, nil
}
