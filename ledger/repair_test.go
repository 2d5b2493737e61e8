package ledger_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/ledger"
)

// damage writes over the middle of the largest file with an ending in dir, and
// returns its name.
func damage(t testing.TB, dir, ending string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+ending))
	check(t, err)
	largest, size := "", int64(-1)
	for _, n := range names {
		info, err := os.Stat(n)
		check(t, err)
		if info.Size() > size {
			largest, size = n, info.Size()
		}
	}
	if size < 100 {
		t.Fatalf("no file to damage in %s: %v", dir, names)
	}
	f, err := os.OpenFile(largest, os.O_RDWR, 0)
	check(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0x5a}, 64), size/3)
	check(t, err)
	check(t, f.Close())
	return largest
}

// TestDamagedStoresAreSyncedAgain: damage of each of a validator's databases is
// named with its file and the fix, without a change to it; after what the fix says,
// the node has the others' state again, and its validator has not signed twice.
func TestDamagedStoresAreSyncedAgain(t *testing.T) {
	w := governed(t, 4, nil)
	w.startAll()
	w.goOn(3, "some history", func() bool { return w.nodes[3].View().Height() > 8 })
	dir := filepath.Join(w.dir, "body3")
	for _, part := range []struct {
		name   string
		blocks bool // must come from peers
	}{{"registry", false}, {"engine/blockstore.db", true}, {"engine/state.db", true}} {
		w.stop(3)
		report, err := ledger.Check(context.Background(), dir)
		if err != nil || len(report.Problems) > 0 || report.Height == 0 || report.Records == 0 || report.Blocks == 0 {
			t.Fatalf("before the damage: %+v, %v", report, err)
		}
		// A start puts what the journals hold into tables, which checksums protect.
		w.start(3)
		w.stop(3)
		file := damage(t, filepath.Join(dir, part.name), ".ldb")
		was, err := os.ReadFile(file)
		check(t, err)
		report, err = ledger.Check(context.Background(), dir)
		if err != nil || len(report.Problems) == 0 || !strings.Contains(report.Problems[0].File, part.name) || !strings.Contains(report.Problems[0].Fix, "civibus ledger resync") {
			t.Fatalf("damaged %s: %+v, %v", file, report, err)
		}
		if is, err := os.ReadFile(file); err != nil || !bytes.Equal(is, was) {
			t.Fatalf("the check changed %s: %v", file, err)
		}
		aside, err := ledger.SetAside(dir, part.blocks, time.Now())
		check(t, err)
		if kept, err := os.ReadFile(filepath.Join(aside, part.name, filepath.Base(file))); err != nil || !bytes.Equal(kept, was) {
			t.Fatalf("what was damaged is not kept in %s: %v", aside, err)
		}
		w.start(3)
		if part.blocks && !guarded(w.nodes[3], "set aside") {
			t.Fatalf("not guarded: %v", w.nodes[3].Status().Problems)
		}
		w.goOn(0, "it has caught up and signs", func() bool {
			return w.nodes[3].View() != nil && w.nodes[3].View().Height()+1 >= w.nodes[0].View().Height() && !guarded(w.nodes[3], "")
		})
		w.agree(mustSubmit(t, w.nodes[3], w.bodies[3].notarise(t, fmt.Sprint("after ", part.name))).Height)
	}
	w.innocent(3, 2)
	w.stop(3)
	if report, err := ledger.Check(context.Background(), dir); err != nil || len(report.Problems) > 0 {
		t.Fatalf("after all repairs: %+v, %v", report, err)
	}
}

// TestHaltHeight: a node stops before the height that its configuration names, says
// so, refuses to start there, and goes on when the setting is gone.
func TestHaltHeight(t *testing.T) {
	halt := uint64(0)
	w := governed(t, 1, func(_ int, cfg *ledger.Config) { cfg.TimeoutCommit, cfg.HaltHeight = -1, halt })
	w.startAll()
	w.goOn(0, "some history", func() bool { return w.nodes[0].View().Height() >= 3 })
	w.stop(0)
	halt = 12
	w.start(0)
	for k := 0; w.nodes[0].Halted() == nil; k++ {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, _ = w.nodes[0].Submit(ctx, w.bodies[0].notarise(t, fmt.Sprint("until the halt ", k)))
		cancel()
		if k > 30 {
			t.Fatal("it does not halt")
		}
	}
	if got, err := w.nodes[0].View().Height(), w.nodes[0].Halted(); got != halt-1 || !strings.Contains(err.Error(), "before block 12") {
		t.Fatalf("halted at height %d: %v", got, err)
	}
	w.stop(0)
	if _, err := ledger.Open(context.Background(), w.config(0)); err == nil || !strings.Contains(err.Error(), "ledger.halt_height") {
		t.Fatalf("started at the halt: %v", err)
	}
	halt = 0
	w.start(0)
	mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, "after the halt"))
	if got := w.nodes[0].View().Height(); got <= 12 {
		t.Fatalf("height %d", got)
	}
}

// TestLaterLayoutIsRefused: a folder that later software wrote is refused by name.
func TestLaterLayoutIsRefused(t *testing.T) {
	w := makeNetwork(t, 1, nil)
	dir := filepath.Join(w.dir, "body0")
	check(t, os.MkdirAll(dir, 0o700))
	check(t, os.WriteFile(filepath.Join(dir, "SCHEMA"), []byte("civibus-ledger 7\n"), 0o600))
	if _, err := ledger.Open(context.Background(), w.config(0)); err == nil || !strings.Contains(err.Error(), "has version 7 of the layout civibus-ledger, this software knows versions up to 1") {
		t.Fatalf("a later layout: %v", err)
	}
}

// TestDamageIsNamedWhereItIsRead: a node whose block files are damaged says which
// file it is and what to do, at its start or when it reads there.
func TestDamageIsNamedWhereItIsRead(t *testing.T) {
	w := newNetwork(t, 1, func(_ int, cfg *ledger.Config) { cfg.TimeoutCommit = -1 })
	w.goOn(0, "some history", func() bool { return w.nodes[0].View().Height() > 8 })
	w.stop(0)
	w.start(0) // journals become tables
	w.stop(0)
	dir := filepath.Join(w.dir, "body0")
	damage(t, filepath.Join(dir, "engine", "blockstore.db"), ".ldb")
	check(t, os.RemoveAll(filepath.Join(dir, "registry"))) // every block is read
	n, err := ledger.Open(context.Background(), w.config(0))
	if err == nil {
		w.nodes[0] = n
		eventually(t, 20*time.Second, "the damage is read", func() bool { return n.Halted() != nil })
		err = n.Halted()
	}
	if !strings.Contains(err.Error(), "blockstore.db") || !strings.Contains(err.Error(), "civibus ledger resync") {
		t.Fatalf("a damaged block file: %v", err)
	}
}
