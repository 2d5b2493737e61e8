package light_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/ledger/light"
	"github.com/civibus/civibus/registry"
)

// TestFollows: a light client begins at the genesis, sees what full nodes commit,
// changes the registry itself, and goes on after a restart.
func TestFollows(t *testing.T) {
	w := newNetwork(t, 1, nil)
	other := newFace(t, func() *ledger.Node { return w.nodes[0] })
	first := w.commit(0, w.bodies[0].subsystem(t, "BEFORE"))
	cfg := w.config(w.faces[0], other)
	c, err := light.Open(context.Background(), cfg)
	check(t, err)
	w.reaches(c, first)

	// What others commit, and what it submits itself.
	w.reaches(c, w.commit(0, w.bodies[0].subsystem(t, "AFTER")))
	envelope := w.bodies[0].subsystem(t, "OWN")
	for range 2 { // the second time the block has it already
		got, err := c.Submit(within(t), envelope)
		check(t, err)
		if got.Code != 0 || got.Height == 0 || got.TxHash != registry.TxHash(envelope) {
			t.Fatalf("submitted: %+v", got)
		}
	}
	if got, err := c.Submit(within(t), []byte("junk")); err != nil || got.Code != registry.BadEncoding || got.Height != 0 {
		t.Fatalf("junk: %+v, %v", got, err)
	}
	v := c.View()
	text, err := c.Checkpoint(v.EventSize())
	check(t, err)
	if want, err := w.nodes[0].Checkpoint(v.EventSize()); err != nil || text != want {
		t.Fatalf("checkpoint %q, a full node has %q, %v", text, want, err)
	}
	eventually(t, "it is at the newest block", func() bool { return !c.Status().CatchingUp })
	if s := c.Status(); !s.Healthy || len(s.Problems) != 0 || s.Peers != 2 {
		t.Fatalf("status %+v", s)
	}

	// Again after a while.
	check(t, c.Close(context.Background()))
	later := w.commit(0, w.bodies[0].subsystem(t, "LATER"))
	c = open(t, cfg)
	if heightOf(c) < v.Height() {
		t.Fatalf("after the restart it begins at %d, it was at %d", heightOf(c), v.Height())
	}
	w.reaches(c, later)
	if got, err := c.Submit(within(t), envelope); err != nil || got.Code != 0 {
		t.Fatalf("the result of an old transaction: %+v, %v", got, err)
	}
}

// TestTrustExpires: after a longer absence than the trust period nothing is believed
// until the operator names a block; then a snapshot is taken and verified.
func TestTrustExpires(t *testing.T) {
	w := newNetwork(t, 1, func(_ int, cfg *ledger.Config) { cfg.SnapshotInterval, cfg.SnapshotKeep = 10, 40 })
	other := newFace(t, func() *ledger.Node { return w.nodes[0] })
	cfg := w.config(w.faces[0], other)
	c, err := light.Open(context.Background(), cfg)
	check(t, err)
	w.reaches(c, w.commit(0, w.bodies[0].subsystem(t, "FIRST")))
	check(t, c.Close(context.Background()))
	height := uint64(0)
	for i := range 15 {
		height = w.commit(0, w.bodies[0].subsystem(t, fmt.Sprint("S", i)))
	}
	cfg.Clock = func() time.Time { return time.Now().Add(15 * 24 * time.Hour) }
	c, err = light.Open(context.Background(), cfg)
	check(t, err)
	eventually(t, "it stops", func() bool { return !c.Status().Healthy && contains(c.Status().Problems, "ledger.trust_height") })
	if heightOf(c) >= height {
		t.Fatal("it went on")
	}
	check(t, c.Close(context.Background()))

	// The operator names a block: with a wrong hash nobody can serve it, with the
	// right one it goes on.
	cfg.Clock = nil
	cfg.TrustHeight, cfg.TrustHash = height, make([]byte, 32)
	c, err = light.Open(context.Background(), cfg)
	check(t, err)
	eventually(t, "it says that the block is not had", func() bool { return contains(c.Status().Problems, "trust_hash") })
	check(t, c.Close(context.Background()))
	cfg.TrustHash, err = w.nodes[0].HeaderHash(height)
	check(t, err)
	cfg.SnapshotGap = 3
	cfg.Dir = t.TempDir() // whoever lost everything, too
	eventually(t, "a snapshot", func() bool { s, err := w.nodes[0].Snapshots(); return err == nil && len(s) > 0 })
	c = open(t, cfg)
	w.reaches(c, height)
}

// TestCatchesUp: a client that is many blocks behind goes from one trusted header to
// the next, with answers that hold a part of what was asked; and one that was told
// what to trust, where no snapshot is, walks back from there to the first block.
func TestCatchesUp(t *testing.T) {
	defer light.SetStride(7)()
	w := newNetwork(t, 1, nil)
	few := func(rw http.ResponseWriter, r *http.Request, honest http.Handler) {
		if q := r.URL.Query(); strings.HasSuffix(r.URL.Path, "/blocks") {
			from, err := strconv.Atoi(q.Get("from"))
			check(t, err)
			q.Set("to", strconv.Itoa(from+1))
			r.URL.RawQuery = q.Encode()
		}
		honest.ServeHTTP(rw, r)
	}
	other := newFace(t, func() *ledger.Node { return w.nodes[0] })
	w.faces[0].tell(few)
	other.tell(few)
	cfg := w.config(w.faces[0], other)
	c, err := light.Open(context.Background(), cfg)
	check(t, err)
	w.reaches(c, w.commit(0, w.bodies[0].subsystem(t, "FIRST")))
	check(t, c.Close(context.Background()))
	height := uint64(0)
	for i := range 25 {
		height = w.commit(0, w.bodies[0].subsystem(t, fmt.Sprint("S", i)))
	}
	c = open(t, cfg)
	w.reaches(c, height)

	cfg.Dir = t.TempDir()
	cfg.TrustHeight = height
	cfg.TrustHash, err = w.nodes[0].HeaderHash(height)
	check(t, err)
	told := open(t, cfg)
	w.reaches(told, height)
	for _, c := range []*light.Client{c, told} {
		if kinds, _ := lies(t, cfg.Dir); len(kinds) != 0 || !c.Status().Healthy {
			t.Errorf("named %v, %v", kinds, c.Status().Problems)
		}
	}
}
