package h1

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/civibus/civibus/internal/rawio"
)

// wire is the connection below TLS. It counts what is written, lets no write
// hang, and can tell whether the other side is silent.
type wire struct {
	net.Conn
	stall    time.Duration
	onClose  func()
	breakOff func() // closes it, without a word

	written atomic.Int64
	closed  atomic.Bool
	quiet   bool // read nothing: only what is in memory counts

	raw    syscall.RawConn // nil: it has none
	look   func(fd uintptr)
	silent bool // what look found
}

func newWire(c net.Conn, stall time.Duration, onClose func()) *wire {
	w := &wire{Conn: rawio.Wrap(c), stall: stall, onClose: onClose}
	w.breakOff = func() { _ = w.Close() }
	if s, ok := c.(syscall.Conn); ok && rawio.CanPeek {
		if raw, err := s.SyscallConn(); err == nil {
			w.raw, w.look = raw, func(fd uintptr) { w.silent = rawio.Silent(fd) }
		}
	}
	return w
}

// Read reads unless the wire is quiet.
func (w *wire) Read(p []byte) (int, error) {
	if w.quiet {
		return 0, errQuiet{}
	}
	return w.Conn.Read(p)
}

// Write writes within the stall timeout.
func (w *wire) Write(p []byte) (int, error) {
	if err := w.SetWriteDeadline(time.Now().Add(w.stall)); err != nil {
		return 0, err
	}
	n, err := w.Conn.Write(p)
	w.written.Add(int64(n))
	return n, err
}

// Close closes the connection and counts it out, once.
func (w *wire) Close() error {
	if !w.closed.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	err := w.Conn.Close()
	if w.onClose != nil {
		w.onClose()
	}
	return err
}

// idle reports whether the connection is open and nothing has come in.
func (w *wire) idle() bool {
	if w.raw != nil {
		w.silent = false
		return w.raw.Control(w.look) == nil && w.silent
	}
	// Not a socket of the operating system: there is only asking and not waiting long.
	if w.SetReadDeadline(time.Now().Add(time.Millisecond)) != nil {
		return false
	}
	var one [1]byte
	n, err := w.Conn.Read(one[:])
	timeout, ok := err.(net.Error)
	return n == 0 && ok && timeout.Timeout()
}

// errQuiet is what a quiet wire reads. It is temporary, so that TLS goes on
// after it.
type errQuiet struct{}

func (errQuiet) Error() string   { return "nothing in memory" }
func (errQuiet) Timeout() bool   { return true }
func (errQuiet) Temporary() bool { return true }
