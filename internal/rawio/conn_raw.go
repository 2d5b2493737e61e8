//go:build linux && !race

package rawio

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// conn is a TCP connection. Deadlines, closing and addresses are net's own.
type conn struct {
	*net.TCPConn
	raw         syscall.RawConn
	read, write side
}

// side is one direction. Its buffer and outcome are passed to and from the
// function that syscall.RawConn calls until it is done or may wait no longer.
type side struct {
	mu    sync.Mutex // one call at a time
	buf   []byte
	n     int
	errno syscall.Errno
	call  func(fd uintptr) (done bool)
}

func wrap(c *net.TCPConn) net.Conn {
	raw, err := c.SyscallConn()
	if err != nil {
		return c // it is closed, as its user will find
	}
	w := &conn{TCPConn: c, raw: raw}
	w.read.call, w.write.call = w.read.receive, w.write.send
	return w
}

// Read reads what is there, or waits for something.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.do(&c.read, p, c.raw.Read, "read")
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// Write writes all of p.
func (c *conn) Write(p []byte) (int, error) { return c.do(&c.write, p, c.raw.Write, "write") }

// ReadFrom writes what r has.
func (c *conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{c}, r) }

// WriteTo reads all that comes into w.
func (c *conn) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, struct{ io.Reader }{c}) }

func (c *conn) do(s *side, p []byte, when func(func(uintptr) bool) error, name string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf, s.n, s.errno = p, 0, 0
	err := when(s.call)
	s.buf = nil
	if err == nil && s.errno != 0 {
		err = &net.OpError{Op: name, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(name, s.errno)}
	}
	return s.n, err
}

// receive reads once.
func (s *side) receive(fd uintptr) (done bool) {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&s.buf[0])), uintptr(len(s.buf))) //nolint:gosec // the call reads into the buffer and keeps no pointer
		switch errno {
		case 0:
			s.n = int(n)
			return true
		case syscall.EAGAIN:
			return false
		case syscall.EINTR:
		default:
			s.errno = errno
			return true
		}
	}
}

// send writes what is left.
func (s *side) send(fd uintptr) (done bool) {
	for s.n < len(s.buf) {
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&s.buf[s.n])), uintptr(len(s.buf)-s.n)) //nolint:gosec // as above
		switch errno {
		case 0:
			s.n += int(n)
		case syscall.EAGAIN:
			return false
		case syscall.EINTR:
		default:
			s.errno = errno
			return true
		}
	}
	return true
}
