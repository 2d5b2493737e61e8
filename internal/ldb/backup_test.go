package ldb_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/civibus/civibus/internal/ldb"
)

// TestBackup: what a database holds is in its backup, open or closed, and is there again
// after a restore; one that is there already is not written over.
func TestBackup(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	db, err := ldb.Open(dir, opt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 1+i*97%5000) }
	const n = 3000
	for i := range n {
		if err := db.Put(fmt.Appendf(nil, "key %05d", i), value(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, backup func(put func(string, int64, io.Reader) error, name string) error) {
		t.Helper()
		to := t.TempDir()
		err := backup(func(name string, _ int64, content io.Reader) error {
			file := filepath.Join(to, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				return err
			}
			text, err := io.ReadAll(content)
			if err != nil {
				return err
			}
			return os.WriteFile(file, text, 0o600)
		}, "data/db")
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		restored := filepath.Join(to, "data", "db")
		if err := ldb.Restore(restored); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := os.Stat(restored + ".dump"); !os.IsNotExist(err) {
			t.Errorf("%s: the dump is still there", what)
		}
		if err := ldb.Restore(restored); err == nil {
			t.Errorf("%s: it is restored over itself", what)
		}
		again, err := ldb.Open(restored, opt.Options{})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer again.Close()
		for i := range n {
			if got, err := again.Get(fmt.Appendf(nil, "key %05d", i), nil); err != nil || !bytes.Equal(got, value(i)) {
				t.Fatalf("%s: key %d: %v", what, i, err)
			}
		}
	}
	proceed := func() error { return nil }
	check("open", func(put func(string, int64, io.Reader) error, name string) error {
		return db.Backup(put, name, proceed)
	})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	check("closed", func(put func(string, int64, io.Reader) error, name string) error {
		return ldb.BackupDir(dir, put, name, proceed)
	})
	if err := ldb.BackupDir(dir+"x", nil, "x", proceed); err == nil {
		t.Error("a database that is not there is backed up")
	}
}
