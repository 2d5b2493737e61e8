package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/transport"
)

const (
	tellWaitingAfter = time.Second
	tellWaitingEvery = time.Minute
)

var (
	errNoView    = errors.New("this node has no block yet: the other nodes let it in once this body is a member (a member runs \"civibus governance admit\" on its join file, and the members vote)")
	errNoMember  = errors.New("this body is not a member yet: a member runs \"civibus governance admit\" on its join file, and the members vote")
	errNotMember = errors.New("this body's membership has ended")
)

// awaitKeys waits until the registry holds the body and the keys without which no
// exchange can be made. A body that is not a member yet may run: this is where it
// waits for the members' decision, and says so from time to time.
func (n *Node) awaitKeys(ctx context.Context, led replica) error {
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go n.tellWaiting(waiting, led)
	err := led.WaitView(ctx, func(v *registry.View) bool { return n.missing(v) == nil })
	if err != nil {
		return fmt.Errorf("wait for the body's keys: %w", err)
	}
	n.awaited.Store(nil)
	return nil
}

// missing says what the registry lacks for the body to make exchanges here.
func (n *Node) missing(v *registry.View) error {
	if v == nil {
		return errNoView
	}
	m, ok := v.Member(n.member)
	switch {
	case !ok:
		return errNoMember
	case m.Status == civibus.Ended:
		return errNotMember
	}
	if carrier := v.Carrier(n.member); carrier != n.carrier() {
		return fmt.Errorf("the registry says that %s hosts %s: end that before a node of its own speaks for it", carrier, n.member)
	}
	purposes := []civibus.Purpose{civibus.SealKey, civibus.LogKey}
	if n.host == nil {
		purposes = append(purposes, civibus.TransportKey)
	}
	for _, p := range purposes {
		if _, err := n.ring.For(p, transport.InForce(v, n.member, p)); err != nil {
			return err
		}
	}
	return nil
}

// tellWaiting says what the node waits for, in its log, in its status and to the
// service manager, which must not take it for a start that hangs.
func (n *Node) tellWaiting(ctx context.Context, led replica) {
	t := time.NewTimer(tellWaitingAfter)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		err := n.missing(led.View())
		if err == nil {
			return
		}
		text := err.Error()
		n.awaited.Store(&text)
		n.log.WarnContext(ctx, "waiting", "for", text, "peers", led.Status().Peers)
		notify(fmt.Sprintf("STATUS=waiting: %s\nEXTEND_TIMEOUT_USEC=%d", text, (3 * tellWaitingEvery).Microseconds()))
		t.Reset(tellWaitingEvery)
	}
}
