package ledger

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/pqnote"
)

// cosignatureType is C2SP's algorithm byte for tlog-cosignature over Ed25519.
const cosignatureType = 0x04

// RegistryOrigin is the origin line of the registry's checkpoints.
func RegistryOrigin(chainID string) string {
	return "civibus/" + notePart(chainID) + "/registry"
}

// WitnessName is the key name under which a member cosigns the registry's
// checkpoints.
func WitnessName(chainID string, member civibus.MemberID) string {
	return "civibus/" + notePart(chainID) + "/witness/" + notePart(member.Class) + "/" + notePart(member.Code)
}

// notePart encodes one part of a key name: percent-encoding, and "+" as %2B,
// because key names hold no plus.
func notePart(s string) string {
	return strings.ReplaceAll(civibus.EncodePart(s), "+", "%2B")
}

// CheckpointText is a C2SP checkpoint without signatures: origin, size and root,
// one a line.
func CheckpointText(origin string, size uint64, root [32]byte) string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root[:]))
}

// WitnessVerifierKey is the C2SP vkey of a witness: name+id+key.
func WitnessVerifierKey(name string, key civibus.PublicKey) (string, error) {
	if key.Algorithm.PostQuantum() {
		return pqnote.VKey(name, key)
	}
	pub, ok := key.Key.(ed25519.PublicKey)
	if !ok {
		return "", fmt.Errorf("witness key %s: algorithm %s, the rule is ed25519", key.ID, key.Algorithm)
	}
	return fmt.Sprintf("%s+%08x+%s", name, noteKeyID(name, pub),
		base64.StdEncoding.EncodeToString(append([]byte{cosignatureType}, pub...))), nil
}

// noteKeyID is the first 32 bits of SHA-256(name || "\n" || type || key).
func noteKeyID(name string, pub ed25519.PublicKey) uint32 {
	h := sha256.New()
	h.Write([]byte(name + "\n"))
	h.Write([]byte{cosignatureType})
	h.Write(pub)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// cosignedMessage is what a witness signs (C2SP tlog-cosignature/v1).
func cosignedMessage(at time.Time, checkpoint string) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at.Unix(), checkpoint)
}

// cosignatureLine is the note's signature line.
func cosignatureLine(name string, pub ed25519.PublicKey, at time.Time, signature []byte) string {
	b := binary.BigEndian.AppendUint32(nil, noteKeyID(name, pub))
	b = binary.BigEndian.AppendUint64(b, uint64(at.Unix()))
	b = append(b, signature...)
	return "— " + name + " " + base64.StdEncoding.EncodeToString(b) + "\n"
}

// sign makes a witness's signature line over a checkpoint: Ed25519 (type 0x04) or
// ML-DSA-44 (type 0x06).
func sign(ctx context.Context, signer civibus.Signer, name, text string, at time.Time) (string, error) {
	key := signer.Key()
	if key.Algorithm.PostQuantum() {
		c, err := parseCheckpoint(text)
		if err != nil {
			return "", err
		}
		return pqnote.Sign(ctx, name, signer, at, c)
	}
	public, ok := key.Key.(ed25519.PublicKey)
	if !ok {
		return "", fmt.Errorf("key %s is %s, the rule is ed25519 or ml-dsa-44", key.ID, key.Algorithm)
	}
	signature, err := signer.Sign(ctx, cosignedMessage(at, text))
	if err != nil {
		return "", err
	}
	return cosignatureLine(name, public, at, signature), nil
}

// VerifySecond reports whether a line is the ML-DSA-44 cosignature of a key under
// a witness's name over a checkpoint's text.
func VerifySecond(name string, key civibus.PublicKey, text, line string) bool {
	c, err := parseCheckpoint(text)
	if err != nil {
		return false
	}
	_, ok := pqnote.Verify(line, name, key, c)
	return ok && strings.HasSuffix(line, "\n")
}

// parseCheckpoint reads what CheckpointText wrote.
func parseCheckpoint(text string) (c pqnote.Checkpoint, err error) {
	part := strings.Split(text, "\n")
	if len(part) != 4 || part[3] != "" {
		return c, errors.New("checkpoint: the rule is three lines")
	}
	root, err := base64.StdEncoding.Strict().DecodeString(part[2])
	if err != nil || len(root) != 32 {
		return c, errors.New("checkpoint: the root is not base64 of 32 bytes")
	}
	c.Origin, c.Root = part[0], [32]byte(root)
	c.Size, err = strconv.ParseUint(part[1], 10, 64)
	return c, err
}
