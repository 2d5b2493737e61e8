package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

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
	others   bool   // it is the other body's
}

// make builds the receipt of an exchange: the own half, and the other body's when
// it is here. It waits for what is missing until ctx ends; with both also for the
// other half. The receipt is verified before it is given out.
func (m *receiptMaker) make(ctx context.Context, exchange string, both bool) ([]byte, error) {
	r := m.n.current.Load()
	if r == nil {
		return nil, admin.Problemf(http.StatusServiceUnavailable, "starting", "the node is starting")
	}
	led := m.n.ledger.Load()
	for {
		logChanged, viewChanged := r.evidence.Changed(), led.Changed()
		halves, err := m.gather(r, exchange, both)
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
			// It was anchored by the other body, and does not hold: that must not
			// cost this body its own receipt.
			m.n.log.WarnContext(ctx, "the other body's half of a receipt does not verify", "exchange", exchange, "error", err)
			if both {
				return nil, admin.Problemf(http.StatusConflict, "invalid_half", "the other body's half of exchange %s does not verify: %v", exchange, invalid.err).
					WithHint("ask for the receipt without the other half: the own half stands alone")
			}
			return m.assemble(collect, r, exchange, halves[:last])
		}
		return out, err
	}
}

// invalidReceipt says that a receipt was made and does not verify.
type invalidReceipt struct {
	exchange string
	err      error
}

func (e *invalidReceipt) Error() string {
	return fmt.Sprintf("the receipt of exchange %s was made and does not verify: %v", e.exchange, e.err)
}

func (e *invalidReceipt) Unwrap() error { return e.err }

// gather finds the halves of an exchange that are anchored.
func (m *receiptMaker) gather(r *rooms, exchange string, both bool) ([]half, error) {
	entries, err := r.evidence.Find(exchange)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, admin.Problemf(http.StatusNotFound, "not_found", "exchange %q is not in this body's evidence", exchange).
			WithHint("the id is the X-Road-Request-Id of the answer; \"civibus log show\" lists the newest")
	}
	var halves []half
	sides := map[evidencepb.Side]bool{}
	var own *evidencepb.Record
	for _, e := range entries {
		rec := &evidencepb.Record{}
		if err := proto.Unmarshal(e.Record, rec); err != nil {
			return nil, fmt.Errorf("own record of exchange %s: %w", exchange, err)
		}
		if sides[rec.Side] {
			continue
		}
		h, err := m.ownHalf(r, e)
		if err != nil {
			return nil, err
		}
		sides[rec.Side], own = true, rec
		halves = append(halves, h)
	}
	if len(halves) == 2 { // a body that called itself
		return halves, nil
	}
	other, err := r.evidence.Counterpart(exchange)
	switch {
	case err != nil:
		return nil, err
	case other == nil && both:
		return nil, pending{"the other body's half has not arrived", "ask again in some seconds, or without the other half"}
	case other == nil:
		return halves, nil
	}
	h, err := m.otherHalf(r, own, other)
	if err != nil {
		return nil, err
	}
	return append(halves, h), nil
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

// otherHalf takes the other body's entry out of its kept half. Its anchor is
// proved in the own view, so that both halves rest on one checkpoint.
func (m *receiptMaker) otherHalf(r *rooms, own *evidencepb.Record, raw []byte) (half, error) {
	other, err := counterparty(own)
	if err != nil {
		return half{}, err
	}
	records, err := recordsWith(r.evidence, own.ExchangeId, other)
	if err != nil {
		return half{}, err
	}
	h := half{others: true}
	var origin string
	var size uint64
	if h.parts.Record, h.parts.Salt, h.parts.Proof, origin, size, err = keptHalf(raw, records[0]); err != nil {
		return half{}, err
	}
	err = m.anchor(&h, origin, size)
	return h, err
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
	out, err := assemble(c, exchange, halves)
	if err != nil && c.view != m.n.view() {
		// The state under an older view may have been pruned meanwhile.
		m.forget(c)
		if c, err = m.cosigned(ctx, r, least); err == nil {
			out, err = assemble(c, exchange, halves)
		}
	}
	if err != nil {
		return nil, err
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

func assemble(c *cosigned, exchange string, halves []half) ([]byte, error) {
	v := c.view
	size := v.EventSize()
	parts := proof.Parts{Exchange: exchange, Checkpoint: []byte(c.note)}
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
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.latest == c {
		m.latest = nil
	}
}

var _ proof.State = (*registry.View)(nil)
