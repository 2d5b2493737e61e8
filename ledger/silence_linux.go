package ledger

import (
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// silence is how long a peer may leave unacknowledged what was sent to it before the
// connection counts as dead.
const silence = 4 * time.Second

// endSilence has the kernel end the connection to remote when the other side
// acknowledges nothing for a while (TCP_USER_TIMEOUT, tcp(7)). Otherwise, after a cut
// of half a minute, the kernel waits as long again before it sends the next time, and
// the engine, which asks its peers for a sign of life once a minute, with it. The
// engine keeps its connections to itself, so they are looked for among those of the
// process; several nodes in one process may each have one to the same address. It
// reports whether there was any.
func endSilence(remote net.Addr) (found bool) {
	want, ok := remote.(*net.TCPAddr)
	if !ok {
		return false
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return false
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		peer, err := unix.Getpeername(fd)
		if err != nil || !sameAddress(peer, want) {
			continue
		}
		if unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds())) == nil {
			found = true
		}
	}
	return found
}

func sameAddress(a unix.Sockaddr, want *net.TCPAddr) bool {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return a.Port == want.Port && want.IP.Equal(a.Addr[:])
	case *unix.SockaddrInet6:
		return a.Port == want.Port && want.IP.Equal(a.Addr[:])
	}
	return false
}
