// Package evidence measures the evidence log: entries a second into the Merkle
// log with their CPU time, the latency of Append, and proofs a second, each
// beside a baseline of the same run.
//
// Trust: it measures; nothing relies on it.
package evidence
