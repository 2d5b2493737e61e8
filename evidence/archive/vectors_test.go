package archive_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/civibus/civibus/evidence/archive"
)

var update = flag.Bool("update", false, "write the vectors anew")

// The vectors of bodies, and those of before a key that can be destroyed was around
// theirs, which nothing writes any more.
const (
	bodyVectors  = "../../spec/vectors/evidence/body_sealed.json"
	bodyVectors1 = "../../spec/vectors/evidence/body.json"
)

// bodyVector is an archived body. Failure is empty when it must be read.
type bodyVector struct {
	Name    string `json:"name"`
	Key     string `json:"archive_key"`
	Erasure string `json:"erasure_keys,omitempty"` // base64 of the file
	Archive string `json:"archive"`                // its name
	File    string `json:"file"`                   // base64
	Size    int    `json:"size"`
	SHA256  string `json:"sha256"` // of the body
	Failure string `json:"failure"`
}

// Archived bodies are read and refused as spec/vectors says.
func TestBodyVectors(t *testing.T) {
	if *update {
		writeBodyVectors(t)
	}
	for _, name := range []string{bodyVectors, bodyVectors1} {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var vectors []bodyVector
		if err := json.Unmarshal(raw, &vectors); err != nil || len(vectors) == 0 {
			t.Fatalf("%d vectors, %v", len(vectors), err)
		}
		checkBodyVectors(t, vectors)
	}
}

func checkBodyVectors(t *testing.T, vectors []bodyVector) {
	t.Helper()
	for _, v := range vectors {
		dir := t.TempDir()
		key, err := hex.DecodeString(v.Key)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "key"), []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if v.Erasure != "" {
			keys, err := base64.StdEncoding.DecodeString(v.Erasure)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "erasure.keys"), keys, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		body, err := base64.StdEncoding.DecodeString(v.File)
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		r, err := archive.NewReader(open(t, dir), bytes.NewReader(body), v.Archive)
		if err == nil {
			got, err = io.ReadAll(r)
		}
		if (err == nil) != (v.Failure == "") {
			t.Errorf("%s: %v", v.Name, err)
		}
		if sum := sha256.Sum256(got); err == nil && (len(got) != v.Size || hex.EncodeToString(sum[:]) != v.SHA256) {
			t.Errorf("%s: %d bytes, SHA-256 %x", v.Name, len(got), sum)
		}
	}
}

func writeBodyVectors(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	key := bytes.Repeat([]byte{7}, 32)
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := open(t, dir)
	erasure, err := os.ReadFile(filepath.Join(dir, "erasure.keys"))
	if err != nil {
		t.Fatal(err)
	}
	var out []bodyVector
	put := func(name string, body []byte, change func([]byte) []byte) {
		at := put(t, a, 1, body)
		raw, err := os.ReadFile(file(dir, at))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(body)
		v := bodyVector{Name: name, Key: hex.EncodeToString(key), Erasure: base64.StdEncoding.EncodeToString(erasure), Archive: at, Size: len(body), SHA256: hex.EncodeToString(sum[:])}
		if change != nil {
			raw, v.Failure = change(raw), name
		}
		v.File = base64.StdEncoding.EncodeToString(raw)
		out = append(out, v)
	}
	put("empty", nil, nil)
	put("short", []byte("a body"), nil)
	put("one chunk and a byte", make([]byte, 65537), nil)
	put("header_changed", []byte("a body"), func(b []byte) []byte { b[3] ^= 1; return b })
	put("key_changed", []byte("a body"), func(b []byte) []byte { b[40] ^= 1; return b })
	put("content_changed", []byte("a body"), func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	put("cut", []byte("a body"), func(b []byte) []byte { return b[:len(b)-1] })
	put("header_only", []byte("a body"), func(b []byte) []byte { return b[:109] })
	put("number_changed", []byte("a body"), func(b []byte) []byte { b[16] ^= 1; return b })
	put("last_chunk_dropped", make([]byte, 65537), func(b []byte) []byte { return b[:109+65552] })
	raw, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bodyVectors, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
