// Package evidence keeps what a court may ask for: a record of every exchange,
// durable before the answer leaves, committed to by an append-only Merkle log
// (C2SP tlog-tiles) whose signed checkpoints are anchored on the registry.
//
// The path of one record:
//
//  1. Append draws a salt and writes both to the write-ahead log; one
//     fdatasync serves all records that wait for it (package wal).
//  2. A follower appends leaves (0x01 || SHA-256(salt || record)) to the Merkle
//     log in batches, and notes in an index where each record and leaf is.
//  3. A checkpoint is signed every second while the log grows.
//  4. RunAnchors has the registry accept a checkpoint every few seconds.
//  5. Inclusion and Consistency prove what a receipt needs (package tiles).
//
// spec/evidence.md is the normative description of everything on disk.
//
// Trust: the storage is trusted for durability and confidentiality, not for
// integrity: an attacker who controls the directory can destroy evidence, but
// cannot change an anchored entry without being found by Fsck, by the registry
// or by any holder of a receipt. An attacker who controls the process can leave
// out an exchange; the counterparty's receipt then proves that it was left out.
package evidence
