package httpsig

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/dunglas/httpsfv"
)

// The digest algorithms of RFC 9530 that are not deprecated.
const (
	SHA256 = "sha-256"
	SHA512 = "sha-512"
)

// Digest is one member of Content-Digest or Repr-Digest.
type Digest struct {
	Algorithm string
	Sum       []byte
}

// FormatDigest returns a member of a digest field.
func FormatDigest(algorithm string, sum []byte) string {
	var room [128]byte
	b := append(room[:0], algorithm...)
	b = append(b, "=:"...)
	b = base64.StdEncoding.AppendEncode(b, sum)
	return string(append(b, ':'))
}

// ParseDigests reads the lines of a digest field.
func ParseDigests(lines []string) ([]Digest, error) {
	d, err := httpsfv.UnmarshalDictionary(lines)
	if err != nil {
		return nil, fmt.Errorf("digest field: %w", err)
	}
	out := make([]Digest, 0, len(d.Names()))
	for _, name := range d.Names() {
		m, _ := d.Get(name)
		item, ok := m.(httpsfv.Item)
		sum, isBytes := item.Value.([]byte)
		if !ok || !isBytes {
			return nil, fmt.Errorf("digest field: member %q: the rule is a byte sequence", name)
		}
		out = append(out, Digest{name, sum})
	}
	return out, nil
}

// VerifyDigests checks content against every member whose algorithm is known.
// A field without such a member proves nothing and is an error.
func VerifyDigests(lines []string, content []byte) error {
	digests, err := ParseDigests(lines)
	if err != nil {
		return err
	}
	checked := false
	for _, d := range digests {
		var sum []byte
		switch d.Algorithm {
		case SHA256:
			s := sha256.Sum256(content)
			sum = s[:]
		case SHA512:
			s := sha512.Sum512(content)
			sum = s[:]
		default:
			continue
		}
		if subtle.ConstantTimeCompare(sum, d.Sum) != 1 {
			return fmt.Errorf("digest field: %s does not fit the content", d.Algorithm)
		}
		checked = true
	}
	if !checked {
		return errors.New("digest field: it has no sha-256 or sha-512")
	}
	return nil
}
