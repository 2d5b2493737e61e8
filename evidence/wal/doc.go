// Package wal is a segmented append-only log of byte strings that are durable
// when Append returns. Everything that waits is written by one write and made
// durable by one fdatasync (group commit); nobody waits for company.
//
// A log that was cut off by a crash in the middle of a write, which nobody was
// told had succeeded, is cut back to its last whole frame. Any other damage
// makes Open refuse, with the place: acknowledged entries are never dropped
// silently.
//
// Trust: an attacker who controls the files can destroy or replace entries;
// CRC32C finds accidents, not attacks. The Merkle log on top finds attacks.
package wal
