// Package vault is a database whose values are sealed, so that what belongs together can
// be erased in all copies at once: the values of a group are sealed under one key that is
// destroyed with it (internal/shred), what was overwritten or deleted of it before too.
//
// To erase is one write that deletes the values and notes which keys are to go. They go
// then, and after a crash when the database is opened next. What is in a backup of before
// does not open with the keys of after, and is passed over and deleted where it is restored.
//
// Trust: whoever has the database and the file of keys reads everything. Whoever has a
// copy of the database alone, such as a backup, learns keys and sizes of values, and so
// keys must say nothing of a person.
package vault

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus/internal/backup/dump"
	"github.com/civibus/civibus/internal/ldb"
	"github.com/civibus/civibus/internal/schema"
	"github.com/civibus/civibus/internal/shred"
)

// KeysFile is the name of the keys in a database's folder. They are in no backup.
const KeysFile = "erasure.keys"

const (
	// schemaSealed is the layout of a folder whose values are sealed; in layout 1, of
	// before, they were in clear.
	schemaSealed = 2

	sealed = 0x01 // first byte of a value that is sealed; those of before are JSON
	mark   = 0x01

	groupKind = "\x00group/" // and a group: the number that its values are sealed under
	doomKind  = "\x00doom/"  // and a number in hex: keys that are to be destroyed

	sealBatch = 4 << 20 // bytes of values of before that are sealed at once
)

// Layout says which values belong together.
type Layout struct {
	// Store is the name in the folder's mark.
	Store string
	// Group is the group of the value under a key. Empty: it says nothing of a person,
	// and is kept in clear.
	Group func(key string) string
	// Prefixes are those that the keys of a group have, and no others.
	Prefixes func(group string) []string
}

// DB is an open database. Its methods may be called concurrently.
type DB struct {
	db     *ldb.DB
	keys   *shred.Keys
	layout Layout
	mu     sync.Mutex // one write at a time
	// step is told what an erasure has come to; for tests of crashes.
	step func(string)
}

// Open opens a database, and makes a new one private.
func Open(dir string, layout Layout) (_ *DB, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// 1. The layout.
	version, err := schema.Check(dir, layout.Store, schemaSealed)
	if err != nil {
		return nil, err
	}
	db, err := ldb.Open(dir, opt.Options{WriteBuffer: 4 << 20})
	if err != nil {
		return nil, err
	}
	d := &DB{db: db, layout: layout, step: func(string) {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	// 2. The keys, made once.
	used, err := d.used()
	if err != nil {
		return nil, err
	}
	if d.keys, err = shred.Open(filepath.Join(dir, KeysFile), version < schemaSealed && !used); err != nil {
		return nil, err
	}
	// 3. Values of before.
	if version < schemaSealed {
		if err := d.sealAll(); err != nil {
			return nil, fmt.Errorf("seal what was kept in clear: %w", err)
		}
		if err := schema.Mark(dir, layout.Store, schemaSealed); err != nil {
			return nil, err
		}
	}
	// 4. What was cut off, and what a backup of before has brought back.
	if err := d.complete(); err != nil {
		return nil, fmt.Errorf("complete an erasure: %w", err)
	}
	return d, d.dropDestroyed()
}

// Close closes it.
func (d *DB) Close() error { return d.db.Close() }

// used reports whether something was sealed.
func (d *DB) used() (bool, error) {
	it := d.db.NewIterator(util.BytesPrefix([]byte(groupKind)), nil)
	defer it.Release()
	return it.Next(), it.Error()
}

// sealAll seals the values of before, and removes them from the files.
func (d *DB) sealAll() error {
	var first []byte
	for again := true; again; {
		again = false
		b, size := new(Batch), 0
		err := d.scan("", func(key string, value []byte) error {
			if size > sealBatch {
				again = true
				return errEnough
			}
			if !isSealed(value) && d.layout.Group(key) != "" {
				b.Put(key, value)
				size += len(value)
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			return err
		}
		if len(b.puts) == 0 {
			break
		}
		first = []byte(b.puts[0].key)
		if err := d.Write(b); err != nil {
			return err
		}
	}
	if first == nil {
		return nil
	}
	if err := d.db.CompactRange(util.Range{}); err != nil {
		return err
	}
	return d.db.Purge([][]byte{first})
}

var errEnough = errors.New("enough")

func isSealed(value []byte) bool { return len(value) > 0 && value[0] == sealed }

// scan calls fn with the values under a prefix as they are kept.
func (d *DB) scan(prefix string, fn func(key string, value []byte) error) error {
	it := d.db.NewIterator(util.BytesPrefix([]byte(prefix)), nil)
	defer it.Release()
	for it.Next() {
		key := string(it.Key())
		if strings.HasPrefix(key, "\x00") && prefix == "" || strings.HasPrefix(key, "\xff") {
			continue // its own
		}
		if err := fn(key, it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
}

// open opens a value; ok is false for one that was erased.
func (d *DB) open(key string, value []byte) (plain []byte, ok bool, err error) {
	if !isSealed(value) {
		return value, true, nil
	}
	plain, err = d.keys.Open(value[1:], mark)
	if errors.Is(err, shred.ErrDestroyed) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", key, err)
	}
	return plain, true, nil
}

// Get reads a value, or says that there is none.
func (d *DB) Get(key string) (value []byte, ok bool, err error) {
	value, err = d.db.Get([]byte(key), nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", key, err)
	}
	return d.open(key, value)
}

// Each calls fn with the values under a prefix in the order of their keys, until it
// returns an error.
func (d *DB) Each(prefix string, fn func(key string, value []byte) error) error {
	return d.scan(prefix, func(key string, value []byte) error {
		plain, ok, err := d.open(key, value)
		if err != nil || !ok {
			return err
		}
		return fn(key, plain)
	})
}

// Keys calls fn with the keys under a prefix, until it returns an error.
func (d *DB) Keys(prefix string, fn func(key string) error) error {
	return d.scan(prefix, func(key string, _ []byte) error { return fn(key) })
}

// Count is how many keys there are under a prefix, at most up to.
func (d *DB) Count(prefix string, up int) (n int, err error) {
	it := d.db.NewIterator(util.BytesPrefix([]byte(prefix)), nil)
	defer it.Release()
	for n < up && it.Next() {
		n++
	}
	return n, it.Error()
}

// Batch is what is written together.
type Batch struct {
	puts    []put
	deletes []string
	erased  []string
	purge   bool
}

type put struct {
	key   string
	value []byte
}

// Put writes a value.
func (b *Batch) Put(key string, value []byte) {
	b.puts = append(b.puts, put{key, append([]byte(nil), value...)})
}

// Delete deletes a value. What was sealed with it opens still, in copies too.
func (b *Batch) Delete(key string) { b.deletes = append(b.deletes, key) }

// Erase deletes all values of a group and destroys their key. A value that is put into
// the group by the same batch is sealed under another one.
func (b *Batch) Erase(group string) { b.erased = append(b.erased, group) }

// Purge has what is erased removed from the files of the database at once. Without, they
// hold what nobody can open until they are written anew.
func (b *Batch) Purge() { b.purge = true }

// Empty reports whether there is nothing in it.
func (b *Batch) Empty() bool { return len(b.puts)+len(b.deletes)+len(b.erased) == 0 }

// doom is what is to be destroyed whatever happens.
type doom struct {
	Numbers []uint64 `json:"numbers"`
	Keys    [][]byte `json:"keys,omitempty"` // to be removed from the files
}

// Write writes a batch: all or nothing, durably. When it returns without an error, what
// it erases is gone. After ErrCutOff that happens with the next erasure, or at the next
// opening.
func (d *DB) Write(b *Batch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out leveldb.Batch
	numbers := make(map[string]uint64)
	// 1. What is erased, and by which keys; what was cut off comes first.
	if len(b.erased) > 0 {
		if err := d.complete(); err != nil {
			return err
		}
	}
	gone, err := d.gather(&out, b)
	if err != nil {
		return err
	}
	// 2. What is deleted and written.
	for _, k := range b.deletes {
		out.Delete([]byte(k))
	}
	for _, p := range b.puts {
		if err := d.put(&out, b, numbers, p); err != nil {
			return err
		}
	}
	var name []byte
	if len(gone.Numbers) > 0 {
		text, err := json.Marshal(gone)
		if err != nil {
			return err
		}
		name = []byte(doomKind + hex.EncodeToString(binary.BigEndian.AppendUint64(nil, gone.Numbers[0])))
		out.Put(name, text)
	}
	if err := d.db.Write(&out, &opt.WriteOptions{Sync: true}); err != nil {
		return err
	}
	if name == nil {
		return nil
	}
	// 3. The keys.
	d.step("noted")
	if err := d.finish(name, gone); err != nil {
		return fmt.Errorf("%w: %w", ErrCutOff, err)
	}
	return nil
}

// Complete completes erasures that were cut off.
func (d *DB) Complete() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.complete()
}

// ErrCutOff says that an erasure was begun and is completed later.
var ErrCutOff = errors.New("the erasure was begun, and is completed when the store is opened next")

// gather finds the values of the groups that a batch erases.
func (d *DB) gather(out *leveldb.Batch, b *Batch) (*doom, error) {
	gone := new(doom)
	for _, g := range b.erased {
		n, ok, err := d.numberOf(g)
		if err != nil {
			return nil, err
		}
		if ok {
			gone.Numbers = append(gone.Numbers, n)
			out.Delete([]byte(groupKind + g))
		}
		for _, prefix := range d.layout.Prefixes(g) {
			err := d.scan(prefix, func(key string, _ []byte) error {
				out.Delete([]byte(key))
				if b.purge {
					gone.Keys = append(gone.Keys, []byte(key))
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return gone, nil
}

// numberOf is the number that a group's values are sealed under.
func (d *DB) numberOf(group string) (uint64, bool, error) {
	text, err := d.db.Get([]byte(groupKind+group), nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return 0, false, nil
	}
	if err == nil && len(text) != 8 {
		err = fmt.Errorf("%d bytes, the rule is 8", len(text))
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the key of %s: %w", group, err)
	}
	return binary.BigEndian.Uint64(text), true, nil
}

// put adds a value to what is written.
func (d *DB) put(out *leveldb.Batch, b *Batch, numbers map[string]uint64, p put) error {
	group := d.layout.Group(p.key)
	if group == "" {
		out.Put([]byte(p.key), p.value)
		return nil
	}
	n, ok := numbers[group]
	if !ok {
		var err error
		if n, ok, err = d.numberOf(group); err != nil {
			return err
		}
		if !ok || d.keys.Destroyed(n) || slices.Contains(b.erased, group) {
			n = d.keys.Next()
			out.Put([]byte(groupKind+group), binary.BigEndian.AppendUint64(nil, n))
		}
		numbers[group] = n
	}
	room := make([]byte, 1+shred.HeadSize, 1+shred.Overhead+len(p.value))
	room[0] = sealed
	text, err := d.keys.SealUnder(n, room, p.value, mark)
	if err != nil {
		return fmt.Errorf("seal %s: %w", p.key, err)
	}
	out.Put([]byte(p.key), text)
	return nil
}

// finish destroys keys that were noted. Done again, it does what is left.
func (d *DB) finish(name []byte, gone *doom) error {
	if err := d.keys.Destroy(gone.Numbers...); err != nil {
		return err
	}
	d.step("destroyed")
	if err := d.db.Purge(gone.Keys); err != nil {
		return err
	}
	return d.db.Delete(name, &opt.WriteOptions{Sync: true})
}

// complete finishes erasures that were cut off.
func (d *DB) complete() error {
	noted := make(map[string]*doom)
	it := d.db.NewIterator(util.BytesPrefix([]byte(doomKind)), nil)
	for it.Next() {
		gone := new(doom)
		if err := json.Unmarshal(it.Value(), gone); err != nil {
			it.Release()
			return err
		}
		noted[string(it.Key())] = gone
	}
	it.Release() // files that it reads could not go
	if err := it.Error(); err != nil {
		return err
	}
	for name, gone := range noted {
		if err := d.finish([]byte(name), gone); err != nil {
			return err
		}
	}
	return nil
}

// dropDestroyed deletes values that a backup brought back and whose keys are destroyed.
func (d *DB) dropDestroyed() error {
	b := new(Batch)
	it := d.db.NewIterator(util.BytesPrefix([]byte(groupKind)), nil)
	for it.Next() {
		if v := it.Value(); len(v) == 8 && d.keys.Destroyed(binary.BigEndian.Uint64(v)) {
			b.Erase(strings.TrimPrefix(string(it.Key()), groupKind))
		}
	}
	it.Release()
	if err := it.Error(); err != nil || b.Empty() {
		return err
	}
	return d.Write(b)
}

// Backup adds the sealed values to a backup; the keys never.
func (d *DB) Backup(put dump.Put, dir, name string, proceed func() error) error {
	if err := BackupMark(put, dir, name); err != nil {
		return err
	}
	return d.db.Backup(put, name, proceed)
}

// BackupMark adds the mark of a database's layout to a backup.
func BackupMark(put dump.Put, dir, name string) error {
	file := filepath.Join(dir, schema.File)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return dump.File(put, name+"/"+schema.File, file, -1)
}
