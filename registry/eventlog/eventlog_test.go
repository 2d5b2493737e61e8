package eventlog_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/civibus/civibus/registry/eventlog"
)

type store map[string][]byte

func (s store) Get(key []byte) ([]byte, error) { return s[string(key)], nil }

func (s store) write(puts []eventlog.Put) {
	for _, p := range puts {
		s[string(p.Key)] = bytes.Clone(p.Value)
	}
}

// second is the second implementation: Go's checksum database.
type second struct {
	hashes []tlog.Hash
	size   int64
}

func (s *second) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = s.hashes[x]
	}
	return out, nil
}

func (s *second) add(t fataler, event []byte) {
	h, err := tlog.StoredHashes(s.size, event, s)
	if err != nil {
		t.Fatalf("second implementation: %v", err)
	}
	s.hashes = append(s.hashes, h...)
	s.size++
}

func (s *second) root(t fataler, size uint64) [32]byte {
	h, err := tlog.TreeHash(int64(size), s)
	if err != nil {
		t.Fatalf("second implementation: %v", err)
	}
	if size == 0 {
		return sha256.Sum256(nil)
	}
	return h
}

type fataler interface{ Fatalf(string, ...any) }

func event(i uint64) []byte { return fmt.Appendf(nil, "event %d", i) }

// TestSecondImplementation appends random batches, reopening in between, and
// compares every root and proof with golang.org/x/mod/sumdb/tlog.
func TestSecondImplementation(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, other := store{}, &second{}
		log, err := eventlog.Open(s, "p", 0)
		if err != nil {
			rt.Fatalf("%v", err)
		}
		for range rapid.IntRange(1, 8).Draw(rt, "batches") {
			var batch [][]byte
			for range rapid.IntRange(0, 90).Draw(rt, "events") {
				e := event(uint64(other.size))
				batch = append(batch, e)
				other.add(rt, e)
			}
			u := log.Prepare(batch)
			s.write(u.Writes())
			log.Accept(u)
			if rapid.Bool().Draw(rt, "reopen") {
				if log, err = eventlog.Open(s, "p", uint64(other.size)); err != nil {
					rt.Fatalf("%v", err)
				}
			}
			if log.Head().Root() != other.root(rt, log.Head().Size()) {
				rt.Fatalf("size %d: the roots differ", log.Head().Size())
			}
		}
		head := log.Head()
		if head.Size() == 0 {
			return
		}
		size := rapid.Uint64Range(1, head.Size()).Draw(rt, "size")
		at, err := head.At(size)
		if err != nil || at.Root() != other.root(rt, size) {
			rt.Fatalf("root at %d: %v", size, err)
		}
		index := rapid.Uint64Range(0, size-1).Draw(rt, "index")
		compareInclusion(rt, at, other, index)
		compareConsistency(rt, at, other, rapid.Uint64Range(1, size).Draw(rt, "old"))
	})
}

func compareInclusion(t fataler, at *eventlog.Head, other *second, index uint64) {
	got, err := at.Inclusion(index)
	if err != nil {
		t.Fatalf("%v", err)
	}
	want, err := tlog.ProveRecord(int64(at.Size()), int64(index), other)
	if err != nil {
		t.Fatalf("%v", err)
	}
	compareHashes(t, got, want)
	e, err := at.Event(index)
	if err != nil || !bytes.Equal(e, event(index)) {
		t.Fatalf("event %d: %q, %v", index, e, err)
	}
	if err := eventlog.VerifyInclusion(e, index, at.Size(), at.Root(), got); err != nil {
		t.Fatalf("%v", err)
	}
	if err := tlog.CheckRecord(want, int64(at.Size()), at.Root(), int64(index), eventlog.LeafHash(e)); err != nil {
		t.Fatalf("%v", err)
	}
	if eventlog.VerifyInclusion([]byte("other"), index, at.Size(), at.Root(), got) == nil {
		t.Fatalf("another leaf is accepted")
	}
}

func compareConsistency(t fataler, at *eventlog.Head, other *second, old uint64) {
	got, err := at.Consistency(old)
	if err != nil {
		t.Fatalf("%v", err)
	}
	want, err := tlog.ProveTree(int64(at.Size()), int64(old), other)
	if err != nil {
		t.Fatalf("%v", err)
	}
	compareHashes(t, got, want)
	oldRoot := other.root(t, old)
	if err := eventlog.VerifyConsistency(old, at.Size(), oldRoot, at.Root(), got); err != nil {
		t.Fatalf("%v", err)
	}
	oldRoot[0] ^= 1
	if eventlog.VerifyConsistency(old, at.Size(), oldRoot, at.Root(), got) == nil {
		t.Fatalf("another old root is accepted")
	}
}

func compareHashes(t fataler, got [][]byte, want []tlog.Hash) {
	if len(got) != len(want) {
		t.Fatalf("%d hashes, the second implementation has %d", len(got), len(want))
	}
	for i := range got {
		if tlog.Hash(got[i]) != want[i] {
			t.Fatalf("hash %d differs from the second implementation's", i)
		}
	}
}

// TestAllSmall compares every proof of every size up to 70, which crosses tile
// borders of the first group, and some beyond the second.
func TestAllSmall(t *testing.T) {
	s, other := store{}, &second{}
	log, err := eventlog.Open(s, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for size := uint64(1); size <= 300; size++ {
		other.add(t, event(size-1))
		u := log.Prepare([][]byte{event(size - 1)})
		s.write(u.Writes())
		log.Accept(u)
		if size > 70 && size%37 != 0 {
			continue
		}
		for i := range size {
			compareInclusion(t, log.Head(), other, i)
			compareConsistency(t, log.Head(), other, i+1)
		}
	}
	// An old head still answers as it did.
	at, err := log.Head().At(17)
	if err != nil {
		t.Fatal(err)
	}
	compareInclusion(t, at, other, 16)
}

// TestLogarithmicReads checks that proofs and opening do not read the log.
func TestLogarithmicReads(t *testing.T) {
	s := store{}
	log, err := eventlog.Open(s, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	const n = 100_000
	events := make([][]byte, n)
	for i := range events {
		events[i] = event(uint64(i))
	}
	u := log.Prepare(events)
	s.write(u.Writes())
	counting := &counter{store: s}
	log, err = eventlog.Open(counting, "", n)
	if err != nil {
		t.Fatal(err)
	}
	if log.Head().Root() != u.Head().Root() {
		t.Fatal("the reopened log has another root")
	}
	if counting.reads > 5 {
		t.Errorf("opening read %d records", counting.reads)
	}
	counting.reads = 0
	if _, err := log.Head().Inclusion(31_313); err != nil {
		t.Fatal(err)
	}
	if counting.reads > 40 {
		t.Errorf("an inclusion proof read %d records", counting.reads)
	}
}

type counter struct {
	store
	reads int
}

func (c *counter) Get(key []byte) ([]byte, error) {
	c.reads++
	return c.store.Get(key)
}

// TestUpdateIsNotApplied checks that a prepared update that is never accepted
// leaves no trace.
func TestUpdateIsNotApplied(t *testing.T) {
	s := store{}
	log, err := eventlog.Open(s, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	u := log.Prepare([][]byte{event(0), event(1), event(2)})
	s.write(u.Writes())
	log.Accept(u)
	before := log.Head().Root()
	lost := log.Prepare([][]byte{[]byte("lost"), []byte("lost too")})
	if log.Head().Root() != before || log.Head().Size() != 3 {
		t.Fatal("a prepared update changed the log")
	}
	kept := log.Prepare([][]byte{event(3)})
	if kept.Head().Root() == lost.Head().Root() {
		t.Fatal("the lost update is in the kept one")
	}
	s.write(kept.Writes())
	log.Accept(kept)
	other := &second{}
	for i := range uint64(4) {
		other.add(t, event(i))
	}
	if log.Head().Root() != other.root(t, 4) {
		t.Fatal("the lost update changed the log")
	}
}

// TestDamage removes and changes each record in turn: the log then fails, or
// its proofs do not verify, or nothing that was damaged was asked for.
func TestDamage(t *testing.T) {
	s := store{}
	log, err := eventlog.Open(s, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	const n = 40
	for i := range uint64(n) {
		u := log.Prepare([][]byte{event(i)})
		s.write(u.Writes())
		log.Accept(u)
	}
	root := log.Head().Root()
	for _, record := range slices.Sorted(maps.Keys(s)) {
		noticed := false
		for _, damage := range [][]byte{nil, {}, s[record][:len(s[record])-1], append(bytes.Clone(s[record][1:]), 'x')} {
			bad := maps.Clone(s)
			if damage == nil {
				delete(bad, record)
			} else {
				bad[record] = damage
			}
			damaged, err := eventlog.Open(bad, "", n)
			if err != nil {
				noticed = true
				continue
			}
			for i := range uint64(n) {
				e, err := damaged.Head().Event(i)
				if err != nil {
					noticed = true
					continue
				}
				p, err := damaged.Head().Inclusion(i)
				if err != nil || eventlog.VerifyInclusion(e, i, n, root, p) != nil {
					noticed = true
				} else if !bytes.Equal(e, event(i)) {
					t.Fatalf("record %q damaged: a wrong event verifies", record)
				}
			}
		}
		if !noticed {
			t.Errorf("record %q damaged: nothing was noticed", record)
		}
	}
}

func TestLimits(t *testing.T) {
	log, err := eventlog.Open(store{}, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if log.Head().Root() != sha256.Sum256(nil) {
		t.Error("the empty log's root is not SHA-256 of nothing")
	}
	if _, err := log.Head().Inclusion(0); err == nil {
		t.Error("proof in the empty log: no error")
	}
	if _, err := log.Head().Event(0); err == nil {
		t.Error("event of the empty log: no error")
	}
	if _, err := log.Head().Consistency(1); err == nil {
		t.Error("consistency from a larger size: no error")
	}
	if _, err := log.Head().At(1); err == nil {
		t.Error("head at a larger size: no error")
	}
	if _, err := eventlog.Open(store{}, "", 5); err == nil {
		t.Error("a log of five without tiles opens")
	}
	if eventlog.VerifyConsistency(0, 1, [32]byte{}, [32]byte{}, nil) == nil {
		t.Error("consistency from size 0 verifies")
	}
	if eventlog.VerifyInclusion(nil, 0, 1, [32]byte{}, [][]byte{{1}}) == nil {
		t.Error("a short hash verifies")
	}
}
