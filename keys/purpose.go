package keys

import (
	"slices"

	"github.com/civibus/civibus"
)

// NodeKey names the body's ledger node to its peers and signs nothing else. The
// registry has no such purpose: it holds the nodes' ids, which are digests of
// these keys.
const NodeKey civibus.Purpose = 100

// purposes are all, in the order of lists.
var purposes = []civibus.Purpose{
	civibus.SealKey, civibus.LogKey, civibus.TransportKey, civibus.ValidatorKey, civibus.AdminKey, civibus.WitnessKey, NodeKey,
}

// PurposeName is the name of a purpose in file names and for people.
func PurposeName(p civibus.Purpose) string {
	if p == NodeKey {
		return "node"
	}
	return p.String()
}

// parsePurpose reads it.
func parsePurpose(name string) (civibus.Purpose, bool) {
	i := slices.IndexFunc(purposes, func(p civibus.Purpose) bool { return PurposeName(p) == name })
	if i < 0 {
		return 0, false
	}
	return purposes[i], true
}
