// Package node composes one body's node out of the rooms of the bus: keys,
// ledger, evidence, seals, transport, services, gateway and administration. It
// knows everyone; nobody knows it.
//
// Trust: it holds the body's private keys through keys.Ring, so an attacker who
// controls its process can act as this body until the keys are revoked, and as
// no other. An attacker who controls a peer can at most make it refuse or wait.
package node
