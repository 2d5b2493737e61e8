package keys

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/civibus/civibus"
)

// maxChain is the most certificates of a chain.
const maxChain = 8

// Chain is the certificates that an authority issued for a seal key, the key's
// own first, each followed by its issuer's. The registry, not the certificate,
// says whether the key is in force; the chain tells a court who the key's owner is.
type Chain struct{ certificates []*x509.Certificate }

// ParseChain reads a file of PEM blocks "CERTIFICATE". It checks their form only.
func ParseChain(text []byte) (*Chain, error) {
	c := &Chain{}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("certificate chain: PEM block %q, the rule is \"CERTIFICATE\"", printable(block.Type))
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate chain: certificate %d: %w", len(c.certificates)+1, err)
		}
		if c.certificates = append(c.certificates, certificate); len(c.certificates) > maxChain {
			return nil, fmt.Errorf("certificate chain: more than %d certificates", maxChain)
		}
	}
	if len(c.certificates) == 0 {
		return nil, errors.New("certificate chain: it holds no PEM block \"CERTIFICATE\"")
	}
	return c, nil
}

// Leaf returns the key's own certificate.
func (c *Chain) Leaf() *x509.Certificate { return c.certificates[0] }

// DER returns the certificates as records and the registry hold them, the key's
// own first.
func (c *Chain) DER() [][]byte {
	out := make([][]byte, len(c.certificates))
	for i, certificate := range c.certificates {
		out[i] = bytes.Clone(certificate.Raw)
	}
	return out
}

// PEM returns the chain as it is kept.
func (c *Chain) PEM() []byte {
	var out []byte
	for _, certificate := range c.certificates {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})...)
	}
	return out
}

// Outcome is what is known of a statement about a chain.
type Outcome string

// The outcomes. What a certificate claims, its issuer wrote and nobody checked here.
const (
	Holds      Outcome = "holds"
	Fails      Outcome = "fails"
	Claimed    Outcome = "claimed"
	NotClaimed Outcome = "not claimed"
	NotChecked Outcome = "not checked"
)

// Finding is one statement about a chain, for people.
type Finding struct {
	Statement string
	Outcome   Outcome
	Detail    string
}

// Findings says what was checked of the chain for key at now, what its
// certificate claims, and what was not checked. A chain of which nothing fails is
// not a qualified seal certificate by that: who relies on it looks the issuer up
// in the trusted lists.
func (c *Chain) Findings(key civibus.PublicKey, now time.Time) []Finding {
	leaf := c.Leaf()
	checked := func(statement string, err error, detail string) Finding {
		if err != nil {
			return Finding{statement, Fails, err.Error()}
		}
		return Finding{statement, Holds, detail}
	}
	out := []Finding{
		checked("the certificate is over this key", c.over(key), "key id "+key.ID.String()),
		checked("all certificates are in time", c.inTime(now), leaf.NotBefore.Format(time.DateOnly)+" to "+leaf.NotAfter.Format(time.DateOnly)),
		checked("each certificate is signed by the next", c.signed(), fmt.Sprintf("%d certificates", len(c.certificates))),
		checked("the certificate is for signatures", forSignatures(leaf), ""),
	}
	out = append(out, claims(leaf)...)
	return append(out,
		Finding{"the issuer is a trust service that was granted for qualified seals", NotChecked, "issuer: " + leaf.Issuer.String() + "; see the trusted lists"},
		Finding{"no certificate is revoked", NotChecked, ""},
		Finding{"the key is in a qualified device", NotChecked, "a certificate can only claim it"},
	)
}

// check is what Bind refuses a chain for.
func (c *Chain) check(key civibus.PublicKey, now time.Time) error {
	return errors.Join(c.over(key), c.inTime(now), c.signed(), forSignatures(c.Leaf()))
}

func (c *Chain) over(key civibus.PublicKey) error {
	if !bytes.Equal(c.Leaf().RawSubjectPublicKeyInfo, key.SPKI) {
		return fmt.Errorf("the first certificate is over another key than %s; the rule is the key's own certificate first", key.ID)
	}
	return nil
}

func (c *Chain) inTime(now time.Time) error {
	for _, certificate := range c.certificates {
		if now.Before(certificate.NotBefore) || now.After(certificate.NotAfter) {
			return fmt.Errorf("the certificate of %s is valid from %s to %s", certificate.Subject, certificate.NotBefore.UTC().Format(time.RFC3339), certificate.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

func (c *Chain) signed() error {
	for i, certificate := range c.certificates[:len(c.certificates)-1] {
		if err := certificate.CheckSignatureFrom(c.certificates[i+1]); err != nil {
			return fmt.Errorf("the certificate of %s is not signed by the next, of %s: %w", certificate.Subject, c.certificates[i+1].Subject, err)
		}
	}
	return nil
}

func forSignatures(leaf *x509.Certificate) error {
	const signs = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
	switch {
	case leaf.IsCA:
		return errors.New("the first certificate is an authority's own")
	case leaf.KeyUsage != 0 && leaf.KeyUsage&signs == 0:
		return errors.New("the certificate's key usage allows no signatures")
	}
	return nil
}

// Bind keeps the chain that an authority issued for a seal key beside the key,
// in place of an earlier one. It refuses a chain over another key, out of time,
// not signed link by link or not for signatures. Whether the authority is one to
// trust, it does not judge.
func (r *Ring) Bind(id civibus.KeyID, text []byte, now time.Time) (*Chain, error) {
	k, err := r.held(id)
	if err != nil {
		return nil, err
	}
	if k.key.purpose != civibus.SealKey {
		return nil, fmt.Errorf("bind certificate: %s, the rule is a seal key", k.key)
	}
	c, err := ParseChain(text)
	if err != nil {
		return nil, err
	}
	if err := c.check(k.key.public, now); err != nil {
		return nil, fmt.Errorf("bind certificate to %s: %w", k.key, err)
	}
	return c, r.change(func() error {
		return replace(certificatePath(filepath.Join(r.dir, k.name)), c.PEM(), 0o644)
	})
}

// Chain returns the chain of a seal key, nil if it has none.
func (r *Ring) Chain(id civibus.KeyID) *Chain {
	k, err := r.held(id)
	if err != nil {
		return nil
	}
	return k.chain
}

// openChain is nil without an error if there is none. A chain that has ended is
// kept, since the registry says what is in force: see Warnings.
func openChain(key *Key, path string) (*Chain, error) {
	raw, err := readCertificates(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := ParseChain(raw)
	if err == nil {
		err = c.over(key.public)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// readCertificates reads a file that is no secret.
func readCertificates(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open certificate: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("open certificate %s: it has more than %d bytes", path, maxFile)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("open certificate: %w", err)
	}
	return raw, nil
}
