package rawio_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/civibus/civibus/internal/rawio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns both ends of a connection, the first one wrapped.
func pair(t testing.TB) (net.Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return rawio.Wrap(a), b.(*net.TCPConn)
}

// TestCarriesBytes sends much both ways at once: writes have to wait.
func TestCarriesBytes(t *testing.T) {
	a, b := pair(t)
	sent := make([]byte, 4<<20)
	_, _ = rand.Read(sent)
	var group sync.WaitGroup
	for _, c := range []net.Conn{a, b} {
		group.Go(func() {
			if n, err := c.Write(sent); n != len(sent) || err != nil {
				t.Error(n, err)
			}
			if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		group.Go(func() {
			if n, err := c.Read(nil); n != 0 || err != nil {
				t.Error(n, err)
			}
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	group.Wait()
}

func TestCopies(t *testing.T) {
	a, b := pair(t)
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(a, bytes.NewReader([]byte("there")))
		done <- err
	}()
	room := make([]byte, 5)
	if _, err := io.ReadFull(b, room); err != nil || string(room) != "there" || <-done != nil {
		t.Errorf("%q %v", room, err)
	}
	_, _ = b.Write([]byte("and back"))
	_ = b.Close()
	var back bytes.Buffer
	if _, err := io.Copy(&back, a); err != nil || back.String() != "and back" {
		t.Errorf("%q %v", back.String(), err)
	}
}

func TestDeadlines(t *testing.T) {
	a, _ := pair(t)
	_ = a.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	_, err := a.Read(make([]byte, 1))
	var timeout net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("read: %v", err)
	}
	much := make([]byte, 64<<20)
	_ = a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := a.Write(much) // nobody reads
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == len(much) {
		t.Errorf("write: %d, %v", n, err)
	}
	read := make(chan error)
	_ = a.SetReadDeadline(time.Time{})
	go func() {
		_, err := a.Read(make([]byte, 1))
		read <- err
	}()
	_ = a.SetReadDeadline(time.Unix(1, 0)) // while it waits, or before
	if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read under way: %v", err)
	}
}

func TestClosed(t *testing.T) {
	a, _ := pair(t)
	read := make(chan error)
	go func() {
		_, err := a.Read(make([]byte, 1))
		read <- err
	}()
	_ = a.Close()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if c := rawio.Wrap(a); c != a {
		t.Error("wrapped twice")
	}
}

func TestReset(t *testing.T) {
	a, b := pair(t)
	_ = b.SetLinger(0)
	_ = b.Close()
	_, err := a.Read(make([]byte, 1))
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	if _, err = a.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v", err)
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "write" || op.Addr.String() != b.LocalAddr().String() {
		t.Errorf("write: %+v", op)
	}
}

func TestOthersStayAsTheyAre(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if rawio.Wrap(a) != a {
		t.Error("a pipe is no TCP connection")
	}
}
