package ldb

import (
	"fmt"
	"os"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/civibus/civibus/internal/backup/dump"
)

// restoreBatch is how many bytes are written at once while a database is restored.
const restoreBatch = 4 << 20

// Backup adds what the database holds now to a backup, as name + dump.Suffix; it may be
// written meanwhile. proceed is asked now and then whether to go on.
func (d *DB) Backup(put dump.Put, name string, proceed func() error) error {
	snapshot, err := d.GetSnapshot()
	if err != nil {
		return fmt.Errorf("back up %s: %w", name, err)
	}
	defer snapshot.Release()
	it := snapshot.NewIterator(nil, &opt.ReadOptions{DontFillCache: true})
	defer it.Release()
	return dump.Database(put, name, it, proceed)
}

// BackupDir is Backup of a database that no process has open.
func BackupDir(dir string, put dump.Put, name string, proceed func() error) (err error) {
	db, err := Open(dir, opt.Options{ReadOnly: true, ErrorIfMissing: true})
	if err != nil {
		return fmt.Errorf("back up %s: %w", name, err)
	}
	defer func() {
		if cerr := db.Close(); err == nil {
			err = cerr
		}
	}()
	return db.Backup(put, name, proceed)
}

// Restore makes the database dir of the folder dir + dump.Suffix, which it removes.
func Restore(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	db, err := Open(dir, opt.Options{ErrorIfExist: true})
	if err != nil {
		return fmt.Errorf("restore %s: %w", dir, err)
	}
	defer func() {
		if cerr := db.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = os.RemoveAll(dir + dump.Suffix)
		}
	}()
	var b leveldb.Batch
	size := 0
	flush := func(sync bool) error {
		err := db.Write(&b, &opt.WriteOptions{Sync: sync})
		b.Reset()
		size = 0
		return err
	}
	err = dump.Load(dir+dump.Suffix, func(key, value []byte) error {
		b.Put(key, value)
		if size += len(key) + len(value); size < restoreBatch {
			return nil
		}
		return flush(false)
	})
	if err != nil {
		return err
	}
	return flush(true)
}
