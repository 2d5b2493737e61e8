package wal_test

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/civibus/civibus/evidence/wal"
)

// faultyDisk is the operating system's files with faults.
type faultyDisk struct {
	mu      sync.Mutex
	short   bool
	full    bool
	badSync bool
	slow    bool
	hold    chan struct{}
	held    chan struct{}
	syncs   atomic.Int64
}

func newFaultyDisk() *faultyDisk { return &faultyDisk{} }

func (d *faultyDisk) set(fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fn()
}

func (d *faultyDisk) open(name string, flag int, perm os.FileMode) (wal.File, error) {
	f, err := wal.OpenOS(name, flag, perm)
	return faultyFile{f, d}, err
}

// group appends n entries of which the last n-1 share one write, and returns
// their positions.
func (d *faultyDisk) group(t *testing.T, l *wal.Log, n int) []wal.Position {
	t.Helper()
	d.set(func() { d.hold, d.held = make(chan struct{}), make(chan struct{}, 1) })
	out := make([]wal.Position, n)
	var wg sync.WaitGroup
	add := func(i int) {
		p, err := l.Append(payload(50+i), nil)
		if err != nil {
			t.Error(err)
		}
		out[p.Seq-1] = p
	}
	wg.Go(func() { add(0) })
	<-d.held
	for i := 1; i < n; i++ {
		wg.Go(func() { add(i) })
	}
	for wal.Waiting(l) < n-1 {
		sched()
	}
	hold := d.hold
	d.set(func() { d.hold = nil })
	close(hold)
	wg.Wait()
	return out
}

type faultyFile struct {
	wal.File
	d *faultyDisk
}

func (f faultyFile) WriteAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	short, full := f.d.short, f.d.full
	f.d.mu.Unlock()
	switch {
	case short:
		return f.File.WriteAt(b[:len(b)*2/3], at)
	case full:
		n, _ := f.File.WriteAt(b[:len(b)/2], at)
		return n, syscall.ENOSPC
	}
	return f.File.WriteAt(b, at)
}

func (f faultyFile) Datasync() error {
	f.d.mu.Lock()
	bad, slow, hold := f.d.badSync, f.d.slow, f.d.hold
	f.d.mu.Unlock()
	f.d.syncs.Add(1)
	if hold != nil {
		select {
		case f.d.held <- struct{}{}:
		default:
		}
		<-hold
	}
	if bad {
		return syscall.EIO
	}
	if slow {
		for range 100 {
			sched()
		}
	}
	return f.File.Datasync()
}
