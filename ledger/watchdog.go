package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	cs "github.com/cometbft/cometbft/consensus"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/types"
)

// watchdog looks at the node from outside the engine, which reports itself
// running after a halt. It also redials peers for ever: the engine's own
// redialling waits for hours after a long outage and gives up in the end.
type watchdog struct {
	node *Node

	mu      sync.Mutex
	waiting time.Time
	behind  time.Time
	missing map[p2p.ID]time.Time
	redial  map[p2p.ID]time.Time
	checked uint64
	diverge string
}

// Problem kinds, the labels of civibus_ledger_problem.
const (
	problemHalted   = "halted"
	problemDiverged = "diverged"
	problemStalled  = "stalled"
	problemNoBlocks = "no_blocks"
	problemBehind   = "behind"
	problemNoQuorum = "no_quorum"
	problemPeers    = "peers_missing"
	problemWitness  = "witness_conflict"
)

func newWatchdog(n *Node) *watchdog {
	w := &watchdog{node: n, missing: make(map[p2p.ID]time.Time), redial: make(map[p2p.ID]time.Time)}
	w.look()
	return w
}

func (w *watchdog) run(ctx context.Context) {
	tick := time.NewTicker(w.node.cfg.WatchInterval)
	defer tick.Stop()
	w.dial()
	var told []string
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			told = w.tell(told, w.look())
			w.dial()
		}
	}
}

// Status is what this node knows about itself, as of now.
func (n *Node) Status() Status {
	if n.watch == nil || !n.enter() {
		return Status{NodeID: n.nodeID, Problems: []string{"the node is closed"}}
	}
	defer n.leave()
	return n.watch.look()
}

// look makes a Status. It takes no lock of the engine's consensus, which is held
// while a block is executed.
func (w *watchdog) look() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, a := w.node, w.node.app
	now := n.cfg.Clock()
	s := Status{
		ChainID: n.cfg.Genesis.ChainID, NodeID: n.nodeID, PeersWanted: len(n.cfg.Peers),
		Waiting: a.pool.Load().Size(), Validator: n.cfg.ValidatorKey != "", CatchingUp: n.consensus().WaitSync(), Healthy: true,
	}
	if v := n.View(); v != nil {
		s.Height, s.AppHash, s.BlockTime = v.Height(), v.AppHash(), v.Time()
	}
	a.mu.Lock()
	s.BlockAge = max(now.Sub(a.lastTime), 0)
	a.mu.Unlock()
	connected, best := w.peers(&s)

	report := func(kind string, fatal bool, format string, args ...any) {
		s.kinds = append(s.kinds, kind)
		s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
		s.Healthy = s.Healthy && !fatal
	}
	if f := a.failed(); f != nil && !f.diverged {
		report(problemHalted, true, "this node halted and must be restarted: %s", firstLine(f.detail))
	} else if f != nil {
		report(problemDiverged, true, "this node's registry differs from the one agreed on; rebuild it from a snapshot: %s", firstLine(f.detail))
	}
	w.checkHash(s, report)
	if err := n.witness.check(n.View()); err != nil {
		report(problemWitness, true, "nothing is cosigned: %v", err)
	}
	w.checkProgress(now, s, report)
	w.checkBehind(now, s, best, report)
	w.checkPeers(now, connected, report)
	return s
}

// peers counts connections and finds the greatest height that a peer claims.
func (w *watchdog) peers(s *Status) (connected map[p2p.ID]bool, best uint64) {
	connected = make(map[p2p.ID]bool)
	for _, p := range w.node.peers() {
		s.Peers++
		connected[p.ID()] = true
		if ps, ok := p.Get(types.PeerStateKey).(*cs.PeerState); ok {
			if h := ps.GetHeight(); h > 0 {
				best = max(best, uint64(h-1)) // it works on h, so it has h-1
			}
		}
	}
	return connected, best
}

type reporter func(kind string, fatal bool, format string, args ...any)

// checkHash compares the registry's hash with the one that the validators signed:
// a block's header carries the hash after the block before it.
func (w *watchdog) checkHash(s Status, report reporter) {
	v := w.node.View()
	if w.diverge == "" && v != nil && v.Height() > w.checked {
		if meta := w.node.engine.BlockStore().LoadBlockMeta(int64(v.Height()) + 1); meta != nil {
			hash := v.AppHash()
			w.checked = v.Height()
			if !bytes.Equal(meta.Header.AppHash, hash[:]) {
				w.diverge = fmt.Sprintf("height %d: the registry's hash is %x, the validators signed %s", v.Height(), hash, meta.Header.AppHash)
			}
		}
	}
	if w.diverge != "" {
		report(problemDiverged, true, "this node's registry differs from the one agreed on; rebuild it from a snapshot: %s", w.diverge)
	}
}

// checkProgress reports transactions that wait in vain, and a missing heartbeat.
func (w *watchdog) checkProgress(now time.Time, s Status, report reporter) {
	if s.Waiting == 0 && w.node.app.waiters.len() == 0 {
		w.waiting = time.Time{}
	} else if w.waiting.IsZero() {
		w.waiting = now
	}
	limit := w.node.cfg.StallAfter
	if !w.waiting.IsZero() && now.Sub(w.waiting) > limit && s.BlockAge > limit {
		report(problemStalled, true, "stalled: transactions wait and no block was made for %s", s.BlockAge.Round(time.Second))
	} else if silence := 2*w.node.cfg.HeartbeatInterval + limit; s.BlockAge > silence {
		report(problemNoBlocks, true, "no block for %s; there should be one every %s", s.BlockAge.Round(time.Second), w.node.cfg.HeartbeatInterval)
	}
}

// checkBehind reports a node that its peers have left behind for long.
func (w *watchdog) checkBehind(now time.Time, s Status, best uint64, report reporter) {
	if best <= s.Height+2 || s.BlockAge < w.node.cfg.StallAfter {
		w.behind = time.Time{}
		return
	}
	if w.behind.IsZero() {
		w.behind = now
	}
	if now.Sub(w.behind) >= w.node.cfg.StallAfter {
		report(problemBehind, true, "behind: this node is at height %d and does not move, a peer is at %d", s.Height, best)
	}
}

// checkPeers reports missing peers, and fewer than consensus can do with.
func (w *watchdog) checkPeers(now time.Time, connected map[p2p.ID]bool, report reporter) {
	var missing []string
	for _, p := range w.node.cfg.Peers {
		id, _, _ := splitPeer(p)
		if connected[p2p.ID(id)] {
			delete(w.missing, p2p.ID(id))
			continue
		}
		if _, ok := w.missing[p2p.ID(id)]; !ok {
			w.missing[p2p.ID(id)] = now
		}
		missing = append(missing, id[:8])
	}
	if len(missing) == 0 {
		return
	}
	need := w.node.need
	if reach := len(connected) + 1; w.node.cfg.ValidatorKey != "" && reach < need {
		report(problemNoQuorum, true, "no quorum: connected to %d of %d peers, blocks need %d of %d validators", len(connected), len(w.node.cfg.Peers), need, len(w.node.cfg.Genesis.Validators))
	} else if len(connected) == 0 {
		report(problemNoQuorum, true, "no peer is connected (%d configured)", len(w.node.cfg.Peers))
	}
	report(problemPeers, false, "missing peers: %v", missing)
}

// tell logs problems that came and went, and sets the gauge.
func (w *watchdog) tell(before []string, s Status) []string {
	for _, kind := range before {
		if !slices.Contains(s.kinds, kind) {
			w.node.metrics.problems.WithLabelValues(kind).Set(0)
			w.node.cfg.Logger.Info("ledger problem is over", slog.String("problem", kind), slog.Uint64("height", s.Height))
		}
	}
	for i, kind := range s.kinds {
		w.node.metrics.problems.WithLabelValues(kind).Set(1)
		if !slices.Contains(before, kind) {
			w.node.cfg.Logger.Warn("ledger problem", slog.String("problem", kind), slog.String("detail", s.Problems[i]), slog.Uint64("height", s.Height))
		}
	}
	return s.kinds
}

// redialPause is the pause between two tries to reach a missing peer; it grows to
// redialMax with the time it is missing.
const (
	redialPause = time.Second
	redialMax   = 10 * time.Second
)

// dial dials the missing peers whose turn it is. The engine dials too, but waits
// up to three seconds before the first try and up to hours before a late one, and
// it refuses to dial twice at once.
func (w *watchdog) dial() {
	w.mu.Lock()
	now := w.node.cfg.Clock()
	var again []string
	for _, p := range w.node.cfg.Peers {
		id, address, _ := splitPeer(p)
		since, gone := w.missing[p2p.ID(id)]
		pause := min(redialPause+now.Sub(since)/10, redialMax)
		if !gone || address == "" || now.Sub(w.redial[p2p.ID(id)]) < pause {
			continue
		}
		if _, tried := w.redial[p2p.ID(id)]; !tried && id < w.node.nodeID && now.Sub(since) < redialPause {
			continue // two that dial each other at once refuse each other: one is first
		}
		w.redial[p2p.ID(id)] = now
		again = append(again, p)
	}
	w.mu.Unlock()
	for _, p := range again {
		go w.dialOne(p)
	}
}

func (w *watchdog) dialOne(peer string) {
	address, err := p2p.NewNetAddressString(peer) // resolves the name anew
	if err == nil {
		err = w.node.engine.Switch().DialPeerWithAddress(address)
	}
	var busy p2p.ErrCurrentlyDialingOrExistingAddress
	if err != nil && !errors.As(err, &busy) {
		w.node.cfg.Logger.Debug("dial a ledger peer", slog.String("peer", peer), slog.Any("error", err))
	}
}

func firstLine(s string) string {
	for i := range s {
		if s[i] == '\n' {
			return s[:i]
		}
	}
	return s
}
