package tiles_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/tiles"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const origin = "civibus/DEMO/GOV/1001/evidence/1"

// signer is a log key in memory.
type signer struct {
	private ed25519.PrivateKey
	public  civibus.PublicKey
}

func newSigner(t testing.TB) signer {
	t.Helper()
	seed := sha256.Sum256([]byte("log key of the tests"))
	private := ed25519.NewKeyFromSeed(seed[:])
	public, err := civibus.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return signer{private, public}
}

func (s signer) Key() civibus.PublicKey { return s.public }

func (s signer) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.private, message), nil
}

// reference is the log as golang.org/x/mod/sumdb/tlog keeps it.
type reference struct {
	hashes []tlog.Hash
	size   int64
}

func (r *reference) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		out[i] = r.hashes[at]
	}
	return out, nil
}

func (r *reference) add(t *testing.T, leaf []byte) {
	t.Helper()
	more, err := tlog.StoredHashes(r.size, leaf, r)
	if err != nil {
		t.Fatal(err)
	}
	r.hashes = append(r.hashes, more...)
	r.size++
}

func leaf(i uint64) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, i))
	return append([]byte{1}, sum[:]...)
}

func openWriter(t testing.TB, dir string) *tiles.Writer {
	t.Helper()
	w, err := tiles.OpenWriter(context.Background(), dir, origin, newSigner(t), nil, 4096)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// grow appends batches of the given sizes to both logs.
func grow(t *testing.T, w *tiles.Writer, r *reference, sizes ...int) {
	t.Helper()
	for _, n := range sizes {
		var batch [][]byte
		for range n {
			l := leaf(uint64(r.size))
			batch = append(batch, l)
			r.add(t, l)
		}
		indexes, err := w.Add(context.Background(), batch)
		if err != nil {
			t.Fatal(err)
		}
		if indexes[n-1] != uint64(r.size-1) {
			t.Fatalf("last index %d, want %d", indexes[n-1], r.size-1)
		}
	}
}

// Roots and proofs are those of an independent implementation, for sizes at
// and around tile borders, also after partial tiles are gone and from disk.
func TestAgreesWithSumDB(t *testing.T) {
	dir := t.TempDir()
	w, r := openWriter(t, dir), &reference{}
	collected := uint64(0)
	check := func(tree *tiles.Tree) {
		t.Helper()
		rng := rand.New(rand.NewPCG(1, uint64(r.size)))
		for range 60 {
			size := 1 + rng.Int64N(r.size)
			index, old := rng.Int64N(size), 1+rng.Int64N(size)
			root, err := tree.Root(uint64(size))
			if err != nil {
				t.Fatal(err)
			}
			want, err := tlog.TreeHash(size, r)
			if err != nil || tlog.Hash(root) != want {
				t.Fatalf("root at %d is %x, want %x (%v)", size, root, want, err)
			}
			got, err := tree.Inclusion(uint64(index), uint64(size))
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckRecord(hashes(got), size, want, index, tlog.RecordHash(leaf(uint64(index)))); err != nil {
				t.Fatalf("inclusion of %d in %d: %v", index, size, err)
			}
			got, err = tree.Consistency(uint64(old), uint64(size))
			if err != nil {
				t.Fatal(err)
			}
			oldRoot, err := tlog.TreeHash(old, r)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckTree(hashes(got), size, want, old, oldRoot); err != nil {
				t.Fatalf("consistency of %d and %d: %v", old, size, err)
			}
		}
	}
	for _, sizes := range [][]int{{1}, {1, 1}, {252}, {1}, {1, 300}, {4096, 17}, {1000}} {
		grow(t, w, r, sizes...)
		check(w.Tree())
		cp, err := w.Publish()
		if err != nil {
			t.Fatal(err)
		}
		checkCheckpoint(t, cp, r)
		if collected, err = w.Collect(collected); err != nil {
			t.Fatal(err)
		}
		check(tiles.NewTree(dir, uint64(r.size)))
	}
	if got := partials(t, dir); got > 4 {
		t.Fatalf("%d directories of partial tiles are left", got)
	}
	w.Close()
	w = openWriter(t, dir)
	grow(t, w, r, 5)
	check(w.Tree())
	at := uint64(0)
	if err := w.Tree().Leaves(0, uint64(r.size), func(i uint64, l []byte) error {
		if i != at || !bytes.Equal(l, leaf(i)) {
			t.Fatalf("leaf %d in place %d is %x", i, at, l)
		}
		at++
		return nil
	}); err != nil || at != uint64(r.size) {
		t.Fatalf("%d leaves, %v", at, err)
	}
}

func checkCheckpoint(t *testing.T, cp tiles.Checkpoint, r *reference) {
	t.Helper()
	vkey, err := tiles.VerifierKey(origin, newSigner(t).public)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(cp.Note, note.VerifierList(v))
	if err != nil {
		t.Fatal(err)
	}
	want, err := tlog.TreeHash(r.size, r)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(n.Text, "\n")
	if lines[0] != origin || lines[2] != want.String() || cp.Size != uint64(r.size) {
		t.Fatalf("checkpoint is %q", n.Text)
	}
}

func partials(t *testing.T, dir string) (n int) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if d.IsDir() && strings.HasSuffix(p, ".p") {
			n++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func hashes(in [][]byte) []tlog.Hash {
	out := make([]tlog.Hash, len(in))
	for i, h := range in {
		out[i] = tlog.Hash(h)
	}
	return out
}

// A changed tile is found by its parent, by the checkpoint or by the rebuild,
// never passed on in a proof or signed over.
func TestDamageIsFound(t *testing.T) {
	dir := t.TempDir()
	w, r := openWriter(t, dir), &reference{}
	grow(t, w, r, 1300)
	if _, err := w.Publish(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	flip := func(name string) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	full := filepath.Join(dir, "tile", "0", "001")
	flip(full)
	if _, err := tiles.NewTree(dir, 1300).Inclusion(300, 1300); !errors.Is(err, tiles.ErrDamaged) || !strings.Contains(err.Error(), full) {
		t.Fatalf("proof through a damaged tile: %v", err)
	}
	if _, err := tiles.NewTree(dir, 1300).Inclusion(3, 1300); err != nil {
		t.Fatalf("proof beside a damaged tile: %v", err)
	}
	checkRebuild(t, dir, full)
	flip(full)
	for _, name := range []string{"tile/1/000.p/5", "tile/0/005.p/20", "tile/entries/002", "tile/entries/005.p/20"} {
		name = filepath.Join(dir, name)
		flip(name)
		checkRebuild(t, dir, name)
		if strings.Contains(name, "entries") {
			flip(name)
			continue
		}
		if _, err := tiles.OpenWriter(context.Background(), dir, origin, newSigner(t), nil, 4096); !errors.Is(err, tiles.ErrDamaged) {
			t.Fatalf("opened with a damaged %s: %v", name, err)
		}
		flip(name)
	}
	checkRebuild(t, dir)
}

// checkRebuild checks that Rebuild names exactly these files.
func checkRebuild(t *testing.T, dir string, want ...string) {
	t.Helper()
	got := map[string]bool{}
	if _, err := tiles.Rebuild(context.Background(), dir, 1300, nil, nil, func(d tiles.Damage) { got[d.File] = true }); err != nil {
		t.Fatal(err)
	}
	for _, name := range want {
		if !got[name] {
			t.Fatalf("the rebuild found %v, want %v", got, want)
		}
	}
	if len(want) == 0 && len(got) > 0 {
		t.Fatalf("the rebuild found %v in a sound tree", got)
	}
}

// The parser of entry bundles never panics and never invents bytes.
func FuzzBundle(f *testing.F) {
	f.Add([]byte{0, 3, 'a', 'b', 'c', 0, 0})
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		leaves, err := tiles.ParseBundle(raw)
		if err != nil {
			return
		}
		var again []byte
		for _, l := range leaves {
			again = binary.BigEndian.AppendUint16(again, uint16(len(l)))
			again = append(again, l...)
		}
		if !bytes.Equal(raw, again) {
			t.Fatalf("%x was read as %x", raw, again)
		}
	})
}

// The parser of checkpoints never panics, takes with a key only what the key
// signed, and reads what the second implementation reads.
func FuzzCheckpoint(f *testing.F) {
	s := newSigner(f)
	vkey, err := tiles.VerifierKey(origin, s.public)
	if err != nil {
		f.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	openWriter(f, dir)
	good, _, err := tiles.ReadCheckpoint(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte("\n0\n"), []byte("\n00\n"), 1))
	f.Add([]byte(origin + "\n18446744073709551616\nAAAA\n\n\u2014 x AAAA\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if cp, err := tiles.ParseCheckpoint(raw, origin, nil); err == nil && (!bytes.HasPrefix(raw, []byte(origin+"\n")) || !bytes.Equal(cp.Note, raw)) {
			t.Fatalf("%q was read as %+v", raw, cp)
		}
		cp, err := tiles.ParseCheckpoint(raw, origin, &s.public)
		if err != nil {
			return
		}
		opened, err := note.Open(raw, note.VerifierList(verifier))
		if err != nil {
			t.Fatalf("accepted without the key's signature: %v, %q", err, raw)
		}
		if tree, err := tlog.ParseTree([]byte("go.sum database tree\n" + strings.TrimPrefix(opened.Text, origin+"\n"))); err != nil || uint64(tree.N) != cp.Size || tree.Hash != tlog.Hash(cp.Root) {
			t.Fatalf("%q was read as %+v, the second implementation says %+v, %v", raw, cp, tree, err)
		}
	})
}

func BenchmarkInclusion(b *testing.B) {
	dir := b.TempDir()
	w := openWriter(b, dir)
	for range 16 {
		batch := make([][]byte, 4096)
		for i := range batch {
			batch[i] = leaf(rand.Uint64())
		}
		if _, err := w.Add(context.Background(), batch); err != nil {
			b.Fatal(err)
		}
	}
	size := w.Tree().Size()
	for b.Loop() {
		if _, err := w.Tree().Inclusion(rand.Uint64N(size), size); err != nil {
			b.Fatal(err)
		}
	}
}
