package wal_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/civibus/civibus/evidence/wal"
)

// Whoever waits for a shared write gets its own entry back, whether the kernel
// does the sync meanwhile or a sandbox refuses that, and the log reopens.
func TestSharedSyncs(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		t.Run(fmt.Sprintf("refused=%v", refuse), func(t *testing.T) {
			dir := t.TempDir()
			l, err := wal.Open(wal.Options{Dir: dir, SegmentBytes: 64 << 10})
			if err != nil {
				t.Fatal(err)
			}
			if refuse {
				wal.Refuse(l)
			}
			const writers, each = 16, 40
			positions := make([][]wal.Position, writers)
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for i := range each {
						p, err := l.Append(fmt.Appendf(nil, "writer %d entry %d", w, i), nil)
						if err != nil {
							t.Error(err)
							return
						}
						positions[w] = append(positions[w], p)
					}
				})
			}
			wg.Wait()
			handed, refused := wal.HandsOver(l)
			if refuse && handed {
				t.Error("a sync was handed to the kernel in spite of the refusal")
			}
			if !refuse && !refused && !handed {
				t.Error("no sync was handed to the kernel")
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if l, err = wal.Open(wal.Options{Dir: dir, SegmentBytes: 64 << 10}); err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for w := range positions {
				for i, p := range positions[w] {
					got, err := l.Read(p)
					if err != nil {
						t.Fatal(err)
					}
					if want := fmt.Appendf(nil, "writer %d entry %d", w, i); !bytes.Equal(got, want) {
						t.Fatalf("entry %d is %q, want %q", p.Seq, got, want)
					}
				}
			}
		})
	}
}
