package node

import (
	"encoding/hex"
	"fmt"
)

// modeLight is the ledger.mode of a body that follows the registry without a
// ledger node.
const modeLight = "light"

// validateLight reports what is wrong with the settings for following the ledger
// by verified headers.
func (c LedgerConfig) validateLight(v *validator) {
	if c.Mode == modeLight && len(c.FullNodes) == 0 {
		v.add("ledger.full_nodes", "there is none, and ledger.mode is \"light\"; list the provider faces (host:port) of two or more bodies that run a ledger node")
	}
	seen := map[string]bool{}
	for i, a := range c.FullNodes {
		key := fmt.Sprintf("ledger.full_nodes[%d]", i)
		v.address(key, a)
		if seen[a] {
			v.add(key, "%q is listed twice; one full node cannot be held against itself", a)
		}
		seen[a] = true
	}
	v.positive("ledger.trust_period", c.TrustPeriod)
	switch hash, err := hex.DecodeString(c.TrustHash); {
	case c.TrustHeight < 0:
		v.add("ledger.trust_height", "%d: the rule is 0 (the genesis) or the height of a block", c.TrustHeight)
	case c.TrustHeight == 0 && c.TrustHash != "":
		v.add("ledger.trust_height", "it is missing, and ledger.trust_hash is set; set both, as a body that you trust prints them")
	case c.TrustHeight != 0 && (err != nil || len(hash) != 32):
		v.add("ledger.trust_hash", "%q: the rule is the 64 hex digits of the hash of block %d", c.TrustHash, c.TrustHeight)
	}
	if c.SnapshotInterval < -1 {
		v.add("ledger.snapshot_interval", "%d: the rule is -1 (none) or a number of blocks", c.SnapshotInterval)
	}
}
