package events

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/civibus/civibus/evidence/wal"
)

func lines(from, n int) [][]byte {
	var out [][]byte
	for i := range n {
		out = append(out, fmt.Appendf(nil, "event %d", from+i))
	}
	return out
}

func openTest(t testing.TB, dir string) *stream {
	t.Helper()
	s, err := openStream(dir, wal.OpenOS)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestStreamReadsBack: what was appended is read from any cursor, with gaps, and again
// after the stream was closed and opened.
func TestStreamReadsBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "s")
		if err != nil {
			rt.Fatal(err)
		}
		s := openTest(t, dir)
		defer func() { _ = s.close() }()
		want := map[uint64][]byte{}
		last := uint64(0)
		for i := range rapid.IntRange(1, 8).Draw(rt, "blocks") {
			first := last + 1 + uint64(rapid.SampledFrom([]int{0, 0, 5}).Draw(rt, "gap"))
			list := lines(int(first), rapid.IntRange(1, 20).Draw(rt, "events"))
			got, err := s.append(first, []byte{byte(i)}, time.Unix(int64(i), 0), list)
			if err != nil || got != first {
				rt.Fatalf("appended at %d: %v", got, err)
			}
			for j, e := range list {
				want[first+uint64(j)] = e
			}
			last = first + uint64(len(list)) - 1
			if rapid.IntRange(0, 3).Draw(rt, "reopen") == 0 {
				if err := s.close(); err != nil {
					rt.Fatal(err)
				}
				s = openTest(t, dir)
			}
		}
		after := uint64(rapid.IntRange(0, int(last)).Draw(rt, "after"))
		expect := 0
		for seq := range want {
			if seq > after {
				expect++
			}
		}
		n := 0
		for {
			entries, err := s.read(after, rapid.IntRange(1, 7).Draw(rt, "at most"), 1<<20)
			if err != nil {
				rt.Fatal(err)
			}
			if len(entries) == 0 {
				break
			}
			for _, e := range entries {
				if e.Seq <= after || !bytes.Equal(e.Event, want[e.Seq]) {
					rt.Fatalf("event %d after %d is %q", e.Seq, after, e.Event)
				}
				after = e.Seq
				n++
			}
		}
		if n != expect {
			rt.Fatalf("%d events, want %d", n, expect)
		}
	})
}

// TestStreamForgetsTheOld: what is too old goes with its segment, its numbers are not
// used again, and what somebody still needs stays.
func TestStreamForgetsTheOld(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir)
	old, now := time.Unix(1000, 0), time.Unix(5000, 0)
	if _, err := s.append(0, nil, old, lines(1, 10)); err != nil {
		t.Fatal(err)
	}
	if err := s.trim(now, 1<<40, 5); err != nil { // events up to 5 are done with
		t.Fatal(err)
	}
	if oldest, newest := s.bounds(); oldest != 1 || newest != 10 {
		t.Errorf("bounds %d to %d: removed what is still needed", oldest, newest)
	}
	if err := s.trim(now, 1<<40, 10); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if oldest, newest := s.bounds(); oldest != 11 || newest != 10 {
			t.Errorf("bounds %d to %d, want nothing kept and 10 as the last number", oldest, newest)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		s = openTest(t, dir)
	}
	if first, err := s.append(0, nil, now, lines(11, 1)); err != nil || first != 11 {
		t.Errorf("the next event is %d: %v", first, err)
	}
	if err := s.trim(now, 0, 100); err != nil { // too many bytes, but the newest segment stays
		t.Fatal(err)
	}
	if _, err := s.block(3); !errors.As(err, new(*GoneError)) {
		t.Errorf("a block that is gone: %v", err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.wal"))
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || bytes.Contains(b, []byte("event 5")) {
			t.Errorf("%s still holds an old event: %v", f, err)
		}
	}
}

// TestStreamAfterACrash: whatever a crash leaves of a write that was not acknowledged, all
// that was is there, and the numbers go on.
func TestStreamAfterACrash(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir)
	for i := range 5 {
		if _, err := s.append(0, nil, time.Unix(1, 0), lines(i*10+1, 10)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	end := s.blocks[4].offset
	image, err := os.ReadFile(files[0]) // as a machine that loses power leaves it
	if err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int64{end, end + 1, end + 20, end + 100} {
		torn := t.TempDir()
		broken := append([]byte(nil), image[:cut]...)
		if err := os.WriteFile(filepath.Join(torn, filepath.Base(files[0])), broken, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openTest(t, torn)
		if _, newest := s.bounds(); newest != 40 {
			t.Errorf("cut at %d: the newest event is %d, want 40", cut, newest)
		}
		if first, err := s.append(0, nil, time.Unix(2, 0), lines(41, 1)); err != nil || first != 41 {
			t.Errorf("the next event is %d: %v", first, err)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
}
