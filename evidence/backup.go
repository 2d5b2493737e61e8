package evidence

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/civibus/civibus/evidence/tiles"
	"github.com/civibus/civibus/evidence/wal"
	"github.com/civibus/civibus/internal/backup/dump"
	"github.com/civibus/civibus/internal/ldb"
	"github.com/civibus/civibus/internal/schema"
)

// BackupInfo says how far a log is in a backup.
type BackupInfo struct {
	Origin string
	Size   uint64 // leaves of the Merkle log
	Next   uint64 // records with numbers below are in the backup, and maybe more
}

// Backup adds the running log to a backup under name: every record that was
// acknowledged before the call, the Merkle log at least as far as its last
// checkpoint, and the archived bodies of all these records. Records go on being
// acknowledged meanwhile; nothing reaches the end of its retention.
func (l *Log) Backup(ctx context.Context, put dump.Put, name string) (BackupInfo, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-l.stop:
			cancel(errClosed)
		case <-ended:
		}
	}()
	l.keep.Lock()
	defer l.keep.Unlock()
	next := l.wal.Next()
	l.index.mu.RLock()
	cut, err := l.index.db.GetSnapshot()
	l.index.mu.RUnlock()
	if err != nil {
		return BackupInfo{}, fmt.Errorf("back up evidence log: %w", err)
	}
	info, err := l.cfg.backup(ctx, put, name, cut, func() ([]wal.Segment, error) { return l.wal.Segments(), nil })
	info.Next = next
	return info, err
}

// BackupDir adds the log in dir, which no process has open, to a backup.
func BackupDir(ctx context.Context, dir string, put dump.Put, name string) (BackupInfo, error) {
	lock, err := lockDir(dir, os.O_RDONLY)
	if err != nil {
		return BackupInfo{}, err
	}
	defer lock.Close()
	x, err := openIndex(filepath.Join(dir, indexDir), true)
	if err != nil {
		return BackupInfo{}, err
	}
	defer x.close()
	cut, err := x.db.GetSnapshot()
	if err != nil {
		return BackupInfo{}, fmt.Errorf("back up evidence log: %w", err)
	}
	next, _, err := x.state()
	if err != nil {
		return BackupInfo{}, err
	}
	info, err := Config{Dir: dir}.backup(ctx, put, name, cut, func() ([]wal.Segment, error) { return wal.List(filepath.Join(dir, walDir)) })
	info.Next = next
	return info, err
}

// backup adds the parts of a log in the order in which the start of a log needs
// them: what each part speaks of is in the parts after it, as after a crash.
func (c Config) backup(ctx context.Context, put dump.Put, name string, cut *leveldb.Snapshot, segments func() ([]wal.Segment, error)) (info BackupInfo, err error) {
	defer cut.Release()
	proceed := func() error { return context.Cause(ctx) }
	add := func(part string, size int64, file string) error {
		if err := proceed(); err != nil {
			return err
		}
		return dump.File(put, name+"/"+part, file, size)
	}
	// 1. The index, as of now.
	origin, err := cut.Get(key('m', "origin"), nil)
	if err != nil {
		return info, fmt.Errorf("back up evidence log: its origin: %w", err)
	}
	info.Origin = string(origin)
	it := cut.NewIterator(nil, nil)
	err = dump.Database(put, name+"/"+indexDir, it, proceed)
	it.Release()
	if err != nil {
		return info, err
	}
	// 2. The Merkle log, which is not behind the index.
	if info.Size, err = tiles.Backup(put, name+"/"+treeDir, filepath.Join(c.Dir, treeDir)); err != nil {
		return info, err
	}
	// 3. The write-ahead log, which is not behind the Merkle log: of the segment that
	// is written to, what is durable.
	all, err := segments()
	if err != nil {
		return info, err
	}
	for i, seg := range all {
		size := int64(-1)
		if i == len(all)-1 && seg.Bytes > 0 {
			size = seg.Bytes
		}
		if err := add(walDir+"/"+filepath.Base(seg.Path), size, seg.Path); err != nil {
			return info, err
		}
	}
	// 4. The bodies, which were kept before their records.
	bodies := filepath.Join(c.Dir, archiveDir)
	err = filepath.WalkDir(bodies, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path == bodies:
			return nil
		case err != nil || !d.Type().IsRegular() || !strings.HasSuffix(path, ".body"):
			return err
		}
		part, err := filepath.Rel(c.Dir, path)
		if err != nil {
			return err
		}
		return add(filepath.ToSlash(part), -1, path)
	})
	if err != nil {
		return info, err
	}
	return info, nil
}

// RestoreDir makes a log of what a backup put into dir. The log is then as after a
// crash: the next Open takes up what is not in the Merkle log yet.
func RestoreDir(dir string) error {
	from := filepath.Join(dir, indexDir+dump.Suffix)
	db, err := ldb.Open(filepath.Join(dir, indexDir), opt.Options{ErrorIfExist: true, WriteBuffer: 16 << 20, Compression: opt.NoCompression})
	if err != nil {
		return fmt.Errorf("restore evidence index: %w", err)
	}
	b := new(leveldb.Batch)
	err = dump.Load(from, func(k, v []byte) error {
		b.Put(k, v)
		if b.Len() < 1000 {
			return nil
		}
		err := db.Write(b, nil)
		b.Reset()
		return err
	})
	if err == nil {
		err = db.Write(b, &opt.WriteOptions{Sync: true})
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("restore evidence index: %w", err)
	}
	if err := os.RemoveAll(from); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	version := schemaKnown
	if _, err := os.Stat(filepath.Join(dir, keysFile)); errors.Is(err, fs.ErrNotExist) {
		version = schemaSealed - 1 // a log of before entries were sealed; the check says if it is not
	}
	return errors.Join(f.Close(), schema.Mark(dir, schemaName, version))
}
