package events

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/civibus/civibus"
)

const (
	pushWindow   = 256 // events that are under way or wait for another attempt
	pushParallel = 8
	downAfter    = 3  // failures in a row after which the webhook is taken to be down
	saveEvery    = 64 // events after which the cursor is written while more are coming
)

// pusher brings a subscription's events to a webhook. An event that the system refuses
// waits for another attempt beside the others; a webhook that is down has all wait, for
// as long as it takes. A failure counts against an event only when the webhook took
// another one since the event's last attempt, or says by a status of 4xx that it is the
// event's fault.
type pusher struct {
	room *Room
	s    *subscription

	window  map[uint64]*item
	order   []uint64 // of the window
	read    uint64   // all up to it is in the window, or done with
	flying  int
	results chan result

	taken    uint64 // events that the webhook took
	failures int    // in a row
	probeAt  time.Time
	backoff  time.Duration
}

// item is an event in the window.
type item struct {
	entry    Entry
	key      string // by which it is ordered; empty: not
	attempts int    // that count
	tries    int
	taken    uint64 // pusher.taken at the last attempt
	nextTry  time.Time
	flying   bool
	done     bool
}

// result is the outcome of one attempt.
type result struct {
	seq    uint64
	status int // 0: no answer
	after  time.Duration
	err    error
}

func (p *pusher) run() {
	p.window, p.results = map[uint64]*item{}, make(chan result, pushParallel)
	ctx, cancel := context.WithCancel(p.room.ctx)
	defer func() {
		cancel()
		for ; p.flying > 0; p.flying-- {
			<-p.results
		}
	}()
	p.restart()
	for {
		_, changed := p.s.stream.wait()
		if err := p.load(); err != nil {
			p.room.cfg.Logger.Error("events not read", "subscription", p.s.info.ID, "error", err)
			p.probeAt = p.room.cfg.Clock().Add(p.room.cfg.MaxBackOff)
		}
		next := p.dispatch(ctx)
		timer := time.NewTimer(next)
		select {
		case x := <-p.results:
			p.settle(x)
		case <-changed:
		case <-timer.C:
		case <-p.s.kick:
			p.restart()
		case <-p.s.stop:
			timer.Stop()
			return
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// restart begins again where the cursor is, if somebody moved it.
func (p *pusher) restart() {
	p.s.mu.Lock()
	cursor, moved := p.s.info.Cursor, p.s.moved
	p.s.moved = false
	p.s.mu.Unlock()
	if moved || len(p.window) == 0 && p.read < cursor {
		p.read = cursor
		p.order = nil
		for seq, x := range p.window {
			if !x.flying {
				delete(p.window, seq)
			} else {
				x.done = true // its outcome does not matter any more
			}
		}
	}
}

// load fills the window.
func (p *pusher) load() error {
	if len(p.order) >= pushWindow {
		return nil
	}
	entries, err := p.s.stream.read(p.read, pushWindow-len(p.order), 4<<20)
	if err != nil {
		return err
	}
	ordered := p.ordered()
	for _, e := range entries {
		p.read = e.Seq
		x := &item{entry: e, done: p.s.isDead(e.Seq)}
		if ordered {
			x.key = partition(e.Event)
		}
		p.window[e.Seq], p.order = x, append(p.order, e.Seq)
	}
	p.settleFront(false)
	return nil
}

// ordered reports whether the topic's events are to be delivered in the order of their key.
func (p *pusher) ordered() bool {
	t, ok := p.room.cfg.View().Topic(p.s.topic)
	return ok && t.Ordered
}

// dispatch sends what may be sent and returns how long nothing else is to be done.
func (p *pusher) dispatch(ctx context.Context) time.Duration {
	now, next := p.room.cfg.Clock(), time.Hour
	if now.Before(p.probeAt) {
		return max(p.probeAt.Sub(now), time.Millisecond)
	}
	down := p.failures >= downAfter
	var probe *item
	busy := map[string]bool{}
	for _, seq := range p.order {
		if p.flying >= pushParallel || down && p.flying > 0 {
			return next
		}
		x := p.window[seq]
		if x.done || x.key != "" && busy[x.key] {
			continue
		}
		if x.key != "" {
			busy[x.key] = true // those of its key come after it
		}
		if x.flying {
			continue
		}
		if down {
			if probe == nil || x.tries < probe.tries {
				probe = x
			}
			continue
		}
		if wait := x.nextTry.Sub(now); wait > 0 {
			next = min(next, wait)
			continue
		}
		p.send(ctx, x)
	}
	// One event finds out whether the webhook is back: the one that was tried least, so
	// that the webhook is not judged by an event that it will never take.
	if probe != nil {
		p.send(ctx, probe)
	}
	return next
}

// send makes an attempt beside everything else.
func (p *pusher) send(ctx context.Context, x *item) {
	x.flying, x.tries = true, x.tries+1
	p.flying++
	go func(e Entry) { p.results <- p.room.post(ctx, p.s, e) }(x.entry)
}

// settle takes the outcome of an attempt.
func (p *pusher) settle(r result) {
	p.flying--
	x := p.window[r.seq]
	if x == nil {
		return
	}
	x.flying = false
	if x.done { // the cursor was moved meanwhile
		if len(p.order) == 0 || !contains(p.order, r.seq) {
			delete(p.window, r.seq)
		}
		return
	}
	cfg := &p.room.cfg
	switch {
	case r.status >= 200 && r.status < 300:
		p.taken++
		if p.failures > 0 {
			p.s.say("active", "", "")
		}
		p.failures, p.backoff, p.probeAt = 0, 0, time.Time{}
		x.done = true
		p.settleFront(true)
		return
	case r.status >= 400 && r.status < 500 && r.status != 408 && r.status != 425 && r.status != 429 && r.status != 401 && r.status != 403 && r.status != 404 && r.status != 410:
		// It is the event's fault. The webhook lives.
		p.failures, p.backoff, p.probeAt = 0, 0, time.Time{}
		x.attempts++
	default:
		p.failures++
		if p.taken > x.taken && x.tries > 1 {
			x.attempts++
		}
		if p.failures >= downAfter {
			p.backoff = min(max(2*p.backoff, cfg.FirstBackOff), cfg.MaxBackOff)
			p.probeAt = cfg.Clock().Add(max(min(r.after, cfg.MaxBackOff), p.backoff/2+rand.N(p.backoff/2+1)))
			p.s.say("waiting", "webhook_down", p.describe(r))
		}
	}
	x.taken = p.taken
	if x.attempts >= cfg.Attempts {
		d := DeadLetter{Seq: r.seq, Reason: DeadRefused, Message: p.describe(r), Attempts: x.tries, Exchange: exchangeOf(x.entry), Event: x.entry.Event}
		if r.status == 0 || r.status >= 500 {
			d.Reason = DeadUnavailable
		}
		if err := p.s.bury(d); err != nil {
			cfg.Logger.Error("dead letter not kept", "subscription", p.s.info.ID, "seq", r.seq, "error", err)
		} else {
			x.done = true
			p.settleFront(true)
			return
		}
	}
	wait := min(cfg.FirstBackOff<<min(x.tries-1, 20), cfg.MaxBackOff)
	x.nextTry = cfg.Clock().Add(wait/2 + rand.N(wait/2+1))
}

func contains(order []uint64, seq uint64) bool {
	for _, s := range order {
		if s == seq {
			return true
		}
	}
	return false
}

func (p *pusher) describe(r result) string {
	if r.status == 0 {
		return "the webhook did not answer"
	}
	return "the webhook answered with the status " + strconv.Itoa(r.status)
}

// settleFront moves the cursor over what is done with.
func (p *pusher) settleFront(lazily bool) {
	n := 0
	for n < len(p.order) && p.window[p.order[n]].done {
		n++
	}
	if n == 0 || lazily && n < saveEvery && n < len(p.order) && p.flying > 0 {
		return
	}
	if err := p.s.advanceUnlessMoved(p.order[n-1]); err != nil {
		p.room.cfg.Logger.Error("cursor not kept", "subscription", p.s.info.ID, "error", err)
		return
	}
	for _, seq := range p.order[:n] {
		delete(p.window, seq)
	}
	p.order = append(p.order[:0], p.order[n:]...)
}

// advanceUnlessMoved moves the cursor on, unless somebody moved it and the pusher has
// not seen that.
func (s *subscription) advanceUnlessMoved(to uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.moved || to <= s.info.Cursor {
		return nil
	}
	return s.setCursor(to)
}

// post makes one attempt.
func (r *Room) post(ctx context.Context, s *subscription, e Entry) result {
	body := annotated(e.Event, e.Seq, exchangeOf(e))
	ctx, cancel := context.WithTimeout(ctx, r.cfg.PushTimeout)
	defer cancel()
	s.mu.Lock()
	address, secret := s.info.Webhook, s.info.Secret
	s.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return result{seq: e.Seq, err: err}
	}
	req.Header.Set("Content-Type", StructuredType)
	id, stamp := s.info.ID+"."+strconv.FormatUint(e.Seq, 10), strconv.FormatInt(r.cfg.Clock().Unix(), 10)
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", stamp)
	req.Header.Set("Webhook-Signature", Sign(secret, id, stamp, body))
	if r.cfg.Sign != nil {
		if err := r.cfg.Sign(ctx, req, body); err != nil {
			return result{seq: e.Seq, err: err}
		}
	}
	resp, err := r.cfg.HTTP.Do(req)
	if err != nil {
		return result{seq: e.Seq, err: err}
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	out := result{seq: e.Seq, status: resp.StatusCode}
	if n, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 20); err == nil {
		out.after = time.Duration(n) * time.Second
	}
	return out
}

// Sign is the signature of Standard Webhooks over an event that is pushed.
func Sign(secret, id, timestamp string, body []byte) string {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return ""
	}
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s.%s.", id, timestamp)
	m.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// allowed reports whether a webhook's URL begins as the configuration says.
func (r *Room) allowed(webhook string) error {
	for _, prefix := range r.cfg.Webhooks {
		if rest, ok := strings.CutPrefix(webhook, prefix); ok && (rest == "" || strings.HasSuffix(prefix, "/") || rest[0] == '/' || rest[0] == '?') && !strings.Contains(rest, "..") {
			return nil
		}
	}
	return fault(civibus.FaultWebhook, "the webhook's URL begins with none of those that this gateway's configuration allows (events.webhooks)")
}
