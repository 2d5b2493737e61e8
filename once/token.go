package once

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// The formats, which are also the domains of digests and signatures.
const (
	RequestFormat  = "civibus-once-request-1"
	DecisionFormat = "civibus-once-decision-1"
	evidenceDomain = "civibus-once-evidence-1"
)

// Limits.
const (
	maxRequest  = 64 << 10
	MaxEvidence = 4 << 20 // bytes of one piece of evidence
	maxToken    = 4 << 10
	maxSkew     = time.Minute
)

// Who may ask and decide.
const (
	Person         = "person"
	Representative = "representative"
)

// Request is what the asking body sends: the person's explicit request.
type Request struct {
	Format      string          `json:"format"`
	ID          string          `json:"id"`     // 16 random bytes in hex
	Client      string          `json:"client"` // the subsystem that asks
	Type        string          `json:"type"`   // of evidence
	Requirement string          `json:"requirement"`
	Subject     json.RawMessage `json:"subject"`  // whose evidence, as the provider's service wants it
	AskedBy     string          `json:"asked_by"` // person or representative
	AskedAt     time.Time       `json:"asked_at"`
	Case        string          `json:"case,omitempty"` // of the asking body
}

// Digest is a SHA-256 digest, in hex where it is text.
type Digest [32]byte

// MarshalText writes lower-case hex.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText reads lower-case hex.
func (d *Digest) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(d) || hex.EncodeToString(b) != string(text) {
		return errors.New("a digest is 64 lower-case hex digits")
	}
	copy(d[:], b)
	return nil
}

func digest(domain string, parts ...[]byte) Digest {
	return sha256.Sum256(append([]byte(domain+"\n"), bytes.Join(parts, []byte("\n"))...))
}

// RequestDigest names a request by the bytes that are sent.
func RequestDigest(request []byte) Digest { return digest(RequestFormat, request) }

// EvidenceDigest names evidence: its media type and its bytes.
func EvidenceDigest(mediaType string, content []byte) Digest {
	return digest(evidenceDomain, []byte(mediaType), content)
}

// Decision is what the person decided about the evidence that she was shown.
type Decision struct {
	Format    string    `json:"format"`
	ID        string    `json:"id"`      // of the request
	Request   Digest    `json:"request"` // its digest
	Evidence  Digest    `json:"evidence"`
	Client    string    `json:"client"`
	Type      string    `json:"type"`
	Decision  State     `json:"decision"`   // approved or declined
	DecidedBy string    `json:"decided_by"` // person or representative
	Time      time.Time `json:"time"`
	Key       string    `json:"key"` // seal key of the body that asked her
}

// Sign makes the token of a decision, which the body that asked the person signs with
// its seal key.
func Sign(ctx context.Context, signer civibus.Signer, d Decision) (string, error) {
	d.Format, d.Key = DecisionFormat, signer.Key().ID.String()
	d.Time = d.Time.UTC().Truncate(time.Second)
	payload, err := json.Marshal(&d)
	if err != nil {
		return "", err
	}
	signature, err := signer.Sign(ctx, signed(payload))
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(payload) + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

func signed(payload []byte) []byte { return append([]byte(DecisionFormat+"\n"), payload...) }

// Keys is what the verification of a token needs of the registry.
type Keys interface {
	Height() uint64
	Key(civibus.KeyID) (civibus.RegisteredKey, bool)
}

var _ Keys = (*registry.View)(nil)

// Verify reads a token and checks that it is the signature of the client's member, with
// a seal key that is in force. Whether it is about the right request and evidence, and
// has not been used, is for the caller to see.
func Verify(v Keys, token string) (*Decision, error) {
	// 1. Its form, of which there is one.
	head, tail, ok := strings.Cut(token, ".")
	payload, err1 := base64.RawURLEncoding.Strict().DecodeString(head)
	signature, err2 := base64.RawURLEncoding.Strict().DecodeString(tail)
	if !ok || len(token) > maxToken || err1 != nil || err2 != nil || strings.ContainsAny(token, "\r\n") {
		return nil, refuse("bad_token", "the token is not two parts in base64url of at most %d bytes", maxToken)
	}
	d := &Decision{}
	if err := strictJSON(payload, d); err != nil {
		return nil, refuse("bad_token", "the token has no decision: %v", err)
	}
	if again, err := json.Marshal(d); err != nil || !bytes.Equal(again, payload) || d.Format != DecisionFormat {
		return nil, refuse("bad_token", "the token's decision is not in canonical form, or of another format")
	}
	if d.Decision != Approved && d.Decision != Declined || !slices.Contains([]string{Person, Representative}, d.DecidedBy) {
		return nil, refuse("bad_token", "the token says neither approved nor declined by the person or a representative")
	}
	// 2. Whose it is.
	id, err := civibus.ParseKeyID(d.Key)
	if err != nil {
		return nil, refuse("bad_token", "the token names no key")
	}
	client, err := civibus.ParseClientID(d.Client)
	if err != nil {
		return nil, refuse("bad_token", "the token names no client")
	}
	key, ok := v.Key(id)
	switch {
	case !ok || key.Member != client.MemberID || key.Purpose != civibus.SealKey || key.Algorithm.PostQuantum():
		return nil, refuse("bad_signer", "key %s is no seal key of %s", id, client.MemberID)
	case !key.InForce(v.Height()):
		return nil, refuse("bad_signer", "seal key %s is not in force", id)
	case !key.Verify(signed(payload), signature):
		return nil, refuse("bad_signature", "the token is not signed by key %s", id)
	}
	return d, nil
}

// strictJSON reads one value without unknown fields.
func strictJSON(text []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows")
	}
	return nil
}
