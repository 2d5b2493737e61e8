package usage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/filter"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/internal/ldb"
	"github.com/civibus/civibus/internal/schema"
	"github.com/civibus/civibus/internal/shred"
)

// Log is what the store is derived from; *evidence.Log is one.
type Log interface {
	// Besides goes through the leaves from..to (to excluded) that concern persons.
	Besides(ctx context.Context, from, to uint64) iter.Seq2[evidence.Entry, error]
	Checkpoint() (note []byte, size uint64, root [32]byte)
	Changed() <-chan struct{}
	Erasures(from uint64, limit int) ([]evidence.Erasure, error)
}

// Config is what a Store is made of.
type Config struct {
	Dir       string        // one process at a time
	Keeper    *Keeper       // has the key by which persons are found
	Retention time.Duration // how long records are kept; 0: for ever
	Clock     civibus.Clock // default time.Now
	Logger    *slog.Logger  // default: none
}

// The keys of the index. Numbers are big-endian.
//
//	c                            the next leaf of the evidence log to be looked at
//	u tag(32) ^time(8) leaf(8)   salt and record: newest first for each person
//	l leaf(8)                    class(1) commitment(32) time(8) tag(32); after deletion class and commitment
//	s leaf(8)                    one more than the leaf of the record that corrects it
//
// And of what is kept beside it:
//
//	p period(8)                  an anchored period (JSON)
//	o number(8)                  an objection (JSON), sealed
//	x leaf(8)                    class and commitment of a record that was erased
//	n                            the number of the evidence log's last erasure that was done here too
//	k                            what tells the key of the records from another
const (
	classSize = 1 + 32
	lineSize  = classSize + 8 + 32
	batchSize = 4096 // leaves that one write covers
)

// Store is the body's index of its usage records. Its methods may be called concurrently.
type Store struct {
	cfg     Config
	db      *ldb.DB // the index, which is derived
	kept    *ldb.DB // periods and cases, which are not
	keys    *shred.Keys
	mu      sync.Mutex // of periods, objections and deletion
	expired time.Time
	marked  bool // the key of the records is noted
}

// Open opens or makes the index.
func Open(cfg Config) (*Store, error) {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	index, kept := filepath.Join(cfg.Dir, "index"), filepath.Join(cfg.Dir, KeptDir)
	db, err := openDB(index, 16<<20, 32<<10)
	if err != nil {
		if ldb.Damaged(err) != nil {
			return nil, fmt.Errorf("the usage index %s is damaged (%w): delete it, and it is built again from the evidence log", index, err)
		}
		return nil, fmt.Errorf("open usage index: %w", err)
	}
	s := &Store{cfg: cfg, db: db}
	if s.kept, err = openDB(kept, 1<<20, 4<<10); err != nil {
		db.Close()
		return nil, fmt.Errorf("open periods and cases in %s: %w; restore the folder from a backup", kept, err)
	}
	if err := s.checkKey(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if s.keys, err = openKeys(cfg.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open periods and cases: %w", err), s.Close())
	}
	return s, nil
}

// The layout of the folder: from 2 on what persons write is sealed.
const (
	schemaName  = "civibus-usage"
	schemaKnown = 2
)

// openKeys opens the keys that what persons write is sealed with, one by one.
func openKeys(dir string) (*shred.Keys, error) {
	version, err := schema.Check(dir, schemaName, schemaKnown)
	if err != nil {
		return nil, err
	}
	keys, err := shred.Open(filepath.Join(dir, "erasure.keys"), version < schemaKnown)
	if err == nil && version < schemaKnown {
		err = schema.Mark(dir, schemaName, schemaKnown)
	}
	return keys, err
}

// openDB opens a database. A person's records lie beside each other, and are read in
// blocks: small ones cost a page of them a hundred reads, and tables large directories.
func openDB(dir string, memory, block int) (*ldb.DB, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return ldb.Open(dir, opt.Options{
		BlockCacheCapacity: memory, BlockSize: block, WriteBuffer: memory / 2, CompactionTableSize: 16 << 20, OpenFilesCacheCapacity: 512,
		DisableSeeksCompaction: true, Filter: filter.NewBloomFilter(10), Compression: opt.NoCompression,
	})
}

// Close closes the index.
func (s *Store) Close() error { return errors.Join(s.db.Close(), s.kept.Close()) }

// Next returns the leaf up to which the index has been built.
func (s *Store) Next() (uint64, error) { return s.number([]byte{'c'}) }

func (s *Store) number(key []byte) (uint64, error) { return numberOf(s.db, key) }

func numberOf(db *ldb.DB, key []byte) (uint64, error) {
	b, err := db.Get(key, nil)
	switch {
	case errors.Is(err, leveldb.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("usage index: %w", err)
	case len(b) != 8:
		return 0, fmt.Errorf("usage index: the entry %x has %d bytes, the rule is 8", key, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

func key(letter byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{letter}, n)
}

func personKey(tag Tag, nano int64, leaf uint64) []byte {
	b := append(make([]byte, 0, 49), 'u')
	b = append(b, tag[:]...)
	b = binary.BigEndian.AppendUint64(b, ^uint64(nano))
	return binary.BigEndian.AppendUint64(b, leaf)
}

// Follow builds the index as the evidence log grows, until ctx ends.
func (s *Store) Follow(ctx context.Context, log Log) error {
	for {
		changed := log.Changed()
		if err := s.CatchUp(ctx, log); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := s.Expire(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.WarnContext(ctx, "usage: records at the end of their retention could not be deleted", "error", err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// CatchUp takes in what the evidence log has under its last checkpoint. Done again after
// a crash, it goes on where it was.
func (s *Store) CatchUp(ctx context.Context, log Log) error {
	next, err := s.Next()
	if err != nil {
		return err
	}
	_, size, _ := log.Checkpoint()
	if next > size {
		return fmt.Errorf("usage index: it was built up to leaf %d, the evidence log has %d: one of them comes from an older backup; delete the index, and it is built again", next, size)
	}
	for next < size {
		to := min(size, next+batchSize)
		b := new(leveldb.Batch)
		for e, err := range log.Besides(ctx, next, to) {
			if err != nil {
				return fmt.Errorf("usage index: %w", err)
			}
			if len(e.Beside) > 0 {
				if err := errors.Join(add(b, e.Index, e.Beside), s.markKey()); err != nil {
					return fmt.Errorf("usage index: leaf %d: %w", e.Index, err)
				}
			}
		}
		if err := s.putErased(b, next, to); err != nil {
			return err
		}
		b.Put([]byte{'c'}, binary.BigEndian.AppendUint64(nil, to))
		if err := s.db.Write(b, nil); err != nil { // what a crash takes is built again
			return fmt.Errorf("usage index: %w", err)
		}
		next = to
	}
	return s.eraseAfter(log)
}

// add puts one record into a batch.
func add(b *leveldb.Batch, leaf uint64, beside []byte) error {
	salt, r, err := open(beside)
	if err != nil {
		return err
	}
	c := Commit(salt, beside[saltSize:])
	tag := Tag(r.Subject)
	line := append(make([]byte, 0, lineSize), byte(r.Disclosure))
	line = append(line, c[:]...)
	line = binary.BigEndian.AppendUint64(line, uint64(r.TimeUnixNano))
	b.Put(key('l', leaf), append(line, tag[:]...))
	b.Put(personKey(tag, r.TimeUnixNano, leaf), beside)
	if r.Supersedes > 0 {
		b.Put(key('s', r.Supersedes-1), binary.BigEndian.AppendUint64(nil, leaf+1))
	}
	return nil
}

// expireEvery is how often records are looked for that have reached their end.
const expireEvery = time.Hour

// Expire deletes records that have reached the end of their retention. Their commitments
// stay: they say nothing, and the periods are counted by them.
func (s *Store) Expire(ctx context.Context) error {
	now := s.cfg.Clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.Retention == 0 || now.Sub(s.expired) < expireEvery {
		return nil
	}
	from, err := s.number([]byte{'e'})
	if err != nil {
		return err
	}
	cutoff := uint64(now.Add(-s.cfg.Retention).UnixNano())
	it := s.db.NewIterator(&util.Range{Start: key('l', from), Limit: []byte{'l' + 1}}, nil)
	defer it.Release()
	b, next := new(leveldb.Batch), from
	for it.Next() && ctx.Err() == nil {
		v := it.Value()
		if len(v) == lineSize && binary.BigEndian.Uint64(v[classSize:]) >= cutoff {
			break
		}
		next = binary.BigEndian.Uint64(it.Key()[1:]) + 1
		forget(b, it.Key(), v)
		if b.Len() >= batchSize {
			b.Put([]byte{'e'}, binary.BigEndian.AppendUint64(nil, next))
			if err := s.db.Write(b, nil); err != nil {
				return fmt.Errorf("usage index: %w", err)
			}
			b.Reset()
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("usage index: %w", err)
	}
	b.Put([]byte{'e'}, binary.BigEndian.AppendUint64(nil, next))
	if err := s.db.Write(b, nil); err != nil {
		return fmt.Errorf("usage index: %w", err)
	}
	s.expired = now
	return nil
}

// forget takes a record out of the index and leaves its commitment.
func forget(b *leveldb.Batch, k, line []byte) {
	if len(line) != lineSize {
		return // it is gone already
	}
	leaf := binary.BigEndian.Uint64(k[1:])
	nano := int64(binary.BigEndian.Uint64(line[classSize:]))
	b.Delete(personKey(Tag(line[classSize+8:]), nano, leaf))
	b.Put(append([]byte(nil), k...), append([]byte(nil), line[:classSize]...))
}
