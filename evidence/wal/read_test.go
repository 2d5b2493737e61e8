package wal_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/civibus/civibus/evidence/wal"
)

// countedFile counts the files that are open.
type countedFile struct {
	wal.File
	open *atomic.Int64
	once sync.Once
}

func (f *countedFile) Close() error {
	f.once.Do(func() { f.open.Add(-1) })
	return f.File.Close()
}

// However many segments are read in whatever order, few are open, and none when
// the log is closed.
func TestReadersAreBounded(t *testing.T) {
	var count, most atomic.Int64
	l := open(t, wal.Options{Dir: t.TempDir(), SegmentBytes: 4 << 10, OpenFile: func(name string, flag int, perm os.FileMode) (wal.File, error) {
		f, err := wal.OpenOS(name, flag, perm)
		if err != nil {
			return nil, err
		}
		n := count.Add(1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		return &countedFile{File: f, open: &count}, nil
	}})
	var at []wal.Position
	var want [][]byte
	for i := range 600 {
		b := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 256)
		p, err := l.Append(b, nil)
		if err != nil {
			t.Fatal(err)
		}
		at, want = append(at, p), append(want, b)
	}
	if n := len(l.Segments()); n < 60 {
		t.Fatalf("%d segments are too few to show anything", n)
	}
	most.Store(0)
	const readers = 4
	var wg sync.WaitGroup
	for r := range readers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(r), 1))
			for range 1500 {
				i := rng.IntN(len(at))
				if got, err := l.Read(at[i]); err != nil || !bytes.Equal(got, want[i]) {
					t.Errorf("entry %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	// Sixteen kept, one for each reader, the one that is written to and its successor.
	if most.Load() > 16+readers+2 {
		t.Errorf("%d files were open at once", most.Load())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if count.Load() != 0 {
		t.Errorf("%d files are open after Close", count.Load())
	}
}
