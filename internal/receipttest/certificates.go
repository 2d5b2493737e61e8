package receipttest

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"time"

	"github.com/civibus/civibus/evidence/proof"
)

// rsaKey is test-key-rsa of RFC 9421 Appendix B.1.1.
const rsaKey = `-----BEGIN RSA PRIVATE KEY-----
MIIEqAIBAAKCAQEAhAKYdtoeoy8zcAcR874L8cnZxKzAGwd7v36APp7Pv6Q2jdsP
BRrwWEBnez6d0UDKDwGbc6nxfEXAy5mbhgajzrw3MOEt8uA5txSKobBpKDeBLOsd
JKFqMGmXCQvEG7YemcxDTRPxAleIAgYYRjTSd/QBwVW9OwNFhekro3RtlinV0a75
jfZgkne/YiktSvLG34lw2zqXBDTC5NHROUqGTlML4PlNZS5Ri2U4aCNx2rUPRcKI
lE0PuKxI4T+HIaFpv8+rdV6eUgOrB2xeI1dSFFn/nnv5OoZJEIB+VmuKn3DCUcCZ
SFlQPSXSfBDiUGhwOw76WuSSsf1D4b/vLoJ10wIDAQABAoIBAG/JZuSWdoVHbi56
vjgCgkjg3lkO1KrO3nrdm6nrgA9P9qaPjxuKoWaKO1cBQlE1pSWp/cKncYgD5WxE
CpAnRUXG2pG4zdkzCYzAh1i+c34L6oZoHsirK6oNcEnHveydfzJL5934egm6p8DW
+m1RQ70yUt4uRc0YSor+q1LGJvGQHReF0WmJBZHrhz5e63Pq7lE0gIwuBqL8SMaA
yRXtK+JGxZpImTq+NHvEWWCu09SCq0r838ceQI55SvzmTkwqtC+8AT2zFviMZkKR
Qo6SPsrqItxZWRty2izawTF0Bf5S2VAx7O+6t3wBsQ1sLptoSgX3QblELY5asI0J
YFz7LJECgYkAsqeUJmqXE3LP8tYoIjMIAKiTm9o6psPlc8CrLI9CH0UbuaA2JCOM
cCNq8SyYbTqgnWlB9ZfcAm/cFpA8tYci9m5vYK8HNxQr+8FS3Qo8N9RJ8d0U5Csw
DzMYfRghAfUGwmlWj5hp1pQzAuhwbOXFtxKHVsMPhz1IBtF9Y8jvgqgYHLbmyiu1
mwJ5AL0pYF0G7x81prlARURwHo0Yf52kEw1dxpx+JXER7hQRWQki5/NsUEtv+8RT
qn2m6qte5DXLyn83b1qRscSdnCCwKtKWUug5q2ZbwVOCJCtmRwmnP131lWRYfj67
B/xJ1ZA6X3GEf4sNReNAtaucPEelgR2nsN0gKQKBiGoqHWbK1qYvBxX2X3kbPDkv
9C+celgZd2PW7aGYLCHq7nPbmfDV0yHcWjOhXZ8jRMjmANVR/eLQ2EfsRLdW69bn
f3ZD7JS1fwGnO3exGmHO3HZG+6AvberKYVYNHahNFEw5TsAcQWDLRpkGybBcxqZo
81YCqlqidwfeO5YtlO7etx1xLyqa2NsCeG9A86UjG+aeNnXEIDk1PDK+EuiThIUa
/2IxKzJKWl1BKr2d4xAfR0ZnEYuRrbeDQYgTImOlfW6/GuYIxKYgEKCFHFqJATAG
IxHrq1PDOiSwXd2GmVVYyEmhZnbcp8CxaEMQoevxAta0ssMK3w6UsDtvUvYvF22m
qQKBiD5GwESzsFPy3Ga0MvZpn3D6EJQLgsnrtUPZx+z2Ep2x0xc5orneB5fGyF1P
WtP+fG5Q6Dpdz3LRfm+KwBCWFKQjg7uTxcjerhBWEYPmEMKYwTJF5PBG9/ddvHLQ
EQeNC8fHGg4UXU8mhHnSBt3EA10qQJfRDs15M38eG2cYwB1PZpDHScDnDA0=
-----END RSA PRIVATE KEY-----
`

// authority is a name with a key that issues certificates.
type authority struct {
	name string
	key  crypto.Signer
}

func newAuthority(name, key string) authority { return authority{name, NewKey(key).private} }

func rsaAuthority(name string) authority {
	block, _ := pem.Decode([]byte(rsaKey))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	must(err)
	return authority{name, key}
}

// certified is what a certificate is to say.
type certified struct {
	public    crypto.PublicKey
	name      string
	ca        bool
	qualified bool
	from, to  time.Time
}

// issue makes a certificate; all the signature algorithms in use here are
// deterministic.
func (a authority) issue(c certified) []byte {
	if c.from.IsZero() {
		c.from, c.to = time.Unix(Created-86400, 0), time.Unix(Created+365*86400, 0)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(c.name)) + 1000), Subject: pkix.Name{CommonName: c.name, Organization: []string{"Plainly fictitious"}},
		NotBefore: c.from, NotAfter: c.to, BasicConstraintsValid: true, IsCA: c.ca, KeyUsage: x509.KeyUsageContentCommitment,
	}
	if c.ca {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	if c.qualified {
		value, err := asn1.Marshal([]struct{ ID asn1.ObjectIdentifier }{{asn1.ObjectIdentifier{0, 4, 0, 1862, 1, 1}}})
		must(err)
		template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 3}, Value: value}}
	}
	der, err := x509.CreateCertificate(nil, template, &x509.Certificate{Subject: pkix.Name{CommonName: a.name, Organization: []string{"Plainly fictitious"}}}, c.public, a.key)
	must(err)
	return der
}

// chainFor is a seal key's certificate and that of the authority that issued it,
// issued by a root that is not in it, whose certificate comes in PEM.
func chainFor(seal string, issuing authority, change func(*certified)) (chain proof.Chain, root string) {
	top := newAuthority("Example Root", "p256/root")
	leaf := certified{public: NewKey(seal).Key, name: "Seal of " + seal, qualified: true}
	if change != nil {
		change(&leaf)
	}
	ca := certified{public: issuing.key.Public(), name: issuing.name, ca: true}
	return proof.Chain{issuing.issue(leaf), top.issue(ca)}, anchor(top)
}

// anchor is an authority's own certificate in PEM.
func anchor(a authority) string {
	self := a.issue(certified{public: a.key.Public(), name: a.name, ca: true})
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: self}))
}
