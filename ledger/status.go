package ledger

import (
	"fmt"
	"strings"
	"time"
)

// Status is what a node knows about itself.
type Status struct {
	ChainID     string
	NodeID      string
	Height      uint64        // of the last committed block
	AppHash     [32]byte      // after it
	BlockTime   time.Time     // its time, agreed by the validators
	BlockAge    time.Duration // since it was committed here
	Peers       int           // connected
	PeersWanted int           // configured
	Waiting     int           // transactions that wait for a block
	Validator   bool          // the node votes
	CatchingUp  bool          // it fetches blocks that its peers have
	Healthy     bool          // blocks can be made and this node follows them
	Problems    []string      // what the watchdog sees, most serious first

	kinds []string // of the problems, in the same order
}

// explainHandshake adds what to do to the engine's refusal to start. The engine
// gives its reason as text only.
func explainHandshake(dir string, err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "is higher than core"):
		return fmt.Errorf("open the ledger in %s: the registry has blocks that the engine's files have not, so these are older; move %s/registry away, and the blocks are executed again: %w", dir, dir, err)
	case strings.Contains(text, "too far below block store base"):
		return fmt.Errorf("open the ledger in %s: the registry lacks blocks that are not kept any more; restore a snapshot into an empty directory: %w", dir, err)
	}
	return fmt.Errorf("open the ledger in %s: %w", dir, err)
}
