// Package pqnote makes and checks the second, post-quantum signature line of a
// checkpoint: C2SP tlog-cosignature (v1.1.0) with ML-DSA-44, signature type 0x06
// of C2SP signed-note. Logs sign their own checkpoints with it under their origin
// as the name, as C2SP tlog-checkpoint recommends, and witnesses cosign with it
// under theirs. Readers that know Ed25519 alone skip the line.
//
// Trust: nobody; a line that is not the key's is refused.
package pqnote

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
)

// Type is the signature type of ML-DSA-44 cosignatures in C2SP signed-note.
const Type = 0x06

// maxName bounds the names that are signed: opaque<1..2^8-1>.
const maxName = 255

// Checkpoint is what is signed: a state of a log.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   [32]byte
}

// Fits reports whether names are short enough to be signed.
func Fits(name, origin string) bool {
	return name != "" && len(name) <= maxName && origin != "" && len(origin) <= maxName
}

// message is the cosigned_message of tlog-cosignature for a checkpoint: the
// subtree that begins at the first leaf.
func message(name string, at uint64, c Checkpoint) ([]byte, error) {
	if !Fits(name, c.Origin) {
		return nil, fmt.Errorf("second signature of a checkpoint: a name of %d and an origin of %d bytes, the rule is 1 to %d", len(name), len(c.Origin), maxName)
	}
	b := append([]byte("subtree/v1\n\x00"), byte(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint64(b, at)
	b = append(b, byte(len(c.Origin)))
	b = append(b, c.Origin...)
	b = binary.BigEndian.AppendUint64(b, 0) // start
	b = binary.BigEndian.AppendUint64(b, c.Size)
	return append(b, c.Root[:]...), nil
}

func public(key civibus.PublicKey) ([]byte, error) {
	k, ok := key.Key.(*mldsa.PublicKey)
	if !ok || k.Algorithm() != civibus.MLDSA44 {
		return nil, fmt.Errorf("second signature of a checkpoint: key %s is %s, the rule is %s", key.ID, key.Algorithm, civibus.MLDSA44)
	}
	return k.Bytes(), nil
}

// keyHash is the key id of a signature line.
func keyHash(name string, public []byte) []byte {
	h := sha256.New()
	h.Write([]byte(name))
	h.Write([]byte{'\n', Type})
	h.Write(public)
	return h.Sum(nil)[:4]
}

// VKey returns the C2SP verifier key of an ML-DSA-44 key under a name.
func VKey(name string, key civibus.PublicKey) (string, error) {
	raw, err := public(key)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s+%x+%s", name, keyHash(name, raw), base64.StdEncoding.EncodeToString(append([]byte{Type}, raw...))), nil
}

// Sign returns the signature line, with its newline, of an ML-DSA-44 key under a
// name. The time is when the signer had seen no greater state of the log.
func Sign(ctx context.Context, name string, signer civibus.Signer, at time.Time, c Checkpoint) (string, error) {
	raw, err := public(signer.Key())
	if err != nil {
		return "", err
	}
	seconds := uint64(at.Unix())
	m, err := message(name, seconds, c)
	if err != nil {
		return "", err
	}
	signature, err := signer.Sign(ctx, m)
	if err != nil {
		return "", fmt.Errorf("sign with key %s: %w", signer.Key().ID, err)
	}
	b := binary.BigEndian.AppendUint64(keyHash(name, raw), seconds)
	return "\u2014 " + name + " " + base64.StdEncoding.EncodeToString(append(b, signature...)) + "\n", nil
}

// Verify reports whether a signature line is the key's under a name over a
// checkpoint, and when it was made.
func Verify(line, name string, key civibus.PublicKey, c Checkpoint) (at time.Time, ok bool) {
	b, ok := open(line, name, key)
	if !ok || len(b) < 8 {
		return at, false
	}
	seconds := binary.BigEndian.Uint64(b)
	m, err := message(name, seconds, c)
	if err != nil || seconds >= 1<<63 || !key.Verify(m, b[8:]) {
		return at, false
	}
	return time.Unix(int64(seconds), 0).UTC(), true
}

// open returns what follows the key id in a line of the key.
func open(line, name string, key civibus.PublicKey) ([]byte, bool) {
	raw, err := public(key)
	text, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "\u2014 "+name+" ")
	if err != nil || !ok {
		return nil, false
	}
	b, err := base64.StdEncoding.DecodeString(text)
	// The decoder skips line breaks: the one spelling is what it encodes to.
	if err != nil || base64.StdEncoding.EncodeToString(b) != text || len(b) < 4 || string(b[:4]) != string(keyHash(name, raw)) {
		return nil, false
	}
	return b[4:], true
}
