// Package tiles is a Merkle log on disk in the C2SP tlog-tiles layout: a writer
// on Tessera's POSIX storage, and a reader that builds proofs from a bounded
// cache of tiles which keeps their inner nodes.
//
// The writer differs from Tessera's defaults in two ways. One batch is under way
// at a time, and what a crash left of it is found by its leaf hashes. Checkpoints
// are signed and partial tiles removed by this package, between batches, so that
// nothing is written behind the caller's back and Close is complete.
//
// Trust: the files are not trusted. A full tile is compared with its parent when
// it is read, and no checkpoint is signed that does not extend the last one. An
// attacker who changes files can at most stop the log and its proofs.
package tiles
