package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus/registry"
)

// What a full node tells others of the chain: nothing that they need to believe.
// A light block is signed by the validators, headers are linked by their hashes,
// blocks' contents hash to what their headers say, and a snapshot gives the
// application hash of a header.

// Errors of what a full node tells others.
var (
	// ErrNotYet: the block is not there yet.
	ErrNotYet = errors.New("the block is not here yet")
	// ErrPruned: the block is not kept any more, or was never here.
	ErrPruned = errors.New("the block is not kept here")
)

// Bounds of one answer. At least one block or header is in an answer, whatever its
// size.
const (
	MaxAnswerBytes   = 6 << 20 // of blocks or headers, before the last one
	MaxAnswerBlocks  = 500
	MaxAnswerHeaders = 2000
)

// PublicStatus is what a full node says about itself.
type PublicStatus struct {
	ChainID string   `json:"chain_id"`
	Height  uint64   `json:"height"` // of the last committed block
	Hash    hexBytes `json:"hash"`   // of its header, as ledger.trust_hash takes it
	Base    uint64   `json:"base"`   // the first block that is kept
}

// PublicStatus is what this node says about itself.
func (n *Node) PublicStatus() (PublicStatus, error) {
	if !n.enter() {
		return PublicStatus{}, ErrClosed
	}
	defer n.leave()
	s := PublicStatus{ChainID: n.cfg.Genesis.ChainID, Base: uint64(n.engine.BlockStore().Base())}
	if v := n.View(); v != nil {
		s.Height = v.Height()
	}
	if meta := n.engine.BlockStore().LoadBlockMeta(int64(s.Height)); meta != nil {
		s.Hash = hexBytes(meta.BlockID.Hash)
	}
	return s, nil
}

// HeaderHash is the hash of the header at a height: what a light client can be told
// to trust.
func (n *Node) HeaderHash(height uint64) ([]byte, error) {
	if !n.enter() {
		return nil, ErrClosed
	}
	defer n.leave()
	if err := n.kept(height); err != nil {
		return nil, err
	}
	meta := n.engine.BlockStore().LoadBlockMeta(int64(height))
	if meta == nil {
		return nil, fmt.Errorf("block %d: %w", height, ErrPruned)
	}
	return meta.BlockID.Hash, nil
}

// kept says whether a committed block is here.
func (n *Node) kept(height uint64) error {
	v := n.View()
	switch base := n.engine.BlockStore().Base(); {
	case v == nil || height > v.Height():
		return fmt.Errorf("block %d: %w", height, ErrNotYet)
	case height == 0 || base == 0 || height < uint64(base):
		return fmt.Errorf("block %d: %w; it keeps blocks from %d", height, ErrPruned, base)
	}
	return nil
}

// AwaitHeight waits until the block at height is committed here.
func (n *Node) AwaitHeight(ctx context.Context, height uint64) error {
	return n.WaitView(ctx, func(v *registry.View) bool { return v.Height() >= height })
}

// LightBlock is the signed header at a height with the validators of that height:
// CometBFT's LightBlock message. Height 0 is the newest.
func (n *Node) LightBlock(height uint64) ([]byte, error) {
	if !n.enter() {
		return nil, ErrClosed
	}
	defer n.leave()
	if v := n.View(); height == 0 && v != nil {
		height = v.Height()
	}
	if err := n.kept(height); err != nil {
		return nil, err
	}
	blocks := n.engine.BlockStore()
	meta := blocks.LoadBlockMeta(int64(height))
	commit := blocks.LoadBlockCommit(int64(height)) // as the next block has it
	if commit == nil {
		commit = blocks.LoadSeenCommit(int64(height))
	}
	if meta == nil || commit == nil {
		return nil, fmt.Errorf("block %d: %w", height, ErrPruned)
	}
	set, err := sm.NewStore(n.dbs.db("state"), sm.StoreOptions{}).LoadValidators(int64(height))
	if err != nil {
		return nil, fmt.Errorf("validators of height %d: %w", height, err)
	}
	pb, err := (&types.LightBlock{SignedHeader: &types.SignedHeader{Header: &meta.Header, Commit: commit}, ValidatorSet: set}).ToProto()
	if err != nil {
		return nil, fmt.Errorf("light block %d: %w", height, err)
	}
	return pb.Marshal()
}

// Headers are the headers from one height to another, as many as fit in an answer:
// CometBFT's Header messages, each after its length (a varint).
func (n *Node) Headers(from, to uint64) ([]byte, error) {
	return n.each(from, to, MaxAnswerHeaders, func(meta *types.BlockMeta) ([]byte, error) {
		return meta.Header.ToProto().Marshal()
	})
}

// Blocks are the headers from one height to another with their transactions and
// evidence, as many as fit in an answer: CometBFT's Block messages without
// last_commit, each after its length (a varint).
func (n *Node) Blocks(from, to uint64) ([]byte, error) {
	return n.each(from, to, MaxAnswerBlocks, func(meta *types.BlockMeta) ([]byte, error) {
		pb := &cmtproto.Block{Header: *meta.Header.ToProto()}
		if meta.NumTxs > 0 || !slices.Equal(meta.Header.EvidenceHash, noEvidence) {
			if pb = n.engine.BlockStore().LoadBlockProto(meta.Header.Height); pb == nil {
				return nil, fmt.Errorf("block %d: %w", meta.Header.Height, ErrPruned)
			}
			pb.LastCommit = nil
		}
		return pb.Marshal()
	})
}

// noEvidence is the evidence hash of a block without evidence.
var noEvidence = types.EvidenceList(nil).Hash()

// each joins what make makes of the blocks of a range.
func (n *Node) each(from, to uint64, most int, make func(*types.BlockMeta) ([]byte, error)) (out []byte, err error) {
	if !n.enter() {
		return nil, ErrClosed
	}
	defer n.leave()
	if err := n.kept(from); err != nil {
		return nil, err
	}
	to = min(to, n.View().Height())
	for h, i := from, 0; h <= to && i < most && len(out) < MaxAnswerBytes; h, i = h+1, i+1 {
		meta := n.engine.BlockStore().LoadBlockMeta(int64(h))
		if meta == nil {
			return nil, fmt.Errorf("block %d: %w", h, ErrPruned)
		}
		b, err := make(meta)
		if err != nil {
			return nil, err
		}
		out = append(binary.AppendUvarint(out, uint64(len(b))), b...)
	}
	return out, nil
}

// Snapshots are the heights of which there is a snapshot here, newest first.
func (n *Node) Snapshots() ([]uint64, error) { return n.app.snapshots.list() }

// SnapshotManifest is the manifest of a snapshot.
func (n *Node) SnapshotManifest(height uint64) ([]byte, error) {
	return readSnapshot(n.app.snapshots.path(height), manifestFile)
}

// SnapshotChunk is one chunk of a snapshot.
func (n *Node) SnapshotChunk(height uint64, i int) ([]byte, error) {
	if i < 0 || i > maxChunkNumber {
		return nil, fmt.Errorf("chunk %d: %w", i, ErrPruned)
	}
	return readSnapshot(n.app.snapshots.path(height), ChunkFile(i))
}

func readSnapshot(dir, name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("snapshot file %s: %w", name, ErrPruned)
	}
	return b, err
}

// AgreedHash is the application hash that the validators agreed on after a height,
// once the block after it is there.
func (n *Node) AgreedHash(height uint64) (hash [32]byte, err error) {
	if !n.enter() {
		return hash, ErrClosed
	}
	defer n.leave()
	meta := n.engine.BlockStore().LoadBlockMeta(int64(height) + 1)
	if meta == nil {
		return hash, fmt.Errorf("block %d: %w", height+1, ErrNotYet)
	}
	copy(hash[:], meta.Header.AppHash)
	return hash, nil
}
