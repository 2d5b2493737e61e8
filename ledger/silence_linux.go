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
// engine keeps its connections to itself, so it is looked for among those of the
// process. It reports whether it was found.
func endSilence(remote net.Addr) bool {
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
			return true
		}
	}
	return false
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
