// Package gateway is a body's front door. Its consumer face speaks X-Road's
// REST protocol to the body's own systems and carries their calls to other
// bodies; its provider face takes other bodies' calls and brings them to the
// body's services. pipeline.go holds one function for each face, whose numbered
// steps are those of ARCHITECTURE.md. spec/exchange.md is the normative text.
//
// Trust: an attacker who controls a client system can at most make the calls
// that the body's client rules and access rights allow. One who controls
// another body's gateway can at most speak as that body: what it sends is
// verified, decided and recorded here before a service sees its end. One who
// controls a service can at most answer for that service. One who controls the
// network can at most stop an exchange.
package gateway
