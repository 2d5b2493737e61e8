package wal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/civibus/civibus/evidence/wal"
)

// The next segment's file is there, full of zeros, before it is needed; without
// room for it the log goes on as well; and nothing of it stays behind.
func TestNextSegmentIsReady(t *testing.T) {
	const segment = 64 << 10
	for name, refuse := range map[string]bool{"ready": false, "no room": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			// What an end without warning left of the one before.
			if err := os.WriteFile(filepath.Join(dir, "spare.wal.tmp"), []byte("left"), 0o600); err != nil {
				t.Fatal(err)
			}
			l := open(t, wal.Options{Dir: dir, SegmentBytes: segment, OpenFile: func(name string, flag int, perm os.FileMode) (wal.File, error) {
				if refuse && strings.HasSuffix(name, "spare.wal.tmp") {
					return nil, syscall.ENOSPC
				}
				return wal.OpenOS(name, flag, perm)
			}})
			var at []wal.Position
			add := func() {
				t.Helper()
				p, err := l.Append(bytes.Repeat([]byte{byte(len(at))}, 1000), nil)
				if err != nil {
					t.Fatal(err)
				}
				at = append(at, p)
			}
			// 1. An almost empty segment needs no successor yet.
			add()
			if wal.WaitSpare(l) {
				t.Error("a successor was made for an almost empty segment")
			}
			// 2. A quarter full one does.
			for range 20 {
				add()
			}
			if !wal.WaitSpare(l) {
				t.Error("no successor was made")
			}
			for len(l.Segments()) == 1 {
				add()
			}
			info, err := os.Stat(l.Segments()[1].Path)
			if err != nil {
				t.Fatal(err)
			}
			if full := info.Size() >= 2*segment && info.Size() < 1<<20; full == refuse {
				t.Errorf("the second segment has %d bytes", info.Size())
			}
			// 3. All is there, and after the end only segments are.
			for len(l.Segments()) < 4 {
				add()
			}
			for i, p := range at {
				if b, err := l.Read(p); err != nil || len(b) != 1000 || b[0] != byte(i) {
					t.Fatalf("entry %d: %d bytes, %v", i, len(b), err)
				}
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			names, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
			if err != nil || len(names) > 0 {
				t.Errorf("left behind: %v, %v", names, err)
			}
			var entries int
			next, torn, err := wal.Check(dir, uint64(len(at)), func(wal.Position, []byte) error { entries++; return nil }, func(d *wal.DamageError) { t.Error(d) })
			if err != nil || torn != "" || entries != len(at) || next != uint64(len(at)) {
				t.Errorf("%d of %d entries, next %d, torn %q, %v", entries, len(at), next, torn, err)
			}
		})
	}
}
