package evidence_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/civibus/civibus/evidence"
)

// TestBesides: the entries with something beside them are the same whether it is
// remembered which they are, is not any more, or was never known by this process.
func TestBesides(t *testing.T) {
	dir := t.TempDir()
	l := open(t, config(dir))
	var want []string
	add := func(n int) {
		for i := range n {
			id, beside := fmt.Sprintf("x%d", i+len(want)*7), []byte(nil)
			if i%3 == 1 {
				beside = []byte("beside " + id)
				want = append(want, string(beside))
			}
			if err := l.AppendBeside(t.Context(), record(id), beside); err != nil {
				t.Fatal(err)
			}
		}
		awaitStored(t, l, 0)
	}
	check := func(what string) {
		t.Helper()
		var got []string
		last := uint64(0)
		for e, err := range l.Besides(t.Context(), 0, 1<<40) {
			if err != nil || !e.Integrated || len(got) > 0 && e.Index <= last {
				t.Fatalf("%s: leaf %d after %d, %v", what, e.Index, last, err)
			}
			got, last = append(got, string(e.Beside)), e.Index
		}
		slices.Sort(got)
		if sorted := slices.Sorted(slices.Values(want)); !slices.Equal(got, sorted) {
			t.Fatalf("%s: %d entries, want %d", what, len(got), len(sorted))
		}
	}
	check("empty")
	add(100)
	check("remembered with what it is")
	check("remembered")
	closeLog(t, l)
	l = open(t, config(dir))
	check("of another process")
	add(50)
	check("in part of another process")
	n := 0
	for range l.Besides(t.Context(), 90, 120) {
		n++
	}
	all := 0
	for e, err := range l.Entries(t.Context(), 90, 120) {
		if err == nil && len(e.Beside) > 0 {
			all++
		}
	}
	if n == 0 || n != all {
		t.Errorf("of a stretch %d entries, want %d", n, all)
	}
	closeLog(t, l)
}

// TestErasedIsNotRemembered: what was kept beside a record that was erased is told to
// nobody who follows later, though the process still had it in memory.
func TestErasedIsNotRemembered(t *testing.T) {
	l := open(t, config(t.TempDir()))
	defer closeLog(t, l)
	for _, id := range []string{"one", "two"} {
		if err := l.AppendBeside(t.Context(), record(id), []byte("beside "+id)); err != nil {
			t.Fatal(err)
		}
	}
	awaitStored(t, l, 0)
	awaitSize(t, l, 2)
	found, err := l.Find("one")
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if _, err := l.Erase(t.Context(), []uint64{found[0].Index}, "GDPR 17"); err != nil {
		t.Fatal(err)
	}
	var told []string
	for e, err := range l.Besides(t.Context(), 0, 2) {
		if err != nil {
			t.Fatal(err)
		}
		told = append(told, string(e.Beside))
	}
	if !slices.Equal(told, []string{"beside two"}) {
		t.Errorf("told %q", told)
	}
}

// TestBesidesAreBounded: what is remembered is of the newest leaves, and right.
func TestBesidesAreBounded(t *testing.T) {
	const n = 7 * evidence.RememberedLeaves / 2
	for _, from := range []uint64{0, n / 2, n - 100, n - 1, n} {
		known, with := evidence.Remembered(n, 7, from, n)
		if known < from || known > n || from >= n-evidence.RememberedLeaves && known != from || from == 0 && known < n-3*evidence.RememberedLeaves {
			t.Errorf("from %d: known from %d", from, known)
		}
		var want []uint64
		for i := known; i < n; i++ {
			if i%7 == 0 {
				want = append(want, i)
			}
		}
		if !slices.Equal(with, want) {
			t.Errorf("from %d: %d leaves with something, want %d", from, len(with), len(want))
		}
	}
	if known, with := evidence.Remembered(10, 1, 5, 20); known != 20 || len(with) > 0 {
		t.Errorf("leaves that are not there are known from %d, %v", known, with)
	}
}

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
