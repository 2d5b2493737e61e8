//go:build linux

package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Relay stands between all machines of a network: it listens at an address for
// each body, at which the others know it, and carries the bytes on. What is between
// two bodies it can slow, narrow, hold and reset, each direction by itself. It sees
// TCP only: what it holds is not lost, it comes when the line is released, as it
// would if a network repeated what it lost; a connection that is opened across a
// silent line is accepted here and says nothing.
type Relay struct {
	network *Network

	mu        sync.Mutex
	lines     map[[2]*Body]Line      // from, to; what is not here is the zero Line
	changed   chan struct{}          // closed when lines change
	free      map[[2]*Body]time.Time // from when a narrow line can take more
	open      map[net.Conn][2]*Body  // both ends of what is carried
	listeners []net.Listener
}

// Line is how bytes go from one body to another. The zero Line is a good one.
type Line struct {
	Latency time.Duration
	Rate    int // bytes a second, of all connections together; 0 is unbounded
	Silent  bool
}

// held is how much of a connection's direction the relay takes before its sender
// must wait, in chunks: enough for one second at 1 Mbit/s and for the longest
// latency at ordinary speed.
const (
	held  = 64
	chunk = 16 << 10
)

func newRelay(n *Network) (*Relay, error) {
	r := &Relay{network: n, lines: map[[2]*Body]Line{}, free: map[[2]*Body]time.Time{}, changed: make(chan struct{}), open: map[net.Conn][2]*Body{}}
	for _, b := range n.Bodies {
		if err := n.Space.hub.ip("address", "add", r.address(b).String()+"/24", "dev", "br0"); err != nil {
			return r, err
		}
		for _, port := range []string{providerPort, ledgerPort} {
			l, err := n.Space.hub.Listen("tcp", net.JoinHostPort(r.address(b).String(), port))
			if err != nil {
				return r, err
			}
			r.listeners = append(r.listeners, l)
			go r.serve(l, b, port)
		}
	}
	return r, nil
}

// address is where the relay stands for a body.
func (r *Relay) address(b *Body) netip.Addr {
	a := b.Machine.Address.As4()
	a[3] += 100
	return netip.AddrFrom4(a)
}

// Set changes the lines between bodies, in both directions between any of from
// and any of to when both ways is true.
func (r *Relay) Set(line Line, bothWays bool, from, to []*Body) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range from {
		for _, b := range to {
			r.lines[[2]*Body{a, b}] = line
			if bothWays {
				r.lines[[2]*Body{b, a}] = line
			}
		}
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// Clear makes all lines good ones.
func (r *Relay) Clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.lines)
	clear(r.free)
	close(r.changed)
	r.changed = make(chan struct{})
}

// Reset breaks every connection from or to a body and returns how many.
func (r *Relay) Reset(b *Body) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, ends := range r.open {
		if ends[0] == b || ends[1] == b {
			_ = c.(*net.TCPConn).SetLinger(0) // the other end gets a reset
			_ = c.Close()
			n++
		}
	}
	return n / 2
}

// line is how bytes go now, and a channel that is closed when that changes.
func (r *Relay) line(from, to *Body) (Line, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines[[2]*Body{from, to}], r.changed
}

// take books a line for so many bytes, after what all connections have booked
// before, and says when they are across.
func (r *Relay) take(bytes int, from, to *Body) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := [2]*Body{from, to}
	rate := r.lines[key].Rate
	if rate == 0 {
		return time.Time{}
	}
	begin := time.Now()
	if r.free[key].After(begin) {
		begin = r.free[key]
	}
	r.free[key] = begin.Add(time.Duration(bytes) * time.Second / time.Duration(rate))
	return r.free[key]
}

func (r *Relay) serve(l net.Listener, to *Body, port string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go r.carry(c.(*net.TCPConn), to, port)
	}
}

// carry connects a body that has called another to it, and carries bytes both ways
// until one of them has no more to say.
func (r *Relay) carry(c *net.TCPConn, to *Body, port string) {
	defer c.Close()
	from := r.caller(c)
	if from == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	d, err := to.Machine.space.hub.DialContext(ctx, "tcp", net.JoinHostPort(to.Machine.Address.String(), port))
	cancel()
	if err != nil {
		_ = c.SetLinger(0) // refused
		return
	}
	defer d.Close()
	r.mu.Lock()
	r.open[c], r.open[d] = [2]*Body{from, to}, [2]*Body{from, to}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.open, c)
		delete(r.open, d)
		r.mu.Unlock()
	}()
	var both sync.WaitGroup
	both.Go(func() { r.pass(d.(*net.TCPConn), c, from, to) })
	both.Go(func() { r.pass(c, d.(*net.TCPConn), to, from) })
	both.Wait()
}

func (r *Relay) caller(c net.Conn) *Body {
	remote := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	for _, b := range r.network.Bodies {
		if b.Machine.Address == remote {
			return b
		}
	}
	return nil
}

// piece is bytes that arrived at a time.
type piece struct {
	at    time.Time
	bytes []byte
}

// pass carries one direction of a connection as its line is from moment to moment.
func (r *Relay) pass(out, in *net.TCPConn, from, to *Body) {
	pieces := make(chan piece, held)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		defer close(pieces)
		for {
			buffer := make([]byte, chunk)
			n, err := in.Read(buffer)
			if n > 0 {
				select {
				case pieces <- piece{time.Now(), buffer[:n]}:
				case <-ended:
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) { // broken, not ended: so is the other side
					_ = out.SetLinger(0)
					_ = out.Close()
				}
				return
			}
		}
	}()
	for p := range pieces {
		r.wait(p, from, to)
		if _, err := out.Write(p.bytes); err != nil {
			_ = in.SetLinger(0)
			_ = in.Close()
			return
		}
	}
	_ = out.CloseWrite()
}

// wait holds a piece for as long as its line asks for.
func (r *Relay) wait(p piece, from, to *Body) {
	narrow := r.take(len(p.bytes), from, to)
	for {
		line, changed := r.line(from, to)
		due := p.at.Add(line.Latency)
		if line.Rate > 0 && narrow.After(due) {
			due = narrow
		}
		var timer <-chan time.Time
		if !line.Silent {
			left := time.Until(due)
			if left <= 0 {
				return
			}
			timer = time.After(left)
		}
		select {
		case <-timer:
			return
		case <-changed:
		}
	}
}

func (r *Relay) close() {
	for _, l := range r.listeners {
		_ = l.Close()
	}
	r.Clear()
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		_ = c.Close()
	}
}
