package ledger

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	cs "github.com/cometbft/cometbft/consensus"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus/registry"
)

// watchdog looks at the node from outside the engine, which reports itself
// running after a halt. It also redials peers for ever: the engine's own
// redialling waits for hours after a long outage and gives up in the end.
type watchdog struct {
	node *Node

	mu      sync.Mutex
	waiting time.Time
	behind  time.Time
	missing map[string]time.Time // by node id
	redial  map[string]redial
	enough  bool // a follower has the peers it needs

	caughtUp bool // the node had once what its peers had

	checked uint64
	diverge string

	overtaken time.Time // since when the engine votes with another key than it should
}

// redial is when a missing peer was dialled last, and how often.
type redial struct {
	at    time.Time
	tries int
}

// Problem kinds, the labels of civibus_ledger_problem.
const (
	problemUpgrade  = "upgrade_required"
	problemPlanned  = "upgrade_planned"
	problemHalted   = "halted"
	problemDiverged = "diverged"
	problemStalled  = "stalled"
	problemNoBlocks = "no_blocks"
	problemBehind   = "behind"
	problemNoQuorum = "no_quorum"
	problemPeers    = "peers_missing"
	problemWitness  = "witness_conflict"
	problemGuarded  = "guarded"
	problemKey      = "validator_key"
)

func newWatchdog(n *Node) *watchdog {
	w := &watchdog{node: n, missing: make(map[string]time.Time), redial: make(map[string]redial)}
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
			w.sift()
			w.followKey()
			w.node.app.settleLanes()
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
		ChainID: n.cfg.Genesis.ChainID, NodeID: n.nodeID, PeersWanted: len(a.peers.Load().others(n.nodeID)),
		Waiting: a.pool.Load().Size(), CatchingUp: n.consensus().WaitSync(), Healthy: true,
	}
	if v := n.View(); v != nil {
		s.Height, s.AppHash, s.BlockTime = v.Height(), v.AppHash(), v.Time()
	}
	a.mu.Lock()
	s.BlockAge = max(now.Sub(a.lastTime), 0)
	a.mu.Unlock()
	connected, claims := w.peers(&s)
	w.checkCaughtUp(&s, claims)
	set := w.voters()
	_, votes := set[n.signer.keys.address()]
	s.Validator = n.cfg.ValidatorKeys != nil && votes

	report := func(kind string, fatal bool, format string, args ...any) {
		s.kinds = append(s.kinds, kind)
		s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
		s.Healthy = s.Healthy && !fatal
	}
	if f := a.failed(); f != nil && f.upgrade {
		report(problemUpgrade, true, "this node stopped: %s", f.detail)
	} else if f != nil && !f.diverged {
		report(problemHalted, true, "this node halted and must be restarted: %s", firstLine(f.detail))
	} else if f != nil {
		report(problemDiverged, true, "this node's registry differs from the one agreed on; rebuild it from a snapshot: %s", firstLine(f.detail))
	}
	w.checkHash(s, report)
	if err := n.witness.check(n.View()); err != nil {
		report(problemWitness, true, "nothing is cosigned: %v", err)
	}
	w.checkProgress(now, s, report)
	w.checkBehind(now, s, claims, report)
	w.checkPeers(now, s, connected, len(set), report)
	w.checkUpgrade(report)
	w.checkGuard(report)
	if !w.overtaken.IsZero() && now.Sub(w.overtaken) > n.cfg.StallAfter {
		report(problemKey, false, "the voting power is with another of this validator's keys since %s and no block was made since; restart the node", w.overtaken.UTC().Format(time.RFC3339))
	}
	return s
}

// peers counts connections and collects the heights that peers claim, greatest
// first.
func (w *watchdog) peers(s *Status) (connected map[string]bool, claims []uint64) {
	connected = make(map[string]bool)
	for _, p := range w.node.peers() {
		s.Peers++
		connected[string(p.ID())] = true
		if ps, ok := p.Get(types.PeerStateKey).(*cs.PeerState); ok {
			if h := ps.GetHeight(); h > 0 {
				claims = append(claims, uint64(h-1)) // it works on h, so it has h-1
			}
		}
	}
	slices.SortFunc(claims, func(a, b uint64) int { return cmp.Compare(b, a) })
	return connected, claims
}

// checkCaughtUp finds out when a node that has started has what its peers have. The
// engine ends its search for blocks as soon as it has a peer whose height it does
// not know yet, and gets the rest block by block; it may lose that peer again. Until
// a peer has said where it is, the node cannot know. Less than a third of the peers may
// claim what they like.
func (w *watchdog) checkCaughtUp(s *Status, claims []uint64) {
	switch {
	case w.caughtUp:
		return
	case len(claims) == 0:
		s.CatchingUp = s.CatchingUp || s.Peers > 0 || s.PeersWanted > 0
		return
	}
	if claims[len(claims)/3] > s.Height+2 {
		s.CatchingUp = true
	} else if !s.CatchingUp {
		w.caughtUp = true
	}
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
func (w *watchdog) checkBehind(now time.Time, s Status, claims []uint64, report reporter) {
	best := uint64(0)
	if len(claims) > 0 {
		best = claims[0]
	}
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

// checkUpgrade tells of an upgrade that this software will not know, before it is due.
func (w *watchdog) checkUpgrade(report reporter) {
	v := w.node.View()
	if v == nil || w.node.app.failed() != nil {
		return
	}
	if name, height, ok := v.Upgrade(); ok && !registry.KnowsUpgrade(name) {
		report(problemPlanned, false, "this node will stop before block %d: %s", height, upgradeNotice(name, height))
	}
}

// checkGuard tells of a validator that does not sign.
func (w *watchdog) checkGuard(report reporter) {
	guard, without, foreign := w.node.signer.up()
	switch {
	case guard == nil:
	case foreign > 0:
		report(problemGuarded, false, "this validator does not sign: another node uses its key and signed block %d; end that node", foreign)
	default:
		report(problemGuarded, false, "this validator does not sign before %d blocks in a row were made without it since %s, of which it has seen %d: %s",
			guardBlocks, guard.Since.Format(time.RFC3339), without, guard.Cause)
	}
}

// voters are the validators as of the view, none before there is one.
func (w *watchdog) voters() validatorSet {
	v := w.node.View()
	if v == nil {
		return nil
	}
	set, err := w.node.app.voters(v)
	if err != nil { // the genesis was checked
		w.node.cfg.Logger.Error("the ledger's validators", slog.Any("error", err))
	}
	return set
}

// checkPeers reports missing peers, and fewer than consensus can do with.
func (w *watchdog) checkPeers(now time.Time, s Status, connected map[string]bool, validators int, report reporter) {
	wanted := w.node.app.peers.Load().others(w.node.nodeID)
	var missing []string
	known := make(map[string]bool)
	for _, p := range wanted {
		known[p.id] = true
		if connected[p.id] {
			delete(w.missing, p.id)
			continue
		}
		if _, ok := w.missing[p.id]; !ok {
			w.missing[p.id] = now
		}
		missing = append(missing, p.id[:8])
	}
	maps.DeleteFunc(w.missing, func(id string, _ time.Time) bool { return !known[id] })
	maps.DeleteFunc(w.redial, func(id string, _ redial) bool { return !known[id] })
	w.enough = w.node.cfg.ValidatorKeys == nil && len(connected) >= followerPeers
	if len(missing) == 0 || w.enough {
		return
	}
	need := validators*2/3 + 1
	if reach := len(connected) + 1; s.Validator && reach < need {
		report(problemNoQuorum, true, "no quorum: connected to %d of %d peers, blocks need %d of %d validators", len(connected), len(wanted), need, validators)
	} else if len(connected) == 0 {
		report(problemNoQuorum, true, "no peer is connected (%d wanted)", len(wanted))
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
	redialMax   = 3 * time.Second
)

// dial dials the missing peers whose turn it is. The engine dials too, but waits
// up to three seconds before the first try and up to hours before a late one, and
// it refuses to dial twice at once.
func (w *watchdog) dial() {
	w.mu.Lock()
	now := w.node.cfg.Clock()
	var again []string
	for _, p := range w.node.app.peers.Load().others(w.node.nodeID) {
		since, gone := w.missing[p.id]
		last, tried := w.redial[p.id]
		pause := min(redialPause+now.Sub(since)/10, redialMax)
		if !gone || w.enough || len(p.addresses) == 0 || now.Sub(last.at) < pause {
			continue
		}
		if !tried && p.id < w.node.nodeID && now.Sub(since) < redialPause {
			continue // two that dial each other at once refuse each other: one is first
		}
		w.redial[p.id] = redial{now, last.tries + 1}
		again = append(again, p.id+"@"+p.addresses[last.tries%len(p.addresses)])
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

// followKey notes since when another key than the engine was told has its turn. The
// engine asks again after the next block, so this lasts only where blocks wait for
// this validator.
func (w *watchdog) followKey() {
	n := w.node
	late := n.cfg.ValidatorKeys != nil && !n.consensus().WaitSync() && n.signer.keys.overtaken()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !late:
		w.overtaken = time.Time{}
	case w.overtaken.IsZero():
		w.overtaken = n.cfg.Clock()
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
