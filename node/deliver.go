package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/transport"
)

const (
	deliverEvery   = 5 * time.Second // at least, when nothing wakes it
	deliverTimeout = 30 * time.Second
	deliverBytes   = 4 << 20 // of one delivery, about
	// While exchanges are made, delivering takes one part in deliverShare of the
	// time of one processor; what is left over waits on disk for a quieter hour.
	deliverShare = 50
	deliverRest  = 5 * time.Second // the longest such pause
	// giveUpAfter ends the attempts to deliver the half of an exchange of which
	// the other body knows nothing: it never arrived there, or was dropped.
	giveUpAfter = time.Hour
	maxBackOff  = 10 * time.Minute
	// maxUnknown bounds how many exchanges unknown to the other side wait each for
	// itself; beyond it they hold up the body that does not know them.
	maxUnknown = 1 << 16
)

// background starts the work that no exchange waits for.
func (n *Node) background(ctx context.Context, r *rooms, group *errgroup.Group) {
	group.Go(func() error {
		err := r.evidence.RunAnchors(ctx, time.Duration(n.cfg.Evidence.AnchorInterval), anchorer{n})
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("anchor the evidence log: %w", err)
	})
	n.runProcess(ctx, group)
	n.runUsage(ctx, r, group)
	n.runOnce(ctx, group)
	if n.cfg.Receipts.Exchange == "all" {
		d := &deliverer{n: n, r: r, limit: rate.NewLimiter(rate.Limit(n.cfg.Receipts.Rate), maxReceiptsBatch), backOff: map[receiver]backOff{}, unknown: map[uint64]backOff{}}
		group.Go(func() error { d.run(ctx); return nil })
	}
}

// deliverer sends the own halves of receipts to the other bodies. What is still
// to be sent is on disk (evidence.Undelivered), so nothing is forgotten when the
// node dies.
type deliverer struct {
	n       *Node
	r       *rooms
	limit   *rate.Limiter
	backOff map[receiver]backOff
	unknown map[uint64]backOff // entries whose exchange the other side does not know yet

	next    uint64    // what is undelivered below it waits
	again   uint64    // the first that waits
	againAt time.Time // until then; zero: nothing waits
}

// backOff says when what was not taken is tried again.
type backOff struct {
	until time.Time
	wait  time.Duration
}

// longer is the back-off after one more failure.
func (b backOff) longer(now time.Time) backOff {
	wait := min(max(2*b.wait, deliverEvery), maxBackOff)
	return backOff{until: now.Add(wait), wait: wait}
}

func (d *deliverer) run(ctx context.Context) {
	timer := time.NewTicker(deliverEvery)
	defer timer.Stop()
	for {
		changed := d.r.evidence.Changed()
		if err := d.pass(ctx); err != nil && ctx.Err() == nil {
			d.n.log.WarnContext(ctx, "deliver receipts", "error", err)
		}
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// job is one half receipt to be delivered.
type job struct {
	index    uint64
	exchange string
	record   []byte // trimmed or, after the other body has asked for it, whole
	trimmed  bool
	whole    []byte
	salt     [16]byte
	finished time.Time
}

// pass goes through what is undelivered and does not wait for a body that did
// not take receipts a short while ago.
func (d *deliverer) pass(ctx context.Context) error {
	if !d.againAt.IsZero() && !d.n.clock().Before(d.againAt) {
		d.next, d.againAt = min(d.next, d.again), time.Time{}
	}
	for {
		// 1. A page of entries, by receiver.
		appended, began := d.r.evidence.Appended(), time.Now()
		page, err := d.r.evidence.Undelivered(d.next, maxReceiptsBatch)
		if err != nil || len(page) == 0 {
			return err
		}
		byReceiver, done := d.sort(ctx, page)
		// 2. One delivery for each.
		for to, jobs := range byReceiver {
			taken, err := d.send(ctx, to, jobs)
			done = append(done, taken...)
			if err != nil {
				d.failed(ctx, to, err)
				d.wait(jobs[0].index, d.backOff[to].until)
			} else {
				d.reached(to.member)
			}
		}
		if len(done) > 0 {
			if err := d.r.evidence.Delivered(done...); err != nil {
				return err
			}
			for _, index := range done {
				delete(d.unknown, index)
			}
		}
		d.next = page[len(page)-1].Index + 1
		// 3. Exchanges come first.
		rest := time.Duration(0)
		if d.r.evidence.Appended() != appended {
			rest = min((deliverShare-1)*time.Since(began), deliverRest)
		}
		if err := d.pause(ctx, len(page), rest); err != nil {
			return nil // the node stops
		}
	}
}

// pause waits for the configured rate and for a rest.
func (d *deliverer) pause(ctx context.Context, sent int, rest time.Duration) error {
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	for sent > 0 {
		n := min(sent, d.limit.Burst())
		if err := d.limit.WaitN(ctx, n); err != nil {
			return err
		}
		sent -= n
	}
	return nil
}

// wait notes that entries from index on are to be looked at again.
func (d *deliverer) wait(index uint64, until time.Time) {
	if d.againAt.IsZero() {
		d.again, d.againAt = index, until
		return
	}
	d.again = min(d.again, index)
	if until.Before(d.againAt) {
		d.againAt = until
	}
}

// sort reads entries and tells which go where, and which go nowhere.
func (d *deliverer) sort(ctx context.Context, page []evidence.Delivery) (byReceiver map[receiver][]job, done []uint64) {
	byReceiver = map[receiver][]job{}
	for _, x := range page {
		to, j, err := d.prepare(x)
		switch {
		case err != nil:
			d.n.log.WarnContext(ctx, "a record has no receiver for its receipt", "index", x.Index, "error", err)
			done = append(done, x.Index)
		case to.member.IsZero():
			done = append(done, x.Index)
		case d.n.clock().Before(d.backOff[to].until):
			d.wait(x.Index, d.backOff[to].until)
		case d.n.clock().Before(d.unknown[x.Index].until):
			d.wait(x.Index, d.unknown[x.Index].until)
		default:
			byReceiver[to] = append(byReceiver[to], j)
		}
	}
	return byReceiver, done
}

// prepare reads an entry and says who gets its half: nobody (zero) when no
// other body was reached, or when the body called itself and has the other record in
// this log.
func (d *deliverer) prepare(x evidence.Delivery) (to receiver, j job, err error) {
	e, err := d.r.evidence.Entry(x.Index)
	if err != nil {
		return to, j, err
	}
	rec := &evidencepb.Record{}
	if err := proto.Unmarshal(e.Record, rec); err != nil {
		return to, j, err
	}
	if rec.Request == nil || len(rec.PeerKeyId) == 0 {
		return to, j, nil
	}
	if to.member, err = counterparty(rec); err != nil {
		return receiver{}, j, err
	}
	copy(to.gateway[:], rec.PeerKeyId)
	if to.member == d.n.member {
		if here, err := d.both(to, x.ExchangeID, rec); here || err != nil {
			return receiver{}, j, err
		}
	}
	j = job{index: x.Index, exchange: x.ExchangeID, trimmed: true, whole: e.Record, salt: e.Salt, finished: time.Unix(0, rec.FinishedUnixNano)}
	j.record, err = trim(rec)
	return to, j, err
}

// reached ends the waiting for all gateways of a body one of which took receipts:
// it may have moved to another host, and what was for the old one with it.
func (d *deliverer) reached(member civibus.MemberID) {
	for to := range d.backOff {
		if to.member == member {
			delete(d.backOff, to)
			d.againAt = d.n.clock()
		}
	}
}

func (d *deliverer) failed(ctx context.Context, to receiver, err error) {
	b := d.backOff[to].longer(d.n.clock())
	d.backOff[to] = b
	if ctx.Err() == nil {
		d.n.log.DebugContext(ctx, "receipts wait for a body", "body", to.member.String(), "gateway", to.gateway.String(), "until", b.until, "error", err)
	}
}

// later has an entry, whose exchange the other side does not know yet, wait for itself:
// a call that broke there may never become known, and what came after it must not wait
// with it. It reports whether there was room to remember that.
func (d *deliverer) later(index uint64) bool {
	b, known := d.unknown[index]
	if !known && len(d.unknown) >= maxUnknown {
		return false
	}
	b = b.longer(d.n.clock())
	d.unknown[index] = b
	d.wait(index, b.until)
	return true
}

// send delivers halves to one gateway and returns the indexes that are done with.
func (d *deliverer) send(ctx context.Context, to receiver, jobs []job) (done []uint64, err error) {
	for len(jobs) > 0 {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		// 1. As many as fit in one delivery.
		n, size := 0, 0
		for n < len(jobs) && (n == 0 || size+len(jobs[n].record) <= deliverBytes) {
			size += len(jobs[n].record) + 1<<10
			n++
		}
		batch := jobs[:n:n]
		jobs = jobs[n:]
		in, err := d.halves(batch)
		if err != nil {
			return done, err
		}
		results, missed := d.offer(ctx, to, in)
		// 2. What became of each.
		var full error
		for i, res := range results {
			j := batch[i]
			switch res.Status {
			case evidencepb.HalfStatus_HALF_STATUS_STORED:
				done = append(done, j.index)
			case evidencepb.HalfStatus_HALF_STATUS_UNKNOWN:
				if missed != nil { // the gateway that was not reached may know it
					continue
				}
				if d.n.clock().Sub(j.finished) <= giveUpAfter {
					if !d.later(j.index) {
						full = errors.New("it does not know many exchanges: " + res.Reason)
					}
					continue
				}
				d.n.log.WarnContext(ctx, "the other body knows nothing of an exchange", "body", to.member.String(), "exchange", j.exchange)
				done = append(done, j.index)
			case evidencepb.HalfStatus_HALF_STATUS_WHOLE:
				if j.trimmed {
					j.record, j.trimmed = j.whole, false
					jobs = append(jobs, j)
					continue
				}
				fallthrough
			default:
				// It will not become valid; the own receipt stands without them.
				d.n.log.ErrorContext(ctx, "the other body refuses a receipt", "body", to.member.String(), "exchange", j.exchange, "reason", res.Reason)
				done = append(done, j.index)
			}
		}
		if err := cmp.Or(missed, full); err != nil {
			return done, err
		}
	}
	return done, nil
}

// halves proves entries in the first anchored checkpoint that covers them all.
func (d *deliverer) halves(batch []job) (*evidencepb.HalfReceipts, error) {
	last := uint64(0)
	for _, j := range batch {
		last = max(last, j.index)
	}
	at, ok, err := d.r.evidence.AnchoredFor(last)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("no checkpoint that covers entry %d is anchored", last)
	}
	out := &evidencepb.HalfReceipts{Checkpoint: at.Note}
	if len(out.Checkpoint) > maxCheckpoint {
		out.Checkpoint = evidence.FirstSigned(at.Note)
	}
	if d.n.host != nil {
		out.From = d.n.member.String()
	}
	for _, j := range batch {
		h := &evidencepb.HalfReceipt{ExchangeId: j.exchange, Record: j.record, Trimmed: j.trimmed, Salt: j.salt[:], Index: j.index}
		if h.Inclusion, err = d.r.evidence.Inclusion(j.index, at.Size); err != nil {
			return nil, fmt.Errorf("prove entry %d: %w", j.index, err)
		}
		out.Halves = append(out.Halves, h)
	}
	return out, nil
}

// post delivers halves to the gateway that holds a transport key.
func (d *deliverer) post(ctx context.Context, to receiver, in *evidencepb.HalfReceipts) ([]*evidencepb.HalfResult, error) {
	// A host takes one delivery at a time from another, for whomever it is.
	carrier := d.n.view().Carrier(to.member)
	if carrier != to.member {
		in.To = to.member.String()
	}
	release, err := d.n.front().lanes.take(ctx, carrier)
	if err != nil {
		return nil, err
	}
	defer release()
	body, err := proto.Marshal(in)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, deliverTimeout)
	defer cancel()
	request := func(ctx context.Context, peer transport.Peer) (*http.Request, error) {
		if peer.Key != to.gateway {
			return nil, transport.ErrAnother
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, receiptsPath, bytes.NewReader(body))
		if err == nil {
			req.Header.Set("Content-Type", protobufType)
		}
		return req, err
	}
	resp, _, err := d.r.transport.Do(ctx, to.member, "", request)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d: %s", resp.StatusCode, bytes.TrimSpace(raw))
	}
	out := &evidencepb.HalfReceiptsAnswer{}
	if err := proto.Unmarshal(raw, out); err != nil {
		return nil, err
	}
	if len(out.Results) != len(in.Halves) {
		return nil, fmt.Errorf("it answered %d results for %d receipts", len(out.Results), len(in.Halves))
	}
	return out.Results, nil
}
