//go:build linux

package network_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/test/network"
)

// TestFullDisk: the disk of one body, which is a small one of its own, is filled to
// the last byte under load, and emptied. The others go on. The body goes on by itself
// or, if its ledger halted, after a restart; nothing that it acknowledged is lost.
func TestFullDisk(t *testing.T) {
	only(t)
	r := start(t, network.Options{
		DiskOf: 3, DiskBytes: 384 << 20,
		Configure: func(i int, c *node.Config) {
			if i == 3 {
				c.Admin.Socket = "../admin.sock" // the test reaches it there
			}
		},
	})
	one := r.Bodies[3]
	for range times(1, 1, 10) {
		r.faults++
		r.Sick(one)
		filler := filepath.Join(one.Path(one.Config.DataDir), "filler")
		r.ok(fill(filler))
		// What an operator sees: it takes no exchanges, or has ended and said why.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := network.Until(ctx, func() bool {
			s, err := one.Status(ctx)
			return err == nil && (!s.Evidence.Accepting || !s.Ledger.Healthy) || !one.Process().Running()
		})
		cancel()
		if err != nil {
			t.Fatal("a full disk is not noticed")
		}
		r.commit(r.others(one)...)
		time.Sleep(lasts())
		if s, err := one.Status(t.Context()); err == nil {
			t.Logf("with a full disk: evidence %q, ledger %v", s.Evidence.Problem, s.Ledger.Problems)
		} else {
			t.Logf("with a full disk the node ended: %s", one.Process().Tail(3))
		}
		r.ok(os.Remove(filler))
		if !one.Process().Running() || !r.recovers(one) {
			t.Log("with room again it needs a restart")
			one.Kill()
			r.ok(one.Start())
		}
		r.ready(one)
		r.commit(r.Bodies...)
		r.Healthy(one)
	}
	r.end()
}

// recovers waits a while for a node to become healthy by itself.
func (r *trial) recovers(b *network.Body) bool {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	return network.Until(ctx, func() bool {
		s, err := b.Status(ctx)
		return err == nil && s.Evidence.Accepting && s.Ledger.Healthy || !b.Process().Running()
	}) == nil && b.Process().Running()
}

// fill writes a file until the disk is full.
func fill(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return nil
}

// TestDamagedDatabase: after a kill, bytes of one of a node's databases are not what
// was written. Either the node notices, says which directory, and goes on after the
// operator has done what docs/operate/faults.md says, or it needs none of the bytes;
// in no case does it go on with them.
func TestDamagedDatabase(t *testing.T) {
	only(t)
	r := start(t, network.Options{})
	one := r.Bodies[2]
	for _, damaged := range []string{"registry", "engine/blockstore.db", "engine/state.db"} {
		r.faults++
		r.Sick(one)
		one.Kill()
		dir := filepath.Join(one.Config.DataDir, "ledger", damaged)
		flipped := flip(t, dir)
		r.ok(one.Start())
		switch {
		case r.starts(one):
			t.Logf("%s: %d bytes flipped, the node runs", damaged, flipped)
		default:
			said := one.Process().Tail(1)
			t.Logf("%s: %d bytes flipped, the node ends: %s", damaged, flipped, said)
			if !strings.Contains(said, filepath.Join(one.Config.DataDir, "ledger")) {
				t.Errorf("the node does not say which directory is damaged: %s", said)
			}
			r.resync(one)
		}
		r.ready(one)
		r.commit(r.Bodies...)
		r.Healthy(one)
	}
	r.end()
}

// starts waits until a node takes exchanges or has ended.
func (r *trial) starts(b *network.Body) bool {
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	ready := false
	r.ok(network.Until(ctx, func() bool {
		s, err := b.Status(ctx)
		ready = err == nil && s.Ready
		return ready || !b.Process().Running()
	}))
	return ready
}

// resync does what the operator does: it has all damage named, has the ledger moved
// aside, and starts the node, which fetches it from the peers. What the validator
// and the witness signed stays.
func (r *trial) resync(b *network.Body) {
	r.Helper()
	out, err := b.Command(r.Context(), "ledger", "check").CombinedOutput()
	if err == nil {
		r.Errorf("civibus ledger check finds nothing wrong: %s", out)
	}
	r.Logf("civibus ledger check: %s", out)
	if out, err = b.Command(r.Context(), "ledger", "resync").CombinedOutput(); err != nil {
		r.Fatalf("civibus ledger resync: %v: %s", err, out)
	}
	r.ok(b.Start())
}

// flip inverts a stretch in the middle of every file of a database that holds data
// and returns how many bytes.
func flip(t *testing.T, dir string) (n int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() < 1<<10 {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, e.Name()), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		stretch := make([]byte, 256)
		at := info.Size()/2 - 128
		if _, err := f.ReadAt(stretch, at); err != nil {
			t.Fatal(err)
		}
		for i := range stretch {
			stretch[i] ^= 0xff
		}
		if _, err := f.WriteAt(stretch, at); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		n += len(stretch)
	}
	if n == 0 {
		t.Fatalf("%s holds no file that is worth damaging", dir)
	}
	return n
}
