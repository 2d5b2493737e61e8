package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	cmtcfg "github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/light"
	"github.com/cometbft/cometbft/p2p"
	ssproto "github.com/cometbft/cometbft/proto/tendermint/statesync"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/statesync"
	cmtstore "github.com/cometbft/cometbft/store"

	"github.com/civibus/civibus/registry"
)

// A node without blocks begins with a snapshot of its peers' (the engine's state
// sync), if Config.StateProvider vouches for it, and fetches the blocks since. The
// engine only logs when that fails, and stays up idle; so Open watches it and begins
// with the blocks instead.

// StateProvider vouches for what a node begins with: light.Source. It is CometBFT's
// interface.
type StateProvider = statesync.StateProvider

// adoptingKey marks a registry that comes from a snapshot while the engine does not
// know of it.
var adoptingKey = []byte{ledgerSpace, 'y'}

// errNoStateSync: the node could not begin with a snapshot.
var errNoStateSync = errors.New("no snapshot could be had from the peers")

// dropAdopted removes a registry that came from a snapshot, in part or as a whole,
// of which the engine was not told before the process ended.
func (n *Node) dropAdopted() error {
	adopting, err := get(n.store.db, adoptingKey)
	if err != nil || adopting == nil {
		return err
	}
	height, err := engineHeight(n.cfg.Dir)
	if err == nil && height == 0 {
		err = n.store.clear()
	}
	if err != nil {
		return err
	}
	n.store.stage(nil, [][]byte{adoptingKey})
	return n.store.flush()
}

// beginsFresh says whether the node has no block and is to begin with a snapshot.
func (n *Node) beginsFresh() (bool, error) {
	v := n.app.view()
	if n.cfg.StateProvider == nil || v != nil && v.Height() > 0 {
		return false, nil
	}
	if height, err := engineHeight(n.cfg.Dir); err != nil || height > 0 {
		return false, err
	}
	if v != nil { // the genesis's, of an earlier start that got no block
		if err := n.store.clear(); err != nil {
			return false, err
		}
		var err error
		if n.app, err = newApp(n.cfg, n.store, n.metrics); err != nil {
			return false, err
		}
	}
	return true, nil
}

// HasBlocks says whether a ledger directory holds a block, so that a node in it does
// not begin anew.
func HasBlocks(dir string) (bool, error) {
	height, err := engineHeight(dir)
	return height > 0, err
}

// engineHeight is the height of the engine's files, 0 without any.
func engineHeight(dir string) (int64, error) {
	dir = filepath.Join(dir, "engine")
	height := int64(0)
	for id, read := range map[string]func(dbm.DB) (int64, error){
		"blockstore": func(db dbm.DB) (int64, error) { return cmtstore.NewBlockStore(db).Height(), nil },
		"state": func(db dbm.DB) (int64, error) {
			state, err := sm.NewStore(db, sm.StoreOptions{}).Load()
			return state.LastBlockHeight, err
		},
	} {
		if _, err := os.Stat(filepath.Join(dir, id+".db")); errors.Is(err, os.ErrNotExist) {
			continue
		}
		db, err := dbm.NewGoLevelDB(id, dir)
		if err != nil {
			return 0, fmt.Errorf("the engine's %s: %w", id, err)
		}
		h, err := read(db)
		if err = errors.Join(err, db.Close()); err != nil {
			return 0, fmt.Errorf("the engine's %s: %w", id, err)
		}
		height = max(height, h)
	}
	return height, nil
}

// stateSyncConfig has the engine begin with a snapshot.
func (n *Node) stateSyncConfig(e *cmtcfg.Config) {
	e.StateSync.Enable = true
	e.StateSync.DiscoveryTime = 5 * time.Second // the engine's least
	e.StateSync.TempDir = filepath.Join(n.cfg.Dir, "engine")
}

// awaitStateSync waits until the engine has begun with a snapshot, and meanwhile has
// the peers dialled. It gives up when nothing moved for Config.StateSyncWait.
func (n *Node) awaitStateSync(ctx context.Context, peers *watchdog) (err error) {
	defer func() {
		if err != nil {
			n.endStateSync()
		}
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	dial := time.NewTicker(n.cfg.WatchInterval)
	defer dial.Stop()
	peers.dial()
	moved, last := time.Now(), uint64(0)
	states := sm.NewStore(n.dbs.db("state"), sm.StoreOptions{})
	for {
		if v := n.View(); v != nil && v.Height() > 0 {
			state, err := states.Load()
			if err != nil {
				return err
			}
			if state.LastBlockHeight > 0 {
				n.cfg.Logger.Info("began with a verified snapshot of the registry", slog.Int64("height", state.LastBlockHeight))
				return nil
			}
		}
		if now := n.app.snapshots.applied.Load(); now != last {
			moved, last = time.Now(), now
		}
		if f := n.app.failed(); f != nil {
			return fmt.Errorf("%w: %s", errNoStateSync, firstLine(f.detail))
		}
		if quiet := time.Since(moved); quiet > n.cfg.StateSyncWait {
			return fmt.Errorf("%w within %s", errNoStateSync, n.cfg.StateSyncWait)
		}
		select {
		case <-tick.C:
		case <-dial.C:
			peers.look() // notes who is missing
			peers.dial()
		case <-ctx.Done():
			return fmt.Errorf("begin with a snapshot: %w", context.Cause(ctx))
		}
	}
}

// vouched is the StateProvider as the engine has it: one that can be ended.
type vouched struct {
	StateProvider
	over  atomic.Bool
	once  sync.Once
	ended chan struct{}
}

// AppHash answers the engine's first question about a snapshot; after the end with
// the one error with which the engine gives up.
func (v *vouched) AppHash(ctx context.Context, height uint64) ([]byte, error) {
	if v.over.Load() {
		v.once.Do(func() { close(v.ended) })
		return nil, light.ErrNoWitnesses
	}
	return v.StateProvider.AppHash(ctx, height)
}

// nobody offers a snapshot that there is not.
type nobody struct{ p2p.Peer }

// ID is no node's.
func (nobody) ID() p2p.ID { return "nobody" }

// endStateSync ends the engine's search for snapshots, which would go on for ever,
// also when the engine has stopped: it looks for one every five seconds, so it is
// given one, and an error with it.
func (n *Node) endStateSync() {
	n.vouched.over.Store(true)
	reactor, ok := n.engine.Switch().Reactor("STATESYNC")
	if !ok {
		return
	}
	reactor.Receive(p2p.Envelope{Src: nobody{}, ChannelID: statesync.SnapshotChannel, Message: &ssproto.SnapshotsResponse{
		Height: 1 << 62, Format: snapshotABCI, Chunks: 1, Hash: []byte{1},
	}})
	timer := time.NewTimer(6 * time.Second)
	defer timer.Stop()
	select {
	case <-n.vouched.ended:
	case <-timer.C: // it was not searching
	}
}

// markAdopting marks the registry as one that the engine has to be told of.
func (a *app) markAdopting() error {
	a.adopting = true
	a.store.stage([]registry.KV{{Key: adoptingKey, Value: []byte{1}}}, nil)
	return a.store.flush()
}

// told ends that with the first block.
func (a *app) told() {
	if a.adopting {
		a.adopting = false
		a.store.stage(nil, [][]byte{adoptingKey})
	}
}
