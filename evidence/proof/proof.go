// Package proof makes and verifies receipts: the self-contained proof of one
// exchange that a court can check with no node, no network and no secret. The
// normative text is spec/receipt.md; verify.go follows its numbered steps.
//
// It depends on the standard library, the protobuf runtime, the wire formats and
// an implementation of ML-DSA only, so that an auditor can read all of it.
//
// Trust: nothing in a receipt is believed. An attacker who controls the receipt
// can at most have it refused, unless he also controls a quorum of the policy's
// witnesses. Whoever supplies the policy is trusted to name the right witnesses.
package proof

import "crypto/sha256"

// The receipt formats that this package reads and writes. Version 2 carries second
// signatures and certificate chains; a receipt without them is written as version 1.
const (
	Format  = "civibus-receipt/v1"
	Format2 = "civibus-receipt/v2"
)

// FileExtension is the usual ending of a receipt's file name.
const FileExtension = ".receipt.json"

// Limits of a receipt and a policy. Whatever is larger is refused unread.
const (
	MaxReceiptBytes = 4 << 20
	MaxPolicyBytes  = 1 << 20
	MaxFacts        = 64
	MaxSignatures   = 64 // signature lines of one note
	MaxChains       = 4
	MaxChain        = 8 // certificates of a chain
)

// Receipt is the proof of one exchange: what the registry says, and what one or
// both of the bodies recorded.
type Receipt struct {
	Exchange string       // exchange id (X-Road-Request-Id)
	Registry RegistryPart // what the witnesses vouch for
	Entries  []Entry      // one or two; the side that exports comes first

	Second bool    // version 2 of the format
	Chains []Chain // version 2: certificates of the seals' keys
}

// Chain is the X.509 certificates that an authority issued for a seal's key, DER,
// the key's own first.
type Chain [][]byte

// Digest names the chain in records.
func (c Chain) Digest() [32]byte {
	h := sha256.New()
	for _, certificate := range c {
		sum := sha256.Sum256(certificate)
		h.Write(sum[:])
	}
	return [32]byte(h.Sum(nil))
}

// RegistryPart binds the facts to the cosigned checkpoint of the registry's
// event log.
type RegistryPart struct {
	BlockEvent []byte // Event{block_committed}, the checkpoint's last leaf
	BlockProof string // tlog-proof text
	Facts      []Fact
}

// Fact is one record of the registry's state with its proof.
type Fact struct {
	Key   string // e.g. "member/DEMO/GOV/1001"
	Value []byte // protobuf of the state record; nil: absent
	Proof []byte // protobuf StateProof
}

// Entry is one body's evidence of the exchange.
type Entry struct {
	Record      []byte // protobuf evidence Record, verbatim
	Salt        []byte // 16 bytes
	Proof       string // tlog-proof text: the leaf in the body's checkpoint
	AnchorEvent []byte // Event{log_anchored} of that checkpoint
	AnchorProof string // tlog-proof text: the event in the registry's checkpoint
}
