package smt

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"

	"github.com/civibus/civibus/registry/registrypb"
)

// MaxDepth is the number of bits of a key hash, and so the greatest depth of a
// leaf.
const MaxDepth = 256

// KeyHash returns the place of a key in the tree.
func KeyHash(key string) [32]byte { return sha256.Sum256([]byte(key)) }

// ValueHash returns what a leaf holds of a value.
func ValueHash(value []byte) [32]byte { return sha256.Sum256(value) }

// ErrMismatch says that a well-formed proof does not lead to the root.
var ErrMismatch = errors.New("the proof leads to another root")

// Verify checks that in the tree with the given root key has value, or, when
// value is nil, that key has none. It needs nothing but its arguments.
func Verify(root [32]byte, key string, value []byte, proof *registrypb.StateProof) error {
	keyHash := KeyHash(key)
	// 1. Shape: every proof has exactly one encoding.
	if err := checkShape(keyHash, value == nil, proof); err != nil {
		return fmt.Errorf("state proof of %q: %w", key, err)
	}
	// 2. The terminal node: a leaf, or the empty subtree.
	var node [32]byte
	switch {
	case value != nil:
		node = leafHash(keyHash, ValueHash(value))
	case len(proof.OtherKeyHash) != 0:
		node = leafHash([32]byte(proof.OtherKeyHash), [32]byte(proof.OtherValueHash))
	}
	// 3. Up to the root, siblings from the bottom.
	next := len(proof.Siblings)
	for level := int(proof.Depth) - 1; level >= 0; level-- {
		var sibling [32]byte
		if bit(proof.Bitmap, level) {
			next--
			sibling = [32]byte(proof.Siblings[next])
		}
		if bit(keyHash[:], level) {
			node = innerHash(sibling, node)
		} else {
			node = innerHash(node, sibling)
		}
	}
	if node != root {
		return fmt.Errorf("state proof of %q: %w", key, ErrMismatch)
	}
	return nil
}

func checkShape(keyHash [32]byte, absent bool, p *registrypb.StateProof) error {
	if p == nil {
		return errors.New("there is none")
	}
	if p.Depth > MaxDepth {
		return fmt.Errorf("depth %d, the rule is at most %d", p.Depth, MaxDepth)
	}
	depth := int(p.Depth)
	if len(p.Bitmap) != (depth+7)/8 {
		return fmt.Errorf("bitmap of %d bytes, the rule is %d for depth %d", len(p.Bitmap), (depth+7)/8, depth)
	}
	ones := 0
	for _, b := range p.Bitmap {
		ones += bits.OnesCount8(b)
	}
	if depth%8 != 0 && p.Bitmap[depth/8]<<(depth%8) != 0 {
		return errors.New("bitmap has bits below the terminal node")
	}
	if depth > 0 && !bit(p.Bitmap, depth-1) {
		return errors.New("the terminal node has no sibling, the rule is that a lone leaf stands in the place of its subtree")
	}
	if len(p.Siblings) != ones {
		return fmt.Errorf("%d siblings, the bitmap announces %d", len(p.Siblings), ones)
	}
	for i, s := range p.Siblings {
		if len(s) != 32 || [32]byte(s) == ([32]byte{}) {
			return fmt.Errorf("sibling %d is not a 32-byte hash of a non-empty subtree", i)
		}
	}
	return checkOther(keyHash, absent, p)
}

// checkOther checks the leaf that stands where an absent key would be.
func checkOther(keyHash [32]byte, absent bool, p *registrypb.StateProof) error {
	if len(p.OtherKeyHash) == 0 && len(p.OtherValueHash) == 0 {
		return nil
	}
	switch {
	case !absent:
		return errors.New("it names another leaf, which only a proof of absence does")
	case len(p.OtherKeyHash) != 32 || len(p.OtherValueHash) != 32:
		return errors.New("the other leaf's hashes are not 32 bytes each")
	case bytes.Equal(p.OtherKeyHash, keyHash[:]):
		return errors.New("the other leaf is the key's own, so the key is present")
	}
	for level := range int(p.Depth) {
		if bit(p.OtherKeyHash, level) != bit(keyHash[:], level) {
			return fmt.Errorf("the other leaf is not on the key's path at level %d", level)
		}
	}
	return nil
}

// bit returns bit i of b, most significant first.
func bit(b []byte, i int) bool { return b[i/8]>>(7-i%8)&1 == 1 }

func leafHash(keyHash, valueHash [32]byte) [32]byte {
	var b [65]byte
	copy(b[1:], keyHash[:])
	copy(b[33:], valueHash[:])
	return sha256.Sum256(b[:])
}

func innerHash(left, right [32]byte) [32]byte {
	var b [65]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[33:], right[:])
	return sha256.Sum256(b[:])
}
