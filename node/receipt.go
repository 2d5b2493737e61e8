package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// reuseCosigned is how long a cosigned view serves further receipts, so that a
// busy body does not ask all validators for every receipt.
const reuseCosigned = 5 * time.Second

// receiptMaker makes receipts out of the own evidence, the registry and the
// validators' cosignatures.
type receiptMaker struct {
	n *Node

	mu     sync.Mutex // one collection of cosignatures at a time
	latest *cosigned
	taken  time.Time
}

func newReceiptMaker(n *Node) *receiptMaker { return &receiptMaker{n: n} }

// pending says what a receipt still waits for.
type pending struct {
	what string
	hint string
}

func (p pending) Error() string { return p.what }

// half is one body's evidence of an exchange with its anchor at some height.
type half struct {
	parts    proof.EntryParts
	anchored uint64 // height of the anchor
	others   bool   // it is the other side's, and not what was asked for
}

// make builds the receipt of an exchange: the own half, and the other body's when
// it is here. An entry, which is a leaf of the own log, chooses among several
// exchanges with one id; nil is the first. It waits for what is missing until ctx
// ends; with both also for the other half. The receipt is verified before it is
// given out.
func (m *receiptMaker) make(ctx context.Context, exchange string, entry *uint64, both bool) ([]byte, error) {
	r := m.n.current.Load()
	if r == nil {
		return nil, admin.Problemf(http.StatusServiceUnavailable, "starting", "the node is starting")
	}
	led := m.n.ledger.Load()
	for {
		logChanged, viewChanged := r.evidence.Changed(), led.Changed()
		halves, err := m.gather(r, exchange, entry, both)
		var wait pending
		if errors.As(err, &wait) {
			select {
			case <-logChanged:
			case <-viewChanged:
			case <-time.After(250 * time.Millisecond): // a counterparty's half changes neither
			case <-ctx.Done():
				return nil, admin.Problemf(http.StatusConflict, "not_yet", "the receipt of exchange %s is not complete yet: %s", exchange, wait.what).WithHint("%s", wait.hint)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		// Collecting cosignatures takes a moment even when the caller does not wait.
		collect, cancel := context.WithTimeout(context.WithoutCancel(ctx), cosignPatience)
		defer cancel()
		out, err := m.assemble(collect, r, exchange, halves)
		var invalid *invalidReceipt
		if last := len(halves) - 1; errors.As(err, &invalid) && halves[last].others {
			// It is anchored, and does not hold beside the own half: that must not
			// cost this body its own receipt.
			m.n.log.WarnContext(ctx, "the other side's half of a receipt is left out: it does not verify or disagrees", "exchange", exchange, "error", invalid.err)
			if both {
				return nil, admin.Problemf(http.StatusConflict, "invalid_half", "the other side's half of exchange %s does not verify or disagrees: %v", exchange, invalid.err).
					WithHint("ask for the receipt without the other half: the own half stands alone")
			}
			return m.assemble(collect, r, exchange, halves[:last])
		}
		return out, err
	}
}

// invalidReceipt says that halves make no receipt that verifies.
type invalidReceipt struct {
	exchange string
	err      error
}

func (e *invalidReceipt) Error() string {
	return fmt.Sprintf("the receipt of exchange %s cannot be made so that it verifies: %v", e.exchange, e.err)
}

func (e *invalidReceipt) Unwrap() error { return e.err }

// ownEntry is an entry of the own log and what it says.
type ownEntry struct {
	evidence.Entry
	record *evidencepb.Record
}

// gather finds the halves of an exchange that are anchored.
func (m *receiptMaker) gather(r *rooms, exchange string, entry *uint64, both bool) ([]half, error) {
	// 1. The own entry that was asked for. Several have one id when a request was
	// repeated, or when another body uses the id for exchanges of its own.
	found, err := r.evidence.Find(exchange)
	if err != nil {
		return nil, err
	}
	entries := make([]ownEntry, len(found))
	for i, e := range found {
		entries[i] = ownEntry{e, &evidencepb.Record{}}
		if err := proto.Unmarshal(e.Record, entries[i].record); err != nil {
			return nil, fmt.Errorf("own record of exchange %s: %w", exchange, err)
		}
	}
	// What the body asked for comes before what it was asked, and each in order.
	slices.SortStableFunc(entries, func(a, b ownEntry) int {
		return cmp.Or(cmp.Compare(a.record.Side, b.record.Side), cmp.Compare(a.Seq, b.Seq))
	})
	own, err := choose(entries, exchange, entry, m.n.elsewhere())
	if err != nil {
		return nil, err
	}
	h, err := m.ownHalf(r, own.Entry)
	if err != nil {
		return nil, err
	}
	halves := []half{h}
	// 2. The other side's, in the own log when the body called itself.
	for _, e := range entries {
		if otherSideOf(own.record, e.record, m.n.member) {
			h, err := m.ownHalf(r, e.Entry)
			h.others = true
			return append(halves, h), err
		}
	}
	// 3. Or the half that the other body sent.
	raw, err := r.evidence.Counterpart(exchange)
	switch {
	case err != nil:
		return nil, err
	case raw == nil && both:
		return nil, pending{"the other body's half has not arrived", "ask again in some seconds, or without the other half"}
	case raw == nil:
		return halves, nil
	}
	h, fits, err := m.otherHalf(own.record, raw)
	switch {
	case err != nil:
		return nil, err
	case !fits && both:
		return nil, admin.Problemf(http.StatusConflict, "other_entry", "the other body's half that is here is of another entry with the id %s", exchange).
			WithHint("\"civibus log show %s\" lists the entries; each stands alone without the other half", exchange)
	case !fits:
		return halves, nil
	}
	return append(halves, h), nil
}

// choose finds the entry at a leaf, or the first one.
func choose(entries []ownEntry, exchange string, leaf *uint64, elsewhere string) (ownEntry, error) {
	if len(entries) == 0 {
		return ownEntry{}, admin.Problemf(http.StatusNotFound, "not_found", "exchange %q is not in this body's evidence", exchange).
			WithHint("the id is the X-Road-Request-Id of the answer; \"civibus log show\" lists the newest%s", elsewhere)
	}
	if leaf == nil {
		return entries[0], nil
	}
	waiting := false
	for _, e := range entries {
		if e.Integrated && e.Index == *leaf {
			return e, nil
		}
		waiting = waiting || !e.Integrated
	}
	if waiting {
		return ownEntry{}, pending{fmt.Sprintf("it has no entry %d, and entries that are not in the Merkle log yet", *leaf), "ask again in a moment"}
	}
	return ownEntry{}, admin.Problemf(http.StatusNotFound, "not_found", "exchange %q has no entry %d in this body's evidence", exchange, *leaf).
		WithHint("\"civibus log show %s\" lists its entries", exchange)
}

// otherSideOf reports whether b is what the body recorded on the other side of
// a when it called itself. The id alone does not say so: it is the consumer who
// chooses it, and another body may choose one that it has seen.
func otherSideOf(a, b *evidencepb.Record, self civibus.MemberID) bool {
	if a.Side == b.Side || a.Client != b.Client || a.Service != b.Service || a.Request == nil || b.Request == nil {
		return false
	}
	other, err := counterparty(a)
	return err == nil && other == self && sameSeal(a.Request, b.Request) && sameSeal(a.Response, b.Response)
}

// ownHalf is one entry of the own log with its first anchor.
func (m *receiptMaker) ownHalf(r *rooms, e evidence.Entry) (half, error) {
	const hint = "checkpoints are anchored every few seconds; ask again in a moment"
	if !e.Integrated {
		return half{}, pending{"the entry is durable and not yet in the Merkle log", hint}
	}
	at, ok, err := r.evidence.AnchoredFor(e.Index)
	if err != nil {
		return half{}, err
	}
	if !ok {
		return half{}, pending{"no checkpoint that covers the entry is anchored in the registry yet", hint}
	}
	text, err := r.evidence.TLogProof(e.Index, at)
	if err != nil {
		return half{}, fmt.Errorf("prove the entry: %w", err)
	}
	h := half{parts: proof.EntryParts{Record: e.Record, Salt: e.Salt[:], Proof: text}}
	err = m.anchor(&h, m.n.origin(), at.Size)
	return h, err
}

// otherHalf takes the other body's entry out of its kept half, and tells whether
// it is of the same exchange as the own record. Its anchor is proved in the own
// view, so that both halves rest on one checkpoint.
func (m *receiptMaker) otherHalf(own *evidencepb.Record, raw []byte) (h half, fits bool, err error) {
	if fits, err = halfFits(raw, own); !fits || err != nil {
		return half{}, false, err
	}
	h.others = true
	var origin string
	var size uint64
	if h.parts.Record, h.parts.Salt, h.parts.Proof, origin, size, err = keptHalf(raw, own); err != nil {
		return half{}, false, err
	}
	err = m.anchor(&h, origin, size)
	return h, true, err
}

// anchor fills in the event by which a checkpoint was anchored.
func (m *receiptMaker) anchor(h *half, origin string, size uint64) error {
	index, event, ok, err := m.n.view().AnchorEvent(origin, size)
	if err != nil {
		return fmt.Errorf("find the anchor of %s: %w", origin, err)
	}
	if !ok {
		return pending{"the anchor has not reached this node's registry view", "ask again in a moment"}
	}
	h.parts.AnchorEvent, h.parts.AnchorIndex = event, index
	var e registrypb.Event
	if err := proto.Unmarshal(event, &e); err != nil {
		return fmt.Errorf("anchor event of %s: %w", origin, err)
	}
	h.anchored = e.Height
	return nil
}

// assemble makes the receipt of the halves on a cosigned view that covers them,
// and verifies it.
func (m *receiptMaker) assemble(ctx context.Context, r *rooms, exchange string, halves []half) ([]byte, error) {
	least := uint64(0)
	for _, h := range halves {
		least = max(least, h.anchored)
	}
	c, err := m.cosigned(ctx, r, least)
	if err != nil {
		return nil, admin.Problemf(http.StatusConflict, "not_cosigned", "the registry checkpoint is not cosigned by a quorum: %v", err).
			WithHint("more than two thirds of the validators must be reachable; ask again later")
	}
	chains, err := m.n.chainsOf(r.evidence, halves)
	if err != nil {
		return nil, err
	}
	out, err := assemble(c, exchange, halves, chains)
	if err != nil && c.view != m.n.view() {
		// The state under an older view may have been pruned meanwhile.
		m.forget(c)
		if c, err = m.cosigned(ctx, r, least); err == nil {
			out, err = assemble(c, exchange, halves, chains)
		}
	}
	if err != nil {
		return nil, &invalidReceipt{exchange, err}
	}
	policy, err := m.n.policy()
	if err != nil {
		return nil, err
	}
	if _, err := proof.Verify(out, policy); err != nil {
		return nil, &invalidReceipt{exchange, err}
	}
	return out, nil
}

func assemble(c *cosigned, exchange string, halves []half, chains []proof.Chain) ([]byte, error) {
	v := c.view
	size := v.EventSize()
	parts := proof.Parts{Exchange: exchange, Checkpoint: []byte(c.note), Chains: chains}
	var records, proofs [][]byte
	for _, h := range halves {
		p := h.parts
		var err error
		if p.AnchorProof, err = v.ProveEventAt(p.AnchorIndex, size); err != nil {
			return nil, fmt.Errorf("prove the anchor: %w", err)
		}
		parts.Entries = append(parts.Entries, p)
		records, proofs = append(records, p.Record), append(proofs, p.Proof)
	}
	var err error
	if parts.BlockEvent, err = v.Event(size - 1); err != nil {
		return nil, fmt.Errorf("read the block event: %w", err)
	}
	if parts.BlockProof, err = v.ProveEventAt(size-1, size); err != nil {
		return nil, fmt.Errorf("prove the block event: %w", err)
	}
	if parts.Facts, err = proof.CollectFacts(v, records, proofs); err != nil {
		return nil, fmt.Errorf("prove the registry's facts: %w", err)
	}
	receipt, err := proof.Assemble(parts)
	if err != nil {
		return nil, fmt.Errorf("assemble the receipt: %w", err)
	}
	return receipt.Marshal()
}

// cosigned returns a view of at least a height with a cosigned checkpoint, the
// last one if it is new enough.
func (m *receiptMaker) cosigned(ctx context.Context, r *rooms, height uint64) (*cosigned, error) {
	if host := m.n.host; host != nil {
		return host.receipts.cosigned(ctx, host.current.Load(), height)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.n.clock()
	v := m.n.view()
	if c := m.latest; c != nil && c.view.Height() >= height && (c.view.EventSize() == v.EventSize() || now.Sub(m.taken) < reuseCosigned) {
		return c, nil
	}
	note, err := m.n.cosign(ctx, r, v)
	if err != nil {
		return nil, err
	}
	m.latest, m.taken = &cosigned{view: v, note: note}, now
	return m.latest, nil
}

// forget makes the next receipt collect cosignatures anew.
func (m *receiptMaker) forget(c *cosigned) {
	if host := m.n.host; host != nil {
		host.receipts.forget(c)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.latest == c {
		m.latest = nil
	}
}

var _ proof.State = (*registry.View)(nil)
