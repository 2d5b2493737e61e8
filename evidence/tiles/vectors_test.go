package tiles_test

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/tiles"
)

var update = flag.Bool("update", false, "write the vectors anew")

const checkpointVectors = "../../spec/vectors/evidence/checkpoint.json"

type checkpointFile struct {
	Origin string             `json:"origin"`
	SPKI   string             `json:"spki"`
	VKey   string             `json:"vkey"`
	Leaves []string           `json:"leaves"`
	Cases  []checkpointVector `json:"cases"`
}

// checkpointVector is a checkpoint of the first Size leaves. Failure is empty
// when it must be accepted.
type checkpointVector struct {
	Name       string `json:"name"`
	Size       uint64 `json:"size"`
	Checkpoint string `json:"checkpoint"`
	Failure    string `json:"failure"`
}

// Checkpoints are accepted and refused as spec/vectors says.
func TestCheckpointVectors(t *testing.T) {
	if *update {
		writeCheckpointVectors(t)
	}
	raw, err := os.ReadFile(checkpointVectors)
	if err != nil {
		t.Fatal(err)
	}
	var f checkpointFile
	if err := json.Unmarshal(raw, &f); err != nil || len(f.Cases) == 0 {
		t.Fatalf("%d vectors, %v", len(f.Cases), err)
	}
	spki, err := hex.DecodeString(f.SPKI)
	if err != nil {
		t.Fatal(err)
	}
	key, err := civibus.ParsePublicKey(spki)
	if err != nil {
		t.Fatal(err)
	}
	if vkey, err := tiles.VerifierKey(f.Origin, key); err != nil || vkey != f.VKey {
		t.Fatalf("vkey %s, %v", vkey, err)
	}
	for _, v := range f.Cases {
		cp, err := tiles.ParseCheckpoint([]byte(v.Checkpoint), f.Origin, &key)
		if (err == nil) != (v.Failure == "") {
			t.Errorf("%s: %v, want failure %q", v.Name, err, v.Failure)
			continue
		}
		if err == nil && (cp.Size != v.Size || tlog.Hash(cp.Root) != rootOf(t, f.Leaves[:v.Size])) {
			t.Errorf("%s: size %d, root %x", v.Name, cp.Size, cp.Root)
		}
	}
}

// rootOf computes a root with an independent implementation.
func rootOf(t *testing.T, leaves []string) tlog.Hash {
	t.Helper()
	r := &reference{}
	for _, l := range leaves {
		b, err := hex.DecodeString(l)
		if err != nil {
			t.Fatal(err)
		}
		r.add(t, b)
	}
	root, err := tlog.TreeHash(r.size, r)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func writeCheckpointVectors(t *testing.T) {
	t.Helper()
	key := newSigner(t)
	f := checkpointFile{Origin: origin, SPKI: hex.EncodeToString(key.public.SPKI)}
	f.VKey, _ = tiles.VerifierKey(origin, key.public)
	for i := range uint64(5) {
		f.Leaves = append(f.Leaves, hex.EncodeToString(leaf(i)))
	}
	sign := func(name string, size uint64) string {
		s, err := tiles.NewNoteSigner(name, key)
		if err != nil {
			t.Fatal(err)
		}
		text, err := tiles.SignCheckpoint(s, size, tiles.Hash(rootOf(t, f.Leaves[:size])))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for size := range uint64(6) {
		f.Cases = append(f.Cases, checkpointVector{Name: "valid", Size: size, Checkpoint: sign(origin, size)})
	}
	good := sign(origin, 5)
	text, _, _ := strings.Cut(good, "\n\n")
	s, err := tiles.NewNoteSigner(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	extended, err := note.Sign(&note.Note{Text: text + "\nextension\n"}, s)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"wrong_origin":     sign(strings.Replace(origin, "1001", "1002", 1), 5),
		"size_changed":     strings.Replace(good, "\n5\n", "\n4\n", 1),
		"root_changed":     strings.Replace(good, "\n5\n", "\n5\nA", 1),
		"signature_absent": text + "\n",
		"signature_short":  strings.TrimSuffix(good, "\n")[:len(good)-9] + "\n",
		"signature_of_4":   text + "\n\n" + strings.SplitN(sign(origin, 4), "\n\n", 2)[1],
		"extension_line":   string(extended),
		"newline_absent":   strings.TrimSuffix(good, "\n"),
		"size_padded":      strings.Replace(good, "\n5\n", "\n05\n", 1),
		"empty":            "",
	} {
		f.Cases = append(f.Cases, checkpointVector{Name: name, Size: 5, Checkpoint: bad, Failure: name})
	}
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(checkpointVectors, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
