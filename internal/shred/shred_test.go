package shred_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/civibus/civibus/internal/shred"
)

func open(t testing.TB, file string, fresh bool) *shred.Keys {
	t.Helper()
	k, err := shred.Open(file, fresh)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seal(k *shred.Keys, text string) []byte {
	return k.Seal(make([]byte, shred.HeadSize), []byte(text), 1)
}

// TestDestroyed: what was erased opens with no copy of the keys that is newer than its
// erasure, all else with every copy, whichever is older, sealed thing or copy.
func TestDestroyed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		file := filepath.Join(t.TempDir(), "erasure.keys")
		k := open(t, file, true)
		sealed := map[string][]byte{}
		gone := map[string]uint64{} // the generation from which on
		var copies [][]byte
		for i := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			switch rapid.IntRange(0, 4).Draw(rt, "step") {
			case 0: // erase some
				var numbers []uint64
				for name, s := range sealed {
					if _, done := gone[name]; !done && rapid.Bool().Draw(rt, "this one") {
						n, err := shred.Number(s)
						if err != nil {
							rt.Fatal(err)
						}
						numbers = append(numbers, n)
						gone[name] = k.Generation() + 1
					}
				}
				if err := k.Destroy(numbers...); err != nil {
					rt.Fatal(err)
				}
			case 1: // copy
				raw, err := os.ReadFile(file)
				if err != nil {
					rt.Fatal(err)
				}
				copies = append(copies, raw)
			case 2: // restart
				k = open(t, file, false)
			default:
				name := strings.Repeat("x", i)
				sealed[name] = seal(k, name)
			}
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			rt.Fatal(err)
		}
		for _, raw := range append(copies, raw) {
			k, err := shred.Parse(raw)
			if err != nil {
				rt.Fatal(err)
			}
			for name, s := range sealed {
				plain, err := k.Open(s, 1)
				from, erased := gone[name]
				if erased && k.Generation() >= from {
					if !errors.Is(err, shred.ErrDestroyed) {
						rt.Fatalf("%q opens with generation %d, it was erased in %d: %v", name, k.Generation(), from, err)
					}
				} else if err != nil || string(plain) != name {
					rt.Fatalf("%q: %q, %v", name, plain, err)
				}
			}
		}
	})
}

// TestFileIsOverwritten: the file of before holds no seed any more once something was
// destroyed, though somebody still has it open.
func TestFileIsOverwritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "erasure.keys")
	k := open(t, file, true)
	s := seal(k, "x")
	before, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	n, err := shred.Number(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Destroy(n, n); err != nil {
		t.Fatal(err)
	}
	info, err := before.Stat()
	if err != nil {
		t.Fatal(err)
	}
	left := make([]byte, info.Size())
	if _, err := before.ReadAt(left, 0); err != nil || slices.ContainsFunc(left, func(b byte) bool { return b != 0 }) {
		t.Errorf("%v: the old file still holds %q", err, left)
	}
	if k.Generation() != 1 {
		t.Errorf("generation %d", k.Generation())
	}
	names, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(names) != 1 {
		t.Errorf("%v %v", names, err)
	}
}

// TestNeighbours: what is destroyed together takes as little room as the whole branch.
func TestNeighbours(t *testing.T) {
	file := filepath.Join(t.TempDir(), "erasure.keys")
	k := open(t, file, true)
	var numbers []uint64
	for range 4096 {
		numbers = append(numbers, k.Next())
	}
	if err := k.Destroy(numbers...); err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint64{numbers[0], numbers[4095]} {
		if _, err := k.Key(n); !errors.Is(err, shred.ErrDestroyed) {
			t.Errorf("%d: %v", n, err)
		}
	}
	if _, err := k.Key(numbers[4095] + 1); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Size() > 64*41+64 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "erasure.keys")
	if _, err := shred.Open(file, false); err == nil || !strings.Contains(err.Error(), "newest copy") {
		t.Errorf("missing: %v", err)
	}
	k := open(t, file, true)
	s := seal(k, "text")
	for what, change := range map[string]func(b []byte) []byte{
		"cut":     func(b []byte) []byte { return b[:len(b)-1] },
		"number":  func(b []byte) []byte { b[0] ^= 1; return b },
		"nonce":   func(b []byte) []byte { b[9] ^= 1; return b },
		"content": func(b []byte) []byte { b[17] ^= 1; return b },
		"short":   func(b []byte) []byte { return b[:20] },
	} {
		if _, err := k.Open(change(bytes.Clone(s)), 1); !errors.Is(err, shred.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := k.Open(s, 2); !errors.Is(err, shred.ErrDamaged) {
		t.Errorf("another mark: %v", err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		b := bytes.Clone(raw)
		b[i] ^= 1
		if _, err := shred.Parse(b); err == nil {
			t.Fatalf("byte %d is changed and the file is taken", i)
		}
	}
	reader, err := shred.OpenReader(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Destroy(1); err == nil {
		t.Error("a reader destroys keys")
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := shred.Open(file, false); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("others may read it: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	file := filepath.Join(f.TempDir(), "erasure.keys")
	k := open(f, file, true)
	if err := k.Destroy(k.Next(), k.Next()); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:40])
	f.Fuzz(func(t *testing.T, raw []byte) {
		if k, err := shred.Parse(raw); err == nil {
			_, _ = k.Key(0)
			_, _ = k.Open(raw, 1)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	k := open(b, filepath.Join(b.TempDir(), "erasure.keys"), true)
	room := make([]byte, 4096)
	b.SetBytes(2048)
	b.ReportAllocs()
	for b.Loop() {
		k.Seal(room[:shred.HeadSize], room[shred.HeadSize:][:2048], 1)
	}
}

func BenchmarkOpen(b *testing.B) {
	k := open(b, filepath.Join(b.TempDir(), "erasure.keys"), true)
	s := k.Seal(make([]byte, shred.HeadSize), make([]byte, 2048), 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Open(s, 1); err != nil {
			b.Fatal(err)
		}
	}
}

var update = flag.Bool("update", false, "write the vectors anew")

const vectorsFile = "../../spec/vectors/evidence/sealed.json"

// vector is something sealed, with the file of keys that it is opened with.
type vector struct {
	Name    string `json:"name"`
	Keys    string `json:"erasure_keys"` // base64
	Sealed  string `json:"sealed"`       // hex
	Mark    byte   `json:"mark"`
	Plain   string `json:"plain"`   // hex
	Failure string `json:"failure"` // empty, destroyed or damaged
}

// TestVectors: what is sealed is opened and refused as spec/vectors says.
func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	raw, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(raw, &vectors); err != nil || len(vectors) < 5 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	for _, v := range vectors {
		file, err1 := base64.StdEncoding.DecodeString(v.Keys)
		sealed, err2 := hex.DecodeString(v.Sealed)
		keys, err3 := shred.Parse(file)
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		plain, err := keys.Open(sealed, v.Mark)
		want := map[string]error{"": nil, "destroyed": shred.ErrDestroyed, "damaged": shred.ErrDamaged}[v.Failure]
		if !errors.Is(err, want) || hex.EncodeToString(plain) != v.Plain {
			t.Errorf("%s: %x, %v", v.Name, plain, err)
		}
	}
}

func writeVectors(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "erasure.keys")
	k := open(t, file, true)
	one, two := seal(k, "the first"), seal(k, "the second")
	var out []vector
	add := func(name string, sealed []byte, mark byte, plain, failure string) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, vector{name, base64.StdEncoding.EncodeToString(raw), hex.EncodeToString(sealed), mark, hex.EncodeToString([]byte(plain)), failure})
	}
	add("first", one, 1, "the first", "")
	add("second", two, 1, "the second", "")
	add("another mark", two, 2, "", "damaged")
	changed := bytes.Clone(one)
	changed[len(changed)-1] ^= 1
	add("changed", changed, 1, "", "damaged")
	n, err := shred.Number(one)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Destroy(n); err != nil {
		t.Fatal(err)
	}
	add("destroyed", one, 1, "", "destroyed")
	add("its neighbour", two, 1, "the second", "")
	raw, err := json.MarshalIndent(out, "", "  ")
	if err == nil {
		err = os.WriteFile(vectorsFile, append(raw, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
