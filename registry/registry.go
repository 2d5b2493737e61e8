// Package registry is the deterministic state machine on which all bodies of an
// instance agree: who is a member, with which keys; which services exist; who
// may call what and why; which states of evidence logs were seen.
//
// A Machine executes blocks of signed transactions (registry.proto). Its state
// is authenticated by a sparse Merkle tree (smt) and everything that it
// accepted is a leaf of an RFC 6962 log (eventlog); one application hash covers
// both. Readers take a View, an immutable snapshot, and never wait for blocks.
// spec/registry.md is the normative text.
//
// The package is pure: it has no clock but the block's, no I/O except through
// Store, no floating point, and iterates no Go map into any output, so that all
// nodes that execute the same blocks have the same application hash.
//
// Trust: an attacker who controls what is submitted can at most have it
// refused, with a code and a reason, unless he holds a member's key in force;
// then he can do what that member may do. An attacker who controls the Store
// can make this node stop or answer wrongly, but not convince anyone who checks
// proofs against an application hash or a cosigned checkpoint.
package registry
