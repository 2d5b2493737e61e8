package pqnote_test

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/internal/pqnote"
)

type signer struct {
	*mldsa.PrivateKey
	key civibus.PublicKey
}

func (s signer) Key() civibus.PublicKey { return s.key }
func (s signer) Sign(_ context.Context, m []byte) ([]byte, error) {
	return s.PrivateKey.Sign(m)
}

func newSigner(t *testing.T, a civibus.Algorithm) signer {
	t.Helper()
	k, err := mldsa.Generate(a)
	if err != nil {
		t.Fatal(err)
	}
	public, err := civibus.NewPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return signer{k, public}
}

const text = "civibus/DEMO/GOV/1001/evidence/1\n7\nf+7CoKgXKE/tNys9TTXcr/ad6U/K3xvznmzew9y6SP0=\n"

func sample() pqnote.Checkpoint {
	return pqnote.Checkpoint{Origin: "civibus/DEMO/GOV/1001/evidence/1", Size: 7, Root: [32]byte{0x7f, 0xee, 0xc2, 0xa0, 0xa8, 0x17, 0x28, 0x4f, 0xed,
		0x37, 0x2b, 0x3d, 0x4d, 0x35, 0xdc, 0xaf, 0xf6, 0x9d, 0xe9, 0x4f, 0xca, 0xdf, 0x1b, 0xf3, 0x9e, 0x6c, 0xde, 0xc3, 0xdc, 0xba, 0x48, 0xfd}}
}

// TestOthersVerify: the C2SP implementation of transparency-dev/formats, which
// has another ML-DSA under it, takes our lines and keys, and we take its.
func TestOthersVerify(t *testing.T) {
	const name = "civibus/demo-1/witness/GOV/1001"
	s := newSigner(t, civibus.MLDSA44)
	line, err := pqnote.Sign(t.Context(), name, s, time.Unix(1795168800, 0), sample())
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := pqnote.VKey(name, s.key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := fnote.NewVerifierForCosignatureV1(vkey)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open([]byte(text+"\n"+line), note.VerifierList(v))
	if err != nil {
		t.Fatal(err)
	}
	if at, err := fnote.CoSigV1Timestamp(n.Sigs[0]); err != nil || at.Unix() != 1795168800 {
		t.Errorf("time %v, %v", at, err)
	}
	skey, theirs, err := fnote.GenerateMLDSAKey(name)
	if err != nil {
		t.Fatal(err)
	}
	other, err := fnote.NewMLDSASigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: text}, other)
	if err != nil {
		t.Fatal(err)
	}
	raw := decode(t, strings.SplitN(theirs, "+", 3)[2])
	public, err := mldsa.NewPublicKey(civibus.MLDSA44, raw[1:])
	if err != nil {
		t.Fatal(err)
	}
	key, err := civibus.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if ours, err := pqnote.VKey(name, key); err != nil || ours != theirs {
		t.Errorf("another verifier key than theirs: %v", err)
	}
	_, lines, _ := strings.Cut(string(signed), "\n\n")
	if _, ok := pqnote.Verify(lines, name, key, sample()); !ok {
		t.Error("their line does not verify")
	}
}

// TestRefusals: a line over something else, by something else or of another time
// does not verify.
func TestRefusals(t *testing.T) {
	const name = "n"
	s, other := newSigner(t, civibus.MLDSA44), newSigner(t, civibus.MLDSA44)
	line, err := pqnote.Sign(t.Context(), name, s, time.Unix(5, 0), sample())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := pqnote.Verify(line, name, s.key, sample()); !ok || !pqnote.Belongs(line, name, s.key) {
		t.Fatal("it does not verify")
	}
	larger, root, origin := sample(), sample(), sample()
	larger.Size++
	root.Root[31]++
	origin.Origin += "1"
	for what, ok := range map[string]bool{
		"size":   verifies(line, name, s.key, larger),
		"root":   verifies(line, name, s.key, root),
		"origin": verifies(line, name, s.key, origin),
		"name":   verifies(line, "m", s.key, sample()),
		"key":    verifies(line, name, other.key, sample()),
		"time":   verifies(later(t, line), name, s.key, sample()),
		"cut":    verifies(line[:60], name, s.key, sample()),
	} {
		if ok {
			t.Errorf("another %s verifies", what)
		}
	}
	if _, err := pqnote.Sign(t.Context(), name, newSigner(t, civibus.MLDSA65), time.Unix(5, 0), sample()); err == nil {
		t.Error("ML-DSA-65 signs a checkpoint")
	}
	long := sample()
	long.Origin = strings.Repeat("x", 256)
	if _, err := pqnote.Sign(t.Context(), name, s, time.Unix(5, 0), long); err == nil {
		t.Error("an origin of 256 bytes is signed")
	}
}

func verifies(line, name string, key civibus.PublicKey, c pqnote.Checkpoint) bool {
	_, ok := pqnote.Verify(line, name, key, c)
	return ok
}

func decode(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// later changes the time in a line.
func later(t *testing.T, line string) string {
	t.Helper()
	i := strings.LastIndexByte(line, ' ') + 1
	b := decode(t, strings.TrimSuffix(line[i:], "\n"))
	b[4+7]++
	return line[:i] + base64.StdEncoding.EncodeToString(b) + "\n"
}
