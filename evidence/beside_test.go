package evidence_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/civibus/civibus/evidence"
)

// TestBeside: what is kept beside a record comes back with it, before and after a
// restart, and is no part of the leaf.
func TestBeside(t *testing.T) {
	dir := t.TempDir()
	l := open(t, config(dir))
	beside := []byte("beside")
	if err := l.AppendBeside(t.Context(), record("one"), beside); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), record("two")); err != nil {
		t.Fatal(err)
	}
	check := func(l *evidence.Log) {
		t.Helper()
		for id, want := range map[string][]byte{"one": beside, "two": nil} {
			found, err := l.Find(id)
			if err != nil || len(found) != 1 || !bytes.Equal(found[0].Beside, want) {
				t.Fatalf("%s: %+v, %v", id, found, err)
			}
			if e := found[0]; !bytes.Equal(e.Leaf(), evidence.Leaf(e.Salt, e.Record)) || bytes.Contains(e.Record, beside) {
				t.Errorf("%s: the leaf is not that of the record alone", id)
			}
		}
	}
	check(l)
	closeLog(t, l)
	l = open(t, config(dir))
	check(l)
	if err := l.AppendBeside(t.Context(), record("three"), make([]byte, 1<<17)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too much beside a record: %v", err)
	}
	closeLog(t, l)
	if report := clean(t, dir); report.Records != 2 {
		t.Errorf("fsck: %+v", report)
	}
}
