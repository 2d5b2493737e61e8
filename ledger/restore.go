package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	cmtmath "github.com/cometbft/cometbft/libs/math"
	cmtstate "github.com/cometbft/cometbft/proto/tendermint/state"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	sm "github.com/cometbft/cometbft/state"
	cmtstore "github.com/cometbft/cometbft/store"
	"github.com/cometbft/cometbft/types"
	"github.com/cometbft/cometbft/version"

	"github.com/civibus/civibus/registry"
)

// engineSnapshot collects the engine's part of a snapshot, once the block after
// height is there.
func (n *Node) engineSnapshot(ctx context.Context, height uint64) (out EngineSnapshot, err error) {
	h := int64(height)
	states := sm.NewStore(n.dbs.db("state"), sm.StoreOptions{})
	if err := n.waitEngine(ctx, states, h+1); err != nil {
		return out, err
	}
	for _, part := range []struct {
		height int64
		to     *[]byte
	}{{h, &out.Header}, {h + 1, &out.NextHeader}} {
		if *part.to, err = n.signedHeader(part.height); err != nil {
			return out, err
		}
	}
	for _, part := range []struct {
		height int64
		to     *[]byte
	}{{h, &out.Validators}, {h + 1, &out.NextValidators}, {h + 2, &out.ThenValidators}} {
		set, err := states.LoadValidators(part.height)
		if err != nil {
			return out, fmt.Errorf("validators of height %d: %w", part.height, err)
		}
		pb, err := set.ToProto()
		if err != nil {
			return out, fmt.Errorf("validators of height %d: %w", part.height, err)
		}
		if *part.to, err = pb.Marshal(); err != nil {
			return out, err
		}
	}
	return out, nil
}

// waitEngine waits until the engine has saved its state after height, a moment
// after the registry has committed it.
func (n *Node) waitEngine(ctx context.Context, states sm.Store, height int64) error {
	err := n.WaitView(ctx, func(v *registry.View) bool { return v.Height() >= uint64(height) })
	if err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		state, err := states.Load()
		if err != nil {
			return err
		}
		if state.LastBlockHeight >= height {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for block %d: %w", height, context.Cause(ctx))
		}
	}
}

func (n *Node) signedHeader(height int64) ([]byte, error) {
	blocks := n.engine.BlockStore()
	meta := blocks.LoadBlockMeta(height)
	commit := blocks.LoadSeenCommit(height)
	if commit == nil {
		commit = blocks.LoadBlockCommit(height)
	}
	if meta == nil || commit == nil {
		return nil, fmt.Errorf("block %d is not kept here any more", height)
	}
	return (&types.SignedHeader{Header: &meta.Header, Commit: commit}).ToProto().Marshal()
}

// verifyEngine checks the engine's part of a snapshot against the genesis and
// makes the engine's state from it.
//
// What is trusted is the genesis's validators: more than two thirds of their power
// must have signed the headers, whoever else votes by then. Where fewer of them
// are left a snapshot cannot be told from a forged one, and a new node starts from
// the blocks. The order in which validators propose is in the sets but signed by
// nobody; a wrong one costs rounds, not agreement.
func verifyEngine(m *Manifest, doc *types.GenesisDoc) (state sm.State, commit *types.Commit, err error) {
	header, err := parseHeader(m.Engine.Header, doc.ChainID)
	if err != nil {
		return state, nil, fmt.Errorf("header of height %d: %w", m.Height, err)
	}
	next, err := parseHeader(m.Engine.NextHeader, doc.ChainID)
	if err != nil {
		return state, nil, fmt.Errorf("header of height %d: %w", m.Height+1, err)
	}
	genesis, err := sm.MakeGenesisState(doc)
	if err != nil {
		return state, nil, err
	}
	switch {
	case header.Height != int64(m.Height) || next.Height != int64(m.Height)+1:
		return state, nil, fmt.Errorf("headers of heights %d and %d, the rule is %d and %d", header.Height, next.Height, m.Height, m.Height+1)
	case !next.LastBlockID.Equals(header.Commit.BlockID):
		return state, nil, fmt.Errorf("header %d does not follow header %d", next.Height, header.Height)
	case !bytes.Equal(next.AppHash, m.AppHash):
		return state, nil, fmt.Errorf("the validators signed application hash %s at height %d, the snapshot has %x", next.AppHash, m.Height, []byte(m.AppHash))
	case !bytes.Equal(next.ConsensusHash, doc.ConsensusParams.Hash()):
		return state, nil, errors.New("the consensus parameters are not the genesis's")
	}
	sets := make([]*types.ValidatorSet, 3)
	for i, part := range []struct{ set, hash []byte }{
		{m.Engine.Validators, header.ValidatorsHash},
		{m.Engine.NextValidators, next.ValidatorsHash},
		{m.Engine.ThenValidators, next.NextValidatorsHash},
	} {
		if sets[i], err = parseValidators(part.set, part.hash); err != nil {
			return state, nil, fmt.Errorf("validators of height %d: %w", m.Height+uint64(i), err)
		}
	}
	for i, h := range []*types.SignedHeader{header, next} {
		if err := sets[i].VerifyCommitLight(doc.ChainID, h.Commit.BlockID, h.Height, h.Commit); err != nil {
			return state, nil, fmt.Errorf("header %d is not signed by more than two thirds of its validators: %w", h.Height, err)
		}
		if err := genesis.Validators.VerifyCommitLightTrusting(doc.ChainID, h.Commit, cmtmath.Fraction{Numerator: 2, Denominator: 3}); err != nil {
			return state, nil, fmt.Errorf("header %d is not signed by more than two thirds of the genesis validators: %w", h.Height, err)
		}
	}
	state = sm.State{
		Version:       cmtstate.Version{Consensus: next.Version, Software: version.TMCoreSemVer},
		ChainID:       doc.ChainID,
		InitialHeight: doc.InitialHeight,

		LastBlockHeight: header.Height,
		LastBlockTime:   header.Time,
		LastBlockID:     header.Commit.BlockID,
		AppHash:         next.AppHash,
		LastResultsHash: next.LastResultsHash,

		LastValidators:              sets[0],
		Validators:                  sets[1],
		NextValidators:              sets[2],
		LastHeightValidatorsChanged: next.Height + 1,

		ConsensusParams:                  *doc.ConsensusParams,
		LastHeightConsensusParamsChanged: next.Height,
	}
	return state, header.Commit, nil
}

func parseHeader(b []byte, chainID string) (*types.SignedHeader, error) {
	var pb cmtproto.SignedHeader
	if err := pb.Unmarshal(b); err != nil {
		return nil, err
	}
	if pb.Header == nil || pb.Commit == nil {
		return nil, errors.New("it is incomplete")
	}
	h, err := types.SignedHeaderFromProto(&pb)
	if err != nil {
		return nil, err
	}
	return h, h.ValidateBasic(chainID)
}

func parseValidators(b, hash []byte) (*types.ValidatorSet, error) {
	var pb cmtproto.ValidatorSet
	if err := pb.Unmarshal(b); err != nil {
		return nil, err
	}
	set, err := types.ValidatorSetFromProto(&pb)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(set.Hash(), hash) {
		return nil, errors.New("they are not the ones that the header names")
	}
	return set, nil
}

// RestoreSnapshot fills the node directory cfg.Dir from a snapshot directory; the
// node is opened afterwards and fetches the blocks since from its peers. The
// directory must hold no registry and no blocks; a validator's last-sign state and
// a witness's journal stay as they are. Nothing of the snapshot is believed: the
// chunks must give the application hash that more than two thirds of the genesis
// validators signed.
func RestoreSnapshot(ctx context.Context, cfg Config, snapshot string) (err error) {
	if cfg, err = cfg.WithDefaults(); err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("restore snapshot %s: %w", snapshot, err) }

	// 1. What the snapshot claims, and who signed it.
	m, err := ReadManifest(snapshot)
	if err != nil {
		return fail(err)
	}
	doc, err := EngineGenesis(cfg.Genesis)
	if err != nil {
		return fail(err)
	}
	if m.ChainID != doc.ChainID {
		return fail(fmt.Errorf("chain id %q, the genesis says %q", m.ChainID, doc.ChainID))
	}
	state, commit, err := verifyEngine(m, doc)
	if err != nil {
		return fail(err)
	}

	// 2. An empty directory that is ours.
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "engine"), 0o700); err != nil {
		return fail(err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	moves := []string{"engine/blockstore.db", "engine/state.db", "registry"}
	for _, name := range append(moves, "engine/cs.wal") {
		if _, err := os.Stat(filepath.Join(cfg.Dir, name)); err == nil {
			return fail(fmt.Errorf("%s exists in %s, the rule is a directory without blocks and registry", name, cfg.Dir))
		}
	}

	// 3. Rebuild beside it, then move into place, the registry last.
	temp := filepath.Join(cfg.Dir, "restoring")
	if err := os.RemoveAll(temp); err != nil {
		return fail(err)
	}
	defer os.RemoveAll(temp)
	if err := restoreRegistry(ctx, filepath.Join(temp, "registry"), m, snapshot); err != nil {
		return fail(err)
	}
	if err := restoreEngine(filepath.Join(temp, "engine"), state, commit); err != nil {
		return fail(err)
	}
	for _, name := range moves {
		if err := os.Rename(filepath.Join(temp, name), filepath.Join(cfg.Dir, name)); err != nil {
			return fail(err)
		}
	}
	return errors.Join(syncDir(filepath.Join(cfg.Dir, "engine")), syncDir(cfg.Dir))
}

func restoreRegistry(ctx context.Context, dir string, m *Manifest, snapshot string) error {
	st, err := openStore(dir)
	if err != nil {
		return err
	}
	_, err = importChunks(m, func(i int) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return os.ReadFile(filepath.Join(snapshot, ChunkFile(i)))
	}, st)
	return errors.Join(err, st.close())
}

func restoreEngine(dir string, state sm.State, commit *types.Commit) error {
	blocks, err := dbm.NewGoLevelDB("blockstore", dir)
	if err != nil {
		return err
	}
	states, err := dbm.NewGoLevelDB("state", dir)
	if err != nil {
		return errors.Join(err, blocks.Close())
	}
	stateStore := sm.NewStore(states, sm.StoreOptions{})
	err = stateStore.Bootstrap(state)
	if err == nil {
		err = cmtstore.NewBlockStore(blocks).SaveSeenCommit(state.LastBlockHeight, commit)
	}
	if err == nil {
		err = stateStore.SetOfflineStateSyncHeight(state.LastBlockHeight)
	}
	return errors.Join(err, states.Close(), blocks.Close())
}

// checkEngine compares the engine's files with the registry before the engine
// starts, and says what to do where they do not fit. A registry that is behind is
// no fault: the engine has it execute the blocks that it lacks.
func (n *Node) checkEngine(blocks, states dbm.DB) error {
	blockStore := cmtstore.NewBlockStore(blocks)
	stateStore := sm.NewStore(states, sm.StoreOptions{})
	state, err := stateStore.Load()
	if err != nil {
		return fmt.Errorf("the engine's state: %w", err)
	}
	if err := n.signer.search(blockStore); err != nil {
		return err
	}
	base, top := uint64(blockStore.Base()), uint64(blockStore.Height())
	if top == 0 && !state.IsEmpty() && state.LastBlockHeight > 0 {
		// Restored from a snapshot and no block since. The engine forgets the mark at
		// its first start, and a crash before the first block would leave it unable
		// to start.
		top = uint64(state.LastBlockHeight)
		if err := stateStore.SetOfflineStateSyncHeight(state.LastBlockHeight); err != nil {
			return err
		}
	}
	v := n.View()
	height := uint64(0)
	if v != nil && v.Height() > 0 {
		height = v.Height()
		if err := compareEngine(n.cfg.Dir, v, blockStore, stateStore); err != nil {
			return err
		}
	} else if base > 1 || (top > 0 && base == 0) {
		return fmt.Errorf("open the ledger in %s: the registry is empty but blocks are kept from %d only; restore a snapshot into an empty directory", n.cfg.Dir, max(base, top))
	}
	return readBlocks(n.cfg.Dir, blockStore, max(height+1, base))
}

// readBlocks reads the blocks from a height on, which the registry is about to
// execute: the engine would panic at one that is damaged, when half of it has begun.
func readBlocks(dir string, blocks *cmtstore.BlockStore, height uint64) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("open the ledger in %s: block %d cannot be read: %v", dir, height, r)
		}
	}()
	for ; height > 0 && height <= uint64(blocks.Height()); height++ {
		if blocks.LoadBlock(int64(height)) == nil {
			return fmt.Errorf("open the ledger in %s: block %d is missing; run \"civibus ledger resync\"", dir, height)
		}
	}
	return nil
}

// compareEngine compares a registry with the engine's blocks and state.
func compareEngine(dir string, v *registry.View, blockStore *cmtstore.BlockStore, stateStore sm.Store) error {
	state, err := stateStore.Load()
	if err != nil {
		return fmt.Errorf("the engine's state: %w", err)
	}
	base, top := uint64(blockStore.Base()), max(uint64(blockStore.Height()), uint64(state.LastBlockHeight))
	height, hash := v.Height(), v.AppHash()
	switch {
	case height > top:
		return fmt.Errorf("open the ledger in %s: the registry has block %d, the engine's files only %d, so they are older; move %s/registry away, and the blocks are executed again",
			dir, height, top, dir)
	case base > 0 && height+1 < base:
		return fmt.Errorf("open the ledger in %s: the registry has block %d but blocks are kept from %d only; restore a snapshot into an empty directory", dir, height, base)
	}
	agreed := state.AppHash
	if height != uint64(state.LastBlockHeight) {
		agreed = nil
		if next := blockStore.LoadBlockMeta(int64(height) + 1); next != nil {
			agreed = next.Header.AppHash
		}
	}
	if agreed != nil && !bytes.Equal(agreed, hash[:]) {
		return fmt.Errorf("open the ledger in %s: the registry's hash at height %d is %x, the validators agreed on %x; move %s/registry away, and the blocks are executed again, or restore a snapshot",
			dir, height, hash, agreed, dir)
	}
	return nil
}
