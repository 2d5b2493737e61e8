package ledger

import (
	"context"
	"sync"
	"time"

	abcicli "github.com/cometbft/cometbft/abci/client"
	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/proxy"

	"github.com/civibus/civibus/registry"
)

// checkTogether is how many transactions of peers are checked together at most, and
// checkWait how long the first of them waits for others: signatures are verified
// faster together, and a block comes a hundred times later.
const (
	checkTogether = 64
	checkWait     = time.Millisecond
)

// clients makes the engine's clients of the application.
type clients struct {
	proxy.ClientCreator
	app *app
}

func newClients(application abci.Application, a *app) clients {
	return clients{proxy.NewConnSyncLocalClientCreator(application), a}
}

// NewABCIClient returns a client whose CheckTxAsync does not wait for the answer.
func (c clients) NewABCIClient() (abcicli.Client, error) {
	local, err := c.ClientCreator.NewABCIClient()
	if err != nil {
		return nil, err
	}
	q := &checkQueue{Client: local, app: c.app, hurry: make(chan struct{}, 1)}
	q.settled.L = &q.mu
	return q, nil
}

// checkQueue collects the transactions that the pool wants to have checked, in
// order, while those before them are checked. One goroutine at a time checks, and
// there is none while nothing waits.
type checkQueue struct {
	abcicli.Client
	app   *app
	hurry chan struct{} // the batch is full, or somebody waits for it

	mu       sync.Mutex
	answer   abcicli.Callback
	waiting  []*abcicli.ReqRes
	checking bool
	came     uint64 // so many came, and
	done     uint64 // so many have their answer
	settled  sync.Cond
}

// SetResponseCallback sets what is called with every answer.
func (q *checkQueue) SetResponseCallback(fn abcicli.Callback) {
	q.mu.Lock()
	q.answer = fn
	q.mu.Unlock()
	q.Client.SetResponseCallback(fn)
}

// CheckTxAsync queues a transaction, unless Submit has checked it just now; its
// answer comes by the callbacks.
func (q *checkQueue) CheckTxAsync(ctx context.Context, req *abci.RequestCheckTx) (*abcicli.ReqRes, error) {
	if _, ok := q.app.cleared.Load(registry.TxHash(req.Tx)); ok {
		return q.Client.CheckTxAsync(ctx, req)
	}
	r := abcicli.NewReqRes(abci.ToRequestCheckTx(req))
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, r)
	q.came++
	if !q.checking {
		q.checking = true
		go q.run()
	}
	if len(q.waiting) == checkTogether {
		q.hasten()
	}
	return r, nil
}

// hasten ends the wait for more.
func (q *checkQueue) hasten() {
	select {
	case q.hurry <- struct{}{}:
	default:
	}
}

// Flush returns when all that came before has its answer.
func (q *checkQueue) Flush(context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for came := q.came; q.done < came; q.settled.Wait() {
		q.hasten()
	}
	return nil
}

// run checks until nothing waits.
func (q *checkQueue) run() {
	wait := time.NewTimer(checkWait)
	defer wait.Stop()
	for {
		// 1. More may come.
		select {
		case <-wait.C:
		case <-q.hurry:
		}
		// 2. What there is.
		q.mu.Lock()
		batch := q.waiting[:min(len(q.waiting), checkTogether)]
		q.waiting = q.waiting[len(batch):]
		answer := q.answer
		q.mu.Unlock()
		requests := make([]*abci.RequestCheckTx, len(batch))
		for i, r := range batch {
			requests[i] = r.Request.GetCheckTx()
		}
		for i, res := range q.app.checkAll(requests) {
			r := batch[i]
			r.Response = abci.ToResponseCheckTx(res)
			answer(r.Request, r.Response)
			r.InvokeCallback()
		}
		// 3. Whoever waited for these.
		q.mu.Lock()
		q.done += uint64(len(batch))
		q.settled.Broadcast()
		if len(q.waiting) == 0 {
			q.waiting, q.checking = nil, false
			q.mu.Unlock()
			return
		}
		if len(q.waiting) >= checkTogether {
			q.hasten()
		}
		q.mu.Unlock()
		wait.Reset(checkWait)
	}
}
