package light

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	cmtstate "github.com/cometbft/cometbft/proto/tendermint/state"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/types"
	"github.com/cometbft/cometbft/version"

	"github.com/civibus/civibus/ledger"
)

// Source vouches for the snapshot with which a new full node begins: its headers,
// validators and application hash are verified as a light client's, by the same
// questions to full nodes. The snapshot itself comes from the node's peers.
type Source struct {
	c *Client

	mu    sync.Mutex
	known map[int64]*types.LightBlock // verified
}

var _ ledger.StateProvider = (*Source)(nil)

// NewSource makes a source. Of the configuration's Dir only lies/ is used.
func NewSource(ctx context.Context, cfg Config) (*Source, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := withoutReplica(ctx, cfg)
	if c.metrics, err = newMetrics(nil, c); err != nil {
		return nil, err
	}
	return &Source{c: c, known: make(map[int64]*types.LightBlock)}, nil
}

// Close ends its connections.
func (s *Source) Close() {
	s.c.stop()
	s.c.pool.close()
}

// Snapshot waits until a full node lets this one in, which it does when the registry
// holds this body's transport key, and says whether there is a snapshot to begin
// with: its height, or 0.
func (s *Source) Snapshot(ctx context.Context) (height uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := time.Time{}
	for {
		nodes := s.c.pool.usable()
		for _, f := range nodes {
			if height, err = s.snapshot(ctx, f); err == nil || final(err) {
				return height, err
			}
			s.c.pool.failed(ctx, f, err)
		}
		if now := time.Now(); err != nil && now.Sub(told) > time.Minute {
			told = now
			s.c.cfg.Logger.Warn("waiting for a full node to answer; each asks whether the registry holds this body's transport key (remove ledger.full_nodes to begin with the first block)",
				slog.Any("full_nodes", s.c.cfg.FullNodes), slog.Any("error", err))
		}
		if err := s.c.rest(ctx, s.c.pool.next()); err != nil {
			return 0, err
		}
	}
}

// snapshot finds the newest snapshot of a full node for which there are headers.
func (s *Source) snapshot(ctx context.Context, f *fullNode) (uint64, error) {
	b, err := f.get(ctx, "snapshots", maxSmall, 0)
	if err != nil {
		return 0, err
	}
	heights, err := parseSnapshots(b)
	if err != nil {
		return 0, &lie{lieMalformed, err, "snapshots", b}
	}
	for _, h := range heights {
		if h == 0 || h > 1<<62 {
			continue
		}
		if s.c.trust() == nil {
			if err := s.c.root(ctx); err != nil {
				return 0, err
			}
		}
		// A node that begins needs the two headers after it.
		_, err := s.verified(ctx, f, int64(h)+2)
		if errors.Is(err, errNotYet) {
			continue
		}
		return h, err
	}
	return 0, nil
}

// verified is the light block of a height, verified and compared with a second full
// node's.
func (s *Source) verified(ctx context.Context, f *fullNode, height int64) (*types.LightBlock, error) {
	if lb, ok := s.known[height]; ok {
		return lb, nil
	}
	trusted := s.c.trust()
	lb, err := f.lightBlock(ctx, height, 0, crossCheckWait)
	if err != nil {
		return nil, err
	}
	switch {
	case height > trusted.Height:
		err = s.c.forward(ctx, f, lb)
	case height == trusted.Height:
		err = s.same(lb, trusted.Hash())
	default:
		var hash []byte
		if hash, err = s.c.link(ctx, f, trusted.Height, trusted.Hash(), height); err == nil {
			err = s.same(lb, hash)
		}
	}
	if err == nil {
		err = s.sameOrder(ctx, f, lb)
	}
	if err != nil {
		return nil, err
	}
	s.known[height] = lb
	return lb, nil
}

// same holds a light block to a verified hash. Its validators hash to what the
// header says; its commit is checked, because the node goes on from it.
func (s *Source) same(lb *types.LightBlock, hash []byte) error {
	err := guarded("verify", func() error {
		if !bytes.Equal(lb.Hash(), hash) {
			return fmt.Errorf("header %d hashes to %X, the later ones say %X", lb.Height, lb.Hash(), hash)
		}
		return lb.ValidatorSet.VerifyCommitLight(s.c.chainID, lb.Commit.BlockID, lb.Height, lb.Commit)
	})
	if err != nil {
		said, _ := encodeLight(lb) // it was decoded a moment ago
		return &lie{lieHeader, err, fmt.Sprint("light/", lb.Height), said}
	}
	return nil
}

// sameOrder compares the order in which validators propose, which no header holds,
// with what a second full node says. A node with a wrong one would refuse true
// proposals.
func (s *Source) sameOrder(ctx context.Context, first *fullNode, lb *types.LightBlock) error {
	for _, other := range s.c.pool.usable() {
		if other == first {
			continue
		}
		second, err := other.lightBlock(ctx, lb.Height, 0, 0)
		if err != nil || !bytes.Equal(second.Hash(), lb.Hash()) {
			continue // that is somebody else's to find
		}
		if !bytes.Equal(second.ValidatorSet.ProposerPriorityHash(), lb.ValidatorSet.ProposerPriorityHash()) {
			return fmt.Errorf("%s and %s differ in the order of proposers at height %d, and nothing says who is right", first.address, other.address, lb.Height)
		}
		return nil
	}
	return nil
}

// at verifies the light block of a height with whichever full node has it.
func (s *Source) at(ctx context.Context, height int64) (lb *types.LightBlock, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c.trust() == nil {
		if err := s.c.root(ctx); err != nil {
			return nil, err
		}
	}
	err = errors.New("no full node can be asked now")
	for _, f := range s.c.pool.usable() {
		if lb, err = s.verified(ctx, f, height); err == nil || final(err) {
			return lb, err
		}
		s.c.pool.failed(ctx, f, err)
	}
	return nil, fmt.Errorf("header %d is not verified: %w", height, err)
}

// AppHash is the verified application hash after a height.
func (s *Source) AppHash(ctx context.Context, height uint64) ([]byte, error) {
	// The header after the next must be there too, see State: asked for first, because
	// walking back from it is cheaper than forward to it.
	if _, err := s.at(ctx, int64(height)+2); err != nil {
		return nil, err
	}
	lb, err := s.at(ctx, int64(height)+1)
	if err != nil {
		return nil, err
	}
	return lb.AppHash, nil
}

// Commit is the verified commit of a height.
func (s *Source) Commit(ctx context.Context, height uint64) (*types.Commit, error) {
	lb, err := s.at(ctx, int64(height))
	if err != nil {
		return nil, err
	}
	return lb.Commit, nil
}

// State is the engine's state after a height, all of it verified.
func (s *Source) State(ctx context.Context, height uint64) (state sm.State, err error) {
	// The validators that vote on the block after the next are in that one's header.
	var lbs [3]*types.LightBlock
	for i := 2; i >= 0; i-- {
		if lbs[i], err = s.at(ctx, int64(height)+int64(i)); err != nil {
			return state, err
		}
	}
	last, current, next := lbs[0], lbs[1], lbs[2]
	doc, err := ledger.EngineGenesis(s.c.cfg.Genesis)
	if err != nil {
		return state, err
	}
	if !bytes.Equal(current.ConsensusHash, doc.ConsensusParams.Hash()) {
		return state, errors.New("the consensus parameters are not the genesis's")
	}
	return sm.State{
		Version:       cmtstate.Version{Consensus: current.Version, Software: version.TMCoreSemVer},
		ChainID:       s.c.chainID,
		InitialHeight: doc.InitialHeight,

		LastBlockHeight: last.Height,
		LastBlockTime:   last.Time,
		LastBlockID:     last.Commit.BlockID,
		AppHash:         current.AppHash,
		LastResultsHash: current.LastResultsHash,

		LastValidators:              last.ValidatorSet,
		Validators:                  current.ValidatorSet,
		NextValidators:              next.ValidatorSet,
		LastHeightValidatorsChanged: next.Height,

		ConsensusParams:                  *doc.ConsensusParams,
		LastHeightConsensusParamsChanged: current.Height,
	}, nil
}
