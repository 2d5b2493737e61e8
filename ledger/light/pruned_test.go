package light_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/ledger/light"
)

// TestAcrossThePrunedBorder: where full nodes drop old blocks and headers, a client
// that follows never notices; one that was away until its next block was dropped,
// and one that has nothing, take a snapshot. Nobody is called a liar for it. Where
// there is no snapshot, the client stays where it was and says that it is behind.
func TestAcrossThePrunedBorder(t *testing.T) {
	snapshots := uint64(5)
	pruning := func(_ int, cfg *ledger.Config) {
		cfg.RetainBlocks, cfg.FewBlocks = 8, true
		cfg.SnapshotInterval, cfg.SnapshotKeep = snapshots, 2
	}
	// absent runs a network with two clients of which one is away until the border is
	// above what it has.
	absent := func() (w *network, follows *light.Client, away light.Config, left, height uint64) {
		w = newNetwork(t, 1, pruning)
		other := newFace(t, func() *ledger.Node { return w.nodes[0] })
		away = w.config(w.faces[0], other)
		cfg := away
		cfg.Dir = t.TempDir()
		away.SnapshotGap = 5
		follows = open(t, cfg)
		c, err := light.Open(context.Background(), away)
		check(t, err)
		w.reaches(c, w.commit(0, w.bodies[0].subsystem(t, "FIRST")))
		left = heightOf(c)
		check(t, c.Close(context.Background()))
		for i := range 30 {
			height = w.commit(0, w.bodies[0].subsystem(t, fmt.Sprint("S", i)))
			w.reaches(follows, height)
		}
		eventually(t, "the first blocks are dropped", func() bool {
			s, err := w.nodes[0].PublicStatus()
			check(t, err)
			return s.Base > left+5 // it may have got some more before it was closed
		})
		if _, err := w.nodes[0].LightBlock(left + 1); !errors.Is(err, ledger.ErrPruned) {
			t.Fatalf("the header of a block that was dropped: %v", err)
		}
		return w, follows, away, left, height
	}

	w, follows, away, _, height := absent()
	if s := follows.Status(); !s.Healthy || len(s.Problems) != 0 {
		t.Errorf("the client that follows: %+v", s)
	}
	back := open(t, away)
	w.reaches(back, height)
	fresh := away
	fresh.Dir = t.TempDir()
	w.reaches(open(t, fresh), height)
	for _, dir := range []string{away.Dir, fresh.Dir} {
		if kinds, _ := lies(t, dir); len(kinds) != 0 {
			t.Errorf("named as liars: %v", kinds)
		}
	}

	snapshots = 0
	w, _, away, _, _ = absent()
	stays := open(t, away)
	eventually(t, "it says that it is behind", func() bool { return len(stays.Status().Problems) > 0 && !stays.Status().Healthy })
	if s, err := w.nodes[0].PublicStatus(); err != nil || heightOf(stays)+1 >= s.Base {
		t.Errorf("without a snapshot it is at height %d, blocks are kept from %d: %v", heightOf(stays), s.Base, err)
	}
}
