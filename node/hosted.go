package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/registry"
)

const (
	// hostedRetry is how soon a hosted member that cannot be served is looked at
	// again, if the registry does not change before.
	hostedRetry = 5 * time.Second
	// partingPatience is how long a member that has moved away waits for its last
	// entries to be anchored, so that the registry witnesses all that is handed over.
	partingPatience = 60 * time.Second
)

// hosted is a member that this node hosts. While it is served it is a Node too, one
// that has the ledger, the transport and the faces of its host, and keys, evidence,
// services and receipts of its own.
type hosted struct {
	host   *Node
	index  int // among the configuration's
	cfg    Config
	member civibus.MemberID
	ring   *keys.Ring
	keyErr error         // why the ring was not opened and is not tried again
	tried  chan struct{} // closed once it is known whether it can be served
	once   sync.Once

	mu      sync.Mutex
	serving *Node         // nil: it is not served now
	problem error         // why
	inside  int           // exchanges under way
	empty   chan struct{} // closed when the last one is over; nil: nobody waits
}

var (
	errNotTried = errors.New("the node is starting")
	errLeaving  = errors.New("its exchanges have ended, and its log is being completed and closed: wait for that before the folder is copied")
)

func (n *Node) newHosted(i int) *hosted {
	h := &hosted{host: n, index: i, cfg: n.cfg.ForHosted(n.cfg.Hosted[i]), tried: make(chan struct{}), problem: errNotTried}
	h.member, _ = civibus.ParseMemberID(h.cfg.Member) // what is wrong with it, serve says
	return h
}

// enter returns the node of a member that is served, and what to call when the
// exchange is over; or why it is not served.
func (h *hosted) enter() (*Node, func(), error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.serving == nil {
		return nil, nil, h.problem
	}
	h.inside++
	return h.serving, h.leave, nil
}

func (h *hosted) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inside--; h.inside == 0 && h.empty != nil {
		close(h.empty)
		h.empty = nil
	}
}

// open lets exchanges in.
func (h *hosted) open(n *Node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serving, h.problem = n, nil
}

// shut lets no exchange in any more and waits for those under way.
func (h *hosted) shut(why error) {
	h.mu.Lock()
	h.serving, h.problem = nil, why
	if h.inside == 0 {
		h.mu.Unlock()
		return
	}
	empty := make(chan struct{})
	h.empty = empty
	h.mu.Unlock()
	select {
	case <-empty:
	case <-time.After(shutdownGrace): // evidence that is closed refuses what is left
	}
}

// run serves the member whenever it can be, until ctx ends.
func (h *hosted) run(ctx context.Context) {
	defer func() {
		if h.ring != nil {
			_ = h.ring.Close() // nothing of it is used any more
		}
	}()
	for last := ""; ctx.Err() == nil; {
		changed := h.host.ledger.Load().Changed()
		err := h.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		h.shut(err)
		h.once.Do(func() { close(h.tried) })
		if text := err.Error(); text != last {
			last = text
			h.host.log.WarnContext(ctx, "a hosted member is not served", "hosted", h.cfg.Member, "problem", err)
		}
		timer := time.NewTimer(hostedRetry)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// serve serves the member until ctx ends, the registry says that another carries
// it, or something breaks; it returns the reason.
func (h *hosted) serve(ctx context.Context) (err error) {
	// 1. Its configuration, by the rules of this moment: files come and go.
	if err := h.host.cfg.ValidateHosted(h.index); err != nil {
		return err
	}
	// 2. The registry says that it is hosted here, and holds its keys.
	v := h.host.view()
	if err := h.admitted(v); err != nil {
		return err
	}
	n, err := h.node()
	if err != nil {
		return err
	}
	if err := n.missing(v); err != nil {
		return err
	}
	// 3. Its evidence, services and gateway.
	var closers closers
	defer func() { err = errors.Join(err, closers.close()) }()
	labelled := prometheus.WrapRegistererWith(prometheus.Labels{"member": h.cfg.Member}, h.host.hostedMetrics)
	r, err := n.compose(ctx, &closers)
	if err != nil {
		return err
	}
	n.current.Store(r)
	if err := labelled.Register(n.metrics); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	defer labelled.Unregister(n.metrics)
	// 4. Background work, which outlasts the exchanges.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, work := errgroup.WithContext(work)
	n.background(work, r, group)
	group.Go(func() error { n.watchKeys(work); return nil })
	defer func() { stop(); err = errors.Join(err, group.Wait()) }()
	// 5. Exchanges.
	h.open(n)
	h.once.Do(func() { close(h.tried) })
	h.host.log.InfoContext(ctx, "a hosted member is served", "hosted", h.cfg.Member, "log", n.origin(), "entries", r.evidence.Status().Size)
	err = h.whileAdmitted(ctx, work)
	h.shut(errLeaving)
	// 6. What it leaves behind is complete and witnessed, as far as that can be.
	if ctx.Err() == nil && work.Err() == nil {
		n.awaitAnchored(ctx, r, partingPatience)
	}
	return err
}

// admitted reports why the registry does not let this node serve the member.
func (h *hosted) admitted(v *registry.View) error {
	if _, ok := v.Member(h.member); !ok {
		return fmt.Errorf("member %s is not in the registry", h.member)
	}
	self := h.host.member
	if carrier := v.Carrier(h.member); carrier != self {
		if carrier == h.member {
			return fmt.Errorf("the registry says that nobody hosts %s: have it set %s as its host, and accept", h.member, self)
		}
		return fmt.Errorf("the registry says that %s is hosted by %s", h.member, carrier)
	}
	if !v.Carries(self, h.member) {
		return fmt.Errorf("%s is not active, so that it carries nobody", self)
	}
	return nil
}

// whileAdmitted waits until the member is not to be served any more, and says why.
func (h *hosted) whileAdmitted(ctx, work context.Context) error {
	for {
		changed := h.host.ledger.Load().Changed()
		if err := h.admitted(h.host.view()); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-work.Done():
			return errors.New("a part of it has failed")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// node makes the member's node. Keys in a token are opened once: a wrong PIN that is
// tried again and again locks it.
func (h *hosted) node() (*Node, error) {
	if h.keyErr != nil {
		return nil, h.keyErr
	}
	if h.ring == nil {
		ring, err := h.cfg.Keys.Open()
		switch {
		case err == nil:
			h.ring = ring
		case h.cfg.Keys.PKCS11.Module != "" || h.cfg.Keys.ReadOnce():
			h.keyErr = fmt.Errorf("open its keys: %w; mend it and restart the node", err)
			return nil, h.keyErr
		default: // the folder may be on its way here
			return nil, fmt.Errorf("open its keys: %w", err)
		}
	}
	host := h.host
	n := &Node{
		cfg: h.cfg, opts: host.opts, member: h.member, clock: host.clock, ring: h.ring, genesis: host.genesis, started: host.clock(),
		log: host.opts.Logger.With("member", h.cfg.Member, "host", host.cfg.Member), metrics: prometheus.NewRegistry(), host: host,
	}
	n.ledger.Store(host.ledger.Load())
	n.receipts = newReceiptMaker(n)
	return n, nil
}

// front is the node whose faces, ledger and transport this one uses: its host, or
// itself.
func (n *Node) front() *Node {
	if n.host != nil {
		return n.host
	}
	return n
}

// carrier is the member whose transport keys this node shows.
func (n *Node) carrier() civibus.MemberID { return n.front().member }

// hostedOf finds a hosted member.
func (n *Node) hostedOf(id civibus.MemberID) *hosted {
	for _, h := range n.hosted {
		if h.member == id && !id.IsZero() {
			return h
		}
	}
	return nil
}

// house is the gateway of the body together with those of the members that it hosts.
func (n *Node) house(r *rooms) *gateway.House {
	return &gateway.House{Own: r.gateway, Hosted: func(id civibus.MemberID) (*gateway.Gateway, func(), error, bool) {
		h := n.hostedOf(id)
		if h == nil {
			return nil, nil, nil, false
		}
		guest, leave, err := h.enter()
		if err != nil {
			return nil, nil, err, true
		}
		return guest.current.Load().gateway, leave, nil, true
	}}
}

// parties says whose halves a delivery brings, and finds the log that holds the
// exchanges that they are of: each is the peer's or this body's unless the delivery
// names a member that the one or the other hosts.
func (n *Node) parties(in *evidencepb.HalfReceipts, peer civibus.MemberID, own *evidence.Log) (from civibus.MemberID, log *evidence.Log, leave func(), err error) {
	from, log, leave = peer, own, func() {}
	if in.From != "" {
		if from, err = civibus.ParseMemberID(in.From); err != nil {
			return from, nil, nil, fmt.Errorf("from: %w", err)
		}
		if !n.view().Carries(peer, from) {
			return from, nil, nil, fmt.Errorf("from: the registry does not say that %s hosts %s", peer, from)
		}
	}
	if in.To == "" || in.To == n.member.String() {
		return from, log, leave, nil
	}
	to, err := civibus.ParseMemberID(in.To)
	if err != nil {
		return from, nil, nil, fmt.Errorf("to: %w", err)
	}
	h := n.hostedOf(to)
	if h == nil {
		return from, nil, nil, fmt.Errorf("to: %s is not hosted here", to)
	}
	guest, leave, err := h.enter()
	if err != nil {
		return from, nil, nil, fmt.Errorf("to: %s cannot be served at present", to)
	}
	return from, guest.current.Load().evidence, leave, nil
}

// lanes let one delivery at a time go to each body, whichever of the members that
// are hosted here sends it.
type lanes struct {
	mu   sync.Mutex
	busy map[civibus.MemberID]chan struct{} // holds one token while a delivery is under way
}

// take waits for the turn to deliver to a body.
func (l *lanes) take(ctx context.Context, to civibus.MemberID) (release func(), err error) {
	l.mu.Lock()
	if l.busy == nil {
		l.busy = map[civibus.MemberID]chan struct{}{}
	}
	lane := l.busy[to]
	if lane == nil {
		lane = make(chan struct{}, 1)
		l.busy[to] = lane
	}
	l.mu.Unlock()
	select {
	case lane <- struct{}{}:
		return func() { <-lane }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// awaitHosted waits until it is known of every hosted member whether it can be
// served, but not for ever.
func (n *Node) awaitHosted(ctx context.Context) {
	timer := time.NewTimer(catchUpPatience)
	defer timer.Stop()
	for _, h := range n.hosted {
		select {
		case <-h.tried:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// awaitAnchored waits until the registry has witnessed all entries of the evidence
// log, but not for ever.
func (n *Node) awaitAnchored(ctx context.Context, r *rooms, patience time.Duration) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		changed := r.evidence.Changed()
		s := r.evidence.Status()
		if s.Pending == 0 && s.AnchoredSize >= s.Size {
			n.log.InfoContext(ctx, "the evidence log is complete in the registry and can be handed over", "log", s.Origin, "entries", s.Size, "folder", n.cfg.evidenceDir())
			return
		}
		select {
		case <-changed:
		case <-time.After(100 * time.Millisecond): // what is put into the Merkle log changes nothing that is told
		case <-deadline.C:
			n.log.WarnContext(ctx, "the evidence log's last entries are not anchored", "log", s.Origin, "entries", s.Size, "anchored", s.AnchoredSize)
			return
		case <-ctx.Done():
			return
		}
	}
}

// checkEntries reports that the log that was opened is a part only of what the
// registry has witnessed.
func (n *Node) checkEntries(v *registry.View, log *evidence.Log) error {
	if anchored, ok := v.Log(n.origin()); ok && log.Status().Size < anchored.Size {
		return fmt.Errorf("the registry has witnessed %d entries of %s, and %s holds %d: copy all of it there from where the body was before, or restore the newest backup", anchored.Size, n.origin(), n.cfg.evidenceDir(), log.Status().Size)
	}
	return nil
}

// checkHistory reports that the registry has witnessed more of the evidence log
// than is in its folder: a member that has come here without its evidence must not
// begin the same log anew.
func (n *Node) checkHistory(v *registry.View) error {
	anchored, ok := v.Log(n.origin())
	if !ok || anchored.Size == 0 {
		return nil
	}
	dir := n.cfg.evidenceDir()
	if _, err := os.Stat(filepath.Join(dir, "tree")); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return fmt.Errorf("the registry has witnessed %d entries of %s, and %s holds no log: copy it there from where the body was before, or, if it is lost, set evidence.log to the next number", anchored.Size, n.origin(), dir)
}
