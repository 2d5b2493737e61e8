package ldb_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/civibus/civibus/internal/ldb"
)

// TestTables: what was merged into tables many times over is whole after the database
// was opened again.
func TestTables(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	options := opt.Options{WriteBuffer: 64 << 10, CompactionTableSize: 64 << 10}
	db, err := ldb.Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	const keys, rounds = 500, 8
	value := func(key, round int) []byte { return bytes.Repeat([]byte{byte(key), byte(round)}, 200) }
	for round := range rounds {
		for key := range keys {
			if err := db.Put(binary.BigEndian.AppendUint64(nil, uint64(key)), value(key, round), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if tables, err := filepath.Glob(filepath.Join(dir, "*.ldb")); err != nil || len(tables) < 2 {
		t.Fatalf("tables %v, %v: the test is of none", tables, err)
	}
	options.ReadOnly = true
	if db, err = ldb.Open(dir, options); err != nil {
		t.Fatal(err)
	}
	for key := range keys {
		if v, err := db.Get(binary.BigEndian.AppendUint64(nil, uint64(key)), nil); err != nil || !bytes.Equal(v, value(key, rounds-1)) {
			t.Fatalf("key %d: %d bytes, %v", key, len(v), err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestJournal: a torn end is let go, also by who only reads; damage before the end is
// found, also by who only reads.
func TestJournal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	db, err := ldb.Open(dir, opt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "b", "c"} {
		if err := db.Put([]byte(key), bytes.Repeat([]byte(key), 1000), &opt.WriteOptions{Sync: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	journals, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(journals) != 1 {
		t.Fatalf("journals %v, %v", journals, err)
	}
	for _, readOnly := range []bool{true, false} {
		for _, c := range []struct {
			name   string
			change func(b []byte) []byte
			holds  string // "": it does not open
		}{
			{"nothing", func(b []byte) []byte { return b }, "abc"},
			{"torn", func(b []byte) []byte { return b[:len(b)-500] }, "ab"},
			{"zeros at the end", func(b []byte) []byte { clear(b[len(b)-500:]); return b }, "ab"},
			{"a byte in the middle", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, ""},
			{"the first byte", func(b []byte) []byte { b[0] ^= 1; return b }, ""},
		} {
			copied := filepath.Join(t.TempDir(), "db")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(copied, filepath.Base(journals[0]))
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, c.change(b), 0o600); err != nil {
				t.Fatal(err)
			}
			db, err := ldb.Open(copied, opt.Options{ReadOnly: readOnly})
			if c.holds == "" {
				if damage := ldb.Damaged(err); damage == nil {
					t.Errorf("%s, only read %v: %v", c.name, readOnly, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s, only read %v: %v", c.name, readOnly, err)
				continue
			}
			held := ""
			for _, key := range []string{"a", "b", "c"} {
				if v, err := db.Get([]byte(key), nil); err == nil && len(v) == 1000 {
					held += key
				}
			}
			if held != c.holds {
				t.Errorf("%s, only read %v: it holds %q, want %q", c.name, readOnly, held, c.holds)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestPurge: what was deleted is in no table or journal any more, though it was there at
// the last start.
func TestPurge(t *testing.T) {
	dir := t.TempDir()
	open := func() *ldb.DB {
		t.Helper()
		db, err := ldb.Open(dir, opt.Options{Compression: opt.NoCompression})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	db := open()
	for i := range 100 {
		if err := db.Put(fmt.Appendf(nil, "key %02d", i), fmt.Appendf(nil, "value %02d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = open()
	}
	k := []byte("key 42")
	if err := errors.Join(db.Delete(k, nil), db.Put([]byte("key 43"), []byte("other"), nil), db.Purge([][]byte{k, []byte("key 43")})); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.l[do][bg]"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%v %v", names, err)
	}
	found := false
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, gone := range []string{"value 42", "value 43"} {
			if bytes.Contains(raw, []byte(gone)) {
				t.Errorf("%s holds %q", name, gone)
			}
		}
		found = found || bytes.Contains(raw, []byte("value 44"))
	}
	if !found {
		t.Error("what was not deleted is gone")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
