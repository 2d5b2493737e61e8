// Package rawio reads from and writes to TCP connections and files without
// telling Go's scheduler.
//
// Sockets never block: their system calls end as soon as there is nothing more
// to do. A short write to a file ends when the kernel has copied it. But on a
// busy machine the kernel may let another thread run in the middle of one, and of
// a call that was announced Go's monitor then thinks that it blocks. It takes the
// call's processor away, wakes another thread for it, and looks again every 20
// microseconds for a while; the first announced call after a pause wakes the
// monitor as well. Calls that are not announced are code like any other. Two
// gateways at 16 connections on two processors: the monitor woke 8,600 times a
// second and took 8 % of the CPU while sockets alone were unannounced; with peeks,
// the replay journal and the write-ahead log as well it wakes 1,400 times.
//
// A call that is not announced holds its processor if it does block, as a write
// to a file does while the kernel makes writers wait for a slow disk. So files
// are for those who would keep everybody waiting anyway.
//
// Trust: it decides nothing.
package rawio

import "net"

// shortWrite is the longest write to a file, in bytes, that is not announced.
const shortWrite = 64 << 10

// Wrap returns c with such reads and writes, or c itself if it is no TCP
// connection or the system is not Linux.
func Wrap(c net.Conn) net.Conn {
	if t, ok := c.(*net.TCPConn); ok {
		return wrap(t)
	}
	return c
}
