package pqnote_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"filippo.io/mldsa"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/civibus/civibus"
	own "github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/internal/pqnote"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectorFile = "../../spec/vectors/evidence/checkpoint_second.json"

// vectors are checkpoints with the second signature line. Failure names what is
// wrong with a case; empty: it verifies.
type vectors struct {
	Description string       `json:"description"`
	VKey        string       `json:"vkey"`
	Cases       []vectorCase `json:"cases"`
}

type vectorCase struct {
	Failure string `json:"failure,omitempty"`
	About   string `json:"about"`
	Note    string `json:"note"`
}

// deterministic signs with the other implementation of ML-DSA, so that the
// vectors are always the same.
type deterministic struct {
	private *mldsa.PrivateKey
	public  civibus.PublicKey
}

func (s deterministic) Key() civibus.PublicKey { return s.public }
func (s deterministic) Sign(_ context.Context, m []byte) ([]byte, error) {
	return s.private.SignDeterministic(m, nil)
}

func newDeterministic(t testing.TB, seed byte) deterministic {
	t.Helper()
	private, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := own.NewPublicKey(civibus.MLDSA44, private.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	public, err := civibus.NewPublicKey(encoded)
	if err != nil {
		t.Fatal(err)
	}
	return deterministic{private, public}
}

// TestVectors: the cases are what the code makes, and both implementations of C2SP
// cosignatures say of each what it says.
func TestVectors(t *testing.T) {
	origin := sample().Origin
	s, other := newDeterministic(t, 'a'), newDeterministic(t, 'b')
	line := func(s deterministic, name string, seconds int64, c pqnote.Checkpoint) string {
		l, err := pqnote.Sign(t.Context(), name, s, time.Unix(seconds, 0), c)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	good := line(s, origin, 1795168800, sample())
	larger := sample()
	larger.Size++
	raw := decode(t, strings.TrimSuffix(good[strings.LastIndexByte(good, ' ')+1:], "\n"))
	raw[len(raw)-1] ^= 1
	altered := good[:strings.LastIndexByte(good, ' ')+1] + base64.StdEncoding.EncodeToString(raw) + "\n"
	vkey, err := pqnote.VKey(origin, s.public)
	if err != nil {
		t.Fatal(err)
	}
	want := vectors{
		Description: "Checkpoints of an evidence log with the second signature line, ML-DSA-44 (spec/evidence.md 4.2; C2SP tlog-cosignature v1.1.0, type 0x06), under the log's verifier key. The keys come from seeds of 32 bytes 'a' and 'b', the signatures are FIPS 204's deterministic variant.",
		VKey:        vkey,
		Cases: []vectorCase{
			{"", "a good line", text + "\n" + good},
			{"bad_signature", "the last bit of the signature is another", text + "\n" + altered},
			{"bad_signature", "the time in the line is another", text + "\n" + later(t, good)},
			{"another_checkpoint", "the line is of a checkpoint with one leaf more", text + "\n" + line(s, origin, 1795168800, larger)},
			{"another_checkpoint", "the text is of another origin", strings.Replace(text, "1001", "1002", 1) + "\n" + good},
			{"bad_line", "a line break in the signature", text + "\n" + good[:200] + "\n" + good[200:]},
			{"unknown_key", "the line is by another key", text + "\n" + line(other, origin, 1795168800, sample())},
			{"unknown_key", "the line is of the key under another name", text + "\n" + line(s, origin+"0", 1795168800, sample())},
		},
	}
	if *update {
		encoded, err := json.MarshalIndent(want, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectorFile, append(encoded, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	encoded, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var got vectors
	if err := json.Unmarshal(encoded, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Cases) != len(want.Cases) || got.VKey != want.VKey {
		t.Fatalf("%d cases of %s (go test ./internal/pqnote -update writes them anew)", len(got.Cases), got.VKey[:40])
	}
	theirs, err := fnote.NewVerifierForCosignatureV1(got.VKey)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range got.Cases {
		if c != want.Cases[i] {
			t.Errorf("%s: it is not what the code makes", c.About)
		}
		body, signature, _ := strings.Cut(c.Note, "\n\n")
		checkpoint := sample()
		checkpoint.Origin, _, _ = strings.Cut(body, "\n")
		_, ok := pqnote.Verify(signature, origin, s.public, checkpoint)
		_, err := note.Open([]byte(c.Note), note.VerifierList(theirs))
		if ok != (c.Failure == "") || (err == nil) != (c.Failure == "") {
			t.Errorf("%s: verifies %v, theirs %v", c.About, ok, err)
		}
		if pqnote.Belongs(signature, origin, s.public) != (c.Failure != "unknown_key" && c.Failure != "bad_line") {
			t.Errorf("%s: whose line it is", c.About)
		}
	}
}

// FuzzLine: no line verifies but those that were signed, and none breaks the
// reader.
func FuzzLine(f *testing.F) {
	s := newDeterministic(f, 'a')
	good, err := pqnote.Sign(f.Context(), "n", s, time.Unix(5, 0), sample())
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{good, strings.TrimSuffix(good, "\n"), good[:40], "", "\u2014 n ", "\u2014 n AAAA\n", "\u2014 n AAAAAAAAAAAAAAAA\n", good[:40] + "\n" + good[40:], good[:40] + "\r" + good[40:]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if _, ok := pqnote.Verify(line, "n", s.public, sample()); ok && strings.TrimSuffix(line, "\n") != strings.TrimSuffix(good, "\n") {
			t.Errorf("verifies: %q", line)
		}
	})
}
