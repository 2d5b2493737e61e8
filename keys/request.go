package keys

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/civibus/civibus"
)

// Subject is the body as an authority writes it into the certificate of a seal
// key. ETSI EN 319 412-3 (section 4.2.1) wants all four of a legal person.
type Subject struct {
	Country        string // two letters, ISO 3166
	Organization   string // the official name
	OrganizationID string // semantics identifier of EN 319 412-1, e.g. VATEE-12345678 or NTREE-70000000
	CommonName     string // the name that people know the body by; empty: the official one
}

// oidOrganizationIdentifier is that of X.520.
var oidOrganizationIdentifier = asn1.ObjectIdentifier{2, 5, 4, 97}

func (s Subject) name() (pkix.Name, error) {
	if s.CommonName == "" {
		s.CommonName = s.Organization
	}
	switch {
	case len(s.Country) != 2 || s.Country[0] < 'A' || s.Country[0] > 'Z' || s.Country[1] < 'A' || s.Country[1] > 'Z':
		return pkix.Name{}, fmt.Errorf("country %q, the rule is two capital letters (ISO 3166)", s.Country)
	case s.Organization == "":
		return pkix.Name{}, errors.New("the organization's name is empty")
	case s.OrganizationID == "":
		return pkix.Name{}, errors.New("the organization's identifier is empty, the rule is that of EN 319 412-1, for instance VATEE-12345678 or NTREE-70000000")
	case len(s.OrganizationID) > 64 || len([]rune(s.CommonName)) > 64 || len([]rune(s.Organization)) > 64:
		return pkix.Name{}, errors.New("a name is longer than X.520's 64 characters")
	}
	return pkix.Name{
		Country: []string{s.Country}, Organization: []string{s.Organization}, CommonName: s.CommonName,
		ExtraNames: []pkix.AttributeTypeAndValue{{Type: oidOrganizationIdentifier, Value: s.OrganizationID}},
	}, nil
}

// Request makes the certificate signing request of a seal key (PKCS#10, PEM),
// for an authority that issues certificates for electronic seals.
func Request(key *Key, subject Subject) ([]byte, error) {
	if key.purpose != civibus.SealKey || !first(key) {
		return nil, fmt.Errorf("certificate request: %s, the rule is an %s or %s seal key", key, civibus.Ed25519, civibus.ECDSAP256SHA256)
	}
	name, err := subject.name()
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: name}, key.signer)
	if err != nil {
		return nil, fmt.Errorf("certificate request for %s: %w", key, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}
