package ledger_test

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/civibus/civibus/ledger"
)

// liar is the application of a validator that proposes, each time it is its turn,
// another kind of block that no honest one would, and accepts its own.
type liar struct {
	abci.Application
	kinds []func(honest [][]byte) [][]byte
	turn  atomic.Int64
}

func (l *liar) PrepareProposal(ctx context.Context, req *abci.RequestPrepareProposal) (*abci.ResponsePrepareProposal, error) {
	res, err := l.Application.PrepareProposal(ctx, req)
	if err == nil {
		kind := l.kinds[int(l.turn.Add(1)-1)%len(l.kinds)]
		res.Txs = kind(res.Txs)
	}
	return res, err
}

func (l *liar) ProcessProposal(context.Context, *abci.RequestProcessProposal) (*abci.ResponseProcessProposal, error) {
	return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_ACCEPT}, nil
}

// TestDishonestProposer: one of four validators proposes blocks with what is no
// transaction, which the others refuse in favour of the next proposer's, and blocks
// with transactions that are none of anybody's: forged, repeated, out of order. Those
// get their refusal in the block. Every honest transaction is committed, and all
// honest nodes agree. What the engine itself checks of a block (its header, the
// commit, the proposer's signature) it checks before the application sees it.
func TestDishonestProposer(t *testing.T) {
	reg := prometheus.NewRegistry()
	var l *liar
	w := makeNetwork(t, 4, func(i int, cfg *ledger.Config) {
		switch i {
		case 0:
			cfg.Metrics = reg
		case 3:
			cfg.Dishonest(func(honest abci.Application) abci.Application {
				l.Application = honest
				return l
			})
		}
	})
	done := w.bodies[0].notarise(t, "committed long ago")
	forged := bytes.Clone(w.bodies[1].notarise(t, "forged"))
	forged[len(forged)-1] ^= 1
	l = &liar{kinds: []func([][]byte) [][]byte{
		func(honest [][]byte) [][]byte { return append(honest, []byte("no envelope")) },
		func(honest [][]byte) [][]byte { return append(honest, forged) },
		func(honest [][]byte) [][]byte { return append([][]byte{nil}, honest...) },
		func(honest [][]byte) [][]byte { return append(honest, done, done) },
		func(honest [][]byte) [][]byte { return append(honest, make([]byte, 200<<10)) },
	}}
	for i := range 4 {
		w.start(i)
	}
	mustSubmit(t, w.nodes[0], done)
	var last ledger.Committed
	for k := 0; l.turn.Load() < 2*int64(len(l.kinds)); k++ {
		if k == 500 {
			t.Fatalf("the dishonest validator proposed %d times in %d blocks", l.turn.Load(), k)
		}
		last = mustSubmit(t, w.nodes[k%3], w.bodies[k%3].notarise(t, fmt.Sprint("honest ", k)))
	}
	w.agree(last.Height)
	if refused := testutil.ToFloat64(counter(t, reg, "civibus_ledger_refused_proposals_total")); refused < 3 {
		t.Errorf("%v proposals were refused, want those of three kinds at least", refused)
	}
	if got, want := mustSubmit(t, w.nodes[1], done).Height, mustSubmit(t, w.nodes[0], done).Height; got != want {
		t.Errorf("a transaction that was proposed again is now at height %d, it was at %d", got, want)
	}
}
