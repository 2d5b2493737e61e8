package ledger_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"

	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

// driven is an application that a test drives as the engine would.
type driven struct {
	t      testing.TB
	app    *ledger.TestApp
	body   *body
	height int64
}

func newDriven(t testing.TB) *driven {
	t.Helper()
	dir := t.TempDir()
	bodies, genesis := makeBodies(t, 1)
	app, err := ledger.NewApp(ledger.Config{Dir: filepath.Join(dir, "app"), Genesis: genesis})
	check(t, err)
	t.Cleanup(func() { check(t, app.CloseStore()) })
	_, err = app.InitChain(context.Background(), &abci.RequestInitChain{})
	check(t, err)
	return &driven{t: t, app: app, body: bodies[0]}
}

// block runs one block through the four calls; none may return an error.
func (d *driven) block(txs ...[]byte) *abci.ResponseFinalizeBlock {
	d.t.Helper()
	ctx := context.Background()
	for _, tx := range txs {
		_, err := d.app.CheckTx(ctx, &abci.RequestCheckTx{Tx: tx})
		check(d.t, err)
	}
	prepared, err := d.app.PrepareProposal(ctx, &abci.RequestPrepareProposal{Txs: txs, MaxTxBytes: 1 << 20})
	check(d.t, err)
	processed, err := d.app.ProcessProposal(ctx, &abci.RequestProcessProposal{Txs: prepared.Txs})
	check(d.t, err)
	if !processed.IsAccepted() {
		d.t.Fatal("the node refuses its own proposal")
	}
	if all, err := d.app.ProcessProposal(ctx, &abci.RequestProcessProposal{Txs: txs}); err != nil || all.IsAccepted() != (len(prepared.Txs) == len(txs)) {
		d.t.Fatalf("a proposal with what this node would drop: %v, %v", all, err)
	}
	// The block of a dishonest majority holds everything.
	d.height++
	res, err := d.app.FinalizeBlock(ctx, &abci.RequestFinalizeBlock{Txs: txs, Height: d.height, Time: time.Unix(1_790_000_000+d.height, 0).UTC()})
	check(d.t, err)
	if len(res.TxResults) != len(txs) {
		d.t.Fatalf("%d results for %d transactions", len(res.TxResults), len(txs))
	}
	_, err = d.app.Commit(ctx, &abci.RequestCommit{})
	check(d.t, err)
	return res
}

// FuzzHostileBlocks: no bytes in a transaction stop a block, and the next good
// transaction is accepted.
func FuzzHostileBlocks(f *testing.F) {
	d := newDriven(f)
	d.app.Hurry()
	good := d.body.notarise(f, "seed")
	f.Add([]byte{}, []byte{0})
	f.Add(good, good)
	f.Add(good[:len(good)-1], append([]byte{0x1a, 0}, good...))
	f.Add([]byte{0x0a, 0x01, 0x00, 0x12, 0x00}, []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		d.t = t
		last := d.body.notarise(t, fmt.Sprint("after ", d.height))
		res := d.block(a, b, last)
		if res.TxResults[2].Code != 0 {
			t.Fatalf("a good transaction after hostile ones got code %s", registry.Code(res.TxResults[2].Code))
		}
		if d.app.Failed() {
			t.Fatal("the application recorded a failure")
		}
	})
}

// TestProposalLimits: the byte limit is kept and what cannot be decoded is left
// out.
func TestProposalLimits(t *testing.T) {
	d := newDriven(t)
	var txs [][]byte
	for k := range 20 {
		txs = append(txs, d.body.notarise(t, fmt.Sprint(k)))
	}
	limit := int64(5*len(txs[0]) + 100)
	res, err := d.app.PrepareProposal(context.Background(), &abci.RequestPrepareProposal{Txs: append([][]byte{[]byte("junk")}, txs...), MaxTxBytes: limit})
	check(t, err)
	size := 0
	for _, tx := range res.Txs {
		if string(tx) == "junk" {
			t.Fatal("junk was proposed")
		}
		size += len(tx)
	}
	if len(res.Txs) < 4 || int64(size) > limit {
		t.Fatalf("%d transactions of %d bytes for a limit of %d", len(res.Txs), size, limit)
	}
}

// TestReplayIsSafe: the engine's crash orders. A block that was executed but not
// committed is executed again with the same hash, and InitChain may be repeated.
func TestReplayIsSafe(t *testing.T) {
	d := newDriven(t)
	first, err := d.app.InitChain(context.Background(), &abci.RequestInitChain{})
	check(t, err)
	if info, err := d.app.Info(context.Background(), &abci.RequestInfo{}); err != nil || info.LastBlockHeight != 0 {
		t.Fatalf("before the first block: %+v, %v", info, err)
	}
	tx := d.body.notarise(t, "x")
	req := &abci.RequestFinalizeBlock{Txs: [][]byte{tx}, Height: 1, Time: time.Unix(1_790_000_000, 0).UTC()}
	a, err := d.app.FinalizeBlock(context.Background(), req)
	check(t, err)
	b, err := d.app.FinalizeBlock(context.Background(), req)
	check(t, err)
	if string(a.AppHash) != string(b.AppHash) || string(a.AppHash) == string(first.AppHash) {
		t.Fatalf("hashes %x, %x after genesis %x", a.AppHash, b.AppHash, first.AppHash)
	}
	_, err = d.app.Commit(context.Background(), &abci.RequestCommit{})
	check(t, err)
	if _, err := d.app.Commit(context.Background(), &abci.RequestCommit{}); err == nil {
		t.Fatal("a commit without a block")
	}
	if !d.app.Failed() {
		t.Fatal("the failure was not recorded")
	}
}
