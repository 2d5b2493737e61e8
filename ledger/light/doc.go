// Package light follows the ledger without taking part in it: it fetches signed
// headers and blocks from full nodes that it does not trust, verifies them, and
// executes the blocks in a registry of its own, so that it holds the same view as a
// full node.
//
// # What is verified
//
// A header counts when more than two thirds of the voting power that was trusted
// before signed it, and more than two thirds of its own validators' (CometBFT's
// light-client verification, with a trust level of two thirds: where more than a
// third of the power changed hands, headers in between are fetched). The first
// trust is the genesis's validators, or a header that the operator names by height
// and hash. Trust ends after the trust period, since validators that left long ago
// lose nothing by signing a false history. Every new header is compared with a
// second full node's.
//
// Blocks between two trusted headers are linked to the later one by their hashes;
// transactions and evidence hash to what the headers say. A block that changed the
// registry is shown only when the next header bears the application hash that its
// execution gave here.
//
// # Full nodes that lie
//
// What does not verify is the fault of who said it: that node is named in the log,
// counted, left alone for a time, and what it said is kept in the folder lies/.
// Two headers of one height that both verify mean that more than a third of the
// validators signed twice: then nothing is believed any more until the operator
// decides.
//
// # Trust
//
// Trust: more than two thirds of the voting power of the last trusted validators,
// and this machine's clock to a minute and its disk. An attacker who controls all
// full nodes that this body reaches can at most withhold: no new blocks, which the
// status shows and which is bounded by ledger.max_staleness, and no changes by this
// body.
package light
