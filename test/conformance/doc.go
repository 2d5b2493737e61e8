// Package conformance holds X-Road's REST protocol against the gateways as a
// black box: one test for each line of the conformance list, over HTTP, between
// two bodies with real seals, mutual TLS, evidence and registry; only consensus
// is left out. Tests 1 to 16 ask what
// X-Road's own tests ask; the others what its documents and its implementation
// say beyond that. docs/xroad-compatibility.md lists the differences.
package conformance
