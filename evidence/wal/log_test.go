package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/civibus/civibus/evidence/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, o wal.Options) *wal.Log {
	t.Helper()
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 1 << 20
	}
	l, err := wal.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func payload(i int) []byte {
	return append(fmt.Appendf(nil, "entry %d ", i), bytes.Repeat([]byte{byte(i)}, i%700)...)
}

func entries(t *testing.T, l *wal.Log) [][]byte {
	t.Helper()
	var out [][]byte
	if err := l.Scan(0, func(p wal.Position, b []byte) error {
		if p.Seq != uint64(len(out)) {
			t.Fatalf("entry %d in place %d", p.Seq, len(out))
		}
		out = append(out, bytes.Clone(b))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAppendReadReopen(t *testing.T) {
	dir := t.TempDir()
	l := open(t, wal.Options{Dir: dir, SegmentBytes: 8 << 10})
	var at []wal.Position
	for i := range 200 {
		p, err := l.Append(payload(i), nil)
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, p)
	}
	check := func(l *wal.Log) {
		t.Helper()
		for i, p := range at {
			b, err := l.Read(p)
			if err != nil || !bytes.Equal(b, payload(i)) {
				t.Fatalf("entry %d: %q, %v", i, b, err)
			}
		}
	}
	check(l)
	if n := len(l.Segments()); n < 3 {
		t.Fatalf("%d segments, want several", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(nil, nil); !errors.Is(err, wal.ErrClosed) {
		t.Fatalf("append after close: %v", err)
	}
	l = open(t, wal.Options{Dir: dir, SegmentBytes: 8 << 10, Durable: 200})
	check(l)
	if got := entries(t, l); len(got) != 200 {
		t.Fatalf("%d entries, want 200", len(got))
	}
	if l.Recovery() != "" {
		t.Fatalf("a cleanly closed log was cut: %s", l.Recovery())
	}
	if p, err := l.Append([]byte("more"), nil); err != nil || p.Seq != 200 {
		t.Fatalf("append after reopening: %+v, %v", p, err)
	}
}

// Waiting entries share a write: with many writers there are far fewer syncs
// than entries, and Committed sees every entry once and in order.
func TestGroupCommit(t *testing.T) {
	disk := newFaultyDisk()
	disk.slow = true
	var mu sync.Mutex
	var seen []uint64
	l := open(t, wal.Options{Dir: t.TempDir(), OpenFile: disk.open, Committed: func(p wal.Position, tag any) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, p.Seq)
	}})
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := range 50 {
				if _, err := l.Append(payload(w*50+i), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := len(entries(t, l)); got != 1600 {
		t.Fatalf("%d entries, want 1600", got)
	}
	for i, s := range seen {
		if s != uint64(i) {
			t.Fatalf("committed entry %d in place %d", s, i)
		}
	}
	if n := disk.syncs.Load(); n > 800 {
		t.Fatalf("%d syncs for 1600 entries of 32 writers", n)
	}
}

// A process that dies leaves the zeroed room, and perhaps a write that was cut
// off at any byte.
func TestTornTailIsCut(t *testing.T) {
	dir := t.TempDir()
	l := open(t, wal.Options{Dir: dir})
	for i := range 5 {
		if _, err := l.Append(payload(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	name := l.Segments()[0].Path
	before := l.Segments()[0].Bytes
	if _, err := l.Append(payload(600), nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	end := l.Segments()[0].Bytes
	data = data[:end+512] // of the zeroed room some bytes are enough
	for cut := before; cut < end; cut += 29 {
		for _, zeroed := range []bool{true, false} {
			copyDir := t.TempDir()
			torn := bytes.Clone(data)
			if zeroed {
				clear(torn[cut:])
			} else {
				torn = torn[:cut]
			}
			if err := os.WriteFile(filepath.Join(copyDir, filepath.Base(name)), torn, 0o600); err != nil {
				t.Fatal(err)
			}
			r := open(t, wal.Options{Dir: copyDir, Durable: 5})
			if got := len(entries(t, r)); got != 5 && cut < end-8 {
				t.Fatalf("cut at %d: %d entries, want 5", cut, got)
			}
			if (r.Recovery() == "") != (cut == before) && cut < end-8 {
				t.Fatalf("cut at %d: recovery is %q", cut, r.Recovery())
			}
			r.Close()
			// The same loss is damage when the entry is known to have been acknowledged.
			if err := os.WriteFile(filepath.Join(copyDir, filepath.Base(name)), torn, 0o600); err != nil {
				t.Fatal(err)
			}
			if cut < end-8 {
				refuses(t, wal.Options{Dir: copyDir, Durable: 6}, before, 5)
			}
		}
	}
}

// refuses checks that Open names the damage and changes nothing.
func refuses(t *testing.T, o wal.Options, offset int64, seq uint64) {
	t.Helper()
	o.SegmentBytes = 1 << 20
	sum := snapshot(t, o.Dir)
	l, err := wal.Open(o)
	if err == nil {
		l.Close()
		t.Fatalf("opened in spite of damage at byte %d", offset)
	}
	var damage *wal.DamageError
	if !errors.As(err, &damage) {
		t.Fatalf("not a damage error: %v", err)
	}
	if damage.Offset != offset || damage.Seq != seq {
		t.Fatalf("damage at byte %d entry %d, want %d and %d: %v", damage.Offset, damage.Seq, offset, seq, err)
	}
	if !strings.Contains(err.Error(), "restore") {
		t.Fatalf("the error does not say what to do: %v", err)
	}
	if sum != snapshot(t, o.Dir) {
		t.Fatal("the refused log was changed")
	}
}

func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, n := range names {
		data, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %q", n, data)
	}
	return b.String()
}

// Any changed byte of an entry that was followed by another write is damage.
func TestDamageIsNamed(t *testing.T) {
	dir := t.TempDir()
	l := open(t, wal.Options{Dir: dir})
	var at []wal.Position
	for i := range 4 {
		p, err := l.Append(payload(i+100), nil)
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, p)
	}
	name := l.Segments()[0].Path
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data = data[:l.Segments()[0].Bytes+512]
	for i := at[0].Offset; i < at[3].Offset; i++ {
		broken := bytes.Clone(data)
		broken[i] ^= 0x10
		copyDir := t.TempDir()
		if err := os.WriteFile(filepath.Join(copyDir, filepath.Base(name)), broken, 0o600); err != nil {
			t.Fatal(err)
		}
		which := 0
		for which < 2 && at[which+1].Offset <= i {
			which++
		}
		refuses(t, wal.Options{Dir: copyDir}, at[which].Offset, uint64(which))
		if i%64 != 0 {
			continue
		}
		var problems []*wal.DamageError
		if _, _, err := wal.Check(copyDir, 0, nil, func(d *wal.DamageError) { problems = append(problems, d) }); err != nil {
			t.Fatal(err)
		}
		if len(problems) != 1 || problems[0].Offset != at[which].Offset {
			t.Fatalf("check found %v", problems)
		}
	}
}

// Parts of one write may reach the disk in any order; that is not damage.
func TestTornGroupOutOfOrder(t *testing.T) {
	dir := t.TempDir()
	disk := newFaultyDisk()
	l := open(t, wal.Options{Dir: dir, OpenFile: disk.open})
	if _, err := l.Append(payload(1), nil); err != nil {
		t.Fatal(err)
	}
	// Two entries in one group: hold the disk while they queue up behind one.
	positions := disk.group(t, l, 3)
	data, err := os.ReadFile(l.Segments()[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	clear(data[positions[1].Offset : positions[1].Offset+40]) // of the second group's first frame
	copyDir := t.TempDir()
	if err := os.WriteFile(filepath.Join(copyDir, filepath.Base(l.Segments()[0].Path)), data, 0o600); err != nil {
		t.Fatal(err)
	}
	r := open(t, wal.Options{Dir: copyDir})
	if got := len(entries(t, r)); got != 2 {
		t.Fatalf("%d entries, want 2", got)
	}
	if r.Recovery() == "" {
		t.Fatal("the cut is not reported")
	}
}

func TestMissingSegmentIsDamage(t *testing.T) {
	dir := t.TempDir()
	l := open(t, wal.Options{Dir: dir, SegmentBytes: 2 << 10})
	for i := range 30 {
		if _, err := l.Append(payload(300+i), nil); err != nil {
			t.Fatal(err)
		}
	}
	segments := l.Segments()
	l.Close()
	if err := os.Remove(segments[2].Path); err != nil {
		t.Fatal(err)
	}
	l = open(t, wal.Options{Dir: dir})
	var damage *wal.DamageError
	if err := l.Scan(0, func(wal.Position, []byte) error { return nil }); !errors.As(err, &damage) {
		t.Fatalf("scan over a missing segment: %v", err)
	}
	l.Close()
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, n := range names {
		os.Remove(n)
	}
	if _, err := wal.Open(wal.Options{Dir: dir, Durable: 30}); !errors.As(err, &damage) {
		t.Fatalf("open without any segment: %v", err)
	}
}

func TestRotateAndRemove(t *testing.T) {
	dir := t.TempDir()
	l := open(t, wal.Options{Dir: dir})
	p, err := l.Append([]byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Remove(0); err == nil {
		t.Fatal("removed the segment that is written to")
	}
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	if err := l.Rotate(); err != nil { // an empty segment stays
		t.Fatal(err)
	}
	if got := len(l.Segments()); got != 2 {
		t.Fatalf("%d segments, want 2", got)
	}
	if err := l.Remove(0); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Read(p); !errors.Is(err, wal.ErrGone) {
		t.Fatalf("read of a removed entry: %v", err)
	}
	l.Close()
	l = open(t, wal.Options{Dir: dir, Durable: 1})
	if p, err := l.Append([]byte("x"), nil); err != nil || p.Seq != 1 {
		t.Fatalf("append: %+v, %v", p, err)
	}
}

// A short write or a full disk fails the entries that waited and nothing else;
// later ones succeed when there is room again.
func TestWriteFaultsRecover(t *testing.T) {
	for _, fault := range []string{"short write", "full disk"} {
		t.Run(fault, func(t *testing.T) {
			dir := t.TempDir()
			disk := newFaultyDisk()
			l := open(t, wal.Options{Dir: dir, OpenFile: disk.open})
			var want [][]byte
			for i := range 60 {
				broken := i%3 == 1
				disk.set(func() {
					disk.short, disk.full = broken && fault == "short write", broken && fault == "full disk"
				})
				_, err := l.Append(payload(i*9), nil)
				if broken != (err != nil) {
					t.Fatalf("append %d: %v", i, err)
				}
				if err == nil {
					want = append(want, payload(i*9))
				} else if fault == "full disk" && !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("append on a full disk: %v", err)
				}
			}
			l.Close()
			l = open(t, wal.Options{Dir: dir, Durable: uint64(len(want))})
			got := entries(t, l)
			if len(got) != len(want) {
				t.Fatalf("%d entries, want %d", len(got), len(want))
			}
			for i := range got {
				if !bytes.Equal(got[i], want[i]) {
					t.Fatalf("entry %d is %q", i, got[i])
				}
			}
		})
	}
}

// After a failed sync nothing is acknowledged until the log is reopened.
func TestFailedSyncPoisons(t *testing.T) {
	dir := t.TempDir()
	disk := newFaultyDisk()
	l := open(t, wal.Options{Dir: dir, OpenFile: disk.open})
	if _, err := l.Append(payload(1), nil); err != nil {
		t.Fatal(err)
	}
	disk.set(func() { disk.badSync = true })
	if _, err := l.Append(payload(2), nil); !errors.Is(err, wal.ErrPoisoned) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("append with a failing sync: %v", err)
	}
	disk.set(func() { disk.badSync = false })
	if _, err := l.Append(payload(3), nil); !errors.Is(err, wal.ErrPoisoned) {
		t.Fatalf("append after a failed sync: %v", err)
	}
	if !errors.Is(l.Poisoned(), wal.ErrPoisoned) {
		t.Fatal("the log does not say that it is poisoned")
	}
	l.Close()
	l = open(t, wal.Options{Dir: dir, Durable: 1})
	if got := entries(t, l); !bytes.Equal(got[0], payload(1)) {
		t.Fatalf("entries after reopening: %q", got)
	}
	if _, err := l.Append(payload(4), nil); err != nil {
		t.Fatal(err)
	}
}
