// Package definition is what a process of several bodies is: one document of roles,
// facts and steps, the checks that it must pass before anybody may start an instance,
// and the fold of an instance's events into its state (spec/process.md).
//
// Everything here is a pure function of its arguments: the registry and every body
// compute the same state from the same definition and the same events. There is no
// clock but the block's time that comes with an event, and nothing is read or sent.
// Facts about persons are not here: an event carries commitments to them, and
// guards over such facts are decided by the body that has to do the step.
//
// Trust: nobody. Whoever proposes a definition and whoever posts an event may be
// hostile; a document is bounded in size, steps and cost of its guards, and an event
// that the definition does not allow is refused with its reason.
package definition
