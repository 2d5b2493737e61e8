package backup_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"pgregory.net/rapid"

	"github.com/civibus/civibus/internal/backup"
	"github.com/civibus/civibus/internal/backup/dump"
	"github.com/civibus/civibus/keys/secret"
)

func archive(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := backup.NewWriter(&b, time.Unix(1_800_000_000, 0))
	for _, name := range []string{"a", "data/b", "data/c/d"} {
		if text, ok := files[name]; ok {
			if err := w.PutBytes(name, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(&backup.Manifest{Member: "DEMO/GOV/1"}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var files = map[string]string{"a": "one", "data/b": strings.Repeat("two", 100_000), "data/c/d": ""}

func TestArchive(t *testing.T) {
	dir := t.TempDir()
	m, err := backup.Extract(bytes.NewReader(archive(t, files)), dir)
	if err != nil || m.Member != "DEMO/GOV/1" || len(m.Files) != 3 {
		t.Fatalf("%+v, %v", m, err)
	}
	for name, text := range files {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != text {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

// TestForeignArchives: whatever is not exactly what the manifest lists is named.
func TestForeignArchives(t *testing.T) {
	good := archive(t, files)
	handmade := func(fill func(w *tar.Writer)) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		fill(w)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	put := func(w *tar.Writer, name, text string) {
		if err := errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text)), Mode: 0o600}), second(io.WriteString(w, text))); err != nil {
			t.Fatal(err)
		}
	}
	const empty = `{"format":"civibus-backup/v1","files":[]}`
	for _, c := range []struct {
		name, want string
		archive    []byte
	}{
		{"not a tar", "not a backup of civibus", bytes.Repeat([]byte("hello "), 200)},
		{"nothing", "ends without a manifest", nil},
		{"cut", "unexpected EOF", good[:len(good)/2]},
		{"another tar", "ends without a manifest", handmade(func(w *tar.Writer) { put(w, "x", "y") })},
		{"outside", "not the name of a file within a backup", handmade(func(w *tar.Writer) { put(w, "../x", "y") })},
		{"absolute", "not the name of a file within a backup", handmade(func(w *tar.Writer) { put(w, "/etc/x", "y") })},
		{"twice", "in it twice", handmade(func(w *tar.Writer) { put(w, "x", "y"); put(w, "x", "y") })},
		{"link", "not a regular file", handmade(func(w *tar.Writer) {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "x", Linkname: "/etc/passwd"}); err != nil {
				t.Fatal(err)
			}
		})},
		{"not listed", "x is in the backup and not in the manifest", handmade(func(w *tar.Writer) { put(w, "x", "y"); put(w, "manifest.json", empty) })},
		{"later version", `its manifest says "civibus-backup/v9"`, handmade(func(w *tar.Writer) { put(w, "manifest.json", `{"format":"civibus-backup/v9"}`) })},
		{"missing", "a is in the manifest and not in the backup", handmade(func(w *tar.Writer) {
			put(w, "manifest.json", `{"format":"civibus-backup/v1","files":[{"path":"a","bytes":1,"sha256":"00"}]}`)
		})},
		{"other content", "the manifest says 1 bytes with 00", handmade(func(w *tar.Writer) {
			put(w, "a", "b")
			put(w, "manifest.json", `{"format":"civibus-backup/v1","files":[{"path":"a","bytes":1,"sha256":"00"}]}`)
		})},
		{"more behind", "something follows the manifest", handmade(func(w *tar.Writer) { put(w, "manifest.json", empty); put(w, "x", "y") })},
	} {
		if _, err := backup.Extract(bytes.NewReader(c.archive), t.TempDir()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func second(_ int, err error) error { return err }

// TestSealed: only who holds the identity or the passphrase opens a backup, and
// every damaged or missing byte is found.
func TestSealed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	other, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	mine, others := write("id", "# mine\n"+id.String()+"\n"), write("other", other.String()+"\n")
	pass, wrong := secret.File(write("pass", "correct horse\n")), secret.File(write("wrong", "battery staple\n"))
	none := secret.Source{}

	seal := func(texts []string, passphrase secret.Source) []byte {
		t.Helper()
		r, err := backup.Recipients(texts, nil, passphrase)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		w, err := backup.Encrypt(&b, r)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(second(w.Write(archive(t, files))), w.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	open := func(b []byte, files []string, passphrase secret.Source) error {
		t.Helper()
		ids, err := backup.Identities(files, passphrase)
		if err != nil {
			t.Fatal(err)
		}
		r, err := backup.Decrypt(bytes.NewReader(b), ids)
		if err != nil {
			return err
		}
		_, err = backup.Extract(r, t.TempDir())
		return err
	}
	toMe, byPass := seal([]string{id.Recipient().String()}, none), seal(nil, pass)
	if err := open(toMe, []string{mine}, none); err != nil {
		t.Error(err)
	}
	if err := open(byPass, nil, pass); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{"another identity": open(toMe, []string{others}, none), "another passphrase": open(byPass, nil, wrong), "a passphrase for an identity": open(toMe, nil, pass)} {
		if !errors.Is(err, backup.ErrWrongKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := open(archive(t, files), []string{mine}, none); !errors.Is(err, backup.ErrForeign) {
		t.Errorf("not encrypted: %v", err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		b := bytes.Clone(toMe)
		if at := rapid.IntRange(0, len(b)-1).Draw(rt, "at"); rapid.Bool().Draw(rt, "cut") {
			b = b[:at]
		} else {
			b[at] ^= byte(rapid.IntRange(1, 255).Draw(rt, "flip"))
		}
		if err := open(b, []string{mine}, none); err == nil {
			rt.Fatal("a damaged backup was accepted")
		}
	})

	// What must not be taken.
	if _, err := backup.Recipients([]string{id.String()}, nil, none); err == nil || strings.Contains(err.Error(), id.String()) {
		t.Errorf("an identity as a recipient: %v", err)
	}
	if _, err := backup.Recipients(nil, nil, none); err == nil {
		t.Error("nobody to encrypt for")
	}
	if _, err := backup.Recipients([]string{id.Recipient().String()}, nil, pass); err == nil {
		t.Error("a passphrase beside a recipient")
	}
	if err := os.Chmod(mine, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Identities([]string{mine}, none); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("an identity that others may read: %v", err)
	}
}

// pairs is a database's iterator over pairs.
type pairs struct {
	kv [][2][]byte
	at int
}

func (p *pairs) Next() bool    { p.at++; return p.at <= len(p.kv) }
func (p *pairs) Key() []byte   { return p.kv[p.at-1][0] }
func (p *pairs) Value() []byte { return p.kv[p.at-1][1] }
func (p *pairs) Error() error  { return nil }

// TestDump: a database comes back as it was, over several files.
func TestDump(t *testing.T) {
	in := &pairs{}
	for i := range 300 {
		in.kv = append(in.kv, [2][]byte{{byte(i >> 8), byte(i)}, bytes.Repeat([]byte{byte(i)}, i*400)})
	}
	dir := t.TempDir()
	put := func(name string, size int64, r io.Reader) error {
		b, err := io.ReadAll(r)
		if err != nil || int64(len(b)) != size {
			t.Fatalf("%s: %d of %d bytes, %v", name, len(b), size, err)
		}
		file := filepath.Join(dir, filepath.FromSlash(name))
		return errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, b, 0o600))
	}
	if err := dump.Database(put, "db", in, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "db"+dump.Suffix)
	if names, err := os.ReadDir(folder); err != nil || len(names) < 2 {
		t.Fatalf("%d files, %v", len(names), err)
	}
	i := 0
	if err := dump.Load(folder, func(k, v []byte) error {
		if !bytes.Equal(k, in.kv[i][0]) || !bytes.Equal(v, in.kv[i][1]) {
			t.Fatalf("record %d differs", i)
		}
		i++
		return nil
	}); err != nil || i != len(in.kv) {
		t.Fatalf("%d records, %v", i, err)
	}
	// A missing and a cut file are named.
	if err := os.Truncate(filepath.Join(folder, "000001.kv"), 5); err != nil {
		t.Fatal(err)
	}
	if err := dump.Load(folder, func(_, _ []byte) error { return nil }); err == nil || !strings.Contains(err.Error(), "000001.kv") {
		t.Errorf("cut: %v", err)
	}
	if err := os.Remove(filepath.Join(folder, "000000.kv")); err != nil {
		t.Fatal(err)
	}
	if err := dump.Load(folder, func(_, _ []byte) error { return nil }); err == nil || !strings.Contains(err.Error(), "000000.kv should be") {
		t.Errorf("missing: %v", err)
	}
}

// FuzzExtract feeds arbitrary archives: never a panic, never a file outside.
func FuzzExtract(f *testing.F) {
	f.Add(archive(f, files))
	f.Add(archive(f, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		root := t.TempDir()
		dir := filepath.Join(root, "in")
		_, _ = backup.Extract(bytes.NewReader(b), dir)
		names, err := os.ReadDir(root)
		if err != nil || len(names) > 1 {
			t.Fatalf("outside: %v, %v", names, err)
		}
	})
}
