package proof

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
)

const (
	emDash         = "\u2014"
	proofHeader    = "c2sp.org/tlog-proof@v1\n"
	saltSize       = 16
	leafVersion    = 0x01
	maxHashes      = 63
	typeEd25519    = 0x01
	typeCosigned   = 0x04
	typeMLDSA44    = 0x06
	cosignedPrefix = "cosignature/v1\ntime "
	subtreePrefix  = "subtree/v1\n\x00"
	maxSignedName  = 255
)

// tlogProof is a parsed C2SP tlog-proof.
type tlogProof struct {
	index      uint64
	hashes     [][32]byte
	checkpoint string // verbatim, from the origin line to the end
}

// checkpoint is a parsed C2SP checkpoint.
type checkpoint struct {
	text   string // what is signed
	origin string
	size   uint64
	root   [32]byte
	lines  []signatureLine
}

type signatureLine struct {
	name      string
	hash      [4]byte
	signature []byte
}

// parseProof reads a tlog-proof (spec/receipt.md section 5.2).
func parseProof(s string) (*tlogProof, *Error) {
	rest, ok := strings.CutPrefix(s, proofHeader)
	if !ok {
		return nil, fail(ProofMalformed, "the first line is not %q", proofHeader[:len(proofHeader)-1])
	}
	line, rest, ok := strings.Cut(rest, "\n")
	digits, isIndex := strings.CutPrefix(line, "index ")
	index, err := parseNumber(digits)
	if !ok || !isIndex || err != nil {
		return nil, fail(ProofMalformed, "the second line is not an index")
	}
	p := &tlogProof{index: index}
	for {
		if line, rest, ok = strings.Cut(rest, "\n"); !ok {
			return nil, fail(ProofMalformed, "it ends before the checkpoint")
		}
		if line == "" {
			p.checkpoint = rest
			return p, nil
		}
		h, ok := parseHash(line)
		if !ok || len(p.hashes) == maxHashes {
			return nil, fail(ProofMalformed, "hash %d is not base64 of 32 bytes, or there are more than %d", len(p.hashes)+1, maxHashes)
		}
		p.hashes = append(p.hashes, h)
	}
}

// parseCheckpoint reads a checkpoint with its signature lines (section 5.3).
func parseCheckpoint(s string) (*checkpoint, *Error) {
	bad := func(what string) (*checkpoint, *Error) { return nil, fail(CheckpointMalformed, "%s", what) }
	part := strings.SplitN(s, "\n", 5)
	if len(part) != 5 || part[0] == "" || part[3] != "" {
		return bad("the rule is origin, size, root, an empty line and signature lines")
	}
	c := &checkpoint{origin: part[0], text: s[:len(part[0])+len(part[1])+len(part[2])+3]}
	var err error
	if c.size, err = parseNumber(part[1]); err != nil {
		return bad("the size is not a number")
	}
	var ok bool
	if c.root, ok = parseHash(part[2]); !ok {
		return bad("the root is not base64 of 32 bytes")
	}
	for rest := part[4]; rest != "" || len(c.lines) == 0; {
		var line string
		if line, rest, ok = strings.Cut(rest, "\n"); !ok || len(c.lines) == MaxSignatures {
			return bad(fmt.Sprintf("the rule is 1 to %d signature lines, each ended by a newline", MaxSignatures))
		}
		sig, ok := parseSignatureLine(line)
		if !ok {
			return bad(fmt.Sprintf("signature line %d is malformed", len(c.lines)+1))
		}
		c.lines = append(c.lines, sig)
	}
	return c, nil
}

func parseSignatureLine(line string) (s signatureLine, ok bool) {
	rest, ok := strings.CutPrefix(line, emDash+" ")
	name, text, found := strings.Cut(rest, " ")
	raw, canonical := decodeBase64(text)
	if !ok || !found || !canonical || !validKeyName(name) || len(raw) < 5 {
		return s, false
	}
	return signatureLine{name, [4]byte(raw[:4]), raw[4:]}, true
}

func validKeyName(name string) bool { return name != "" && !strings.ContainsAny(name, " \t\n+") }

// noteKey is a key as notes name it: Ed25519, or ML-DSA-44 of type 0x06.
type noteKey struct {
	name   string
	kind   byte
	public []byte
	hash   [4]byte
}

func newNoteKey(name string, kind byte, public []byte) noteKey {
	h := sha256.New()
	h.Write([]byte(name))
	h.Write([]byte{'\n', kind})
	h.Write(public)
	return noteKey{name, kind, public, [4]byte(h.Sum(nil)[:4])}
}

// owns reports whether the line claims to be by k.
func (k noteKey) owns(l signatureLine) bool { return l.name == k.name && l.hash == k.hash }

// verify checks a line that k owns under a checkpoint. The time is that of a
// cosignature.
func (k noteKey) verify(c *checkpoint, l signatureLine) (time uint64, ok bool) {
	if k.kind == typeEd25519 {
		return 0, verifyEd25519(k.public, []byte(c.text), l.signature)
	}
	if len(l.signature) < 8 {
		return 0, false
	}
	time = binary.BigEndian.Uint64(l.signature)
	if time == 0 || time >= 1<<63 {
		return 0, false
	}
	if k.kind == typeMLDSA44 {
		public, err := mldsa.NewPublicKey(civibus.MLDSA44, k.public)
		return time, err == nil && len(k.name) <= maxSignedName && len(c.origin) <= maxSignedName && public.Verify(c.subtree(k.name, time), l.signature[8:])
	}
	message := strconv.AppendUint([]byte(cosignedPrefix), time, 10)
	message = append(append(message, '\n'), c.text...)
	return time, verifyEd25519(k.public, message, l.signature[8:])
}

// subtree is what an ML-DSA-44 cosignature signs: cosigned_message of C2SP
// tlog-cosignature, of the subtree from the first leaf on.
func (c *checkpoint) subtree(name string, time uint64) []byte {
	b := append([]byte(subtreePrefix), byte(len(name)))
	b = binary.BigEndian.AppendUint64(append(b, name...), time)
	b = append(append(b, byte(len(c.origin))), c.origin...)
	b = binary.BigEndian.AppendUint64(b, 0)
	b = binary.BigEndian.AppendUint64(b, c.size)
	return append(b, c.root[:]...)
}

// verifyEd25519 is RFC 8032 verification without the cofactor. The standard
// library also takes other spellings of a public key; a receipt's must be the
// canonical one, so that every verifier agrees.
func verifyEd25519(public ed25519.PublicKey, message, signature []byte) bool {
	return len(public) == ed25519.PublicKeySize && len(signature) == ed25519.SignatureSize &&
		canonicalPoint(public) && ed25519.Verify(public, message, signature)
}

// canonicalPoint reports whether y < 2^255-19 and the point is not one of the
// two with x = 0 and the sign bit set.
func canonicalPoint(a []byte) bool {
	y := [32]byte(a)
	sign := y[31] >> 7
	y[31] &= 0x7f
	one := [32]byte{1}
	minusOne := [32]byte{0: 0xec, 31: 0x7f}
	for i := 1; i < 31; i++ {
		minusOne[i] = 0xff
	}
	if sign == 1 && (y == one || y == minusOne) {
		return false
	}
	for i := 31; i >= 0; i-- {
		if y[i] != minusOne[i] {
			return y[i] < minusOne[i]
		}
	}
	return true
}

func parseHash(s string) (h [32]byte, ok bool) {
	if len(s) != 44 {
		return h, false
	}
	b, ok := decodeBase64(s)
	if !ok || len(b) != 32 {
		return h, false
	}
	return [32]byte(b), true
}

// parseNumber reads a decimal number without sign and leading zeroes, below 2^63.
func parseNumber(s string) (uint64, error) {
	if s == "" || s[0] == '+' || s[0] == '-' || len(s) > 1 && s[0] == '0' {
		return 0, errors.New("not a number")
	}
	return strconv.ParseUint(s, 10, 63)
}

// included reports whether leaf is at index in the tree (section 5.1).
func included(leaf [32]byte, p *tlogProof, size uint64, root [32]byte) bool {
	if p.index >= size {
		return false
	}
	fn, sn, r := p.index, size-1, leaf
	for _, h := range p.hashes {
		if sn == 0 {
			return false
		}
		if fn&1 == 1 || fn == sn {
			r = innerHash(h, r)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			r = innerHash(r, h)
		}
		fn, sn = fn>>1, sn>>1
	}
	return sn == 0 && r == root
}

func leafHash(data []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(data)
	return [32]byte(h.Sum(nil))
}

func innerHash(left, right [32]byte) [32]byte {
	var b [65]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[33:], right[:])
	return sha256.Sum256(b[:])
}

// evidenceLeaf returns the leaf data of a record.
func evidenceLeaf(salt, record []byte) []byte {
	h := sha256.New()
	h.Write(salt)
	h.Write(record)
	return h.Sum([]byte{leafVersion})
}
