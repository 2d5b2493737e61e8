package wal_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"testing"

	"github.com/civibus/civibus/evidence/wal"
)

var update = flag.Bool("update", false, "write the vectors anew")

const walVectors = "../../spec/vectors/evidence/wal.json"

// walVector is a segment and what reading it must give. Failure is empty, torn
// (cut at End and go on) or damage (refuse, naming End).
type walVector struct {
	Name    string   `json:"name"`
	First   uint64   `json:"first"`
	Last    bool     `json:"last"` // whether it is the newest segment
	Segment string   `json:"segment"`
	Entries []string `json:"entries"`
	End     int64    `json:"end"`
	Failure string   `json:"failure"`
}

// Segments are read as spec/vectors says.
func TestWALVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	raw, err := os.ReadFile(walVectors)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []walVector
	if err := json.Unmarshal(raw, &vectors); err != nil || len(vectors) == 0 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	for _, v := range vectors {
		data, err := hex.DecodeString(v.Segment)
		if err != nil {
			t.Fatal(err)
		}
		got := read(v, data)
		if got.End != v.End || got.Failure != v.Failure || len(got.Entries) != len(v.Entries) {
			t.Errorf("%s: end %d, failure %q, %d entries; want %d, %q, %d", v.Name, got.End, got.Failure, len(got.Entries), v.End, v.Failure, len(v.Entries))
			continue
		}
		for i := range got.Entries {
			if got.Entries[i] != v.Entries[i] {
				t.Errorf("%s: entry %d is %s", v.Name, i, got.Entries[i])
			}
		}
	}
}

// read reads a segment into a vector.
func read(v walVector, data []byte) walVector {
	v.Entries = []string{}
	end, _, torn, err := wal.ScanBytes(v.First, data, v.Last, func(_ wal.Position, b []byte) error {
		v.Entries = append(v.Entries, hex.EncodeToString(b))
		return nil
	})
	v.End, v.Failure, v.Segment = end, "", hex.EncodeToString(data)
	var damage *wal.DamageError
	switch {
	case errors.As(err, &damage):
		v.Failure = "damage"
	case torn != "":
		v.Failure = "torn"
	}
	return v
}

func writeVectors(t *testing.T) {
	t.Helper()
	good := wal.Header(5)
	good = append(good, wal.Frame(5, 5, []byte("first"))...)
	one := len(good)
	good = append(good, wal.Frame(6, 6, []byte("second, in a write with the third"))...)
	two := len(good)
	good = append(good, wal.Frame(7, 6, []byte("third"))...)
	change := func(at int, b byte) []byte {
		out := bytes.Clone(good)
		out[at] ^= b
		return out
	}
	var out []walVector
	for _, v := range []struct {
		name string
		last bool
		data []byte
	}{
		{"whole, newest", true, good},
		{"whole, older", false, good},
		{"room filled ahead", true, append(bytes.Clone(good), make([]byte, 64)...)},
		{"zeros at the end of an older segment", false, append(bytes.Clone(good), make([]byte, 64)...)},
		{"cut in the last frame", true, good[:len(good)-3]},
		{"cut in the last frame of an older segment", false, good[:len(good)-3]},
		{"last write torn, its first frame lost", true, change(one+40, 1)},
		{"last write torn, its last frame lost", true, change(two+34, 1)},
		{"first frame changed, a later write follows", true, change(40, 1)},
		{"sequence number skipped", true, append(bytes.Clone(good), wal.Frame(9, 9, []byte("x"))...)},
		{"header changed", true, change(17, 1)},
		{"no frame yet", true, wal.Header(5)},
	} {
		got := read(walVector{Name: v.name, First: 5, Last: v.last}, v.data)
		out = append(out, got)
		t.Logf("%s: end %d, failure %q, %d entries", got.Name, got.End, got.Failure, len(got.Entries))
	}
	raw, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(walVectors, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
