package usage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/civibus/civibus/internal/ldb"
)

// KeptDir is the folder of what is not derived from the evidence log, in a store's.
const KeptDir = "kept"

// Backup adds periods and cases to a backup under name. The index is not in it: it is
// built again from the evidence log.
func (s *Store) Backup(ctx context.Context, put func(name string, size int64, content io.Reader) error, name string) error {
	return s.kept.Backup(put, name+"/"+KeptDir, ctx.Err)
}

// BackupDir is Backup of a store that no process has open.
func BackupDir(ctx context.Context, dir string, put func(name string, size int64, content io.Reader) error, name string) error {
	return ldb.BackupDir(filepath.Join(dir, KeptDir), put, name+"/"+KeptDir, ctx.Err)
}

// keyMark is the entry that tells the body's key from another, without telling the key.
var keyMark = []byte{'k'}

// ErrOtherKey says that persons would not be found with a key.
var ErrOtherKey = errors.New("the usage key is not the one that the usage records until now were made with: put that one back (civibus backup --with-keys holds it), or nobody is found in them")

// checkKey refuses a key that is another than that of the records until now: of a body
// that was restored without its keys, a node makes a new one.
func (s *Store) checkKey() error {
	mark, err := s.kept.Get(keyMark, nil)
	switch {
	case errors.Is(err, leveldb.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("usage records: %w", err)
	}
	s.marked = true
	if tag := s.cfg.Keeper.mark(); !bytes.Equal(mark, tag[:]) {
		return ErrOtherKey
	}
	return nil
}

// markKey notes the key with which there are records.
func (s *Store) markKey() error {
	if s.marked {
		return nil
	}
	tag := s.cfg.Keeper.mark()
	if err := s.kept.Put(keyMark, tag[:], &opt.WriteOptions{Sync: true}); err != nil {
		return fmt.Errorf("usage records: %w", err)
	}
	s.marked = true
	return nil
}

// mark is of no person: an identifier is at most 256 bytes.
func (k *Keeper) mark() Tag { return k.Tag(string(make([]byte, maxSubject+1))) }
