package h1

import (
	"bufio"
	"context"
	"net"
	"slices"
	"time"
)

// take returns a connection for one exchange: the one used last of those that
// are idle and in order, else a new one, else, when there are as many as there
// may be, the next that becomes free. A fresh one is a new one if there may be one
// more.
func (p *Pool) take(ctx context.Context, fresh bool) (c *conn, reused bool, err error) {
	for {
		p.mu.Lock()
		if n := len(p.idle); n > 0 && !(fresh && p.open < p.config.MaxConns) {
			c = p.idle[n-1]
			p.idle[n-1] = nil
			p.idle = p.idle[:n-1]
			p.mu.Unlock()
		} else if p.open < p.config.MaxConns {
			p.open++
			p.mu.Unlock()
			c, err = p.add(ctx)
			return c, false, err
		} else if c, err = p.wait(ctx); err != nil {
			return nil, false, err
		} else if c == nil {
			c, err = p.add(ctx)
			return c, false, err
		}
		if c.usable() {
			return c, true, nil
		}
		p.drop(c)
	}
}

// wait returns a connection that became free, or nil when one may be opened.
// p.mu is held and given up.
func (p *Pool) wait(ctx context.Context) (*conn, error) {
	turn := make(chan *conn, 1)
	p.waiting = append(p.waiting, turn)
	p.mu.Unlock()
	select {
	case c := <-turn:
		return c, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	if i := slices.Index(p.waiting, turn); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		p.mu.Unlock()
		return nil, context.Cause(ctx)
	}
	p.mu.Unlock()
	if c := <-turn; c != nil { // it came at the same time: the next one may have it
		p.put(c)
	} else {
		p.leave()
	}
	return nil, context.Cause(ctx)
}

// next hands c, or with nil the right to open a connection, to who waits
// longest. p.mu is held.
func (p *Pool) next(c *conn) bool {
	if len(p.waiting) == 0 {
		return false
	}
	turn := p.waiting[0]
	p.waiting = slices.Delete(p.waiting, 0, 1)
	turn <- c
	return true
}

// add opens a connection that is counted already.
func (p *Pool) add(ctx context.Context) (*conn, error) {
	c, err := p.dial(ctx)
	if err != nil {
		p.leave()
	}
	return c, err
}

func (p *Pool) dial(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.config.DialTimeout)
	defer cancel()
	start := time.Now()
	raw, err := p.config.Dial(ctx)
	if err != nil {
		return nil, err
	}
	w := newWire(raw, p.config.StallTimeout, p.config.Closed)
	c := &conn{pool: p, wire: w, secure: net.Conn(w)}
	if p.config.Handshake != nil {
		if c.secure, err = p.config.Handshake(ctx, w); err != nil {
			_ = w.Close()
			return nil, err
		}
		c.layered = true
	}
	if p.config.Opened != nil {
		p.config.Opened(time.Since(start))
	}
	c.in = bufio.NewReaderSize(c, readBuffer)
	return c, nil
}

// put keeps a connection for the next request.
func (p *Pool) put(c *conn) {
	c.since = time.Now()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.drop(c)
		return
	}
	defer p.mu.Unlock()
	if p.next(c) {
		return
	}
	p.idle = append(p.idle, c)
	if p.sweeper == nil {
		p.sweeper = time.AfterFunc(p.config.IdleTimeout/4, p.sweep)
	}
}

// drop closes a connection and makes room for another.
func (p *Pool) drop(c *conn) {
	c.close()
	p.leave()
}

// leave gives up the place of one connection.
func (p *Pool) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.next(nil) {
		p.open--
	}
}

// sweep closes the idle connections that were not used for long or that the
// other side has closed, and comes again as long as there are any.
func (p *Pool) sweep() {
	p.mu.Lock()
	var old []*conn
	p.idle = slices.DeleteFunc(p.idle, func(c *conn) bool {
		if c.usable() {
			return false
		}
		old = append(old, c)
		return true
	})
	p.sweeper = nil
	if len(p.idle) > 0 {
		p.sweeper = time.AfterFunc(p.config.IdleTimeout/4, p.sweep)
	}
	p.mu.Unlock()
	for _, c := range old {
		p.drop(c)
	}
}

// Close closes the idle connections, and from now on every other when its
// exchange ends. Requests that begin after it still get one.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	old := p.idle
	p.idle = nil
	if p.sweeper != nil {
		p.sweeper.Stop()
		p.sweeper = nil
	}
	p.mu.Unlock()
	for _, c := range old {
		p.drop(c)
	}
}
