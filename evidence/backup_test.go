package evidence_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus/evidence"
)

// into puts a backup's files into a folder.
func into(t testing.TB, dir string) func(name string, size int64, r io.Reader) error {
	return func(name string, size int64, r io.Reader) error {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		n, err := io.Copy(f, io.LimitReader(r, size))
		if err == nil && n != size {
			t.Errorf("%s: %d of %d bytes", name, n, size)
		}
		return errors.Join(err, f.Close())
	}
}

// TestBackupWhileRecordsAreMade backs a log up again and again while records are
// appended, batches become leaves, checkpoints are signed, segments end and partial
// tiles are collected. Every backup makes a log without damage that has every
// record that was acknowledged before the backup began, and that goes on.
func TestBackupWhileRecordsAreMade(t *testing.T) {
	c := config(filepath.Join(t.TempDir(), "log"))
	c.SegmentBytes, c.BatchAge, c.CheckpointInterval = 64<<10, 2*time.Millisecond, time.Millisecond
	l := open(t, c)
	var acked atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var appending sync.WaitGroup
	for k := range 4 {
		appending.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := l.Append(ctx, record(fmt.Sprintf("%d-%d", k, i))); err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				acked.Add(1)
			}
		})
	}
	for round := range 6 {
		for target := int64(400 * (round + 1)); acked.Load() < target && !t.Failed(); {
			time.Sleep(time.Millisecond) // until there is more to back up
		}
		before := acked.Load()
		root := t.TempDir()
		info, err := l.Backup(t.Context(), into(t, root), "x")
		if err != nil {
			t.Fatal(err)
		}
		if int64(info.Next) < before || info.Origin != c.Origin {
			t.Fatalf("%d records were acknowledged before the backup, it has those below %d of %s", before, info.Next, info.Origin)
		}
		dir := filepath.Join(root, "x")
		copyKeys(t, dir, c.Dir)
		if err := evidence.RestoreDir(dir); err != nil {
			t.Fatal(err)
		}
		report := clean(t, dir)
		if report.Records+report.Pending < info.Next || report.Size != info.Size {
			t.Fatalf("restored %+v of %+v", report, info)
		}
		again := c
		again.Dir = dir
		r := open(t, again)
		add(t, r, "after the restore")
		closeLog(t, r)
		clean(t, dir)
	}
	stop()
	appending.Wait()
	closeLog(t, l)

	// The same of the closed folder.
	root := t.TempDir()
	info, err := evidence.BackupDir(t.Context(), c.Dir, into(t, root), "x")
	if err != nil {
		t.Fatal(err)
	}
	copyKeys(t, filepath.Join(root, "x"), c.Dir)
	if err := evidence.RestoreDir(filepath.Join(root, "x")); err != nil {
		t.Fatal(err)
	}
	if report := clean(t, filepath.Join(root, "x")); int64(report.Records+report.Pending) < acked.Load() || report.Size != info.Size {
		t.Fatalf("restored %+v, acknowledged %d", report, acked.Load())
	}
	t.Logf("%d records, %d leaves", acked.Load(), info.Size)
}

// copyKeys puts a log's erasure keys beside what was restored of it.
func copyKeys(t *testing.T, to, from string) {
	t.Helper()
	keys, err := os.ReadFile(filepath.Join(from, "erasure.keys"))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, "erasure.keys"), keys, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
