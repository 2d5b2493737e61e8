package registry_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tidwall/btree"

	"github.com/civibus/civibus/registry"
)

// TestTable: a table and its copies are what ordered maps with the same changes are,
// whoever of them is written after which copy.
func TestTable(t *testing.T) {
	type version struct {
		table *registry.Table
		model map[string]int
	}
	random := rand.New(rand.NewPCG(1, 2))
	versions := []version{{new(registry.Table), map[string]int{}}}
	for step := range 20_000 {
		v := &versions[random.IntN(len(versions))]
		key := fmt.Sprint(random.IntN(500))
		switch want, had := v.model[key]; random.IntN(4) {
		case 0:
			v.table.Delete(key)
			delete(v.model, key)
		default:
			if old, ok := v.table.Set(key, step); ok != had || old != want {
				t.Fatalf("set %s: it had %d, %v, want %d, %v", key, old, ok, want, had)
			}
			v.model[key] = step
		}
		if step%1000 == 999 {
			versions = append(versions, version{v.table.Copy(), maps.Clone(v.model)})
		}
	}
	for _, v := range versions {
		keys := slices.Sorted(maps.Keys(v.model))
		var got []string
		v.table.Scan(func(key string, value int) bool {
			got = append(got, key)
			if value != v.model[key] {
				t.Errorf("key %s: %d, want %d", key, value, v.model[key])
			}
			return true
		})
		if !slices.Equal(got, keys) || v.table.Len() != len(keys) {
			t.Fatalf("%d keys of %d, want %v", len(got), v.table.Len(), keys)
		}
		last := keys[len(keys)-1]
		if key, value, ok := v.table.Max(); !ok || key != last || value != v.model[last] {
			t.Errorf("the last is %s: %d, %v, want %s: %d", key, value, ok, last, v.model[last])
		}
		var after []string
		v.table.Ascend("3", func(key string, _ int) bool { after = append(after, key); return len(after) < 10 })
		at, _ := slices.BinarySearch(keys, "3")
		if want := keys[at:min(at+10, len(keys))]; !slices.Equal(after, want) {
			t.Errorf("from 3 on: %v, want %v", after, want)
		}
	}
}

// TestHashedCollisions: keys of the same hash, and of hashes that differ in the last
// bits only, are told apart.
func TestHashedCollisions(t *testing.T) {
	var one registry.Hashed
	hashes := []uint64{0, 1, 1 << 63, 3 << 62, 0xfffffffffffffff0}
	for round := range 3 {
		for i := range 100 {
			hash, key := hashes[i%len(hashes)], fmt.Sprint(i)
			if old, had := registry.SetHashed(&one, hash, key, i+round); had != (round > 0) || had && old != i+round-1 {
				t.Fatalf("round %d, key %s: %d, %v", round, key, old, had)
			}
		}
	}
	before := one.Copy()
	for i := range 100 {
		if hash, key := hashes[i%len(hashes)], fmt.Sprint(i); i%2 == 0 && !registry.RemoveHashed(&one, hash, key) || registry.RemoveHashed(&one, hash^4, key) {
			t.Fatalf("key %s was not removed, or another one", key)
		}
	}
	for i := range 100 {
		hash, key := hashes[i%len(hashes)], fmt.Sprint(i)
		if v, ok := registry.GetHashed(&one, hash, key); ok != (i%2 == 1) || ok && v != i+2 {
			t.Errorf("key %s: %d, %v", key, v, ok)
		}
		if v, ok := registry.GetHashed(before, hash, key); !ok || v != i+2 {
			t.Errorf("key %s before: %d, %v", key, v, ok)
		}
	}
}

// BenchmarkTable compares a search by a key's hash with one in an ordered tree.
func BenchmarkTable(b *testing.B) {
	const keys = 1 << 16
	var table registry.Table
	var tree btree.Map[string, int]
	all := make([]string, keys)
	for i := range all {
		all[i] = fmt.Sprintf("right/%032x", sha256.Sum256([]byte{byte(i), byte(i >> 8)}))
		table.Set(all[i], i)
		tree.Set(all[i], i)
	}
	rand.Shuffle(keys, func(i, k int) { all[i], all[k] = all[k], all[i] })
	for name, get := range map[string]func(string) (int, bool){"hash": table.Get, "tree": tree.Get} {
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if _, ok := get(all[i%keys]); !ok {
					b.Fatal(all[i%keys])
				}
			}
		})
	}
}
