package evidence_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/wal"
)

// A full disk refuses exchanges before they begin, and admits them again when
// there is room.
func TestAdmitDiskReserve(t *testing.T) {
	var free atomic.Uint64
	var now atomic.Int64
	c := config(t.TempDir())
	c.ReserveBytes = 1000
	c.Statfs = func(string) (uint64, error) { return free.Load(), nil }
	c.Clock = func() time.Time { return time.Unix(1e9, now.Add(int64(time.Second))) }
	l := open(t, c)
	for _, step := range []struct {
		free  uint64
		admit bool
	}{{1000, true}, {999, false}, {0, false}, {5000, true}} {
		free.Store(step.free)
		err := l.Admit()
		if (err == nil) != step.admit {
			t.Fatalf("with %d bytes free: %v", step.free, err)
		}
		var f *civibus.Fault
		if err != nil && (!errors.As(err, &f) || f.Code != civibus.FaultEvidence || !strings.Contains(f.Message, "disk is full")) {
			t.Fatalf("the refusal is %v", err)
		}
	}
}

// badFile fails as told.
type badFile struct {
	wal.File
	fault *atomic.Int32
}

const (
	faultWrite = 1
	faultSync  = 2
)

func (f badFile) WriteAt(b []byte, at int64) (int, error) {
	if f.fault.Load() == faultWrite {
		n, _ := f.File.WriteAt(b[:len(b)/2], at)
		return n, syscall.ENOSPC
	}
	return f.File.WriteAt(b, at)
}

func (f badFile) Datasync() error {
	if f.fault.Load() == faultSync {
		return syscall.EIO
	}
	return f.File.Datasync()
}

func faulty(c evidence.Config) (evidence.Config, *atomic.Int32) {
	fault := new(atomic.Int32)
	c.OpenFile = func(name string, flag int, perm os.FileMode) (wal.File, error) {
		f, err := wal.OpenOS(name, flag, perm)
		return badFile{f, fault}, err
	}
	return c, fault
}

// A refused write closes the door until a probe has succeeded.
func TestWriteFaultIsTransient(t *testing.T) {
	dir := t.TempDir()
	var now atomic.Int64
	c, fault := faulty(config(dir))
	c.Clock = func() time.Time { return time.Unix(1e9+now.Load(), 0) }
	l := open(t, c)
	add(t, l, "a")
	fault.Store(faultWrite)
	if err := l.Append(context.Background(), record("b")); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("append on a full disk: %v", err)
	}
	if err := l.Admit(); err == nil {
		t.Fatal("admitted right after a refused write")
	}
	fault.Store(0)
	now.Add(5)
	if err := l.Admit(); err != nil {
		t.Fatalf("not admitted when the disk takes writes again: %v", err)
	}
	add(t, l, "c")
	closeLog(t, l)
	clean(t, dir)
	l = open(t, config(dir))
	for id, want := range map[string]int{"a": 1, "b": 0, "c": 1} {
		if found, err := l.Find(id); err != nil || len(found) != want {
			t.Fatalf("find %s: %d entries, %v", id, len(found), err)
		}
	}
}

// After a failed sync nothing is acknowledged or admitted until a restart.
func TestSyncFaultStops(t *testing.T) {
	dir := t.TempDir()
	c, fault := faulty(config(dir))
	l := open(t, c)
	add(t, l, "a")
	fault.Store(faultSync)
	if err := l.Append(context.Background(), record("b")); !errors.Is(err, wal.ErrPoisoned) {
		t.Fatalf("append with a failing sync: %v", err)
	}
	fault.Store(0)
	if err := l.Append(context.Background(), record("c")); err == nil {
		t.Fatal("acknowledged after a failed sync")
	}
	if err := l.Admit(); err == nil {
		t.Fatal("admitted after a failed sync")
	}
	l.Close(context.Background())
	l = open(t, config(dir))
	add(t, l, "d")
	if found, err := l.Find("a"); err != nil || len(found) != 1 {
		t.Fatalf("the acknowledged record: %v, %v", found, err)
	}
}

// A real file system that is really full: exchanges are refused, nothing
// acknowledged is lost, and the log goes on by itself when there is room.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("civibus-test", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("a small file system cannot be mounted here (%v); the injected faults are tested elsewhere", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	c := config(filepath.Join(dir, "log"))
	c.Statfs = nil
	c.ReserveBytes = 1 // so that the disk is full before Admit sees it
	l := open(t, c)
	var acknowledged []string
	add(t, l, "first")
	filler := filepath.Join(dir, "filler")
	for round := range 3 {
		fillUp(t, filler)
		refused := 0
		for i := 0; refused < 3 && i < 20000; i++ {
			id := fmt.Sprintf("full-%d-%d", round, i)
			if err := l.Append(context.Background(), record(id)); err != nil {
				refused++
				continue
			}
			acknowledged = append(acknowledged, id)
		}
		if refused == 0 {
			t.Fatal("the disk never was full")
		}
		if err := l.Admit(); err == nil {
			t.Fatal("admitted on a full disk")
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(20 * time.Second)
		for l.Admit() != nil {
			if time.Now().After(deadline) {
				t.Fatalf("not admitted again: %v; %+v", l.Admit(), l.Status())
			}
			time.Sleep(20 * time.Millisecond) // the probe is made once a second
		}
		id := fmt.Sprintf("after-%d", round)
		add(t, l, id)
		acknowledged = append(acknowledged, id)
		awaitSize(t, l, uint64(len(acknowledged))+1)
	}
	for _, id := range acknowledged {
		if found, err := l.Find(id); err != nil || len(found) != 1 {
			t.Fatalf("find %s: %d entries, %v", id, len(found), err)
		}
	}
	closeLog(t, l)
	clean(t, c.Dir)
}

// fillUp takes all of a file system.
func fillUp(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for n := 1 << 20; n >= 1; {
		if _, err := f.Write(make([]byte, n)); err != nil {
			n /= 2
		}
	}
}

// When the Merkle log stands still, Admit refuses, then Append waits, and
// memory is bounded.
func TestBackPressure(t *testing.T) {
	c := config(t.TempDir())
	c.BatchSize, c.MaxPending = 4, 8
	c.BatchAge = 200 * time.Millisecond
	hold, held := make(chan struct{}), make(chan struct{}, 1)
	release := sync.OnceFunc(func() { close(hold) })
	defer release() // also when the test fails, or the log could not close
	c.Signer = holdingSigner{newSigner(), hold, held, new(atomic.Bool)}
	l := open(t, c)
	c.Signer.(holdingSigner).armed.Store(true)
	add(t, l, ids("a", 4)...) // integrated; then the follower waits in the signature
	<-held
	var wg sync.WaitGroup
	var done atomic.Int32
	for _, id := range ids("b", 20) {
		wg.Go(func() {
			if err := l.Append(context.Background(), record(id)); err != nil {
				t.Error(err)
			}
			done.Add(1)
		})
	}
	deadline := time.Now().Add(10 * time.Second)
	for l.Status().Pending < 8 {
		if time.Now().After(deadline) {
			t.Fatalf("status %+v", l.Status())
		}
	}
	if err := l.Admit(); err == nil || !strings.Contains(err.Error(), "too far behind") {
		t.Fatalf("admitted with a full queue: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Append(ctx, record("c")); !errors.Is(err, context.Canceled) {
		t.Fatalf("append with a full queue and no time: %v", err)
	}
	if n := done.Load(); n > 8 {
		t.Fatalf("%d appends returned with room for 8", n)
	}
	release()
	wg.Wait()
	awaitSize(t, l, 24)
	if err := l.Admit(); err != nil {
		t.Fatal(err)
	}
}

// holdingSigner waits before it signs, and tells that it does.
type holdingSigner struct {
	signer
	hold  chan struct{}
	held  chan struct{} // with room for one
	armed *atomic.Bool
}

func (s holdingSigner) Sign(ctx context.Context, m []byte) ([]byte, error) {
	if s.armed.Load() {
		select {
		case s.held <- struct{}{}:
		default:
		}
		<-s.hold
	}
	return s.signer.Sign(ctx, m)
}

// failingSigner cannot reach its key while it is broken.
type failingSigner struct {
	signer
	broken atomic.Bool
}

func (s *failingSigner) Sign(ctx context.Context, m []byte) ([]byte, error) {
	if s.broken.Load() {
		return nil, errNoKey
	}
	return s.signer.Sign(ctx, m)
}
