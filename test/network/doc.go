// Package network runs bodies as separate processes on machines of their own: each
// "civibus run" has a network namespace with an address and a link to a bridge, so
// that links can be cut, the bridge be split into halves and a machine be paused
// without anything else on this computer noticing. Clients call through the bodies'
// own consumer faces and keep what was acknowledged; what must hold whatever happens
// is checked while the network runs and once more when it has ended (Verify).
//
// It needs Linux, root and iproute2. This kernel's traffic shaping is not used:
// latency, stalls, resets, narrow links and one-way silence come from a TCP relay
// that stands between the machines (Relay).
package network
