package rawio

import (
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// CanPeek says that Silent knows.
const CanPeek = true

// Silent reports whether a read of the socket would wait: neither data nor an end
// nor an error is there.
func Silent(fd uintptr) bool {
	var one [1]byte
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&one[0])), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0) //nolint:gosec // the call reads into the byte and keeps no pointer
	return errno == syscall.EAGAIN
}

// Write writes all of p at f's position. f must be a regular file that is not
// closed meanwhile.
func Write(f *os.File, p []byte) (int, error) {
	if len(p) > shortWrite {
		return f.Write(p)
	}
	return writeAll(f, p, func(fd uintptr, p []byte, _ int) (uintptr, syscall.Errno) {
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p))) //nolint:gosec // as above
		return n, errno
	})
}

// WriteAt writes all of p at the offset at. f must be a regular file that is not
// closed meanwhile.
func WriteAt(f *os.File, p []byte, at int64) (int, error) {
	if len(p) > shortWrite {
		return f.WriteAt(p, at)
	}
	return writeAll(f, p, func(fd uintptr, p []byte, done int) (uintptr, syscall.Errno) {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_PWRITE64, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), uintptr(at)+uintptr(done), 0, 0) //nolint:gosec // as above
		return n, errno
	})
}

// writeAll calls write until all of p is written.
func writeAll(f *os.File, p []byte, write func(fd uintptr, p []byte, done int) (uintptr, syscall.Errno)) (int, error) {
	defer runtime.KeepAlive(f)
	done := 0
	for done < len(p) {
		n, errno := write(f.Fd(), p[done:], done)
		switch {
		case errno == syscall.EINTR:
		case errno != 0:
			return done, &os.PathError{Op: "write", Path: f.Name(), Err: errno}
		case n == 0:
			return done, io.ErrShortWrite
		default:
			done += int(n)
		}
	}
	return done, nil
}

// ReadCounter waits until the eventfd behind c, which must not block, has been
// signalled, and resets it.
func ReadCounter(c syscall.RawConn) error {
	var count [8]byte
	var errno syscall.Errno
	err := c.Read(func(fd uintptr) bool {
		for {
			_, _, errno = syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&count[0])), uintptr(len(count))) //nolint:gosec // as above
			if errno != syscall.EINTR {
				return errno != syscall.EAGAIN
			}
		}
	})
	if err == nil && errno != 0 {
		err = os.NewSyscallError("read", errno)
	}
	return err
}
