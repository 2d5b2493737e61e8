package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/syndtr/goleveldb/leveldb/opt"
	"pgregory.net/rapid"

	"github.com/civibus/civibus/internal/ldb"
	"github.com/civibus/civibus/internal/schema"
	"github.com/civibus/civibus/internal/vault"
)

// layout: keys of one person are below her name, and those below open/ say nothing.
var layout = vault.Layout{
	Store: "test",
	Group: func(key string) string {
		if strings.HasPrefix(key, "open/") {
			return ""
		}
		group, _, _ := strings.Cut(key, "/")
		return group
	},
	Prefixes: func(group string) []string { return []string{group + "/"} },
}

func open(t testing.TB, dir string) *vault.DB {
	t.Helper()
	d, err := vault.Open(dir, layout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func write(t testing.TB, d *vault.DB, fill func(b *vault.Batch)) {
	t.Helper()
	b := new(vault.Batch)
	fill(b)
	if err := d.Write(b); err != nil {
		t.Fatal(err)
	}
}

func all(t testing.TB, d *vault.DB) map[string]string {
	t.Helper()
	out := make(map[string]string)
	if err := d.Each("", func(key string, value []byte) error { out[key] = string(value); return nil }); err != nil {
		t.Fatal(err)
	}
	for key, want := range out {
		if got, ok, err := d.Get(key); err != nil || !ok || string(got) != want {
			t.Fatalf("%s: %q, %v, %v", key, got, ok, err)
		}
	}
	return out
}

// copyDir copies a folder as a crash, or a thief, would leave it.
func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{vault.KeysFile} {
		if err := os.Chmod(filepath.Join(to, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func contains(t testing.TB, dir, text string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte(text)) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestErase: what was erased opens nowhere, with what it was before it was overwritten or
// deleted; everything else is as it was.
func TestErase(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	write(t, d, func(b *vault.Batch) {
		b.Put("anna/1", []byte("she is FIC-1"))
		b.Put("anna/2", []byte("she lives there"))
		b.Put("bela/1", []byte("he is FIC-2"))
		b.Put("open/1", []byte("a number"))
	})
	write(t, d, func(b *vault.Batch) { b.Put("anna/1", []byte("she was FIC-1")); b.Delete("anna/2") })
	before := copyDir(t, dir)
	write(t, d, func(b *vault.Batch) { b.Erase("anna"); b.Purge(); b.Put("open/erased", []byte("anna")) })
	want := map[string]string{"bela/1": "he is FIC-2", "open/1": "a number", "open/erased": "anna"}
	if got := all(t, d); !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	for _, text := range []string{"FIC-1", "FIC-2", "lives there"} {
		if files := contains(t, dir, text); files != nil {
			t.Errorf("%q is in %v", text, files)
		}
	}
	// The copy of before, with the keys of after: it is passed over, and deleted.
	raw, err := os.ReadFile(filepath.Join(dir, vault.KeysFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(before, vault.KeysFile), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		old := open(t, before)
		if got := all(t, old); !maps.Equal(got, map[string]string{"bela/1": "he is FIC-2", "open/1": "a number"}) {
			t.Errorf("the copy of before: %v", got)
		}
		if n, err := old.Count("anna/", 10); n != 0 || err != nil {
			t.Errorf("%d values are still there, %v", n, err)
		}
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// The group may be there again, under another key.
	write(t, d, func(b *vault.Batch) { b.Put("anna/1", []byte("again")) })
	if v, ok, err := d.Get("anna/1"); string(v) != "again" || !ok || err != nil {
		t.Errorf("%q %v %v", v, ok, err)
	}
}

// TestReplaced: a value that is put while its group is erased stays, under another key.
func TestReplaced(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	write(t, d, func(b *vault.Batch) { b.Put("anna/1", []byte("the document")) })
	before := copyDir(t, dir)
	write(t, d, func(b *vault.Batch) { b.Erase("anna"); b.Put("anna/1", []byte("declined")) })
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	if got := all(t, d); !maps.Equal(got, map[string]string{"anna/1": "declined"}) {
		t.Errorf("%v", got)
	}
	raw, err := os.ReadFile(filepath.Join(dir, vault.KeysFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(before, vault.KeysFile), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := all(t, open(t, before)); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

// TestCutOff: an erasure that a crash cuts off, wherever, is completed at the next opening.
func TestCutOff(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	write(t, d, func(b *vault.Batch) { b.Put("anna/1", []byte("FIC-1")); b.Put("bela/1", []byte("FIC-2")) })
	before := copyDir(t, dir)
	crashed := map[string]string{}
	d.OnStep(func(step string) { crashed[step] = copyDir(t, dir) })
	write(t, d, func(b *vault.Batch) { b.Erase("anna"); b.Purge() })
	if steps := slices.Sorted(maps.Keys(crashed)); !slices.Equal(steps, []string{"destroyed", "noted"}) {
		t.Fatal(steps)
	}
	for step, dir := range crashed {
		if got := all(t, open(t, dir)); !maps.Equal(got, map[string]string{"bela/1": "FIC-2"}) {
			t.Errorf("%s: %v", step, got)
		}
		// Its keys do not open what was there before either.
		old := copyDir(t, before)
		raw, err := os.ReadFile(filepath.Join(dir, vault.KeysFile))
		if err == nil {
			err = os.WriteFile(filepath.Join(old, vault.KeysFile), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := all(t, open(t, old)); !maps.Equal(got, map[string]string{"bela/1": "FIC-2"}) {
			t.Errorf("%s, the copy of before: %v", step, got)
		}
	}
}

// TestBefore: values of before, in clear, are sealed when they are opened first, and the
// folder is marked so that software that does not know it refuses it.
func TestBefore(t *testing.T) {
	dir := t.TempDir()
	db, err := ldb.Open(dir, opt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	filler := strings.Repeat("FIC-", 1<<18)
	for i := range 12 { // more than is sealed at once
		want[fmt.Sprintf("person%d/1", i)] = `{"number":"` + filler + `"}`
	}
	want["open/1"] = `{"plain":1}`
	for k, v := range want {
		if err := db.Put([]byte(k), []byte(v), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	if got := all(t, d); !maps.Equal(got, want) {
		t.Error("values of before are not what they were")
	}
	if files := contains(t, dir, "FIC-FIC"); files != nil {
		t.Errorf("in clear still: %v", files)
	}
	if v, err := schema.Check(dir, "test", 2); v != 2 || err != nil {
		t.Errorf("mark: %d, %v", v, err)
	}
	if _, err := schema.Check(dir, "test", 1); err == nil {
		t.Error("older software takes it")
	}
}

// TestKeysMissing: without its keys a database is not opened, and no new ones are made.
func TestKeysMissing(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	write(t, d, func(b *vault.Batch) { b.Put("anna/1", []byte("FIC-1")) })
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{vault.KeysFile, schema.File} { // the mark too, as after a restore of an old backup
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := vault.Open(dir, layout); err == nil || !strings.Contains(err.Error(), "are missing") {
			t.Fatalf("without %s: %v", name, err)
		}
	}
}

// TestBackup: a backup has nothing in clear, no keys, and opens with the keys beside it.
func TestBackup(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	d := open(t, dir)
	write(t, d, func(b *vault.Batch) { b.Put("anna/1", []byte("FIC-1")); b.Put("bela/1", []byte("FIC-2")) })
	put := func(name string, _ int64, content io.Reader) error {
		file := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		text, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		return os.WriteFile(file, text, 0o600)
	}
	if err := d.Backup(put, dir, "x", context.Background().Err); err != nil {
		t.Fatal(err)
	}
	if files := contains(t, to, "FIC-"); files != nil {
		t.Errorf("in clear: %v", files)
	}
	if _, err := os.Stat(filepath.Join(to, "x", vault.KeysFile)); !os.IsNotExist(err) {
		t.Errorf("the keys are in it: %v", err)
	}
	if err := ldb.Restore(filepath.Join(to, "x")); err != nil {
		t.Fatal(err)
	}
	if _, err := vault.Open(filepath.Join(to, "x"), layout); err == nil || !strings.Contains(err.Error(), "are missing") {
		t.Fatalf("without keys: %v", err)
	}
	write(t, d, func(b *vault.Batch) { b.Erase("anna") })
	raw, err := os.ReadFile(filepath.Join(dir, vault.KeysFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, "x", vault.KeysFile), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := all(t, open(t, filepath.Join(to, "x"))); !maps.Equal(got, map[string]string{"bela/1": "FIC-2"}) {
		t.Errorf("%v", got)
	}
}

// TestModel: whatever is done, what is there is what a map would hold.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		d := open(t, dir)
		model := map[string]string{}
		for i := range rapid.IntRange(1, 10).Draw(rt, "steps") {
			b := new(vault.Batch)
			for _, g := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 2, rapid.ID).Draw(rt, "erase") {
				b.Erase(g)
				maps.DeleteFunc(model, func(k, _ string) bool { return strings.HasPrefix(k, g+"/") })
			}
			for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a/1", "a/2", "b/1", "c/1", "open/1"}), 0, 3, rapid.ID).Draw(rt, "put") {
				v := fmt.Sprint("value ", i)
				b.Put(k, []byte(v))
				model[k] = v
			}
			if err := d.Write(b); err != nil {
				rt.Fatal(err)
			}
			if rapid.Bool().Draw(rt, "restart") {
				if err := d.Close(); err != nil {
					rt.Fatal(err)
				}
				d = open(t, dir)
			}
			if got := all(t, d); !maps.Equal(got, model) {
				rt.Fatalf("%v, the model has %v", got, model)
			}
		}
		if err := d.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}
