package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/civibus/civibus/evidence/archive"
	"github.com/civibus/civibus/internal/shred"
)

func at(day int) time.Time { return time.Date(2026, 11, day, 12, 0, 0, 0, time.UTC) }

func open(t testing.TB, dir string) *archive.Archive {
	t.Helper()
	a, err := archive.Open(filepath.Join(dir, "bodies"), filepath.Join(dir, "key"), erasable(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func erasable(t testing.TB, dir string) *shred.Keys {
	t.Helper()
	keys, err := shred.Open(filepath.Join(dir, "erasure.keys"), true)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestDestroyedKey: a body whose key was destroyed is read from no copy of its file.
func TestDestroyedKey(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	body := []byte("what was asked")
	erased, kept := put(t, a, 1, body), put(t, a, 1, body)
	copied, err := os.ReadFile(file(dir, erased))
	if err != nil {
		t.Fatal(err)
	}
	n, sealed, err := archive.Number(filepath.Join(dir, "bodies"), erased)
	if err != nil || !sealed {
		t.Fatalf("%v %v", sealed, err)
	}
	if err := erasable(t, dir).Destroy(n); err != nil {
		t.Fatal(err)
	}
	for range 2 { // done again after a crash
		if err := archive.Remove(filepath.Join(dir, "bodies"), erased); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(file(dir, erased)); !archive.IsMissing(err) {
		t.Errorf("its file: %v", err)
	}
	if err := os.WriteFile(file(dir, erased), copied, 0o600); err != nil {
		t.Fatal(err)
	}
	a = open(t, dir)
	if _, err := get(a, erased); !errors.Is(err, shred.ErrDestroyed) {
		t.Errorf("from a copy: %v", err)
	}
	if got, err := get(a, kept); err != nil || !bytes.Equal(got, body) {
		t.Errorf("the other body: %q, %v", got, err)
	}
	keyless, err := archive.OpenReader(filepath.Join(dir, "bodies"), filepath.Join(dir, "key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(keyless, kept); err == nil || !strings.Contains(err.Error(), "newest copy") {
		t.Errorf("without erasure keys: %v", err)
	}
}

func put(t testing.TB, a *archive.Archive, day int, body []byte) string {
	t.Helper()
	w, err := a.Create(at(day))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	name, size, sum, err := w.Commit()
	if err != nil || size != int64(len(body)) || sum != sha256.Sum256(body) {
		t.Fatalf("commit: %d bytes, %x, %v", size, sum, err)
	}
	return name
}

func get(a *archive.Archive, name string) ([]byte, error) {
	r, err := a.Read(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func file(dir, name string) string { return filepath.Join(dir, "bodies", name+".body") }

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	for _, n := range []int{0, 1, 65535, 65536, 65537, 3 * 65536, 200000} {
		body := bytes.Repeat([]byte("a citizen's data "), n/17+1)[:n]
		name := put(t, a, 1, body)
		got, err := get(open(t, dir), name)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%d bytes came back as %d (%v)", n, len(got), err)
		}
		raw, err := os.ReadFile(file(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte("citizen")) {
			t.Fatal("the body is readable on disk")
		}
	}
}

// Any way of cutting the body into writes gives the same content.
func TestWritesProperty(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	rapid.Check(t, func(t *rapid.T) {
		w, err := a.Create(at(1))
		if err != nil {
			t.Fatal(err)
		}
		var want []byte
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 90000), 0, 5).Draw(t, "writes") {
			p := bytes.Repeat([]byte{byte(n)}, n)
			want = append(want, p...)
			if _, err := w.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		name, _, _, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		got, err := get(a, name)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes came back as %d (%v)", len(want), len(got), err)
		}
	})
}

// A body that was changed, cut, extended, reordered or swapped is not read.
func TestDamageIsFound(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	body := bytes.Repeat([]byte("0123456789abcdef"), 3*65536/16)
	name, other := put(t, a, 1, body), put(t, a, 1, body)
	raw, err := os.ReadFile(file(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	swapped, err := os.ReadFile(file(dir, other))
	if err != nil {
		t.Fatal(err)
	}
	const header, chunk = 16 + 12 + 32 + 16, 65536 + 16
	changed := map[string][]byte{
		"empty":         {},
		"header cut":    raw[:40],
		"last cut":      raw[:header+2*chunk],
		"byte cut":      raw[:len(raw)-1],
		"byte added":    append(bytes.Clone(raw), 0),
		"other's file":  swapped,
		"chunks moved":  bytes.Join([][]byte{raw[:header], raw[header+chunk : header+2*chunk], raw[header : header+chunk], raw[header+2*chunk:]}, nil),
		"chunk missing": bytes.Join([][]byte{raw[:header], raw[header+chunk:]}, nil),
	}
	for _, i := range []int{0, 20, 40, 70, header, header + chunk + 5, len(raw) - 1} {
		b := bytes.Clone(raw)
		b[i] ^= 1
		changed["bit at "+string(rune('0'+i%10))] = b
	}
	for what, b := range changed {
		if err := os.WriteFile(file(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := get(a, name)
		if !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%s: read %d bytes, error %v", what, len(got), err)
		}
		if !bytes.HasPrefix(body, got) {
			t.Errorf("%s: wrong bytes were given out", what)
		}
	}
	other2, err := archive.Open(filepath.Join(dir, "bodies"), filepath.Join(dir, "key2"), nil)
	if err == nil || other2 != nil || !strings.Contains(err.Error(), "restore the key") {
		t.Fatalf("an archive with bodies was opened under a new key: %v", err)
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	w, err := a.Create(at(1))
	if err != nil {
		t.Fatal(err)
	}
	w.Write(make([]byte, 100000))
	w.Abort()
	if _, err := w.Write([]byte("x")); err == nil {
		t.Fatal("a dropped body took more")
	}
	if _, _, _, err := w.Commit(); err == nil {
		t.Fatal("a dropped body was committed")
	}
	crashed, err := a.Create(at(1))
	if err != nil {
		t.Fatal(err)
	}
	crashed.Write(make([]byte, 100000))
	if err := a.RemoveUnfinished(); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Join(dir, "bodies", "*", "*"))
	if len(names) > 0 {
		t.Fatalf("left: %v", names)
	}
}

func TestExpire(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	old, young := put(t, a, 1, []byte("old")), put(t, a, 3, []byte("young"))
	// A second name for the file shows what remains on the disk.
	if err := os.Link(file(dir, old), filepath.Join(dir, "copy")); err != nil {
		t.Fatal(err)
	}
	n, err := a.Expire(context.Background(), at(3))
	if err != nil || n != 1 {
		t.Fatalf("%d bodies deleted, %v", n, err)
	}
	if _, err := get(a, old); !archive.IsMissing(err) {
		t.Fatalf("the old body: %v", err)
	}
	if b, err := get(a, young); err != nil || string(b) != "young" {
		t.Fatalf("the young body: %q, %v", b, err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "copy"))
	if err != nil || !bytes.Equal(raw[:76], make([]byte, 76)) {
		t.Fatalf("the wrapped key remains: %x, %v", raw[:76], err)
	}
}

func TestNames(t *testing.T) {
	a := open(t, t.TempDir())
	for _, name := range []string{"", "x", "../../etc/passwd", "20261101/../../../../etc/passwd", "20261101/abc", "20261101/" + strings.Repeat("G", 32), "20261301/" + strings.Repeat("a", 32)} {
		if _, err := a.Read(name); err == nil || archive.IsMissing(err) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

// Memory does not grow with the body.
func TestBoundedMemory(t *testing.T) {
	a := open(t, t.TempDir())
	w, err := a.Create(at(1))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	part := make([]byte, 1<<20)
	w.Write(part)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 64 {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Fatalf("64 MiB of body took %d bytes of memory", grown)
	}
}

// The reader never panics and gives out nothing that is not authentic.
func FuzzRead(f *testing.F) {
	dir := f.TempDir()
	a := open(f, dir)
	body := []byte("the body")
	name := put(f, a, 1, body)
	raw, err := os.ReadFile(file(dir, name))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:len(raw)-3])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := archive.NewReader(a, bytes.NewReader(b), name)
		if err != nil {
			return
		}
		got, err := io.ReadAll(r)
		if !bytes.HasPrefix(body, got) || (err == nil) != bytes.Equal(b, raw) {
			t.Fatalf("%q, %v", got, err)
		}
	})
}

// TestArchiveKeyIsSecret holds that a key that others may read is not used.
func TestArchiveKeyIsSecret(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	key := filepath.Join(dir, "key")
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660} {
		if err := os.Chmod(key, mode); err != nil {
			t.Fatal(err)
		}
		_, err := archive.Open(filepath.Join(dir, "bodies"), key, nil)
		if err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if _, err := archive.Open(filepath.Join(dir, "bodies"), dir, nil); err == nil {
		t.Error("a folder was taken for a key")
	}
}
