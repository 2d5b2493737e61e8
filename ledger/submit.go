package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	mempl "github.com/cometbft/cometbft/mempool"
	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus/registry"
)

// Committed is what became of a transaction. Code 0 means that the registry
// accepted it in the block at Height. Another code is a refusal with its reason:
// by the block at Height or, when Height is 0, by this node before it reached a
// block; such a transaction changed nothing, and the same envelope can be
// submitted again once the reason is gone.
type Committed struct {
	Code   registry.Code
	Reason string
	Height uint64
	TxHash [32]byte
}

// Errors of Submit. They say nothing about the transaction itself.
var (
	// ErrBusy: too many transactions wait for a block; come back later.
	ErrBusy = errors.New("the ledger is busy: too many transactions wait for a block; submit again later")
	// ErrClosed: the node is closing.
	ErrClosed = errors.New("the ledger node is closed")
	// ErrHalted: this node cannot take part any more; see Status.
	ErrHalted = errors.New("the ledger halted at this node; its status says why")
	// ErrUncertain: the deadline passed before a block took the transaction. It may
	// still be taken: submit the same envelope again to learn, it counts once.
	ErrUncertain = errors.New("no block took the transaction in time, but one still may; submit the same envelope again to learn its result")
)

// resubmitAfter is how long a transaction may wait before it is gossiped anew.
const resubmitAfter = 2 * time.Second

// Submit hands a signed envelope (registry.SignTx) to the ledger and waits until
// a block took it. It can be called at any node, with the same envelope as often
// as one likes: the transaction counts once, and a transaction that a block took
// has the same result for as long as the block is kept. A pool that lost it (a
// peer's restart, a full peer) is given it again until ctx ends.
func (n *Node) Submit(ctx context.Context, envelope []byte) (Committed, error) {
	start := time.Now()
	c, err := n.submit(ctx, envelope)
	if err == nil && c.Height > 0 {
		n.metrics.submit.Observe(time.Since(start).Seconds())
	}
	return c, err
}

// Enqueue hands a signed envelope to the ledger and does not wait for a block. It
// is for bulk work that looks for its results itself: a transaction can be lost
// before a block takes it, and nobody submits it again. A Committed with a code is
// a refusal.
func (n *Node) Enqueue(envelope []byte) (Committed, error) {
	hash := registry.TxHash(envelope)
	if n.app.failed() != nil {
		return Committed{TxHash: hash}, ErrHalted
	}
	if n.closed.Load() {
		return Committed{TxHash: hash}, ErrClosed
	}
	if c, ok, err := n.refusal(hash, envelope); err != nil || ok {
		return c, err
	}
	return Committed{TxHash: hash}, n.enqueue(envelope, false)
}

func (n *Node) submit(ctx context.Context, envelope []byte) (Committed, error) {
	a := n.app
	hash := registry.TxHash(envelope)

	// 1. A block may have it already, or be about to.
	wait := a.waiters.add(hash)
	defer a.waiters.remove(hash, wait)
	if c, ok, err := a.index.lookup(hash); err != nil || ok {
		return c, err
	}

	full := time.NewTimer(n.cfg.SubmitWait)
	defer full.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	queued := false
	for {
		select {
		case c := <-wait: // 4. A block took it.
			return c, nil
		case <-again.C:
			if a.failed() != nil {
				return Committed{TxHash: hash}, ErrHalted
			}
			// 2. Refuse at once what cannot be accepted.
			if c, ok, err := n.refusal(hash, envelope); err != nil || ok {
				return c, err
			}
			// 3. Into the pool, and to the peers.
			err := n.enqueue(envelope, queued)
			switch {
			case err == nil:
				queued = true
				again.Reset(resubmitAfter)
			case errors.Is(err, ErrBusy):
				again.Reset(20 * time.Millisecond)
			case errors.Is(err, errPoolRefused):
				again.Reset(0) // the view moved on meanwhile; step 2 says why
			default:
				return Committed{TxHash: hash}, err
			}
		case <-full.C:
			if !queued {
				a.metrics.busy.Inc()
				return Committed{TxHash: hash}, ErrBusy
			}
		case <-a.closing:
			return Committed{TxHash: hash}, ErrClosed
		case <-ctx.Done():
			return Committed{TxHash: hash}, fmt.Errorf("%w (%w)", ErrUncertain, context.Cause(ctx))
		}
	}
}

// refusal reports whether the transaction cannot be accepted on the committed
// view, with the result of the block that took it meanwhile if there is one.
func (n *Node) refusal(hash [32]byte, envelope []byte) (Committed, bool, error) {
	code, reason := codeExecuted, ""
	if !n.app.index.recently(hash) {
		r := n.app.check(envelope)[0]
		code, reason = r.Code, r.Reason
	}
	if code == 0 {
		return Committed{}, false, nil
	}
	if c, ok, err := n.app.index.lookup(hash); err != nil || ok {
		return c, ok, err
	}
	switch code {
	case codeExecuted: // remembered, and the record is about to be visible
		return Committed{}, false, nil
	case codePanic, registry.Unavailable:
		return Committed{TxHash: hash}, false, fmt.Errorf("submit: %s", reason)
	}
	n.app.metrics.refused.WithLabelValues(code.String()).Inc()
	return Committed{Code: code, Reason: reason, TxHash: hash}, true, nil
}

// errPoolRefused: the pool's own check refused what the check before accepted.
var errPoolRefused = errors.New("the pool refused the transaction")

// enqueue puts a transaction that refusal let pass into this node's pool. One that is in it already is
// put anew at its end when again is set, because that is what makes the pool send
// it to the peers once more.
func (n *Node) enqueue(envelope []byte, again bool) error {
	p := n.app.pool.Load()
	if again {
		p.Lock()
		_ = p.RemoveTxByKey(types.Tx(envelope).Key()) // absent is as good
		p.Unlock()
	}
	hash := registry.TxHash(envelope)
	n.app.cleared.Store(hash, true) // refusal checked it just now
	defer n.app.cleared.Delete(hash)
	answer := make(chan registry.Code, 1)
	code := registry.OK
	err := p.CheckTx(envelope, func(res *abci.ResponseCheckTx) { answer <- registry.Code(res.Code) }, mempl.TxInfo{})
	if err == nil {
		code = <-answer
	}
	var full mempl.ErrMempoolIsFull
	var large mempl.ErrTxTooLarge
	switch {
	case errors.As(err, &full), errors.Is(err, mempl.ErrRecheckFull):
		return ErrBusy
	case errors.As(err, &large):
		return fmt.Errorf("submit: the envelope has %d bytes, the rule is at most %d", large.Actual, large.Max)
	case err != nil && !errors.Is(err, mempl.ErrTxInCache):
		return fmt.Errorf("submit: %w", err)
	case code == codeShare:
		return ErrBusy
	case code != 0:
		return errPoolRefused
	}
	return nil
}

// waiters are the Submits that wait for their transaction, by its hash.
type waiters struct {
	mu sync.Mutex
	m  map[[32]byte][]chan Committed
}

func (w *waiters) add(hash [32]byte) chan Committed {
	ch := make(chan Committed, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = make(map[[32]byte][]chan Committed)
	}
	w.m[hash] = append(w.m[hash], ch)
	return ch
}

func (w *waiters) remove(hash [32]byte, ch chan Committed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.m[hash]
	for i, c := range list {
		if c == ch {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(w.m, hash)
		return
	}
	w.m[hash] = list
}

func (w *waiters) settle(hash [32]byte, c Committed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range w.m[hash] {
		ch <- c // room for one, and settled once
	}
	delete(w.m, hash)
}

func (w *waiters) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.m)
}
