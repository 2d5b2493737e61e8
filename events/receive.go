package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"time"

	"github.com/civibus/civibus"
)

const (
	pullAtLeast = time.Hour        // a subscription is asked about even when nobody says that there is more
	waitPause   = 5 * time.Second  // after a provider that could not be asked
	maxUnread   = 256              // events of one batch that are reported as unreadable
	fullPause   = 10 * time.Second // until a full inbox is looked at again
)

// receiver fetches what one provider has for this body's subscriptions, in turns: a batch
// for each that has more, then it waits until the provider says that one has.
type receiver struct {
	room     *Room
	provider civibus.MemberID
	kick     chan struct{}
	failures int // of asking the provider to tell
}

func (rc *receiver) wake() {
	select {
	case rc.kick <- struct{}{}:
	default:
	}
}

// run goes on until the room closes, or there is no subscription left.
func (rc *receiver) run() {
	r := rc.room
	for r.ctx.Err() == nil {
		subs := rc.subscriptions()
		if subs == nil {
			return
		}
		// 1. A batch for each that may have more.
		again, next := false, r.cfg.Clock().Add(pullAtLeast)
		for _, s := range subs {
			switch now := r.cfg.Clock(); {
			case now.Before(s.retryAt):
				next = earlier(next, s.retryAt)
				continue
			case !s.due && now.Sub(s.pulledAt) < pullAtLeast:
				continue
			case s.backlog() >= r.cfg.MaxBytes:
				s.say("waiting", "inbox_full", "the client's system takes no events, and no more are fetched until it does")
				s.retryAt = now.Add(fullPause)
				next = earlier(next, s.retryAt)
				continue
			}
			rc.pull(s)
			again = again || s.due && !r.cfg.Clock().Before(s.retryAt)
			if s.retryAt.After(r.cfg.Clock()) {
				next = earlier(next, s.retryAt)
			}
		}
		if again {
			continue
		}
		// 2. Until there is more, or something is to be tried again.
		rc.wait(subs, next)
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// subscriptions returns those of the provider; with none left the receiver ends.
func (rc *receiver) subscriptions() []*subscription {
	r := rc.room
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*subscription
	for _, s := range r.subs {
		if s.topic.Service.MemberID == rc.provider {
			out = append(out, s)
		}
	}
	if out == nil {
		delete(r.receivers, rc.provider)
	}
	return out
}

// wait asks the provider to answer when there is more, and marks which have it.
func (rc *receiver) wait(subs []*subscription, until time.Time) {
	r := rc.room
	now := r.cfg.Clock()
	ctx, cancel := context.WithTimeout(r.ctx, max(until.Sub(now), 10*time.Millisecond))
	defer cancel()
	// 1. Whoever is neither full nor failing.
	var wants []Want
	var asked []*subscription
	for _, s := range subs {
		if !now.Before(s.retryAt) && len(wants) < MaxWants {
			wants = append(wants, Want{Client: s.info.Client, Topic: s.info.Topic, After: s.received()})
			asked = append(asked, s)
		}
	}
	// 2. The call, or a kick.
	type result struct {
		more []int
		err  error
	}
	answered := make(chan result, 1)
	call, hangUp := context.WithCancel(ctx)
	defer hangUp()
	if len(wants) > 0 {
		go func() {
			more, err := r.cfg.Wait(call, rc.provider, asked[0].gateway, wants)
			answered <- result{more, err}
		}()
	}
	select {
	case a := <-answered:
		for _, i := range a.more {
			if i >= 0 && i < len(asked) {
				asked[i].due = true
			}
		}
		if a.err == nil {
			rc.failures = 0
			return
		}
		// The provider cannot be asked: after a while ask for the events themselves, with
		// which the reason comes.
		rc.failures++
		rc.pause(ctx, min(waitPause*time.Duration(rc.failures), r.cfg.MaxBackOff))
		if rc.failures%8 == 0 {
			for _, s := range asked {
				s.due = true
			}
		}
	case <-rc.kick:
		hangUp()
		if len(wants) > 0 {
			<-answered
		}
	case <-ctx.Done():
		if len(wants) > 0 {
			<-answered
		}
	}
}

func (rc *receiver) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-rc.kick:
	case <-ctx.Done():
	}
}

// pull fetches one batch.
func (rc *receiver) pull(s *subscription) {
	r := rc.room
	s.due, s.pulledAt = false, r.cfg.Clock()
	after, err := rc.fetch(s)
	if err == nil {
		s.backoff, s.retryAt = 0, time.Time{}
		return
	}
	if r.ctx.Err() != nil {
		return
	}
	// It failed: not again before a while, and nobody else waits for it.
	s.due = true
	s.backoff = min(max(2*s.backoff, r.cfg.FirstBackOff), r.cfg.MaxBackOff)
	wait := max(after, s.backoff/2+rand.N(s.backoff/2+1))
	s.retryAt = r.cfg.Clock().Add(wait)
	var f *civibus.Fault
	code, message := string(civibus.FaultInternal), "the events could not be fetched"
	if errors.As(err, &f) {
		code, message = string(f.Code), f.Message
	}
	if code == string(civibus.FaultEventsOff) {
		s.gateway = rc.next(s.gateway) // another may have them
	}
	s.say("failing", code, message)
	r.cfg.Logger.Info("events not fetched", "subscription", s.info.ID, "topic", s.info.Topic, "code", code, "again", wait, "error", err)
}

// next is the code of the provider's gateway after one.
func (rc *receiver) next(code string) string {
	m, ok := rc.room.cfg.View().Member(rc.provider)
	if !ok || len(m.Gateways) == 0 {
		return ""
	}
	for i, g := range m.Gateways {
		if g.Code == code && i+1 < len(m.Gateways) {
			return m.Gateways[i+1].Code
		}
	}
	if code != "" {
		return "" // all of them were asked; the next time it is whichever answers
	}
	return m.Gateways[0].Code
}

// fetch makes the exchange and keeps what it brings.
func (rc *receiver) fetch(s *subscription) (after time.Duration, err error) {
	r := rc.room
	// 1. Ask for what comes after all that is here.
	received := s.received()
	s.mu.Lock()
	from, begun := strconv.FormatUint(received, 10), s.begun
	if !begun && received == 0 {
		from = s.info.From
	}
	q := url.Values{"after": {from}, "name": {s.info.Name}, "max": {strconv.Itoa(MaxBatch)}}
	epoch := s.epoch
	if begun {
		q.Set("epoch", strconv.FormatUint(epoch, 10))
	}
	s.mu.Unlock()
	question := Question{Client: s.client, Service: s.topic.Service, Path: s.topic.Path(), Query: q.Encode(), Gateway: s.gateway}
	if len(s.unread) > 0 {
		if question.Body, err = json.Marshal(map[string]any{"refused": s.unread}); err != nil {
			return 0, err
		}
	}
	a, after, err := r.cfg.Ask(r.ctx, question)
	if err != nil {
		var f *civibus.Fault
		if errors.As(err, &f) && f.Code == civibus.FaultEventsGone && begun {
			return after, rc.passGap(s, received)
		}
		return after, err
	}
	s.unread = nil
	b, err := DecodeBatch(a.Body, a.Header.Get(BatchField))
	if err != nil {
		return 0, civibus.Faultf(0, civibus.FaultInconsistentAnswer, "the provider's batch is malformed: %v", err)
	}
	if (begun || received > 0) && b.First != received+1 {
		return 0, civibus.Faultf(0, civibus.FaultInconsistentAnswer, "the provider was asked for event %d and answered with %d", received+1, b.First)
	}
	if begun && b.Epoch != epoch {
		return 0, civibus.Faultf(0, civibus.FaultInconsistentAnswer, "the provider was asked for epoch %d and answered with %d", epoch, b.Epoch)
	}
	// 2. Where a new subscription begins is known now.
	if !begun {
		if err := s.beginAt(b.First-1, b.Epoch); err != nil {
			return 0, err
		}
	}
	// 3. Keep it.
	if err := rc.keep(s, b, a.Exchange); err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.info.Newest = b.Newest
	s.mu.Unlock()
	s.due = b.Newest > b.Last() && len(b.Events) > 0
	if state := s.snapshot().State; state != "active" && s.info.Webhook == "" || state == "failing" {
		s.say("active", "", "")
	}
	s.wake()
	return 0, nil
}

// beginAt fixes where a new subscription begins.
func (s *subscription) beginAt(base, epoch uint64) error {
	s.mu.Lock()
	s.begun, s.base, s.epoch = true, base, epoch
	var err error
	if s.info.Cursor < base {
		err = s.setCursor(base)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.save()
}

// keep puts a batch into the inbox. What is no event is kept too, because it is sealed
// and proved with the others, and is a dead letter at once.
func (rc *receiver) keep(s *subscription, b *Batch, exchange string) error {
	if len(b.Events) == 0 {
		return nil
	}
	for i, e := range b.Events {
		parsed, err := ParseEvent(e)
		if err == nil && len(parsed.JSON) != len(e) {
			err = errors.New("it is not in compact form")
		}
		if err == nil {
			continue
		}
		d := DeadLetter{Seq: b.First + uint64(i), Reason: DeadInvalid, Message: err.Error(), Exchange: exchange}
		if json.Valid(e) {
			d.Event = e
		} else {
			d.Raw = e
		}
		if err := s.bury(d); err != nil {
			return err
		}
		if len(s.unread) < maxUnread {
			s.unread = append(s.unread, refusedEvent{d.Seq, DeadInvalid})
		}
	}
	if _, err := s.stream.append(b.First, blockMeta(b, exchange), rc.room.cfg.Clock(), b.Events); err != nil {
		return &civibus.Fault{Code: civibus.FaultEvidence, Message: "the events cannot be kept", Err: err}
	}
	return nil
}

// passGap goes on behind events that the provider no longer has, and leaves a dead letter
// that says which are missing: waiting would never bring them.
func (rc *receiver) passGap(s *subscription, received uint64) error {
	q := url.Values{"after": {FromFirst}, "name": {s.info.Name}, "max": {"0"}}
	a, _, err := rc.room.cfg.Ask(rc.room.ctx, Question{Client: s.client, Service: s.topic.Service, Path: s.topic.Path(), Query: q.Encode(), Gateway: s.gateway})
	if err != nil {
		return err
	}
	h, err := ParseHeader(a.Header.Get(BatchField))
	if err != nil || h.Oldest <= received+1 {
		return civibus.Faultf(0, civibus.FaultInconsistentAnswer, "the provider refuses the events after %d and says that event %d is its oldest", received, h.Oldest)
	}
	d := DeadLetter{Seq: received + 1, Until: h.Oldest - 1, Reason: DeadGone, Exchange: a.Exchange,
		Message: fmt.Sprintf("the provider no longer had the events from %d to %d when they were fetched", received+1, h.Oldest-1)}
	if err := s.bury(d); err != nil {
		return err
	}
	s.mu.Lock()
	s.base = h.Oldest - 1
	s.mu.Unlock()
	s.due = true
	return s.save()
}
