package light

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

// Tests take shorter ones.
var (
	// resubmitAfter is how long a transaction may wait for a block before another full
	// node gets it too.
	resubmitAfter = 3 * time.Second
	// busyAfter is how long full nodes may be busy before the caller is told.
	busyAfter = 5 * time.Second
)

// Submit hands a signed envelope to full nodes, one after the other, until a
// verified block has it. What a full node says of it decides nothing: a refusal is
// this node's own, on its verified view, or a block's. Errors are those of
// ledger.Node.Submit.
func (c *Client) Submit(ctx context.Context, envelope []byte) (ledger.Committed, error) {
	hash := registry.TxHash(envelope)
	none := ledger.Committed{TxHash: hash}
	wait, forget := c.replica.Await(hash)
	defer forget()
	started, taken := c.cfg.Clock(), false
	again := time.NewTimer(0)
	defer again.Stop()
	turn := 0
	for {
		select {
		case r := <-wait: // 4. A block took it.
			return r, nil
		case <-again.C:
			// 1. A block has it already, or it cannot be accepted.
			if r, ok, err := c.refusal(hash, envelope); err != nil || ok {
				return r, err
			}
			if c.stopped() {
				return none, ledger.ErrHalted
			}
			// 2. One full node gets it.
			accepted, err := c.offer(ctx, turn, envelope)
			turn++
			// 3. And another one if no block takes it.
			switch {
			case accepted:
				taken = true
				again.Reset(resubmitAfter)
			case !taken && c.cfg.Clock().Sub(started) > busyAfter && errors.Is(err, errBusy):
				return none, ledger.ErrBusy
			default:
				again.Reset(200 * time.Millisecond)
			}
		case <-c.replica.Closing():
			return none, ledger.ErrClosed
		case <-ctx.Done():
			return none, fmt.Errorf("%w (%w)", ledger.ErrUncertain, context.Cause(ctx))
		}
	}
}

func (c *Client) stopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fatal != nil
}

// refusal is the result of the block that has a transaction, or why none can take it.
func (c *Client) refusal(hash [32]byte, envelope []byte) (r ledger.Committed, ok bool, err error) {
	if r, ok, err := c.replica.Result(hash); err != nil || ok {
		return r, ok, err
	}
	if c.View() == nil {
		return r, false, errors.New("submit: the registry is not there yet")
	}
	var res registry.Result
	err = guarded("submit", func() error { res = c.replica.Check(envelope); return nil })
	if err != nil || res.Code == 0 || res.Code == registry.Unavailable {
		return r, false, err
	}
	// Its block may have come in between.
	if r, ok, err := c.replica.Result(hash); err != nil || ok {
		return r, ok, err
	}
	return ledger.Committed{Code: res.Code, Reason: res.Reason, TxHash: hash}, true, nil
}

// offer gives an envelope to one full node. One that refuses may be ahead: then its
// blocks will say why, and otherwise it is the next one's turn.
func (c *Client) offer(ctx context.Context, turn int, envelope []byte) (accepted bool, err error) {
	nodes := c.pool.usable()
	if len(nodes) == 0 {
		return false, errUnreachable
	}
	f := nodes[turn%len(nodes)]
	s, err := f.submit(ctx, envelope)
	switch {
	case errors.Is(err, errBusy):
		return false, err
	case err != nil:
		c.pool.failed(ctx, f, err)
		return false, err
	case s.Code != 0:
		c.cfg.Logger.Debug("a full node refuses a transaction", slog.String("full_node", f.address), slog.String("code", registry.Code(s.Code).String()),
			slog.String("reason", s.Reason), slog.Uint64("height", s.Height))
		return false, nil
	}
	return true, nil
}
