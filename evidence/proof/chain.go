package proof

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/civibus/civibus/evidence/evidencepb"
)

// The outcomes of findings.
const (
	holds      = "holds"
	fails      = "fails"
	notChecked = "not checked"
	claimed    = "claimed"
)

// checkCertificates is step 8.14: what the file holds of certificates over the
// keys of the seals. Only a policy makes failures of it.
func (e *entry) checkCertificates() (string, *Error) {
	found := 0
	for _, s := range []struct {
		name string
		seal *evidencepb.Seal
		base *sealBase
		key  *keyFact
	}{{"request", e.record.Request, e.request, e.requestKey}, {"response", e.record.Response, e.response, e.responseKey}} {
		if s.seal == nil {
			continue
		}
		chain := e.v.receipt.chain(s.seal.Chain)
		if chain == nil {
			if e.v.policy.require[requireChains] {
				return "", fail(ChainMissing, "there are no certificates of the %s's key %s", s.name, s.key.ID)
			}
			continue
		}
		found++
		c, failure := examine(chain, s.key, created(s.base), e.v.policy.anchors)
		c.Seal = e.sideName() + " " + s.name
		e.certificates = append(e.certificates, c)
		if failure != "" && e.v.policy.require[requireChains] {
			return "", fail(failure, "of the %s's key %s", s.name, s.key.ID)
		}
	}
	return fmt.Sprintf("%d chains", found), nil
}

// chain finds a chain by its digest.
func (r *Receipt) chain(digest []byte) Chain {
	for _, c := range r.Chains {
		if d := c.Digest(); bytes.Equal(d[:], digest) {
			return c
		}
	}
	return nil
}

// examine says what is to be found of a chain for a key at a time, and the failure
// that a policy which requires chains makes of it.
func examine(chain Chain, key *keyFact, at time.Time, anchors []*x509.Certificate) (out SealChain, failure Failure) {
	list := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			out.Findings = []Finding{{"bound", fails, ": certificate " + fmt.Sprint(i+1) + " cannot be read"}}
			return out, ChainOfAnotherKey
		}
		list[i] = c
	}
	leaf := list[0]
	out.Subject, out.Issuer, out.NotBefore, out.NotAfter = leaf.Subject.String(), leaf.Issuer.String(), leaf.NotBefore, leaf.NotAfter
	say := func(statement, outcome, detail string, f Failure) {
		out.Findings = append(out.Findings, Finding{statement, outcome, detail})
		if failure == "" && outcome != holds {
			failure = f
		}
	}
	outcome := func(ok bool) string {
		if ok {
			return holds
		}
		return fails
	}
	// 1. What can be checked offline.
	say("bound", outcome(bytes.Equal(leaf.RawSubjectPublicKeyInfo, key.SPKI)), "", ChainOfAnotherKey)
	late := slices.ContainsFunc(list, func(c *x509.Certificate) bool { return at.Before(c.NotBefore) || at.After(c.NotAfter) })
	say("in_time", outcome(!late), "", ChainNotInTime)
	say("signed", signed(list), "", ChainNotSigned)
	say("trusted", trusted(list, anchors), "", ChainNotTrusted)
	// 2. What cannot, and what the certificate says of itself.
	say("not_revoked", notChecked, "", "")
	if claimsQualified(leaf) {
		say("qualified", claimed, ", which its issuer wrote and nobody checked here", "")
	}
	return out, failure
}

// signed says whether each certificate is signed by the next.
func signed(list []*x509.Certificate) string {
	for i, c := range list[:len(list)-1] {
		if outcome := issued(c, list[i+1]); outcome != holds {
			return outcome
		}
	}
	return holds
}

// trusted says whether an anchor is in the chain or issued one of it, and all
// below is signed.
func trusted(list, anchors []*x509.Certificate) string {
	if len(anchors) == 0 {
		return notChecked
	}
	for i, c := range list {
		for _, a := range anchors {
			if bytes.Equal(a.Raw, c.Raw) || issued(c, a) == holds {
				return holds
			}
		}
		if i+1 < len(list) && issued(c, list[i+1]) != holds {
			break
		}
	}
	return fails
}

// issued says whether a certificate is signed by another one, of an authority
// with the issuer's name, by one of the algorithms of spec/receipt.md section 7.5.
func issued(c, by *x509.Certificate) string {
	if !bytes.Equal(c.RawIssuer, by.RawSubject) {
		return fails
	}
	switch c.SignatureAlgorithm {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519:
	default:
		return notChecked
	}
	switch k := by.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.Size() < 256 || k.Size() > 1024 {
			return notChecked
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return notChecked
		}
	}
	err := c.CheckSignatureFrom(by)
	if errors.Is(err, x509.ErrUnsupportedAlgorithm) {
		return notChecked
	}
	if err != nil {
		return fails
	}
	return holds
}

// claimsQualified reports whether a certificate says that it was issued as a
// qualified one: QcCompliance, ETSI EN 319 412-5 section 4.2.1.
func claimsQualified(c *x509.Certificate) bool {
	for _, e := range c.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 3}) {
			continue
		}
		var statements []struct {
			ID   asn1.ObjectIdentifier
			Info asn1.RawValue `asn1:"optional"`
		}
		if rest, err := asn1.Unmarshal(e.Value, &statements); err != nil || len(rest) > 0 {
			return false
		}
		for _, s := range statements {
			if s.ID.Equal(asn1.ObjectIdentifier{0, 4, 0, 1862, 1, 1}) {
				return true
			}
		}
	}
	return false
}
