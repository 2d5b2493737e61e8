// Package ldb opens goleveldb databases: without passing over damage, and with tables
// that are written in large pieces.
//
// goleveldb makes a system call for each block of 4 KiB. Tables are written again and
// again while they are merged, so that these calls took a tenth of a busy ledger's time.
//
// Trust: it is given directories of this node and believes what is in them as far as
// goleveldb's checksums go.
package ldb

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/syndtr/goleveldb/leveldb"
	ldberrors "github.com/syndtr/goleveldb/leveldb/errors"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/storage"
	"github.com/syndtr/goleveldb/leveldb/util"
)

// tableBuffer is how many bytes of a table are written with one call.
const tableBuffer = 128 << 10

// DB is a database in a directory.
type DB struct {
	*leveldb.DB
	files storage.Storage // nil: another closes them
}

// strict makes goleveldb report damage of any file where it would pass over it: a
// database of which a part is missing is worse than one that does not open.
const strict = opt.StrictManifest | opt.StrictJournal | opt.StrictJournalChecksum |
	opt.StrictBlockChecksum | opt.StrictCompaction | opt.StrictReader

// Open opens a database whose writes are all synced. The machine may have lost power in
// the middle of the last write, which nobody was told of: such a torn end of a journal
// is cut off, or passed over if the database is opened for reading only. All other
// damage is an error of which Damaged tells the file.
func Open(dir string, options opt.Options) (*DB, error) {
	options.Strict = strict
	if options.ReadOnly {
		if err := checkJournals(dir); err != nil {
			return nil, err
		}
		options.Strict &^= opt.StrictJournal
	}
	recovers := !options.ReadOnly && hasJournal(dir)
	for cuts := 0; ; cuts++ {
		db, err := open(dir, &options)
		if err == nil && recovers {
			// goleveldb never removes the tables that it makes of a journal until the
			// next start, and what was deleted of them must be removable before.
			if err := db.Close(); err != nil {
				return nil, err
			}
			return open(dir, &options)
		}
		damage := Damaged(err)
		if damage == nil || cuts == 2 || options.ReadOnly { // one journal and one manifest are open at a time
			return db, err
		}
		name := ""
		switch damage.Fd.Type {
		case storage.TypeJournal:
			name = fmt.Sprintf("%06d.log", damage.Fd.Num)
		case storage.TypeManifest:
			name = fmt.Sprintf("MANIFEST-%06d", damage.Fd.Num)
		default:
			return nil, err
		}
		torn, terr := cutTornEnd(filepath.Join(dir, name))
		if terr != nil || !torn {
			return nil, errors.Join(err, terr)
		}
	}
}

// hasJournal reports whether a database was closed with something in its journal.
func hasJournal(dir string) bool {
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	return err == nil && slices.ContainsFunc(names, func(name string) bool {
		info, err := os.Stat(name)
		return err == nil && info.Size() > 0
	})
}

// purgeWait is how long Purge waits for files that somebody reads still.
const purgeWait = 10 * time.Second

// purged is a key that Purge writes, after all others.
var purged = []byte("\xff\xffpurged")

// Purge removes what was deleted or replaced under keys from the files too. The names of
// keys may be the bounds of files in the database's own records until the next start.
func (d *DB) Purge(keys [][]byte) error {
	if len(keys) == 0 {
		return nil
	}
	// 1. Files without it. The database remembers the last key of what it wrote anew, so
	// that one comes last that says nothing.
	if err := d.Put(purged, nil, &opt.WriteOptions{Sync: true}); err != nil {
		return err
	}
	for _, k := range append(slices.Clone(keys), purged) {
		if err := d.CompactRange(util.Range{Start: k, Limit: append(slices.Clone(k), 0)}); err != nil {
			return err
		}
	}
	// 2. The others go when nobody reads them any more.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(purgeWait)
	for {
		old, err := d.oldTables()
		if err != nil || old == "" {
			return err
		}
		select {
		case <-tick.C:
		case <-late:
			return fmt.Errorf("%s is still being read: it goes at the next start at the latest", old)
		}
	}
}

// oldTables returns a table that is there and no part of the database any more.
func (d *DB) oldTables() (string, error) {
	if d.files == nil {
		return "", nil
	}
	there, err := d.files.List(storage.TypeTable)
	if err != nil {
		return "", err
	}
	text, err := d.GetProperty("leveldb.sstables")
	if err != nil {
		return "", err
	}
	now := map[int64]bool{}
	for line := range strings.Lines(text) {
		number, _, ok := strings.Cut(strings.TrimSpace(line), ":")
		if n, err := strconv.ParseInt(number, 10, 64); ok && err == nil {
			now[n] = true
		}
	}
	for _, fd := range there {
		if !now[fd.Num] {
			return fd.String(), nil
		}
	}
	return "", nil
}

// Damaged returns what is damaged if that is the error, or nil.
func Damaged(err error) *ldberrors.ErrCorrupted {
	var damage *ldberrors.ErrCorrupted
	if !errors.As(err, &damage) {
		return nil
	}
	return damage
}

// open is leveldb.OpenFile.
func open(dir string, options *opt.Options) (*DB, error) {
	files, err := storage.OpenFile(dir, options.ReadOnly)
	if err != nil {
		return nil, err
	}
	db, err := leveldb.Open(tables{files}, options)
	if err != nil {
		return nil, errors.Join(err, files.Close())
	}
	return &DB{db, files}, nil
}

// Close closes the database and its files.
func (d *DB) Close() error {
	err := d.DB.Close()
	if d.files != nil {
		err = errors.Join(err, d.files.Close())
	}
	return err
}

// tables is a storage that buffers what is written to tables. A table is synced
// before anything names it; journals and manifests are written as they come.
type tables struct{ storage.Storage }

// Create is Storage's.
func (t tables) Create(fd storage.FileDesc) (storage.Writer, error) {
	w, err := t.Storage.Create(fd)
	if err != nil || fd.Type != storage.TypeTable {
		return w, err
	}
	return &tableWriter{w, bufio.NewWriterSize(w, tableBuffer)}, nil
}

type tableWriter struct {
	storage.Writer
	buffer *bufio.Writer
}

// Write is io.Writer's.
func (w *tableWriter) Write(p []byte) (int, error) { return w.buffer.Write(p) }

// Sync makes everything durable that was written.
func (w *tableWriter) Sync() error {
	if err := w.buffer.Flush(); err != nil {
		return err
	}
	return w.Writer.Sync()
}

// Close closes the file. What was not synced is not needed: the table was given up.
func (w *tableWriter) Close() error { return errors.Join(w.buffer.Flush(), w.Writer.Close()) }
