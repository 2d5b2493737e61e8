package usage

import (
	"crypto/sha256"
	"math/bits"
)

// The tree of a period is that of RFC 6962: its leaves are the commitments.

func leafHash(c Commitment) [32]byte {
	return sha256.Sum256(append([]byte{0}, c[:]...))
}

func nodeHash(left, right [32]byte) [32]byte {
	var b [65]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[33:], right[:])
	return sha256.Sum256(b[:])
}

// split is the largest power of two below n, which is at least 2.
func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }

// Root computes the root over commitments.
func Root(leaves []Commitment) [32]byte {
	switch n := len(leaves); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return leafHash(leaves[0])
	default:
		k := split(n)
		return nodeHash(Root(leaves[:k]), Root(leaves[k:]))
	}
}

// Inclusion proves the leaf at index, by RFC 6962 section 2.1.1.
func Inclusion(leaves []Commitment, index int) [][32]byte {
	n := len(leaves)
	if n <= 1 {
		return nil
	}
	if k := split(n); index < k {
		return append(Inclusion(leaves[:k], index), Root(leaves[k:]))
	} else {
		return append(Inclusion(leaves[k:], index-k), Root(leaves[:k]))
	}
}

// VerifyInclusion reports whether a commitment is the leaf at index of a tree of size
// leaves with a root.
func VerifyInclusion(c Commitment, index, size uint64, root [32]byte, path [][32]byte) bool {
	if index >= size {
		return false
	}
	hash, last := leafHash(c), size-1
	for _, p := range path {
		if last == 0 {
			return false
		}
		if index&1 == 1 || index == last {
			hash = nodeHash(p, hash)
			for index&1 == 0 && index != 0 {
				index, last = index>>1, last>>1
			}
		} else {
			hash = nodeHash(hash, p)
		}
		index, last = index>>1, last>>1
	}
	return last == 0 && hash == root
}
