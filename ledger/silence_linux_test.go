package ledger_test

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/civibus/civibus/ledger"
)

// TestEndSilence: the connection to the address gets its limit, and no other.
// test/network TestPartition shows what it is good for.
func TestEndSilence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	timeout := func(c net.Conn) (ms int) {
		raw, err := c.(*net.TCPConn).SyscallConn()
		check(t, err)
		check(t, raw.Control(func(fd uintptr) {
			ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		}))
		check(t, err)
		return ms
	}
	var accepted [2]net.Conn
	for i := range accepted {
		c, err := net.Dial("tcp", l.Addr().String())
		check(t, err)
		defer c.Close()
		accepted[i], err = l.Accept()
		check(t, err)
		defer accepted[i].Close()
	}
	if !ledger.EndSilence(accepted[0].RemoteAddr()) {
		t.Fatal("the connection was not found")
	}
	if got, other := timeout(accepted[0]), timeout(accepted[1]); got != 4000 || other != 0 {
		t.Errorf("the limits are %d and %d ms, want 4000 and none", got, other)
	}
	if ledger.EndSilence(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}) || ledger.EndSilence(&net.UnixAddr{Name: "x"}) {
		t.Error("a connection was found that is not there")
	}
}
