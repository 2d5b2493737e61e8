package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"

	"github.com/civibus/civibus/ledger"
)

// TestBlocksTakeTurns: where not everything fits, a block has something of each
// member, each in its order.
func TestBlocksTakeTurns(t *testing.T) {
	dir := t.TempDir()
	bodies, genesis := makeBodies(t, 3)
	app, err := ledger.NewApp(ledger.Config{Dir: filepath.Join(dir, "app"), Genesis: genesis})
	check(t, err)
	t.Cleanup(func() { check(t, app.CloseStore()) })
	_, err = app.InitChain(context.Background(), &abci.RequestInitChain{})
	check(t, err)
	var txs, quiet [][]byte
	for k := range 50 {
		txs = append(txs, bodies[0].notarise(t, fmt.Sprint("flood ", k)))
	}
	for k := range 2 {
		for _, b := range bodies[1:] {
			quiet = append(quiet, b.notarise(t, fmt.Sprint("quiet ", b.member, k)))
		}
	}
	res, err := app.PrepareProposal(context.Background(), &abci.RequestPrepareProposal{Txs: slices.Concat(txs, quiet), MaxTxBytes: int64(10 * (len(txs[0]) + 10))})
	check(t, err)
	has := func(list [][]byte, tx []byte) int {
		return slices.IndexFunc(list, func(b []byte) bool { return bytes.Equal(b, tx) })
	}
	for i, tx := range quiet {
		if has(res.Txs, tx) < 0 {
			t.Errorf("quiet transaction %d is not among the %d of the block", i, len(res.Txs))
		}
	}
	last := -1
	for _, tx := range res.Txs {
		if i := has(txs, tx); i >= 0 && i != last+1 {
			t.Fatalf("transaction %d of a member follows its transaction %d", i, last)
		} else if i >= 0 {
			last = i
		}
	}
	if len(res.Txs) < 9 || last < 4 {
		t.Fatalf("%d transactions, %d of them of the flood", len(res.Txs), last+1)
	}
}

// TestFloodLeavesRoom: one member sends as fast as a node takes it, and the
// transactions of the others are in blocks within a few blocks.
func TestFloodLeavesRoom(t *testing.T) {
	const places = 200
	w := newNetwork(t, 3, func(_ int, cfg *ledger.Config) {
		cfg.PoolTransactions, cfg.TimeoutCommit = places, 100*time.Millisecond
	})
	ctx, cancel := context.WithCancel(context.Background())
	var flood sync.WaitGroup
	var sent, busy, most int
	n := w.nodes[0]
	flood.Go(func() {
		for k := 0; ctx.Err() == nil; k++ {
			_, err := n.Enqueue(w.bodies[0].notarise(t, fmt.Sprint("flood ", k)))
			switch {
			case err == nil:
				sent++
			case errors.Is(err, ledger.ErrBusy):
				busy++
				<-n.Changed() // there is room after the next block
			default:
				t.Errorf("flood: %v", err)
				return
			}
			most = max(most, n.Waiting())
		}
	})
	for k := range 10 {
		for i, b := range w.bodies[1:] {
			at := w.nodes[i].View().Height()
			c := mustSubmit(t, w.nodes[i], b.notarise(t, fmt.Sprintf("quiet %d/%d", i, k)))
			if took := c.Height - at; took > 6 {
				t.Errorf("transaction %d of member %d took %d blocks", k, i+1, took)
			}
		}
	}
	cancel()
	mustSubmit(t, w.nodes[1], w.bodies[1].notarise(t, "wakes the flood up"))
	flood.Wait()
	if busy == 0 || sent < places || most >= places {
		t.Fatalf("the flood sent %d, was held back %d times and filled %d of %d places", sent, busy, most, places)
	}
}
