package registry

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/eventlog"
	"github.com/civibus/civibus/registry/registrypb"
)

// EvidenceOrigin returns the checkpoint origin, which is also the signer's
// name, of a member's n-th evidence log.
func EvidenceOrigin(member civibus.MemberID, n int) string {
	// "+" is not allowed in a note's key names, and plain in identifiers.
	return fmt.Sprintf("civibus/%s/evidence/%d", strings.ReplaceAll(member.String(), "+", "%2B"), n)
}

// checkpoint is the content of an evidence log's checkpoint.
type checkpoint struct {
	origin string
	number int // of the member's logs
	size   uint64
	root   [32]byte
}

// anchorLog makes the registry a witness of a checkpoint of the sender's
// evidence log: the log only grew since the last one, or nothing is recorded.
func (x *txn) anchorLog(m *registrypb.AnchorLog) ([]record, *refusal) {
	// 1. The checkpoint, signed by a log key of the sender.
	c, err := x.openCheckpoint(m.Checkpoint)
	if err != nil {
		return nil, refuse(BadCheckpoint, "checkpoint: %v", err)
	}
	if len(m.Consistency) > maxProofHashes {
		return nil, refuse(InvalidField, "consistency: %d hashes, the rule is at most %d", len(m.Consistency), maxProofHashes)
	}
	// 2. It follows the last anchored one.
	last, ok := x.logs.Get(c.origin)
	if !ok {
		if c.number > 1 {
			if _, ok := x.logs.Get(EvidenceOrigin(x.author.ID, c.number-1)); !ok {
				return nil, refuse(NotFound, "log %d of %s is not anchored, the rule is that logs are numbered from 1 without gaps", c.number-1, x.author.ID)
			}
		}
		last = &civibus.Log{Origin: c.origin, Member: x.author.ID}
	}
	if r := follows(last, c, m, x.facts); r != nil {
		return nil, r
	}
	return []record{logRecord{&civibus.Log{Origin: c.origin, Member: x.author.ID, Size: c.size, Root: c.root, Anchored: x.height}}}, nil
}

// follows checks a checkpoint against the last anchored one. The code tells
// apart what a body must answer for: a smaller log, another log of the same
// size, and a larger log that does not contain the old one.
func follows(last *civibus.Log, c *checkpoint, m *registrypb.AnchorLog, f *facts) *refusal {
	switch {
	case c.size < last.Size:
		return refuse(RollbackCheckpoint, "log %s had %d entries at height %d, the checkpoint has %d", last.Origin, last.Size, last.Anchored, c.size)
	case c.size == last.Size && c.root != last.Root:
		return refuse(ForkedCheckpoint, "log %s had another root at size %d, anchored at height %d", last.Origin, last.Size, last.Anchored)
	case c.size == last.Size:
		return refuse(NoChange, "log %s is anchored at size %d already", last.Origin, last.Size)
	case m.OldSize != last.Size:
		return refuse(StaleCheckpoint, "the proof starts at size %d, log %s is anchored at size %d", m.OldSize, last.Origin, last.Size)
	case last.Size == 0 && len(m.Consistency) != 0:
		return refuse(InconsistentCheckpoint, "a proof is given for the first checkpoint of log %s, the rule is none", last.Origin)
	case last.Size == 0:
		return nil
	}
	if f.extends != nil && f.extends.size == last.Size && f.extends.root == last.Root {
		return nil // the rest is the envelope's
	}
	if err := eventlog.VerifyConsistency(last.Size, c.size, last.Root, c.root, m.Consistency); err != nil {
		return refuse(InconsistentCheckpoint, "log %s from size %d to %d: the proof does not verify", last.Origin, last.Size, c.size)
	}
	f.extends = &extendsFact{last.Size, last.Root}
	return nil
}

// openCheckpoint verifies a checkpoint note of the author and reads it.
func (x *txn) openCheckpoint(msg []byte) (*checkpoint, error) {
	if len(msg) > maxCheckpoint {
		return nil, fmt.Errorf("it has %d bytes, the rule is at most %d", len(msg), maxCheckpoint)
	}
	if c := x.knownCheckpoint(); c != nil {
		return c, nil
	}
	// 1. Whose log it says it is of.
	first, _, _ := bytes.Cut(msg, []byte("\n"))
	number, err := evidenceNumber(string(first), x.author.ID)
	if err != nil {
		return nil, err
	}
	// 2. A signature by a log key of the author.
	verifiers := logVerifiers{x, string(first)}
	n, err := note.Open(msg, verifiers)
	if err != nil {
		return nil, errors.New("it is not a note signed by a log key in force of the sender")
	}
	// 3. Three lines and no more: extension lines would be free text.
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return nil, fmt.Errorf("it has %d lines, the rule is three", len(lines)-1)
	}
	c := &checkpoint{origin: lines[0], number: number}
	if c.size, err = strconv.ParseUint(lines[1], 10, 63); err != nil || c.size == 0 || strconv.FormatUint(c.size, 10) != lines[1] {
		return nil, fmt.Errorf("size %.30q, the rule is a decimal number from 1", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != 32 {
		return nil, errors.New("its root is not 32 bytes in base64")
	}
	c.root = [32]byte(root)
	if len(n.Sigs) == 1 && len(n.UnverifiedSigs) == 0 {
		if v, ok := verifiers.find(n.Sigs[0].Hash); ok {
			x.facts.checkpoint = &checkpointFact{*c, x.author.ID, v.key, v.hash, 0}
			if list, _ := x.keysOf.Get(keysOfKey(x.author.ID, civibus.LogKey)); len(list) == 1 {
				x.facts.checkpoint.directory = x.directory
			}
		}
	}
	return c, nil
}

// knownCheckpoint is what openCheckpoint returned for the same bytes before, if
// their one signature would be verified with the same key again.
func (x *txn) knownCheckpoint() *checkpoint {
	known := x.facts.checkpoint
	if known == nil || known.member != x.author.ID {
		return nil
	}
	if known.directory != 0 && known.directory == x.directory && known.key.InForce(x.height) {
		return &known.checkpoint
	}
	if v, ok := (logVerifiers{x, known.origin}).find(known.hash); !ok || v.key.ID != known.key.ID {
		return nil
	}
	return &known.checkpoint
}

// evidenceNumber reads the number from an origin, which must be the member's.
func evidenceNumber(origin string, member civibus.MemberID) (int, error) {
	cut := strings.LastIndexByte(origin, '/')
	n, err := strconv.Atoi(origin[cut+1:])
	if err != nil || n < 1 || n > 1<<20 || origin != EvidenceOrigin(member, n) {
		return 0, fmt.Errorf("its origin is %.80q, the rule for the sender is %q or a higher number", origin, EvidenceOrigin(member, 1))
	}
	return n, nil
}

// logVerifiers finds the author's log keys by the name and hash that a note
// gives.
type logVerifiers struct {
	x      *txn
	origin string
}

// Verifier implements note.Verifiers.
func (v logVerifiers) Verifier(name string, hash uint32) (note.Verifier, error) {
	if name == v.origin {
		if found, ok := v.find(hash); ok {
			return found, nil
		}
	}
	return nil, &note.UnknownVerifierError{Name: name, KeyHash: hash}
}

// find returns the first log key in force that has the hash.
func (v logVerifiers) find(hash uint32) (logVerifier, bool) {
	list, _ := v.x.keysOf.Get(keysOfKey(v.x.author.ID, civibus.LogKey))
	for _, k := range list {
		// A second signature, ML-DSA, is not looked at here.
		public, ok := k.Key.(ed25519.PublicKey)
		if ok && k.InForce(v.x.height) && noteKeyHash(v.origin, public) == hash {
			return logVerifier{v, k, hash}, true
		}
	}
	return logVerifier{}, false
}

type logVerifier struct {
	logVerifiers
	key  *civibus.RegisteredKey
	hash uint32
}

func (v logVerifier) Name() string    { return v.origin }
func (v logVerifier) KeyHash() uint32 { return v.hash }

// Verify reports whether the signature is the key's. Where the same key signed the
// envelope, that signature is over the note with all that is in it, and a second one
// by the same key would say nothing more: it is not looked at, which makes an anchor
// a quarter cheaper. Protocol 0 looks at both.
func (v logVerifier) Verify(msg, sig []byte) bool {
	if v.x.params.Protocol > 0 && v.x.key != nil && v.x.key.ID == v.key.ID {
		return true
	}
	return v.x.signatures.verify(&v.key.PublicKey, msg, sig)
}

// noteKeyHash is the key hash of the signed-note format for an Ed25519 key.
func noteKeyHash(name string, key ed25519.PublicKey) uint32 {
	var room [256]byte // as a rule it is enough, and nothing is allocated
	h := sha256.Sum256(append(append(append(room[:0], name...), '\n', 1), key...))
	return binary.BigEndian.Uint32(h[:])
}
