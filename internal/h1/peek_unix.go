//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package h1

import "syscall"

const canPeek = true

// nothingToRead reports whether a read of the socket would wait: neither data
// nor an end nor an error is there.
func nothingToRead(fd uintptr) bool {
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return err == syscall.EAGAIN
}
