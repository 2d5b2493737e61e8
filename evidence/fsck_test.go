package evidence_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/tiles"
	"github.com/civibus/civibus/evidence/wal"
)

// sample makes a closed log with everything in it.
func sample(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	c := config(dir)
	c.Archive, c.SegmentBytes = evidence.ArchiveEncrypted, 64<<10
	l := open(t, c)
	w := &witness{vkey: l.VerifierKey()}
	stop := anchors(t, l, w)
	add(t, l, ids("x", 600)...)
	b, err := l.NewBody(context.Background(), "body", evidencepb.Side_SIDE_CONSUMER)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(b, strings.Repeat("a body ", 100))
	body, err := b.Commit()
	if err != nil {
		t.Fatal(err)
	}
	r := record("body")
	r.ResponseBody = body
	if err := l.Append(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	awaitAnchor(t, l, 601)
	stop()
	closeLog(t, l)
	if r := clean(t, dir); r.Records != 601 || r.Bodies != 1 || r.Anchors == 0 {
		t.Fatalf("fsck counts %+v", r)
	}
	return dir
}

// flip changes one byte of a file, a fraction of the way through.
func flip(t *testing.T, name string, part float64) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[int(float64(len(b)-1)*part)] ^= 0x40
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func one(t *testing.T, dir, pattern string, at int) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) <= at {
		t.Fatalf("%s: %v, %v", pattern, names, err)
	}
	return names[at]
}

// copyLog copies a log's folder. os.CopyFS makes every file readable by others,
// which its keys must not be.
func copyLog(t *testing.T, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"archive.key", "erasure.keys"} {
		if err := os.Chmod(filepath.Join(to, name), 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// Every damaged file is named, whatever it is, and nothing is changed.
func TestFsckNamesDamage(t *testing.T) {
	dir := sample(t)
	for _, c := range []struct {
		name string
		file string
		at   int
		part float64
	}{
		{"first segment", "wal/*.wal", 0, 0.5},
		{"inner segment", "wal/*.wal", 3, 0.9},
		{"last segment", "wal/*.wal", 5, 0.4},
		{"segment header", "wal/*.wal", 2, 0},
		{"full tile", "tree/tile/0/*", 1, 0.3},
		{"partial tile", "tree/tile/0/002.p/89", 0, 0.5},
		{"upper tile", "tree/tile/1/000.p/2", 0, 0.5},
		{"full bundle", "tree/tile/entries/*", 0, 0.7},
		{"partial bundle", "tree/tile/entries/002.p/89", 0, 0.7},
		{"checkpoint", "tree/checkpoint", 0, 0.5},
		{"checkpoint signature", "tree/checkpoint", 0, 0.97},
		{"tree state", "tree/.state/treeState", 0, 0.6},
		{"body", "bodies/*/*.body", 0, 0.5},
		{"archive key", "archive.key", 0, 0.2},
		{"index journal, first half", "index/*.log", 0, 0.3},
		{"index journal, beginning", "index/*.log", 0, 0.001},
	} {
		t.Run(c.name, func(t *testing.T) {
			damaged := filepath.Join(t.TempDir(), "log")
			copyLog(t, damaged, dir)
			name := one(t, damaged, c.file, c.at)
			if c.name == "archive key" { // another key
				if err := os.WriteFile(name, []byte(strings.Repeat("A", 43)+"=\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			} else {
				flip(t, name, c.part)
			}
			before := contents(t, damaged)
			r := fsck(t, damaged)
			if r.OK() {
				t.Fatalf("damage of %s was not found", name)
			}
			want := name
			switch c.name {
			case "archive key":
				want = one(t, damaged, "bodies/*/*.body", 0)
			case "index journal, first half", "index journal, beginning":
				want = filepath.Join(damaged, "index")
			}
			found := false
			for _, p := range r.Problems {
				found = found || p.File == want
				if p.Fix == "" || p.What == "" {
					t.Errorf("problem without text: %+v", p)
				}
			}
			if !found {
				t.Fatalf("%s is not named by %+v", want, r.Problems)
			}
			if strings.HasSuffix(c.name, "bundle") && len(r.Problems) != 1 {
				t.Fatalf("one wrong entry gives %+v", r.Problems)
			}
			if before != contents(t, damaged) {
				t.Fatal("the check changed files")
			}
		})
	}
}

// contents is every file of a log but the locks and the index's own journal of
// openings.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	if err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "LOG" || d.Name() == "LOG.old" || strings.EqualFold(d.Name(), "lock") {
			return err
		}
		data, err := os.ReadFile(p)
		b.WriteString(p)
		b.Write(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Missing files are named as well.
func TestFsckNamesMissing(t *testing.T) {
	dir := sample(t)
	for _, pattern := range []string{"wal/*.wal", "tree/tile/0/000", "tree/tile/entries/001", "tree/checkpoint", "tree/.state/treeState", "bodies/*/*.body", "archive.key", "index"} {
		damaged := filepath.Join(t.TempDir(), "log")
		copyLog(t, damaged, dir)
		if err := os.RemoveAll(one(t, damaged, pattern, 0)); err != nil {
			t.Fatal(err)
		}
		if r := fsck(t, damaged); r.OK() {
			t.Errorf("fsck finds nothing without %s", pattern)
		}
	}
	if _, err := evidence.Fsck(context.Background(), t.TempDir(), evidence.FsckOptions{}); err == nil {
		t.Error("fsck of no log succeeds")
	}
}

// Damage that matters for going on is refused at the start too, with the place.
func TestOpenRefusesDamage(t *testing.T) {
	dir := sample(t)
	copyOf := func() string {
		damaged := filepath.Join(t.TempDir(), "log")
		copyLog(t, damaged, dir)
		return damaged
	}
	c := config(copyOf())
	segments, err := wal.List(filepath.Join(c.Dir, "wal"))
	if err != nil {
		t.Fatal(err)
	}
	last := segments[len(segments)-1].Path
	flip(t, last, 0.8) // acknowledged and stored: not a torn tail
	var damage *wal.DamageError
	if _, err := evidence.Open(context.Background(), c); !errors.As(err, &damage) || damage.File != last {
		t.Fatalf("opened with damage in %s: %v", last, err)
	}
	c = config(copyOf())
	flip(t, filepath.Join(c.Dir, "tree", "tile", "0", "002.p", "89"), 0.5)
	if _, err := evidence.Open(context.Background(), c); !errors.Is(err, tiles.ErrDamaged) {
		t.Fatalf("opened with a damaged tile: %v", err)
	}
	c = config(copyOf())
	if err := os.RemoveAll(filepath.Join(c.Dir, "index")); err != nil {
		t.Fatal(err)
	}
	if _, err := evidence.Open(context.Background(), c); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Fatalf("opened without the index: %v", err)
	}
	// Only the tree comes from an older backup.
	c = config(copyOf())
	l := open(t, c)
	add(t, l, ids("y", 30)...)
	closeLog(t, l)
	if err := os.RemoveAll(filepath.Join(c.Dir, "tree")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(c.Dir, "tree"), os.DirFS(filepath.Join(dir, "tree"))); err != nil {
		t.Fatal(err)
	}
	if _, err := evidence.Open(context.Background(), c); err == nil || !strings.Contains(err.Error(), "older backup") {
		t.Fatalf("opened with an older tree: %v", err)
	}
	if r := fsck(t, c.Dir); r.OK() {
		t.Fatal("fsck finds nothing with an older tree")
	}
}
