package usage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus/internal/shred"
)

// erasureBatch is how many of the evidence log's erasures are looked at at once.
const erasureBatch = 100

// eraseAfter does here what the evidence log has erased since the last time: the index
// follows the log in that too, and a crash between the two is made up for.
func (s *Store) eraseAfter(log Log) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		done, err := numberOf(s.kept, []byte{'n'})
		if err != nil {
			return err
		}
		erasures, err := log.Erasures(done+1, erasureBatch)
		if err != nil || len(erasures) == 0 {
			return err
		}
		for _, e := range erasures {
			if err := s.erase(e.Leaves, e.Number); err != nil {
				return fmt.Errorf("usage index: erasure %d: %w", e.Number, err)
			}
		}
	}
}

// erase deletes the records of leaves and the cases about them. Class and commitment
// stay, so that the periods are as they were. s.mu is held.
func (s *Store) erase(leaves []uint64, number uint64) error {
	index, kept := new(leveldb.Batch), new(leveldb.Batch)
	var numbers []uint64
	var gone, goneKept [][]byte
	// 1. The cases, which persons wrote.
	if err := s.eachCase(func(k, v []byte, o Objection) error {
		if !slices.Contains(leaves, o.Leaf) {
			return nil
		}
		if len(v) > 0 && v[0] == sealedCase {
			n, err := shred.Number(v[1:])
			if err != nil {
				return err
			}
			numbers = append(numbers, n)
		}
		kept.Delete(k)
		goneKept = append(goneKept, slices.Clone(k))
		return nil
	}); err != nil {
		return err
	}
	if err := s.keys.Destroy(numbers...); err != nil {
		return err
	}
	// 2. What is left of the records, for good.
	for _, leaf := range leaves {
		line, err := s.db.Get(key('l', leaf), nil)
		if errors.Is(err, leveldb.ErrNotFound) {
			continue // it concerned nobody
		}
		if err != nil {
			return err
		}
		kept.Put(key('x', leaf), line[:classSize])
		if len(line) == lineSize {
			gone = append(gone, personKey(Tag(line[classSize+8:]), int64(binary.BigEndian.Uint64(line[classSize:])), leaf))
		}
		gone = append(gone, key('l', leaf))
		forget(index, key('l', leaf), line)
	}
	if err := s.db.Write(index, &opt.WriteOptions{Sync: true}); err != nil {
		return err
	}
	kept.Put([]byte{'n'}, binary.BigEndian.AppendUint64(nil, number))
	if err := s.kept.Write(kept, &opt.WriteOptions{Sync: true}); err != nil {
		return err
	}
	// 3. Out of the files.
	return errors.Join(s.db.Purge(gone), s.kept.Purge(goneKept))
}

// putErased puts what is left of records that were erased into an index that is built
// again: the evidence log has nothing of them any more.
func (s *Store) putErased(b *leveldb.Batch, from, to uint64) error {
	it := s.kept.NewIterator(&util.Range{Start: key('x', from), Limit: key('x', to)}, nil)
	defer it.Release()
	for it.Next() {
		b.Put(append([]byte{'l'}, it.Key()[1:]...), it.Value())
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("usage index: %w", err)
	}
	return nil
}
