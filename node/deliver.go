package node

import (
	"bytes"
	"context"
	"encoding/json"
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
)

const (
	deliverEvery   = 5 * time.Second // at least, when nothing wakes it
	deliverPage    = 256
	deliverTimeout = 30 * time.Second
	// giveUpAfter ends the attempts to deliver the half of an exchange of which
	// the other body knows nothing: it never arrived there, or was dropped.
	giveUpAfter = time.Hour
	maxBackOff  = 10 * time.Minute
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
	if n.cfg.Receipts.Exchange == "all" {
		d := &deliverer{n: n, r: r, limit: rate.NewLimiter(rate.Limit(n.cfg.Receipts.Rate), maxReceiptsBatch), backOff: map[civibus.MemberID]backOff{}}
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
	backOff map[civibus.MemberID]backOff
}

// backOff says when a body that did not take receipts is tried again.
type backOff struct {
	until time.Time
	wait  time.Duration
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
	delivery evidence.Delivery
	finished time.Time
}

// pass goes once through what is undelivered.
func (d *deliverer) pass(ctx context.Context) error {
	for after := uint64(0); ; {
		page, err := d.r.evidence.Undelivered(after, deliverPage)
		if err != nil {
			return err
		}
		byMember := map[civibus.MemberID][]job{}
		var done []uint64
		for _, x := range page {
			after = x.Index + 1
			to, finished, err := d.receiver(x)
			switch {
			case err != nil:
				d.n.log.WarnContext(ctx, "a record has no receiver for its receipt", "index", x.Index, "error", err)
				done = append(done, x.Index)
			case to.IsZero():
				done = append(done, x.Index)
			case d.n.clock().Before(d.backOff[to].until):
			default:
				byMember[to] = append(byMember[to], job{x, finished})
			}
		}
		for to, jobs := range byMember {
			for len(jobs) > 0 && ctx.Err() == nil {
				batch := jobs[:min(len(jobs), maxReceiptsBatch)]
				jobs = jobs[len(batch):]
				taken, err := d.send(ctx, to, batch)
				done = append(done, taken...)
				if err != nil {
					d.failed(ctx, to, err)
					break
				}
				delete(d.backOff, to)
			}
		}
		if len(done) > 0 {
			if err := d.r.evidence.Delivered(done...); err != nil {
				return err
			}
		}
		if len(page) < deliverPage || ctx.Err() != nil {
			return nil
		}
	}
}

// receiver says who gets the half of an entry: nobody (zero) when no other body
// was reached, or when the body called itself.
func (d *deliverer) receiver(x evidence.Delivery) (civibus.MemberID, time.Time, error) {
	e, err := d.r.evidence.Entry(x.Index)
	if err != nil {
		return civibus.MemberID{}, time.Time{}, err
	}
	rec := &evidencepb.Record{}
	if err := proto.Unmarshal(e.Record, rec); err != nil {
		return civibus.MemberID{}, time.Time{}, err
	}
	finished := time.Unix(0, rec.FinishedUnixNano)
	if rec.Request == nil || len(rec.PeerKeyId) == 0 {
		return civibus.MemberID{}, finished, nil
	}
	to, err := counterparty(rec)
	if err != nil || to == d.n.member {
		return civibus.MemberID{}, finished, err
	}
	return to, finished, nil
}

func (d *deliverer) failed(ctx context.Context, to civibus.MemberID, err error) {
	b := d.backOff[to]
	b.wait = min(max(2*b.wait, deliverEvery), maxBackOff)
	b.until = d.n.clock().Add(b.wait)
	d.backOff[to] = b
	if ctx.Err() == nil {
		d.n.log.DebugContext(ctx, "receipts wait for a body", "body", to.String(), "until", b.until, "error", err)
	}
}

// send delivers one batch and returns the indexes that are done with.
func (d *deliverer) send(ctx context.Context, to civibus.MemberID, batch []job) (done []uint64, err error) {
	var in delivery
	var sent []job
	for _, j := range batch {
		if err := d.limit.Wait(ctx); err != nil {
			return done, err
		}
		raw, err := d.half(ctx, j.delivery)
		var wait pending
		switch {
		case errors.As(err, &wait): // next time
		case err != nil:
			return done, err
		default:
			in.Receipts = append(in.Receipts, raw)
			sent = append(sent, j)
		}
	}
	if len(sent) == 0 {
		return done, nil
	}
	answer, err := d.post(ctx, to, in)
	if err != nil {
		return done, err
	}
	if len(answer.Results) != len(sent) {
		return done, fmt.Errorf("it answered %d results for %d receipts", len(answer.Results), len(sent))
	}
	for i, res := range answer.Results {
		switch res.Status {
		case halfStored:
			done = append(done, sent[i].delivery.Index)
		case halfUnknown:
			if d.n.clock().Sub(sent[i].finished) > giveUpAfter {
				d.n.log.WarnContext(ctx, "the other body knows nothing of an exchange", "body", to.String(), "exchange", sent[i].delivery.ExchangeID)
				done = append(done, sent[i].delivery.Index)
			} else {
				err = errors.New("it does not know an exchange yet: " + res.Reason)
			}
		default:
			// It will not become valid; the own receipt stands without them.
			d.n.log.ErrorContext(ctx, "the other body refuses a receipt", "body", to.String(), "exchange", sent[i].delivery.ExchangeID, "reason", res.Reason)
			done = append(done, sent[i].delivery.Index)
		}
	}
	return done, err
}

// half builds the own half of a receipt.
func (d *deliverer) half(ctx context.Context, x evidence.Delivery) ([]byte, error) {
	e, err := d.r.evidence.Entry(x.Index)
	if err != nil {
		return nil, err
	}
	h, err := d.n.receipts.ownHalf(d.r, e)
	if err != nil {
		return nil, err
	}
	collect, cancel := context.WithTimeout(ctx, deliverTimeout)
	defer cancel()
	return d.n.receipts.assemble(collect, d.r, x.ExchangeID, []half{h})
}

func (d *deliverer) post(ctx context.Context, to civibus.MemberID, in delivery) (out deliveryAnswer, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithTimeout(ctx, deliverTimeout)
	defer cancel()
	request := func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, receiptsPath, bytes.NewReader(body))
		if err == nil {
			req.Header.Set("Content-Type", "application/json")
		}
		return req, err
	}
	req, err := request(ctx)
	if err != nil {
		return out, err
	}
	resp, _, err := d.r.transport.Do(ctx, to, "", req, request)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return out, err
	}
	if resp.StatusCode != http.StatusOK {
		return out, fmt.Errorf("status %d: %s", resp.StatusCode, bytes.TrimSpace(answer))
	}
	return out, json.Unmarshal(answer, &out)
}
