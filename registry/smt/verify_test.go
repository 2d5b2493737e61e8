package smt_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/registry/smt"
)

func sum(b []byte) [32]byte { return sha256.Sum256(b) }

// proofs returns a tree's root and one proof each of a present key, of an
// absent key at an empty place and of an absent key at another leaf.
func proofs(t testing.TB) (root [32]byte, cases []provedKey) {
	t.Helper()
	s := newStore()
	tree := open(t, s, 1)
	var changes []smt.Change
	for _, k := range someKeys(500) {
		changes = append(changes, smt.Change{Key: k, Value: []byte("value of " + k)})
	}
	v := update(t, tree, s, changes)
	var haveEmpty, haveOther, havePresent bool
	for i := 0; !haveEmpty || !haveOther || !havePresent; i++ {
		key := fmt.Sprintf("key/%d", 490+i)
		p, _, present, err := v.Prove(key)
		if err != nil {
			t.Fatal(err)
		}
		c := provedKey{key: key, proof: p}
		switch {
		case present && !havePresent:
			havePresent, c.name, c.value = true, "present", []byte("value of "+key)
		case !present && len(p.OtherKeyHash) == 0 && !haveEmpty:
			haveEmpty, c.name = true, "absent, empty place"
		case !present && len(p.OtherKeyHash) != 0 && !haveOther:
			haveOther, c.name = true, "absent, other leaf"
		default:
			continue
		}
		cases = append(cases, c)
	}
	return v.Root(), cases
}

type provedKey struct {
	name, key string
	value     []byte
	proof     *registrypb.StateProof
}

// TestForged makes every small forgery of good proofs and has each refused.
func TestForged(t *testing.T) {
	root, cases := proofs(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if err := smt.Verify(root, c.key, c.value, c.proof); err != nil {
				t.Fatal(err)
			}
			refuse := func(what string, forge func(p *registrypb.StateProof)) {
				t.Helper()
				p := proto.Clone(c.proof).(*registrypb.StateProof)
				forge(p)
				if proto.Equal(p, c.proof) {
					t.Fatalf("%s: the forgery changes nothing", what)
				}
				if smt.Verify(root, c.key, c.value, p) == nil {
					t.Errorf("%s: accepted", what)
				}
			}
			// Every bit of every part.
			flip := func(what string, part func(p *registrypb.StateProof) []byte) {
				t.Helper()
				for i := range len(part(c.proof)) * 8 {
					refuse(fmt.Sprintf("%s, bit %d flipped", what, i), func(p *registrypb.StateProof) { part(p)[i/8] ^= 1 << (i % 8) })
				}
			}
			flip("bitmap", func(p *registrypb.StateProof) []byte { return p.Bitmap })
			flip("other key hash", func(p *registrypb.StateProof) []byte { return p.OtherKeyHash })
			flip("other value hash", func(p *registrypb.StateProof) []byte { return p.OtherValueHash })
			for s := range c.proof.Siblings {
				flip(fmt.Sprintf("sibling %d", s), func(p *registrypb.StateProof) []byte { return p.Siblings[s] })
				refuse("sibling cut", func(p *registrypb.StateProof) { p.Siblings[s] = p.Siblings[s][:31] })
				refuse("sibling longer", func(p *registrypb.StateProof) { p.Siblings[s] = append(p.Siblings[s], 0) })
				refuse("sibling zero", func(p *registrypb.StateProof) { p.Siblings[s] = make([]byte, 32) })
				refuse("sibling dropped", func(p *registrypb.StateProof) { p.Siblings = slices.Delete(p.Siblings, s, s+1) })
				refuse("sibling doubled", func(p *registrypb.StateProof) { p.Siblings = slices.Insert(p.Siblings, s, p.Siblings[s]) })
				for o := range s {
					refuse("siblings swapped", func(p *registrypb.StateProof) { p.Siblings[s], p.Siblings[o] = p.Siblings[o], p.Siblings[s] })
				}
			}
			for depth := range uint32(300) {
				if depth != c.proof.Depth {
					refuse("wrong depth", func(p *registrypb.StateProof) { p.Depth = depth })
				}
			}
			refuse("huge depth", func(p *registrypb.StateProof) { p.Depth = 1<<32 - 1 })
			refuse("bitmap longer", func(p *registrypb.StateProof) { p.Bitmap = append(p.Bitmap, 0) })
			refuse("bitmap shorter", func(p *registrypb.StateProof) { p.Bitmap = p.Bitmap[:len(p.Bitmap)-1] })
			refuse("one level cut", func(p *registrypb.StateProof) { p.Depth--; p.Siblings = p.Siblings[:len(p.Siblings)-1] })
			refuse("extended by a level", func(p *registrypb.StateProof) {
				p.Depth++
				if int(p.Depth) > 8*len(p.Bitmap) {
					p.Bitmap = append(p.Bitmap, 0)
				}
				p.Bitmap[(p.Depth-1)/8] |= 1 << (7 - (p.Depth-1)%8)
				p.Siblings = append(p.Siblings, make([]byte, 32))
			})
			refuse("empty", func(p *registrypb.StateProof) { proto.Reset(p) })
			refuse("other leaf is the key", func(p *registrypb.StateProof) {
				k := smt.KeyHash(c.key)
				p.OtherKeyHash, p.OtherValueHash = k[:], make([]byte, 32)
			})
			refuse("other leaf elsewhere", func(p *registrypb.StateProof) {
				k := smt.KeyHash(c.key)
				k[0] ^= 0x80
				p.OtherKeyHash, p.OtherValueHash = k[:], make([]byte, 32)
			})
			// The right proof for another question.
			if smt.Verify(root, c.key+"x", c.value, c.proof) == nil {
				t.Error("another key: accepted")
			}
			if smt.Verify(root, c.key, append([]byte("x"), c.value...), c.proof) == nil {
				t.Error("another value: accepted")
			}
			for i := range 256 {
				other := root
				other[i/8] ^= 1 << (i % 8)
				if err := smt.Verify(other, c.key, c.value, c.proof); !errors.Is(err, smt.ErrMismatch) {
					t.Fatalf("another root: %v", err)
				}
			}
			if smt.Verify(root, c.key, c.value, nil) == nil {
				t.Error("no proof: accepted")
			}
		})
	}
}

// TestEmptyAndLone covers the trees without siblings.
func TestEmptyAndLone(t *testing.T) {
	none := &registrypb.StateProof{}
	if err := smt.Verify([32]byte{}, "k", nil, none); err != nil {
		t.Errorf("absence in the empty tree: %v", err)
	}
	if smt.Verify([32]byte{}, "k", []byte("v"), none) == nil {
		t.Error("presence in the empty tree: accepted")
	}
	s := newStore()
	v := update(t, open(t, s, 1), s, []smt.Change{{Key: "k", Value: []byte{}}})
	if err := smt.Verify(v.Root(), "k", []byte{}, none); err != nil {
		t.Errorf("an empty value is a value: %v", err)
	}
	if smt.Verify(v.Root(), "k", nil, none) == nil {
		t.Error("an empty value is taken for none")
	}
}

// FuzzVerify feeds arbitrary proof bytes: never a panic, and whatever is
// accepted for a root proves what the tree holds.
func FuzzVerify(f *testing.F) {
	root, cases := proofs(f)
	for _, c := range cases {
		b, err := proto.Marshal(c.proof)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, c.key)
	}
	f.Fuzz(func(t *testing.T, b []byte, key string) {
		p := &registrypb.StateProof{}
		if proto.Unmarshal(b, p) != nil {
			return
		}
		present := smt.Verify(root, key, []byte("value of "+key), p) == nil
		absent := smt.Verify(root, key, nil, p) == nil
		if present && absent {
			t.Fatal("one proof proves presence and absence")
		}
		var n int
		held := len(key) > 4 && key[:4] == "key/"
		if held {
			_, err := fmt.Sscanf(key[4:], "%d", &n)
			held = err == nil && key == fmt.Sprintf("key/%d", n) && n >= 0 && n < 500
		}
		if present && !held || absent && held {
			t.Fatalf("a lie about %q is accepted", key)
		}
	})
}
