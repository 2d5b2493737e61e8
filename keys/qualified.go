package keys

import (
	"crypto/x509"
	"encoding/asn1"
	"strings"
)

// The statements of RFC 3739 section 3.2.6 and ETSI EN 319 412-5 section 4.
var (
	oidQCStatements = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 3}
	oidQCCompliance = asn1.ObjectIdentifier{0, 4, 0, 1862, 1, 1}
	oidQCSSCD       = asn1.ObjectIdentifier{0, 4, 0, 1862, 1, 4}
	oidQCType       = asn1.ObjectIdentifier{0, 4, 0, 1862, 1, 6}
	oidQCTypeSeal   = asn1.ObjectIdentifier{0, 4, 0, 1862, 1, 6, 2}
	oidQCLaw        = asn1.ObjectIdentifier{0, 4, 0, 1862, 1, 7}
)

// QCStatements is what a certificate claims of itself by eIDAS's statements.
type QCStatements struct {
	Compliance bool     // QcCompliance: issued as a qualified certificate
	Seal       bool     // QcType: for electronic seals
	SSCD       bool     // QcSSCD: the private key is in a qualified device
	Countries  []string // QcCClegislation: under whose law; empty with Compliance: the European Union's
}

type qcStatement struct {
	ID   asn1.ObjectIdentifier
	Info asn1.RawValue `asn1:"optional"`
}

// ParseQCStatements reads the statements of a certificate. Without any it
// returns the zero value; statements that cannot be read claim nothing.
func ParseQCStatements(certificate *x509.Certificate) QCStatements {
	var out QCStatements
	for _, extension := range certificate.Extensions {
		if !extension.Id.Equal(oidQCStatements) {
			continue
		}
		var statements []qcStatement
		if rest, err := asn1.Unmarshal(extension.Value, &statements); err != nil || len(rest) > 0 {
			return QCStatements{}
		}
		for _, s := range statements {
			switch {
			case s.ID.Equal(oidQCCompliance):
				out.Compliance = true
			case s.ID.Equal(oidQCSSCD):
				out.SSCD = true
			case s.ID.Equal(oidQCType):
				var types []asn1.ObjectIdentifier
				if _, err := asn1.Unmarshal(s.Info.FullBytes, &types); err == nil {
					for _, t := range types {
						out.Seal = out.Seal || t.Equal(oidQCTypeSeal)
					}
				}
			case s.ID.Equal(oidQCLaw):
				var countries []string
				if _, err := asn1.Unmarshal(s.Info.FullBytes, &countries); err == nil {
					out.Countries = append(out.Countries, countries...)
				}
			}
		}
	}
	return out
}

// claims are the findings about the statements.
func claims(certificate *x509.Certificate) []Finding {
	s := ParseQCStatements(certificate)
	claim := func(statement string, made bool, detail string) Finding {
		if made {
			return Finding{statement, Claimed, detail}
		}
		return Finding{statement, NotClaimed, ""}
	}
	law := "QcCompliance, under the law of the European Union"
	if len(s.Countries) > 0 {
		law = "QcCompliance, under the law of " + strings.Join(s.Countries, ", ")
	}
	return []Finding{
		claim("it was issued as a qualified certificate", s.Compliance, law),
		claim("it is for electronic seals", s.Seal, "QcType eseal"),
		claim("its private key is in a qualified device", s.SSCD, "QcSSCD"),
	}
}
