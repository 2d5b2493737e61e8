package wal

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/civibus/civibus/internal/rawio"
)

// syncer makes a file durable for the one who leads. A call of fdatasync holds
// the thread and, until Go's monitor notices, the processor that other
// exchanges could use: at 16 connections that cost a quarter of the throughput.
// So while others wait the sync is handed to the kernel (io_submit with
// IOCB_CMD_FDSYNC, Linux 4.18) and the leader parks until an eventfd says that
// it is done. With nobody else about, blocking is about 40 microseconds
// faster, and is done.
//
// Where the kernel or a sandbox refuses, every sync blocks.
type syncer struct {
	context uintptr         // of the kernel; 0: none
	done    *os.File        // eventfd, counts what has ended
	doneFd  int             // its number; Fd would take it from Go's poller
	signal  syscall.RawConn // of done
	refused bool
	control controlBlock
	blocks  [1]*controlBlock
}

// controlBlock is struct iocb of the kernel's linux/aio_abi.h; the fields that
// a sync does not use stay zero and have no name here.
type controlBlock struct {
	_         uint64 // aio_data
	_, _      uint32 // aio_key, aio_rw_flags
	op        uint16
	_         int16 // aio_reqprio
	fd        uint32
	_, _      uint64 // aio_buf, aio_nbytes
	_         int64  // aio_offset
	_         uint64 // aio_reserved2
	flags, ev uint32
}

// completion is struct io_event of the same.
type completion struct {
	_, _      uint64 // data, obj
	result, _ int64
}

const (
	opDatasync    = 3 // IOCB_CMD_FDSYNC
	flagSignalled = 1 // IOCB_FLAG_RESFD
)

// datasync makes f durable; busy says that others wait meanwhile.
func (s *syncer) datasync(f File, busy bool) error {
	file, ok := f.(osFile)
	if !busy || !ok || s.refused {
		return f.Datasync()
	}
	// 1. The kernel's context, once.
	if s.context == 0 {
		if err := s.open(); err != nil {
			s.refused = true
			return f.Datasync()
		}
	}
	// 2. Hand over.
	s.control = controlBlock{op: opDatasync, fd: uint32(file.Fd()), flags: flagSignalled, ev: uint32(s.doneFd)}
	s.blocks[0] = &s.control
	if _, _, e := unix.RawSyscall(unix.SYS_IO_SUBMIT, s.context, 1, uintptr(unsafe.Pointer(&s.blocks[0]))); e != 0 {
		s.refused = e != unix.EAGAIN // busy with others' work now, or never able to
		return f.Datasync()
	}
	// 3. Wait. From here on only the kernel's word counts.
	return s.wait()
}

func (s *syncer) open() error {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&s.context)), 0); e != 0 {
		unix.Close(fd)
		return fmt.Errorf("io_setup: %w", e)
	}
	s.done, s.doneFd = os.NewFile(uintptr(fd), "eventfd"), fd
	s.signal, err = s.done.SyscallConn()
	return err
}

// wait parks until the kernel has ended the sync.
func (s *syncer) wait() error {
	for {
		if err := rawio.ReadCounter(s.signal); err != nil {
			return fmt.Errorf("wait for the disk: %w", err)
		}
		var c completion
		var noWait unix.Timespec
		n, _, e := unix.RawSyscall6(unix.SYS_IO_GETEVENTS, s.context, 1, 1, uintptr(unsafe.Pointer(&c)), uintptr(unsafe.Pointer(&noWait)), 0)
		switch {
		case e != 0:
			return fmt.Errorf("io_getevents: %w", e)
		case n == 1 && c.result != 0:
			return unix.Errno(-c.result)
		case n == 1:
			return nil
		}
	}
}

// close gives the context back.
func (s *syncer) close() error {
	if s.context == 0 {
		return nil
	}
	_, _, e := unix.Syscall(unix.SYS_IO_DESTROY, s.context, 0, 0)
	s.context = 0
	err := s.done.Close()
	if e != 0 {
		err = errors.Join(err, fmt.Errorf("io_destroy: %w", e))
	}
	return err
}
