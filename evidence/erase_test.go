package evidence_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
)

// erasable makes a log with archived bodies, things beside records and halves of the
// other bodies, all of which hold the name of their exchange.
func erasable(t *testing.T, dir string, names ...string) *evidence.Log {
	t.Helper()
	c := config(dir)
	c.Archive = evidence.ArchiveEncrypted
	l := open(t, c)
	for _, name := range names {
		b, err := l.NewBody(t.Context(), name, evidencepb.Side_SIDE_PROVIDER)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Write([]byte("the body of " + name)); err != nil {
			t.Fatal(err)
		}
		r := record(name)
		if r.RequestBody, err = b.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := l.AppendBeside(t.Context(), r, []byte("usage of "+name)); err != nil {
			t.Fatal(err)
		}
	}
	awaitStored(t, l, uint64(len(names)))
	await(t, l, "the checkpoint", func() bool { _, size, _ := l.Checkpoint(); return size >= uint64(len(names)) })
	for _, name := range names {
		if err := l.PutCounterparts([]evidence.Counterpart{{ExchangeID: name, Half: []byte("\x08half of " + name)}}); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func leafOf(t *testing.T, l *evidence.Log, name string) evidence.Entry {
	t.Helper()
	found, err := l.Find(name)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", name, found, err)
	}
	return found[0]
}

// holds reports the files below a folder that hold a text.
func holds(t *testing.T, dir, text string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte(text)) {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestErase: an erased record is in no file of the log any more, its salt, what was
// beside it, its body and the other body's half neither; a note says so; all else is as
// it was, after a restart too.
func TestErase(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l := erasable(t, dir, "anna-petrova-1987", "boris", "vera")
	gone, kept := leafOf(t, l, "anna-petrova-1987"), leafOf(t, l, "boris")
	_, size, root := l.Checkpoint()
	const ground = "GDPR Article 17(1)(d)"

	e, err := l.Erase(t.Context(), []uint64{gone.Index}, ground)
	if err != nil {
		t.Fatal(err)
	}
	check := func(l *evidence.Log) {
		t.Helper()
		if found, err := l.Find("anna-petrova-1987"); err != nil || len(found) != 0 {
			t.Errorf("it is found: %v, %v", found, err)
		}
		if _, err := l.Entry(gone.Index); !errors.Is(err, evidence.ErrErased) {
			t.Errorf("its leaf: %v", err)
		}
		if half, err := l.Counterpart("anna-petrova-1987"); err != nil || half != nil {
			t.Errorf("the other half: %q, %v", half, err)
		}
		if left, err := l.Undelivered(0, 10); err != nil || slices.ContainsFunc(left, func(d evidence.Delivery) bool { return d.Index == gone.Index }) {
			t.Errorf("it is still to be delivered: %v, %v", left, err)
		}
		same := leafOf(t, l, "boris")
		if !bytes.Equal(same.Record, kept.Record) || same.Salt != kept.Salt || string(same.Beside) != "usage of boris" {
			t.Errorf("another record changed: %+v", same)
		}
		if half, err := l.Counterpart("boris"); err != nil || string(half) != "\x08half of boris" {
			t.Errorf("another half changed: %q, %v", half, err)
		}
		for _, e := range []evidence.Entry{gone, kept} { // the leaf of the erased one too
			proof, err := l.Inclusion(e.Index, size)
			if err == nil {
				err = evidence.VerifyInclusion(e.Leaf(), e.Index, size, root, proof)
			}
			if err != nil {
				t.Error(err)
			}
		}
		notes, err := l.Erasures(0, 10)
		if err != nil || len(notes) == 0 || notes[0].Note != e.Note {
			t.Errorf("%+v, %v", notes, err)
		}
		if of, ok, err := l.ErasureOf(gone.Index); err != nil || !ok || of.Number != 1 {
			t.Errorf("%+v %v %v", of, ok, err)
		}
	}
	check(l)
	key := newSigner().Key()
	parsed, err := evidence.ParseErasure([]byte(e.Note), origin, &key)
	if err != nil || parsed.Number != 1 || parsed.Ground != ground || !slices.Equal(parsed.Leaves, []uint64{gone.Index}) || parsed.Size != size || !bytes.Equal(parsed.Root, root[:]) {
		t.Errorf("note %+v, %v", parsed, err)
	}
	if strings.Contains(e.Note, "anna") {
		t.Errorf("the note names the person: %s", e.Note)
	}
	for i := range len(e.Note) {
		changed := []byte(e.Note)
		changed[i] ^= 1
		if _, err := evidence.ParseErasure(changed, origin, &key); err == nil {
			t.Fatalf("a note with byte %d changed is taken", i)
		}
	}
	for _, text := range []string{"the body of anna", "usage of anna", "half of anna"} {
		if files := holds(t, dir, text); len(files) > 0 {
			t.Errorf("files with %s: %v", text, files)
		}
	}
	// The id of the exchange, which says nothing, may be the bound of a file in the
	// index's own records until the next start.
	files := slices.DeleteFunc(holds(t, dir, "anna-petrova-1987"), func(f string) bool {
		return strings.HasPrefix(filepath.Base(f), "MANIFEST") || filepath.Base(f) == "LOG"
	})
	if len(files) > 0 {
		t.Errorf("files with the exchange's id: %v", files)
	}
	if files := holds(t, dir, string(gone.Salt[:])); len(files) > 0 {
		t.Errorf("files with the salt: %v", files)
	}
	// Done again it is refused, and one with a leaf that is not there does nothing.
	if _, err := l.Erase(t.Context(), []uint64{gone.Index}, ground); !errors.Is(err, evidence.ErrErased) {
		t.Errorf("again: %v", err)
	}
	if _, err := l.Erase(t.Context(), []uint64{kept.Index, 7}, ground); err == nil || !strings.Contains(err.Error(), "leaf 7") {
		t.Errorf("a leaf that is not there: %v", err)
	}
	for _, bad := range []string{"", "two\nlines", strings.Repeat("x", 201), "\xff"} {
		if _, err := l.Erase(t.Context(), []uint64{kept.Index}, bad); err == nil || !strings.Contains(err.Error(), "the rule is 1 to 200") {
			t.Errorf("ground %q: %v", bad, err)
		}
	}
	check(l)
	// What other stores erased is noted in the same way.
	other, err := l.NoteErasure(t.Context(), []string{"instance 0a1b"}, ground)
	if err != nil || other.Number != 2 {
		t.Fatalf("%+v, %v", other, err)
	}
	if back, err := evidence.ParseErasure([]byte(other.Note), origin, &key); err != nil || !slices.Equal(back.Others, other.Others) || back.Leaves != nil {
		t.Errorf("%+v, %v", back, err)
	}
	if _, err := l.NoteErasure(t.Context(), []string{"person Anna"}, ground); err == nil {
		t.Error("a note of a person")
	}
	closeLog(t, l)
	report, err := evidence.Fsck(t.Context(), dir, evidence.FsckOptions{PublicKeys: []civibus.PublicKey{key}})
	if err != nil || !report.OK() || report.Records != 2 || report.Erased != 1 || report.Bodies != 2 {
		t.Errorf("fsck: %+v, %v", report, err)
	}
	c := config(dir)
	c.Archive = evidence.ArchiveEncrypted
	l = open(t, c)
	check(l)
	closeLog(t, l)
}

// TestErasedFromCopies: a copy of the whole log that was made before opens the record
// with its own erasure keys and not with those of after.
func TestErasedFromCopies(t *testing.T) {
	dir := t.TempDir()
	here, there := filepath.Join(dir, "log"), filepath.Join(dir, "copy")
	l := erasable(t, here, "one", "two")
	closeLog(t, l)
	copyLog(t, there, here)
	c := config(here)
	c.Archive = evidence.ArchiveEncrypted
	l = open(t, c)
	erased := leafOf(t, l, "one")
	if _, err := l.Erase(t.Context(), []uint64{erased.Index}, "Act, section 1"); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	read := func() []string {
		r, err := evidence.OpenReader(there)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var out []string
		for _, name := range []string{"one", "two"} {
			found, err := r.Find(name)
			if err != nil {
				t.Fatal(err)
			}
			for range found {
				out = append(out, name)
			}
		}
		return out
	}
	if got := read(); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("with the keys of before: %v", got)
	}
	copyKeys(t, there, here)
	if got := read(); !slices.Equal(got, []string{"two"}) {
		t.Errorf("with the keys of after: %v", got)
	}
	// The gateway goes on with a restored log, in which the record is gone too.
	c.Dir = there
	l = open(t, c)
	if _, err := l.Entry(erased.Index); !errors.Is(err, evidence.ErrErased) {
		t.Errorf("%v", err)
	}
	if half, err := l.Counterpart("one"); err != nil || half != nil {
		t.Errorf("the other half: %q, %v", half, err)
	}
	closeLog(t, l)
	// Without any keys nothing is opened, and the log says which are missing.
	if err := os.Remove(filepath.Join(there, "erasure.keys")); err != nil {
		t.Fatal(err)
	}
	if _, err := evidence.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "newest copy") {
		t.Errorf("without keys: %v", err)
	}
}

// TestErasureIsCompleted: an erasure that was cut off once it was begun is completed at
// the next start, wherever it was cut off.
func TestErasureIsCompleted(t *testing.T) {
	for _, destroyed := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "log")
		l := erasable(t, dir, "one", "two")
		gone := leafOf(t, l, "one")
		if err := evidence.BeginErasure(l, gone.Index, "Act, section 1", destroyed); err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
		c := config(dir)
		c.Archive = evidence.ArchiveEncrypted
		l = open(t, c)
		if _, err := l.Entry(gone.Index); !errors.Is(err, evidence.ErrErased) {
			t.Errorf("keys destroyed %v: %v", destroyed, err)
		}
		if notes, err := l.Erasures(0, 10); err != nil || len(notes) != 1 || notes[0].Note == "" || notes[0].Number != 1 {
			t.Errorf("keys destroyed %v: %+v, %v", destroyed, notes, err)
		}
		if files := holds(t, dir, "half of one"); len(files) > 0 {
			t.Errorf("files with the half: %v", files)
		}
		leafOf(t, l, "two")
		closeLog(t, l)
		clean(t, dir)
	}
}
