package evidence

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/civibus/civibus/evidence/tiles"
	"github.com/civibus/civibus/evidence/wal"
	"github.com/civibus/civibus/internal/shred"
)

// Reader reads the log of a stopped gateway. It changes nothing.
type Reader struct {
	lock       *os.File
	reading    reading
	origin     string
	size       uint64
	checkpoint tiles.Checkpoint
}

// OpenReader opens the log in dir for reading, while no process has it open.
// Entries that are not yet in the Merkle log are not seen.
func OpenReader(dir string) (*Reader, error) {
	if _, err := os.Stat(filepath.Join(dir, lockFile)); err != nil {
		return nil, fmt.Errorf("read evidence log: %s holds none: %w", dir, err)
	}
	lock, err := lockDir(dir, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	r := &Reader{lock: lock}
	if err := r.open(dir); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Reader) open(dir string) error {
	x, err := openIndex(filepath.Join(dir, indexDir), true)
	if err != nil {
		return err
	}
	keys, err := readKeys(filepath.Join(dir, keysFile))
	if err != nil {
		return fmt.Errorf("read evidence log: %w", err)
	}
	r.reading = reading{x, func(pos wal.Position) ([]byte, error) {
		return wal.ReadAt(filepath.Join(dir, walDir), pos)
	}, keys}
	origin, err := x.get(key('m', "origin"))
	if err != nil {
		return err
	}
	r.origin = string(origin)
	if _, r.size, err = x.state(); err != nil {
		return err
	}
	raw, file, err := tiles.ReadCheckpoint(filepath.Join(dir, treeDir))
	if err != nil {
		return fmt.Errorf("read evidence log: %w", err)
	}
	if r.checkpoint, err = tiles.ParseCheckpoint(raw, r.origin, nil); err != nil {
		return fmt.Errorf("read evidence log: %s: %w", file, err)
	}
	return nil
}

// readKeys reads the erasure keys of a log; nil if they are not there, which is no error
// as long as nothing is sealed.
func readKeys(file string) (*shred.Keys, error) {
	keys, err := shred.OpenReader(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return keys, err
}

// Close releases the directory.
func (r *Reader) Close() error {
	if r.reading.index != nil {
		r.reading.index.close()
	}
	return r.lock.Close()
}

// Origin returns the log's origin.
func (r *Reader) Origin() string { return r.origin }

// Size returns how many entries the Merkle log has.
func (r *Reader) Size() uint64 { return r.size }

// Checkpoint returns the last checkpoint; its signature is not checked.
func (r *Reader) Checkpoint() (note []byte, size uint64, root [32]byte) {
	return r.checkpoint.Note, r.checkpoint.Size, r.checkpoint.Root
}

// Find returns every entry of an exchange that is kept.
func (r *Reader) Find(exchangeID string) ([]Entry, error) { return r.reading.find(exchangeID) }

// Entries goes through the entries from..to (to excluded); those whose record
// has been deleted are left out. It ends with the first error.
func (r *Reader) Entries(ctx context.Context, from, to uint64) iter.Seq2[Entry, error] {
	return r.reading.entries(ctx, from, min(to, r.size))
}
