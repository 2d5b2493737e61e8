package smt_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/civibus/civibus/registry/smt"
)

// store is a NodeStore in memory whose writes can be made to fail.
type store struct {
	m     map[string][]byte
	reads int
}

func newStore() *store { return &store{m: map[string][]byte{}} }

func (s *store) Get(key []byte) ([]byte, error) {
	s.reads++
	return s.m[string(key)], nil
}

func (s *store) write(puts []smt.Put, deletes [][]byte) {
	for _, p := range puts {
		s.m[string(p.Key)] = bytes.Clone(p.Value)
	}
	for _, d := range deletes {
		delete(s.m, string(d))
	}
}

func (s *store) clone() *store { return &store{m: maps.Clone(s.m)} }

func open(t testing.TB, s smt.NodeStore, keep uint64) *smt.Tree {
	t.Helper()
	tree, err := smt.Open(s, smt.Options{Prefix: "t", Keep: keep, CachePages: 64})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func update(t testing.TB, tree *smt.Tree, s *store, changes []smt.Change) *smt.Version {
	t.Helper()
	u, err := tree.Prepare(changes)
	if err != nil {
		t.Fatal(err)
	}
	s.write(u.Writes())
	tree.Accept(u)
	return u.Version()
}

// fatal is what testing.TB and rapid.T share.
type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkModel proves every key of the model and the absence of the others.
func checkModel(t fatal, v *smt.Version, model map[string]string, keys []string) {
	t.Helper()
	for _, key := range keys {
		proof, valueHash, present, err := v.Prove(key)
		if err != nil {
			t.Fatalf("prove %q: %v", key, err)
		}
		want, ok := model[key]
		if ok != present || ok && valueHash != smt.ValueHash([]byte(want)) {
			t.Fatalf("version %d: %q present %v, the model says %v", v.Number(), key, present, ok)
		}
		var value []byte
		if ok {
			value = []byte(want)
		}
		if err := smt.Verify(v.Root(), key, value, proof); err != nil {
			t.Fatalf("version %d: %v", v.Number(), err)
		}
		if ok {
			value = nil
		} else {
			value = []byte("anything")
		}
		if err := smt.Verify(v.Root(), key, value, proof); err == nil {
			t.Fatalf("version %d: the proof of %q proves its opposite", v.Number(), key)
		}
	}
}

// rebuilt computes the root from scratch by the definition alone: no pages, no
// store.
func rebuilt(model map[string]string) [32]byte {
	type kv struct{ key, val [32]byte }
	var all []kv
	for k, v := range model {
		all = append(all, kv{smt.KeyHash(k), smt.ValueHash([]byte(v))})
	}
	var build func(level int, s []kv) [32]byte
	build = func(level int, s []kv) [32]byte {
		switch len(s) {
		case 0:
			return [32]byte{}
		case 1:
			return sum(append(append([]byte{0}, s[0].key[:]...), s[0].val[:]...))
		}
		var left, right []kv
		for _, e := range s {
			if e.key[level/8]>>(7-level%8)&1 == 0 {
				left = append(left, e)
			} else {
				right = append(right, e)
			}
		}
		l, r := build(level+1, left), build(level+1, right)
		return sum(append(append([]byte{1}, l[:]...), r[:]...))
	}
	return build(0, all)
}

func someKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key/%d", i)
	}
	return keys
}

// TestModel applies random batches, with reopening in between, and compares
// with a tree rebuilt from scratch. Every kept version stays provable.
func TestModel(t *testing.T) {
	keys := someKeys(60)
	rapid.Check(t, func(rt *rapid.T) {
		const keep = 4
		s, model := newStore(), map[string]string{}
		tree := open(t, s, keep)
		type past struct {
			v     *smt.Version
			model map[string]string
		}
		var history []past
		for range rapid.IntRange(1, 12).Draw(rt, "batches") {
			var changes []smt.Change
			for range rapid.IntRange(0, 40).Draw(rt, "size") {
				key := rapid.SampledFrom(keys).Draw(rt, "key")
				if rapid.IntRange(0, 2).Draw(rt, "remove") == 0 {
					changes = append(changes, smt.Change{Key: key})
					delete(model, key)
					continue
				}
				value := rapid.StringN(0, 3, 12).Draw(rt, "value")
				changes = append(changes, smt.Change{Key: key, Value: append([]byte{}, value...)})
				model[key] = value
			}
			v := update(t, tree, s, changes)
			if v.Root() != rebuilt(model) {
				rt.Fatalf("version %d: root differs from the rebuilt tree's", v.Number())
			}
			history = append(history, past{v, maps.Clone(model)})
			if rapid.IntRange(0, 3).Draw(rt, "reopen") == 0 {
				tree = open(t, s, keep)
			}
			for _, p := range history[max(0, len(history)-keep):] {
				again, err := tree.At(p.v.Number())
				if err != nil || again.Root() != p.v.Root() {
					rt.Fatalf("version %d within the window: %v", p.v.Number(), err)
				}
				checkModel(rt, again, p.model, keys)
				checkModel(rt, p.v, p.model, keys)
			}
			if len(history) > keep {
				if _, err := tree.At(history[len(history)-keep-1].v.Number()); !errors.Is(err, smt.ErrPruned) {
					rt.Fatalf("a version before the window: %v, want ErrPruned", err)
				}
			}
		}
	})
}

// TestPruningLeavesNothingBehind checks that the store holds no page that no
// kept version needs: after the window has passed, an emptied tree is a handful
// of records.
func TestPruningLeavesNothingBehind(t *testing.T) {
	s := newStore()
	tree := open(t, s, 3)
	var all, none []smt.Change
	for _, k := range someKeys(2000) {
		all = append(all, smt.Change{Key: k, Value: []byte(k)})
		none = append(none, smt.Change{Key: k})
	}
	update(t, tree, s, all)
	if len(s.m) < 500 {
		t.Fatalf("2,000 keys in %d records: the test does not test", len(s.m))
	}
	if v := update(t, tree, s, none); v.Root() != ([32]byte{}) {
		t.Fatal("an emptied tree has a root")
	}
	for range 3 {
		update(t, tree, s, nil)
	}
	if len(s.m) > 4 {
		t.Fatalf("%d records are left, want the meta record and three roots: %q", len(s.m), slices.Sorted(maps.Keys(s.m)))
	}
}

// TestSmallerWindow opens a store with a smaller window than it was written
// with.
func TestSmallerWindow(t *testing.T) {
	s := newStore()
	tree := open(t, s, 20)
	model := map[string]string{}
	keys := someKeys(30)
	for i, k := range keys {
		model[k] = fmt.Sprint(i)
		update(t, tree, s, []smt.Change{{Key: k, Value: []byte(model[k])}})
	}
	tree = open(t, s, 2)
	for range 6 {
		update(t, tree, s, nil)
	}
	checkModel(t, tree.Latest(), model, keys)
	if v, err := tree.At(tree.Latest().Number() - 1); err != nil {
		t.Fatal(err)
	} else {
		checkModel(t, v, model, keys)
	}
	if _, err := tree.At(tree.Latest().Number() - 2); !errors.Is(err, smt.ErrPruned) {
		t.Fatalf("got %v, want ErrPruned", err)
	}
}

// TestLazy checks that a proof in a large tree reads a few pages and not the
// tree.
func TestLazy(t *testing.T) {
	s := newStore()
	tree := open(t, s, 1)
	var all []smt.Change
	for _, k := range someKeys(20000) {
		all = append(all, smt.Change{Key: k, Value: []byte(k)})
	}
	update(t, tree, s, all)
	tree = open(t, s, 1)
	s.reads = 0
	if _, _, ok, err := tree.Latest().Prove("key/777"); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if s.reads > 8 {
		t.Fatalf("one proof read %d records", s.reads)
	}
}

// TestCrash stops at each write: before it, and after it but before the tree
// learns of it. What is reopened is the old version or the new one, whole.
func TestCrash(t *testing.T) {
	keys := someKeys(80)
	s, model := newStore(), map[string]string{}
	tree := open(t, s, 2)
	for round := range 25 {
		var changes []smt.Change
		next := maps.Clone(model)
		for i := range 12 {
			k := keys[(round*7+i*11)%len(keys)]
			if (round+i)%4 == 0 {
				changes = append(changes, smt.Change{Key: k})
				delete(next, k)
			} else {
				next[k] = fmt.Sprint(round, i)
				changes = append(changes, smt.Change{Key: k, Value: []byte(next[k])})
			}
		}
		u, err := tree.Prepare(changes)
		if err != nil {
			t.Fatal(err)
		}
		// Stop before the write.
		checkModel(t, open(t, s.clone(), 2).Latest(), model, keys)
		// Stop after the write; the reopened tree also goes on.
		after := s.clone()
		after.write(u.Writes())
		reopened := open(t, after, 2)
		checkModel(t, reopened.Latest(), next, keys)
		v := update(t, reopened, after, []smt.Change{{Key: "more", Value: []byte("1")}})
		if _, _, ok, err := v.Prove("more"); err != nil || !ok {
			t.Fatal(ok, err)
		}
		// The write fails: the tree is what it was, and the next attempt is
		// not disturbed by the first.
		checkModel(t, tree.Latest(), model, keys)
		if round%3 == 0 {
			if u, err = tree.Prepare(changes); err != nil {
				t.Fatal(err)
			}
		}
		s.write(u.Writes())
		tree.Accept(u)
		model = next
	}
}

// TestDamage removes or changes each record in turn, which a torn batch or a
// bad disk may do: a tree then fails or answers right, but never wrong.
func TestDamage(t *testing.T) {
	keys := someKeys(40)
	s, model := newStore(), map[string]string{}
	tree := open(t, s, 2)
	for i, k := range keys[:35] {
		model[k] = fmt.Sprint(i)
		if i%5 == 0 {
			update(t, tree, s, []smt.Change{{Key: k, Value: []byte(model[k])}})
			continue
		}
		update(t, tree, s, []smt.Change{{Key: k, Value: []byte(model[k])}, {Key: keys[36], Value: []byte(k)}})
	}
	model[keys[36]] = keys[34]
	root := tree.Latest().Root()
	failures := 0
	for _, record := range slices.Sorted(maps.Keys(s.m)) {
		for _, damage := range []func([]byte) []byte{
			func([]byte) []byte { return nil },
			func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b },
			func(b []byte) []byte { b = bytes.Clone(b); b[0] ^= 2; return b },
			func(b []byte) []byte { return b[:len(b)/2] },
			func(b []byte) []byte { return append(bytes.Clone(b), 0) },
		} {
			bad := s.clone()
			if b := damage(bad.m[record]); b == nil {
				delete(bad.m, record)
			} else {
				bad.m[record] = b
			}
			damaged, err := smt.Open(bad, smt.Options{Prefix: "t", Keep: 2})
			if err != nil {
				failures++
				continue
			}
			for _, k := range keys {
				proof, _, present, err := damaged.Latest().Prove(k)
				if err != nil {
					failures++
					continue
				}
				var value []byte
				if present {
					value = []byte(model[k])
				}
				if _, inModel := model[k]; smt.Verify(root, k, value, proof) == nil && inModel != present {
					t.Fatalf("record %q damaged: a wrong answer about %q verifies", record, k)
				}
			}
		}
	}
	if failures == 0 {
		t.Fatal("no damage was noticed")
	}
}
