// Package ledger replicates the registry among public bodies with
// Byzantine-fault-tolerant consensus: it runs a CometBFT node inside the
// process, submits transactions with a typed result, serves views of the
// registry at one consistent height, cosigns the registry's event log and
// exports and restores snapshots. It is the only importer of CometBFT.
//
// # What one node keeps
//
//	<dir>/registry/    the registry's state, the index of executed
//	                   transactions and of checkpoints; one atomic, synced
//	                   write per block
//	<dir>/engine/      CometBFT: blocks, consensus state, write-ahead log,
//	                   last-sign state of the validator
//	<dir>/witness/     every checkpoint that this node ever cosigned
//	<dir>/snapshots/   snapshots, newest kept
//
// # Snapshot format civibus-snapshot/v1
//
// A snapshot is a directory <height>/ with a file manifest.json and chunk files
// 000000.chunk, 000001.chunk, ... The chunks, joined in order, are the
// registry's dump (see registry.Dump: sorted keys and values of the state, and
// what the event log needs). The manifest holds the format's name, the chain
// id, height, time, application hash, state root, event-log root and size, the
// SHA-256 and length of every chunk, and the engine's part: the signed header at
// the snapshot's height, the signed header of the next block (whose application
// hash covers the snapshot) and the validator sets in force. A reader MUST check
// every chunk's hash before using any, MUST rebuild state root and event-log root
// from the chunks and compare them with the application hash, and MUST check that
// more than two thirds of the voting power that it trusts (the genesis
// validators) signed the next header. A chunk that fails is named and refused.
//
// # Trust
//
// Trust: fewer than one third of the validators' voting power may lie; an
// attacker who controls less than that can at most slow the ledger down, and one
// who controls a third or more can at most stop it, and needs two thirds to forge.
// An attacker who controls a peer can at most send what is refused. An attacker
// who controls this node's disk can at most make it stop or sign nothing: what it
// signs as a validator or witness is guarded by files that must not be restored
// from a backup. Snapshots and peers are not trusted for content.
package ledger
