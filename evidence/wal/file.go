package wal

import (
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/civibus/civibus/internal/rawio"
)

// File is what the log needs of an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Datasync makes what was written durable, with the metadata needed to read it.
	Datasync() error
	Truncate(size int64) error
	Size() (int64, error)
}

// OpenFunc opens a file. Tests pass one that injects faults.
type OpenFunc func(name string, flag int, perm os.FileMode) (File, error)

// OpenOS opens a file of the operating system.
func OpenOS(name string, flag int, perm os.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

type osFile struct{ *os.File }

// WriteAt writes a group without telling the scheduler: whoever appends waits for
// it anyway.
func (f osFile) WriteAt(p []byte, at int64) (int, error) { return rawio.WriteAt(f.File, p, at) }

// Datasync calls fdatasync.
func (f osFile) Datasync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// Size returns the file's length.
func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
