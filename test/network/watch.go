//go:build linux

package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/civibus/civibus/admin"
)

// watchEvery is how often every node is asked how it is.
const watchEvery = 100 * time.Millisecond

// watch looks at all nodes while the network runs and keeps what they say: which
// application hash at which height, and every checkpoint of their evidence logs.
type watch struct {
	network *Network
	stop    context.CancelFunc
	group   sync.WaitGroup

	mu          sync.Mutex
	hashes      map[uint64]string           // by height
	checkpoints map[*Body]map[uint64]string // by size
	broken      map[string]bool             // what must never be
	receipts    []receipt                   // those that were issued
}

// receipt is one that a node made, with the policy of that moment.
type receipt struct {
	exchange     exchange
	file, policy []byte
}

func newWatch(n *Network) *watch {
	ctx, stop := context.WithCancel(context.Background())
	w := &watch{network: n, stop: stop, hashes: map[uint64]string{}, checkpoints: map[*Body]map[uint64]string{}, broken: map[string]bool{}}
	for _, b := range n.Bodies {
		w.checkpoints[b] = map[uint64]string{}
		w.group.Go(func() {
			for ctx.Err() == nil {
				if s, err := b.Status(ctx); err == nil {
					w.saw(b, s)
				}
				sleep(ctx, watchEvery)
			}
		})
	}
	return w
}

// saw keeps what a node said and notices what must never be.
func (w *watch) saw(b *Body, s admin.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	never := func(format string, args ...any) { w.broken[fmt.Sprintf(format, args...)] = true }
	if s.Ledger.AppHash != "" { // the ledger is open
		if hash, known := w.hashes[s.Ledger.Height]; known && hash != s.Ledger.AppHash {
			never("at height %d %s has application hash %s, another node had %s", s.Ledger.Height, b.ID, s.Ledger.AppHash, hash)
		}
		w.hashes[s.Ledger.Height] = s.Ledger.AppHash
	}
	for _, p := range s.Ledger.Problems {
		if strings.Contains(p, "another hash") || strings.Contains(p, "witness") {
			never("%s says: %s", b.ID, p)
		}
	}
	if s.Evidence.Size > 0 {
		root := fmt.Sprintf("%x", s.Evidence.Root)
		if old, known := w.checkpoints[b][s.Evidence.Size]; known && old != root {
			never("the evidence log of %s had root %s at size %d and now has %s", b.ID, old, s.Evidence.Size, root)
		}
		w.checkpoints[b][s.Evidence.Size] = root
	}
}

// violations are what was seen that must never be.
func (w *watch) violations() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, what := range slices.Sorted(maps.Keys(w.broken)) {
		errs = append(errs, errors.New(what))
	}
	return errors.Join(errs...)
}

// Highest is the greatest height of the bodies whose nodes answer.
func (n *Network) Highest(ctx context.Context, bodies []*Body) (height uint64) {
	for _, b := range bodies {
		if s, err := b.Status(ctx); err == nil {
			height = max(height, s.Ledger.Height)
		}
	}
	return height
}

// Commits waits until each of the bodies has committed two blocks more than any of
// them has now and returns how long that took. A block may have been decided
// already and be on its way to some; two cannot.
func (n *Network) Commits(ctx context.Context, bodies ...*Body) (time.Duration, error) {
	start := time.Now()
	height := n.Highest(ctx, bodies)
	for _, b := range bodies {
		err := Until(ctx, func() bool {
			s, err := b.Status(ctx)
			return err == nil && s.Ledger.Height >= height+2
		})
		if err != nil {
			s, serr := b.Status(context.WithoutCancel(ctx))
			return 0, fmt.Errorf("%s commits nothing above height %d: %w; it is at %d with %d peers, %v %v", b.ID, height+2, err, s.Ledger.Height, s.Ledger.Peers, s.Ledger.Problems, serr)
		}
	}
	return time.Since(start), nil
}

// Issue has a node make the receipt of a recent exchange and keeps it.
func (n *Network) Issue(ctx context.Context) error {
	n.load.mu.Lock()
	all := n.load.exchanges
	n.load.mu.Unlock()
	if len(all) == 0 {
		return errors.New("no exchange was acknowledged yet")
	}
	return n.watch.issue(ctx, all[len(all)-1], 30*time.Second, false)
}

func (w *watch) issue(ctx context.Context, e exchange, wait time.Duration, both bool) error {
	for _, b := range []*Body{e.consumer, e.provider} {
		file, err := b.Admin().Receipt(ctx, e.id, wait, both)
		if err != nil {
			return fmt.Errorf("receipt of %s at %s: %w", e.id, b.ID, err)
		}
		policy, err := b.Admin().Policy(ctx)
		if err != nil {
			return fmt.Errorf("policy of %s: %w", b.ID, err)
		}
		w.mu.Lock()
		w.receipts = append(w.receipts, receipt{e, file, policy})
		w.mu.Unlock()
	}
	return nil
}
