package main

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/filter"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus/internal/ldb"
	"github.com/civibus/civibus/registry"
)

// database is a registry.Store as the ledger has it.
type database struct{ db *ldb.DB }

func openDatabase(dir string) (*database, error) {
	db, err := ldb.Open(dir, opt.Options{
		Filter: filter.NewBloomFilter(10), Compression: opt.NoCompression, DisableSeeksCompaction: true,
		WriteBuffer: 16 << 20, CompactionTableSize: 8 << 20, CompactionTotalSize: 64 << 20, CompactionL0Trigger: 8,
		WriteL0SlowdownTrigger: 16, WriteL0PauseTrigger: 24, BlockCacheCapacity: 8 << 20, OpenFilesCacheCapacity: 128,
	})
	return &database{db}, err
}

func (d *database) close() error { return d.db.Close() }

func (d *database) Get(key []byte) ([]byte, error) {
	v, err := d.db.Get(key, nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return nil, nil
	}
	if err == nil && v == nil {
		v = []byte{}
	}
	return v, err
}

func (d *database) Iterate(prefix []byte, fn func(key, value []byte) error) error {
	it := d.db.NewIterator(util.BytesPrefix(prefix), nil)
	defer it.Release()
	for it.Next() {
		if err := fn(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
}

func (d *database) Write(puts []registry.KV, deletes [][]byte) error {
	b := new(leveldb.Batch)
	for _, p := range puts {
		b.Put(p.Key, p.Value)
	}
	for _, k := range deletes {
		b.Delete(k)
	}
	return d.db.Write(b, &opt.WriteOptions{Sync: true})
}

// residentMB is the process's memory as the kernel sees it.
func residentMB() (float64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1e3, err
		}
	}
	return 0, errors.New("/proc/self/status has no VmRSS")
}
