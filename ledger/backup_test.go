package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus/ledger"
)

// into puts a backup's files into a folder.
func into(dir string) func(name string, size int64, r io.Reader) error {
	return func(name string, size int64, r io.Reader) error {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		_, err = io.CopyN(f, r, size)
		return errors.Join(err, f.Close())
	}
}

// TestBackupUnderLoad backs a node up again and again while blocks are made without
// a pause. Every backup is of one moment: it passes the check, and a node of the last
// one goes on where it was.
func TestBackupUnderLoad(t *testing.T) {
	w := newNetwork(t, 1, func(_ int, cfg *ledger.Config) { cfg.TimeoutCommit = -1 })
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var load sync.WaitGroup
	load.Go(func() {
		for k := 0; ctx.Err() == nil; k++ {
			_, _ = w.nodes[0].Submit(ctx, w.bodies[0].notarise(t, fmt.Sprint("load ", k)))
		}
	})
	var root string
	var info ledger.BackupInfo
	for round := range 5 {
		least := uint64(10 * (round + 1))
		eventually(t, 60*time.Second, "blocks are made", func() bool { return w.nodes[0].View().Height() >= least })
		root = t.TempDir()
		var err error
		if info, err = w.nodes[0].Backup(context.Background(), into(root), "x"); err != nil {
			t.Fatal(err)
		}
		if info.Height < least || !strings.Contains(string(info.LastSign), "height") {
			t.Fatalf("backed up %+v at height %d or more", info, least)
		}
		got, err := ledger.RestoreDir(context.Background(), filepath.Join(root, "x"), ledger.Guard{Since: time.Now(), Cause: "a test"})
		if err != nil {
			t.Fatal(err)
		}
		// The registry's cut may have one block more than the view had a moment before.
		if got.Height < info.Height || got.Height > info.Height+1 || got.Height == info.Height && got.AppHash != info.AppHash {
			t.Fatalf("restored height %d %x, backed up %d %x", got.Height, got.AppHash, info.Height, info.AppHash)
		}
	}
	stop()
	load.Wait()
	w.stop(0)
	dir := filepath.Join(w.dir, "body0")
	check(t, os.Rename(dir, filepath.Join(w.dir, "lost")))
	check(t, os.Rename(filepath.Join(root, "x"), dir))
	if _, err := os.Stat(filepath.Join(dir, "engine", "priv_validator_state.json")); !os.IsNotExist(err) {
		t.Fatalf("the last-sign state was restored: %v", err)
	}
	w.start(0)
	if !guarded(w.nodes[0], "a test") || w.nodes[0].View().Height() < info.Height {
		t.Fatalf("restored at height %d: %v", w.nodes[0].View().Height(), w.nodes[0].Status().Problems)
	}
	w.stop(0)
	if _, err := ledger.LiftGuard(dir); err != nil {
		t.Fatal(err)
	}
	w.start(0)
	mustSubmit(t, w.nodes[0], w.bodies[0].subsystem(t, "AFTER", "after the restore"))
}
