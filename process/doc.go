// Package process drives a body's part of processes: it sees in the registry whose turn
// it is, hands the body's own turns to its systems, keeps the facts that they find
// out, posts the events, opens the facts to the bodies concerned, and says when a step
// is late (spec/process.md section 6).
//
// Nobody drives the whole. What a body may do is decided by the registry's fold, the
// same for everybody; what is here only acts on it. All that was taken from a system
// is on disk before the system is told so, so that a node that dies goes on where it
// was: an event is posted again as it was, and the registry knows it.
//
// Trust: the body's own systems are believed about the body's steps. Another body is
// believed about a fact as far as the registry has its commitment to it. An attacker
// who controls this node can act for its body's steps, and read the facts that are opened
// to it.
package process
