package h1serve

import (
	"context"
	"errors"
	"os"
	"time"
)

// sweepEvery is how often calls under way are looked at. One that is seen twice
// has its client watched: when that goes away, the request's context ends.
const sweepEvery = 250 * time.Millisecond

// watch is the state of the watch over a client. conn.mu guards it.
type watch struct {
	calls   uint64        // how many requests there were
	seen    uint64        // the request that the last sweep saw, by calls
	overdue bool          // it takes long
	atEnd   bool          // all of it was read: what comes next is not of it
	done    chan struct{} // closed by the watcher; nil: there is none
}

// Read reads from the network with the deadline that was set last. Of a body it
// waits for each piece for the stall timeout, unless the handler has set another.
func (c *conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	c.reading = true
	c.apply(c.until())
	c.mu.Unlock()
	n, err := c.net.Read(p)
	c.mu.Lock()
	c.reading = false
	c.mu.Unlock()
	return n, err
}

// until is the deadline of a read that begins now. c.mu is held.
func (c *conn) until() time.Time {
	if c.deadline.IsZero() && c.watch.done == nil {
		return coarse(c.applied, c.server.StallTimeout)
	}
	return c.deadline
}

// apply tells the network a deadline. c.mu is held.
func (c *conn) apply(until time.Time) {
	if until != c.applied {
		c.applied = until
		_ = c.net.SetReadDeadline(until) // a closed connection fails at the read
	}
}

// coarse returns a deadline for a timeout from now, or up to a quarter later:
// had, if it will do, because setting one costs more than keeping it.
func coarse(had time.Time, timeout time.Duration) time.Time {
	now := time.Now()
	least, most := now.Add(timeout), now.Add(timeout+timeout/4)
	if had.Before(least) || had.After(most) {
		return most
	}
	return had
}

// setReadDeadline bounds the read that waits and those that follow. It costs
// nothing if there are none.
func (c *conn) setReadDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if c.reading && c.watch.done == nil {
		c.apply(c.until())
	}
}

// begin notes that a call is under way.
func (c *conn) begin(cancel context.CancelFunc, atEnd bool) {
	c.mu.Lock()
	c.cancel, c.deadline = cancel, time.Time{}
	c.watch.calls++
	c.watch.overdue, c.watch.atEnd = false, atEnd
	c.mu.Unlock()
	c.server.sweep()
}

// bodyEnded notes that all of the request was read.
func (c *conn) bodyEnded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watch.atEnd = true
	c.startWatch()
}

// gone reports whether the client was seen to have gone.
func (c *conn) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

// lost ends the request whose client is gone.
func (c *conn) lost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = true
	if c.cancel != nil {
		c.cancel()
	}
}

// startWatch has the client watched if it is time. c.mu is held, and nobody
// reads: the request is at its end.
func (c *conn) startWatch() {
	if c.cancel == nil || !c.watch.overdue || !c.watch.atEnd || c.watch.done != nil || c.broken || c.in.Buffered() > 0 {
		return
	}
	c.watch.done = make(chan struct{})
	c.deadline = time.Time{} // none: the call may take its time
	go func(done chan struct{}) {
		defer close(done)
		// A byte is of the next request: then nobody can tell any more.
		if _, err := c.in.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			c.lost()
		}
	}(c.watch.done)
}

// finish ends the call, the watch over it, and a read of the body (nil: there is
// none) that somebody was left with. After it nobody else reads.
func (c *conn) finish(b *body) {
	c.mu.Lock()
	c.cancel = nil
	done := c.watch.done
	if done != nil {
		c.deadline = longAgo // for a watch that has yet to begin its read, too
		c.apply(longAgo)
	}
	c.mu.Unlock()
	if done != nil {
		<-done
		c.mu.Lock()
		c.watch.done = nil
		c.mu.Unlock()
	}
	if b != nil {
		if !b.mu.TryLock() {
			c.setReadDeadline(longAgo)
			b.mu.Lock()
		}
		b.mu.Unlock()
	}
}

// longAgo is a deadline that makes a read return.
var longAgo = time.Unix(1, 0)

// sweep has somebody look at the calls under way until there are none.
func (s *Server) sweep() {
	if s.sweeping.Load() || !s.sweeping.CompareAndSwap(false, true) {
		return
	}
	go func() {
		ticker := time.NewTicker(sweepEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-s.drained:
				return
			}
			if s.lookAround() {
				continue
			}
			s.sweeping.Store(false)
			// A call that began meanwhile found somebody who had gone.
			if !s.lookAround() || !s.sweeping.CompareAndSwap(false, true) {
				return
			}
		}
	}()
}

// lookAround looks at each connection and reports whether there is a call.
func (s *Server) lookAround() (calls bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		calls = c.look() || calls
	}
	return calls
}

// look has the client watched if its call takes long.
func (c *conn) look() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel == nil {
		return false
	}
	if c.watch.seen == c.watch.calls {
		c.watch.overdue = true
		c.startWatch()
	}
	c.watch.seen = c.watch.calls
	return true
}
