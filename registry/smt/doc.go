// Package smt is the registry's authenticated state: a compact sparse Merkle
// tree over SHA-256, with proofs of membership and of absence.
//
// The hash of a leaf is SHA-256(0x00 || key hash || value hash), of an inner
// node SHA-256(0x01 || left || right), of an empty subtree 32 zero bytes; a
// subtree with exactly one leaf is that leaf. The root therefore depends on the
// set of keys and values alone and not on the order in which they came.
//
// Verify needs no tree. A Tree keeps its nodes in a store, sixteen-way pages of
// which only those on changed paths are read and written; pages are never
// changed in place, so every version within the kept window stays readable
// while later ones are written.
//
// Trust: an attacker who controls the store can make the tree fail, or build
// proofs that Verify refuses; he cannot have anyone who knows the root accept a
// value that is not in it, or the absence of one that is.
package smt
