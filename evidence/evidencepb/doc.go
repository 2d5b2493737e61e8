// Package evidencepb holds the evidence record's wire format, generated from
// evidence.proto.
//
// Trust: it only decodes. An attacker who controls the bytes cannot make a
// record that the Merkle log and the seals in it do not support.
package evidencepb

//go:generate ../../internal/gen/protoc.sh evidence/evidencepb/evidence.proto
