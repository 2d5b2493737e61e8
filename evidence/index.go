package evidence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/filter"
	"github.com/syndtr/goleveldb/leveldb/iterator"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/wal"
	"github.com/civibus/civibus/internal/ldb"
)

// index says where everything is. Its keys begin with a letter; numbers are
// big-endian so that they sort.
//
//	x <len> <exchange id> <side> <seq:8>  leaf index:8
//	i <leaf index:8>                      seq:8 segment:8 offset:8 length:4
//	d <leaf index:8>                      side, exchange id; receipt still to be delivered
//	a <size:8>                            height:8, anchored checkpoint note
//	c <exchange id>                       the counterparty's half of the receipt
//	s <segment:8>                         latest finishing time of its records, unix nanoseconds:8
//	e <leaf index:8>                      number of the erasure:8 that the record went by
//	n <number:8>                          an erasure (JSON)
//	m erasing                             an erasure that is under way (JSON)
//	m state                               next seq:8 leaves:8
//	m gc                                  leaf index up to which partial tiles are removed:8
//	m expired                             first seq that is kept:8
//	m origin                              the log's origin
//	m pending                             checkpoint note that is being anchored
type index struct {
	dir string

	broken atomic.Bool // a write has failed

	mu sync.RWMutex // held for writing while db is replaced
	db *ldb.DB
}

const maxExchangeID = 255

// openIndex opens or makes the index in dir.
func openIndex(dir string, readOnly bool) (*index, error) {
	db, err := openDB(dir, readOnly)
	if err != nil {
		return nil, err
	}
	return &index{dir: dir, db: db}, nil
}

func openDB(dir string, readOnly bool) (*ldb.DB, error) {
	db, err := ldb.Open(dir, opt.Options{
		ReadOnly:               readOnly,
		ErrorIfMissing:         readOnly,
		BlockCacheCapacity:     8 << 20,
		WriteBuffer:            8 << 20,
		CompactionTableSize:    8 << 20,
		OpenFilesCacheCapacity: 64,
		DisableSeeksCompaction: true, // looking up what is not there is no reason to merge
		Filter:                 filter.NewBloomFilter(10),
		Compression:            opt.NoCompression,
	})
	if err != nil {
		if ldb.Damaged(err) != nil {
			return nil, fmt.Errorf("the evidence index %s is damaged (%w): restore it from a backup taken with the rest of the directory", dir, err)
		}
		return nil, fmt.Errorf("open evidence index: %w", err)
	}
	return db, nil
}

func (x *index) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.db.Close()
}

// ready opens the index anew after a write has failed: the database takes no
// more writes then, also when the disk has room again.
func (x *index) ready() error {
	if !x.broken.Load() {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.broken.Load() {
		return nil
	}
	x.db.Close() // its error is that of the failed write
	db, err := openDB(x.dir, false)
	if err != nil {
		return err
	}
	x.db = db
	x.broken.Store(false)
	return nil
}

// key makes a key of a letter, numbers in eight bytes and strings.
func key(letter byte, parts ...any) []byte {
	b := []byte{letter}
	for _, p := range parts {
		switch p := p.(type) {
		case uint64:
			b = binary.BigEndian.AppendUint64(b, p)
		case string:
			b = append(b, p...)
		case byte:
			b = append(b, p)
		}
	}
	return b
}

// exchangeKey is the prefix of an exchange's entries.
func exchangeKey(id string) []byte { return key('x', byte(len(id)), id) }

// parseExchangeKey reads what exchangeKey, a side and a number made.
func parseExchangeKey(k []byte) (id string, side evidencepb.Side, seq uint64, err error) {
	if len(k) < 2 || k[0] != 'x' || len(k) != 2+int(k[1])+1+8 {
		return "", 0, 0, fmt.Errorf("evidence index: %x is not the key of an exchange", k)
	}
	n := 2 + int(k[1])
	return string(k[2:n]), evidencepb.Side(k[n]), binary.BigEndian.Uint64(k[n+1:]), nil
}

// get returns a value, nil when there is none.
func (x *index) get(k []byte) ([]byte, error) {
	if err := x.ready(); err != nil {
		return nil, err
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	v, err := x.db.Get(k, nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read evidence index: %w", err)
	}
	return v, nil
}

// number returns a value of eight bytes, 0 when there is none.
func (x *index) number(k []byte) (uint64, error) {
	v, err := x.get(k)
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("evidence index: the value of %q has %d bytes, the rule is 8", k, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// state returns how far write-ahead log entries are stored and how many leaves
// they have.
func (x *index) state() (next, leaves uint64, err error) {
	v, err := x.get(key('m', "state"))
	if err != nil || v == nil {
		return 0, 0, err
	}
	if len(v) != 16 {
		return 0, 0, fmt.Errorf("evidence index: its state has %d bytes, the rule is 16", len(v))
	}
	return binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:]), nil
}

// stored is one entry that has become a leaf.
type stored struct {
	*pending
	index uint64
}

// put notes a batch of entries with the state after them, durably.
func (x *index) put(entries []stored, next, leaves uint64, latest map[uint64]int64) error {
	b := leveldb.MakeBatch(len(entries) * 128)
	for _, e := range entries {
		b.Put(append(append(exchangeKey(e.exchange), byte(e.side)), number(e.pos.Seq)...), number(e.index))
		b.Put(key('i', e.index), encodePosition(e.pos))
		if e.deliver {
			b.Put(key('d', e.index), append([]byte{byte(e.side)}, e.exchange...))
		}
	}
	for segment, t := range latest {
		b.Put(key('s', segment), number(uint64(t)))
	}
	b.Put(key('m', "state"), append(number(next), number(leaves)...))
	return x.write(b)
}

// write applies a batch durably.
func (x *index) write(b *leveldb.Batch) error {
	if err := x.ready(); err != nil {
		return err
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	if err := x.db.Write(b, &opt.WriteOptions{Sync: true}); err != nil {
		x.broken.Store(true)
		return fmt.Errorf("write evidence index: %w", err)
	}
	return nil
}

// set stores one value durably.
func (x *index) set(k, v []byte) error {
	b := new(leveldb.Batch)
	b.Put(k, v)
	return x.write(b)
}

func encodePosition(p wal.Position) []byte {
	b := make([]byte, 0, 28)
	b = binary.BigEndian.AppendUint64(b, p.Seq)
	b = binary.BigEndian.AppendUint64(b, p.Segment)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Offset))
	return binary.BigEndian.AppendUint32(b, p.Length)
}

func decodePosition(b []byte) (wal.Position, error) {
	if len(b) != 28 {
		return wal.Position{}, fmt.Errorf("evidence index: a position has %d bytes, the rule is 28", len(b))
	}
	return wal.Position{
		Seq:     binary.BigEndian.Uint64(b),
		Segment: binary.BigEndian.Uint64(b[8:]),
		Offset:  int64(binary.BigEndian.Uint64(b[16:])),
		Length:  binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// position returns where the entry of a leaf is.
func (x *index) position(leaf uint64) (wal.Position, bool, error) {
	v, err := x.get(key('i', leaf))
	if err != nil || v == nil {
		return wal.Position{}, false, err
	}
	p, err := decodePosition(v)
	return p, err == nil, err
}

// each goes through the keys with a prefix from a key on, until fn returns false.
func (x *index) each(prefix, from []byte, fn func(k, v []byte) (bool, error)) error {
	if err := x.ready(); err != nil {
		return err
	}
	r := util.BytesPrefix(prefix)
	if from != nil {
		r.Start = from
	}
	x.mu.RLock()
	it := x.db.NewIterator(r, nil) // on a snapshot
	x.mu.RUnlock()
	defer it.Release()
	return eachOf(it, fn)
}

func eachOf(it iterator.Iterator, fn func(k, v []byte) (bool, error)) error {
	for it.Next() {
		more, err := fn(it.Key(), it.Value())
		if err != nil || !more {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("read evidence index: %w", err)
	}
	return nil
}

// last calls fn with the last key under a prefix, if there is one.
func (x *index) last(prefix []byte, fn func(k, v []byte) error) error {
	if err := x.ready(); err != nil {
		return err
	}
	x.mu.RLock()
	it := x.db.NewIterator(util.BytesPrefix(prefix), nil)
	x.mu.RUnlock()
	defer it.Release()
	if it.Last() {
		return fn(it.Key(), it.Value())
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("read evidence index: %w", err)
	}
	return nil
}
