package tiles

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	fnote "github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"

	"github.com/civibus/civibus"
)

const algEd25519 = 0x01 // C2SP signed-note

// noteSigner signs C2SP notes with a key in custody.
type noteSigner struct {
	name   string
	hash   uint32
	signer civibus.Signer
}

// NewNoteSigner signs notes under name with an Ed25519 key; with the one in
// force now, if the signer rotates.
func NewNoteSigner(name string, signer civibus.Signer) (note.Signer, error) {
	signer = civibus.CurrentSigner(signer)
	hash, _, err := noteKey(name, signer.Key())
	if err != nil {
		return nil, err
	}
	return &noteSigner{name: name, hash: hash, signer: signer}, nil
}

// Name returns the key's name.
func (s *noteSigner) Name() string { return s.name }

// KeyHash returns the key's id.
func (s *noteSigner) KeyHash() uint32 { return s.hash }

// Sign signs a note's text.
func (s *noteSigner) Sign(msg []byte) ([]byte, error) {
	return s.signer.Sign(context.Background(), msg)
}

// noteKey returns the note key id and the encoded key.
func noteKey(name string, key civibus.PublicKey) (uint32, []byte, error) {
	pub, ok := key.Key.(ed25519.PublicKey)
	if !ok {
		return 0, nil, fmt.Errorf("log key: algorithm %q, the rule is ed25519", key.Algorithm)
	}
	encoded := append([]byte{algEd25519}, pub...)
	sum := sha256.Sum256(append([]byte(name+"\n"), encoded...))
	return binary.BigEndian.Uint32(sum[:4]), encoded, nil
}

// VerifierKey returns the C2SP verifier key (vkey) of a log.
func VerifierKey(origin string, key civibus.PublicKey) (string, error) {
	hash, encoded, err := noteKey(origin, key)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s+%08x+%s", origin, hash, base64.StdEncoding.EncodeToString(encoded)), nil
}

// Checkpoint is a parsed checkpoint.
type Checkpoint struct {
	Note []byte
	Size uint64
	Root Hash
}

// ParseCheckpoint reads a checkpoint of origin. With a key, its signature must
// be the key's; without, it is not checked.
func ParseCheckpoint(raw []byte, origin string, key *civibus.PublicKey) (Checkpoint, error) {
	if key != nil {
		vkey, err := VerifierKey(origin, *key)
		if err != nil {
			return Checkpoint{}, err
		}
		verifier, err := note.NewVerifier(vkey)
		if err != nil {
			return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
		}
		cp, rest, _, err := fnote.ParseCheckpoint(raw, origin, verifier)
		if err != nil {
			return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
		}
		if len(rest) > 0 {
			return Checkpoint{}, fmt.Errorf("checkpoint: it has extension lines, the rule is none")
		}
		return checkpoint(raw, cp)
	}
	var cp fnote.Checkpoint
	if _, err := cp.Unmarshal(raw); err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	if cp.Origin != origin {
		return Checkpoint{}, fmt.Errorf("checkpoint: its origin is %q, the log's is %q", cp.Origin, origin)
	}
	return checkpoint(raw, &cp)
}

func checkpoint(raw []byte, cp *fnote.Checkpoint) (Checkpoint, error) {
	if len(cp.Hash) != 32 {
		return Checkpoint{}, fmt.Errorf("checkpoint: its root has %d bytes, the rule is 32", len(cp.Hash))
	}
	return Checkpoint{Note: raw, Size: cp.Size, Root: Hash(cp.Hash)}, nil
}

// SignCheckpoint makes the checkpoint note of a tree.
func SignCheckpoint(s note.Signer, size uint64, root Hash) ([]byte, error) {
	text := fnote.Checkpoint{Origin: s.Name(), Size: size, Hash: root[:]}.Marshal()
	return note.Sign(&note.Note{Text: string(text)}, s)
}

// First returns a checkpoint note with its first signature alone, which is what
// the registry and short messages have room for.
func First(note []byte) []byte {
	_, lines, ok := bytes.Cut(note, []byte("\n\n"))
	if !ok {
		return note
	}
	_, rest, _ := bytes.Cut(lines, []byte("\n"))
	return note[:len(note)-len(rest)]
}
