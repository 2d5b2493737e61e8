package node

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/civibus/civibus/internal/obs"
	"github.com/civibus/civibus/ledger"
)

const (
	watchEvery = 200 * time.Millisecond
	// catchUpPatience is how long a starting node waits to catch up with the
	// ledger before it takes exchanges all the same: a body whose peers are all
	// unreachable goes on with what it knows (see ledger.max_staleness).
	catchUpPatience = 5 * time.Second
)

// watchLedger keeps the ledger's status at hand for every exchange to look at. It
// ends with an error when the configuration has the node stop at a height; a ledger
// that halted for another reason leaves a gateway that goes on with its view.
func (n *Node) watchLedger(ctx context.Context) error {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	var ages ageLog
	for {
		s := n.ledger.Load().Status()
		n.health.Store(&s)
		ages.look(ctx, n)
		if full := n.ledger.fullNode(); full != nil {
			if halt := (*ledger.HaltError)(nil); errors.As(full.Halted(), &halt) {
				return halt
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// awaitLedger waits until the node has caught up with the ledger, but not for ever.
func (n *Node) awaitLedger(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, catchUpPatience)
	defer cancel()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for {
		s := n.ledger.Load().Status()
		n.health.Store(&s) // which exchanges look at, at once
		if !s.CatchingUp {
			return
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// fresh reports why the registry view is too old to decide exchanges on.
func (n *Node) fresh() error {
	if n.host != nil {
		return n.host.fresh()
	}
	s := n.health.Load()
	if s == nil {
		return errors.New("the ledger's state is not known yet")
	}
	// Behind its peers, or just started and looking for them, a node knows that it
	// may not know a right or a revocation. Alone it goes on with what it has.
	if s.CatchingUp && (s.Peers > 0 || !n.ready.Load()) {
		return errors.New("this node is catching up with the ledger")
	}
	if a := n.viewAge(); a.stale {
		return a.refusal()
	}
	return nil
}

// components says how each part is: "ok" or what is wrong.
func (n *Node) components() map[string]string {
	out := map[string]string{"ledger": "starting", "evidence": "starting"}
	if s := n.front().health.Load(); s != nil {
		out["ledger"] = "ok"
		if !s.Healthy {
			out["ledger"] = strings.Join(s.Problems, "; ")
		}
	}
	if p := n.viewAge().problem(); p != "" {
		out["registry"] = p
	}
	if text := n.awaited.Load(); text != nil && !n.ready.Load() {
		out["admission"] = *text
	}
	if r := n.current.Load(); r != nil {
		out["evidence"] = "ok"
		if err := r.evidence.Admit(); err != nil {
			out["evidence"] = err.Error()
		} else if s := r.evidence.Status(); s.AnchorError != "" {
			out["anchors"] = s.AnchorError
		}
	}
	return out
}

// takesExchanges reports whether the node runs and its view is not too old.
func (n *Node) takesExchanges() bool { return n.ready.Load() && !n.viewAge().stale }

// healthPage is what monitoring sees.
func (n *Node) healthPage() obs.Health {
	h := obs.Health{Ready: n.takesExchanges(), Components: n.components()}
	if h.Components["evidence"] != "ok" {
		h.Ready = false
	}
	return h
}
