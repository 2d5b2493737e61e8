package ledger

import (
	"errors"
	"fmt"
	"time"

	sm "github.com/cometbft/cometbft/state"
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

// explainHandshake adds what to do to the engine's refusal to start.
func explainHandshake(dir string, err error) error {
	var high sm.ErrAppBlockHeightTooHigh
	var low sm.ErrAppBlockHeightTooLow
	switch {
	case errors.As(err, &high):
		return fmt.Errorf("open the ledger in %s: the registry has block %d but the engine only block %d; the engine's files are older than the registry's: move %s/registry away, and the blocks are executed again: %w",
			dir, high.AppHeight, high.CoreHeight, dir, err)
	case errors.As(err, &low):
		return fmt.Errorf("open the ledger in %s: the registry has block %d but blocks are kept from %d only: restore a snapshot into an empty directory: %w",
			dir, low.AppHeight, low.StoreBase, err)
	}
	return fmt.Errorf("open the ledger in %s: %w", dir, err)
}
