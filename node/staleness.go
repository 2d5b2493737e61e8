package node

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// While a third or more of the validators are away the ledger makes no blocks.
// Exchanges do not need any: they go on with the last registry view, in which what
// was revoked stays revoked, and evidence waits on disk for its anchors. For how
// long is the body's choice (ledger.max_staleness); from the first minute on it is
// told. docs/operate/degradation.md is about all of it.

// lateBlock is how long after the next heartbeat was due a missing block is told.
const lateBlock = 15 * time.Second

// viewAge is how old the registry view is by the time of its last block, and what
// follows from it. A restart makes no view younger.
type viewAge struct {
	height uint64
	block  time.Time     // zero: there is no view yet
	age    time.Duration // 0 for a block from the future
	late   bool          // a block is missing
	limit  time.Duration // 0: none
	stale  bool          // beyond it
}

func (n *Node) viewAge() viewAge {
	a := viewAge{limit: n.cfg.Ledger.MaxStaleness.Duration()}
	s := n.front().health.Load()
	if s == nil || s.BlockTime.IsZero() {
		return a
	}
	a.height, a.block = s.Height, s.BlockTime
	a.age = max(n.clock().Sub(a.block), 0)
	a.late = a.age > time.Duration(n.cfg.Ledger.Heartbeat)+lateBlock
	a.stale = a.limit > 0 && a.age > a.limit
	return a
}

// refusal is why no exchange is decided on this view.
func (a viewAge) refusal() error {
	return fmt.Errorf("its last block is %s old, the rule is at most %s (ledger.max_staleness): the ledger makes no blocks that reach this gateway; its operator sees in \"civibus status\" which validators or peers are missing, and exchanges go on with the next block", roughly(a.age), Duration(a.limit))
}

// problem is what the operator is told, empty if there is nothing to tell.
func (a viewAge) problem() string {
	since := fmt.Sprintf("no block for %s (height %d is of %s)", roughly(a.age), a.height, a.block.UTC().Format(time.RFC3339))
	switch {
	case a.stale:
		return since + fmt.Sprintf(": every exchange is refused, the rule is at most %s (ledger.max_staleness)", Duration(a.limit))
	case a.late && a.limit > 0:
		return since + fmt.Sprintf(": exchanges go on with this registry view until %s (ledger.max_staleness), evidence is kept and anchored later", a.block.Add(a.limit).UTC().Format(time.RFC3339))
	case a.late:
		return since + ": exchanges go on with this registry view for as long as it takes (ledger.max_staleness is 0s), evidence is kept and anchored later"
	}
	return ""
}

// roughly rounds an age for people.
func roughly(d time.Duration) Duration {
	if d < time.Hour {
		return Duration(d.Round(time.Second))
	}
	return Duration(d.Round(time.Minute))
}

// ageLog writes the view's age into the log: when it begins to matter, whenever it
// has doubled, at its limit, and when it is over. Never per exchange.
type ageLog struct {
	next  time.Duration // to be told at; 0: nothing is wrong
	stale bool
}

func (l *ageLog) look(ctx context.Context, n *Node) {
	a := n.viewAge()
	if !n.ready.Load() || a.block.IsZero() {
		return
	}
	switch {
	case !a.late:
		if l.next > 0 {
			n.log.InfoContext(ctx, "registry view is current again", "height", a.height)
		}
		*l = ageLog{}
	case a.stale && !l.stale:
		n.log.ErrorContext(ctx, "registry view is too old", "problem", a.problem())
		l.next, l.stale = 2*a.age, true
	case a.age >= l.next:
		n.log.WarnContext(ctx, "registry view grows old", "problem", a.problem())
		l.next = 2 * a.age
	}
}

// ageMetrics lets monitoring see the view's age and the limit.
func (n *Node) ageMetrics() {
	gauge := func(name, help string, value func(viewAge) time.Duration) {
		n.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			return value(n.viewAge()).Seconds()
		}))
	}
	gauge("civibus_registry_view_age_seconds", "Age of the registry view that exchanges are decided on, by the time of its last block.",
		func(a viewAge) time.Duration { return a.age })
	gauge("civibus_registry_view_max_age_seconds", "Age above which every exchange is refused (ledger.max_staleness); 0 is never.",
		func(a viewAge) time.Duration { return a.limit })
}
