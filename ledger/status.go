package ledger

import "time"

// Status is what a node knows about itself.
type Status struct {
	ChainID     string
	NodeID      string
	Height      uint64        // of the last committed block
	AppHash     [32]byte      // after it
	BlockTime   time.Time     // its time, agreed by the validators
	BlockAge    time.Duration // since it was committed here
	Peers       int           // connected
	PeersWanted int           // configured, and validators of the registry
	Waiting     int           // transactions that wait for a block
	Validator   bool          // the node has a key that votes
	CatchingUp  bool          // it fetches blocks that its peers have
	Healthy     bool          // blocks can be made and this node follows them
	Problems    []string      // what the watchdog sees, most serious first

	kinds []string // of the problems, in the same order
}
