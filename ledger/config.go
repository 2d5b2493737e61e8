package ledger

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// Config describes one node of the ledger. Zero values of optional fields mean
// the default.
type Config struct {
	// Dir is the node's data directory. It is created. It holds the validator's
	// last-sign state and the witness's journal: never run two copies of it and
	// never restore it from a backup while the key stays in use.
	Dir string

	// Genesis is the instance's first state. It must be the same at every node;
	// a directory that was started with another one is refused.
	Genesis *registry.Genesis

	// ListenAddress is the host:port at which peers reach this node. Port 0 takes
	// a free port, see Node.ListenAddress; a body gives a fixed one.
	ListenAddress string

	// Peers are nodes this one talks to beside those of the registry, and by which a
	// new node finds the others: "nodeid@host:port", dialled and redialled for ever,
	// or "nodeid" alone, which is let in but not dialled. Of two nodes, one must dial.
	// No other node may connect.
	Peers []string

	// ValidatorKeys returns the keys that this node may vote with, oldest first. It is
	// called again after each block: the newest one that has voting power votes, so
	// that keys are rotated without a restart. Nil: the node follows and does not
	// vote. Two running nodes with the same key sign twice, which every other node can
	// prove.
	ValidatorKeys func() []ValidatorKey

	// NodeKey names this node to its peers. Nil: the key in engine/node_key.json in
	// Dir, which is made if it is missing.
	NodeKey ed25519.PrivateKey

	// Witness signs the registry's checkpoints (Ed25519, registered with purpose
	// witness). Nil: the node does not cosign.
	Witness civibus.Signer
	// SecondWitness returns the ML-DSA-44 witness key that cosigns besides, as long
	// as it returns one. Default: there is none.
	SecondWitness func() civibus.Signer

	// TimeoutCommit is the pause after each block, the floor between two blocks.
	// Default 200 ms. Shorter costs CPU and disk, longer costs latency. Negative: none.
	TimeoutCommit time.Duration

	// HeartbeatInterval is the time between empty blocks when nothing happens.
	// Default 45 s, the same at all nodes; 30 to 60 s is sensible in production,
	// because the age of the last block is how a gateway knows that its view is fresh.
	HeartbeatInterval time.Duration

	// RetainBlocks is how many blocks are kept. Default 0: all. At least
	// MinRetainBlocks otherwise, so that misbehaviour can be proved while it
	// counts. A node that starts from nothing needs all blocks from a peer, or a
	// snapshot. The results of transactions are kept as long as their blocks.
	RetainBlocks uint64

	// FewBlocks lets RetainBlocks be below MinRetainBlocks: tests cross the border of
	// what is kept. Not for production, where it loses proofs of misbehaviour.
	FewBlocks bool

	// HaltHeight, when not 0, stops the node before it executes the block at this
	// height: for an upgrade that operators agreed on outside of the registry, or to
	// stand still together. Halted then returns a *HaltError, and Open refuses a
	// directory that has come so far.
	HaltHeight uint64

	// SnapshotInterval is the number of blocks between automatic snapshots. 0: none.
	SnapshotInterval uint64

	// SnapshotKeep is how many automatic snapshots are kept. Default 2.
	SnapshotKeep int

	// StateProvider vouches for the snapshot with which a node begins that has no
	// blocks. Nil: it begins with the first block.
	StateProvider StateProvider

	// StateSyncWait is how long nothing may move while the node tries to begin with a
	// snapshot, before it begins with the first block. Default 90 s.
	StateSyncWait time.Duration

	// PoolTransactions and PoolBytes bound the transactions that wait for a block.
	// Defaults 20,000 and 64 MiB. Beyond, Submit holds its callers back for
	// SubmitWait and then answers ErrBusy.
	PoolTransactions int
	PoolBytes        int64

	// SubmitWait is how long Submit waits for room among the waiting
	// transactions. Default 2 s.
	SubmitWait time.Duration

	// StallAfter is how long transactions may wait without a block before the
	// watchdog calls the ledger stalled. Default 15 s.
	StallAfter time.Duration

	// WatchInterval is the watchdog's period. Default 1 s.
	WatchInterval time.Duration

	// Clock is the time put into cosignatures and used by the watchdog. Default
	// time.Now.
	Clock civibus.Clock

	// Logger receives this package's log and the engine's. Default: discarded.
	Logger *slog.Logger

	// Metrics registers this package's metrics. Nil: none.
	Metrics prometheus.Registerer

	// EngineMetrics is a namespace for CometBFT's own metrics, which it registers
	// with the process's default registry; it must be unique in the process.
	// Empty: none.
	EngineMetrics string

	// dishonest, when not nil, stands between the engine and the registry. Tests make
	// a validator with it that proposes what no honest one would.
	dishonest func(abci.Application) abci.Application
}

// MinRetainBlocks is the least number of blocks a node keeps when it prunes: the
// age up to which evidence of misbehaviour is accepted.
const MinRetainBlocks = 100_000

var nodeIDPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// WithDefaults fills in the defaults, takes a free port for port 0 and reports every problem at once.
func (c Config) WithDefaults() (Config, error) {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("ledger directory: it is empty, the rule is a path"))
	}
	if c.Genesis == nil {
		errs = append(errs, errors.New("ledger genesis: it is missing"))
	}
	if c.ListenAddress == "" {
		c.ListenAddress = "127.0.0.1:0"
	}
	if _, port, err := net.SplitHostPort(c.ListenAddress); err != nil {
		errs = append(errs, fmt.Errorf("ledger listen address %q: the rule is host:port", c.ListenAddress))
	} else if port == "0" {
		if c.ListenAddress, err = freeAddress(c.ListenAddress); err != nil {
			errs = append(errs, fmt.Errorf("ledger listen address: %w", err))
		}
	}
	seen := make(map[string]bool)
	for _, p := range c.Peers {
		id, _, err := splitPeer(p)
		if err != nil {
			errs = append(errs, err)
		} else if seen[id] {
			errs = append(errs, fmt.Errorf("ledger peer %q: the node is listed twice", p))
		}
		seen[id] = true
	}
	if c.RetainBlocks != 0 && c.RetainBlocks < MinRetainBlocks && !c.FewBlocks {
		errs = append(errs, fmt.Errorf("retained blocks %d: the rule is 0 (all) or at least %d", c.RetainBlocks, MinRetainBlocks))
	}
	if c.Witness != nil && c.Witness.Key().Algorithm != civibus.Ed25519 {
		errs = append(errs, fmt.Errorf("witness key %s: algorithm %s, the rule is ed25519", c.Witness.Key().ID, c.Witness.Key().Algorithm))
	}
	setDefault(&c.TimeoutCommit, 200*time.Millisecond)
	if c.TimeoutCommit < 0 {
		c.TimeoutCommit = 0
	}
	setDefault(&c.HeartbeatInterval, 45*time.Second)
	setDefault(&c.SnapshotKeep, 2)
	setDefault(&c.StateSyncWait, 90*time.Second)
	setDefault(&c.PoolTransactions, 20_000)
	setDefault(&c.PoolBytes, 64<<20)
	setDefault(&c.SubmitWait, 2*time.Second)
	setDefault(&c.StallAfter, 15*time.Second)
	setDefault(&c.WatchInterval, time.Second)
	if c.HeartbeatInterval < 0 || c.SubmitWait < 0 || c.StallAfter < 0 || c.WatchInterval < 0 || c.PoolTransactions < 0 || c.PoolBytes < 0 {
		errs = append(errs, errors.New("ledger settings: a duration or limit is negative"))
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// splitPeer reads "nodeid" or "nodeid@host:port".
func splitPeer(p string) (id, address string, err error) {
	id = p
	for i := range p {
		if p[i] == '@' {
			id, address = p[:i], p[i+1:]
			break
		}
	}
	if !nodeIDPattern.MatchString(id) {
		return "", "", fmt.Errorf("ledger peer %q: the rule is 40 lower-case hex digits of the node id, and @host:port where it is dialled", p)
	}
	if address != "" {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return "", "", fmt.Errorf("ledger peer %q: the rule is nodeid@host:port", p)
		}
	} else if len(id) != len(p) {
		return "", "", fmt.Errorf("ledger peer %q: nothing follows the @, the rule is nodeid@host:port", p)
	}
	return id, address, nil
}
