// Package httpsig implements HTTP message signatures (RFC 9421) and digest
// fields (RFC 9530) in general: every derived component, every component
// parameter, several signatures in one message. It knows nothing of Civibus;
// package seal fixes the profile.
//
// The order of work is always the same: an [Input] says what is covered and
// how, [AppendBase] makes the signature base of a [Message] from it, and
// [Sign] or [Verify] applies the algorithm to the base.
//
// Trust: an attacker who controls a message controls everything that this
// package parses, and can at most have it refused. Which key and algorithm
// apply is the caller's decision, never the message's.
package httpsig
