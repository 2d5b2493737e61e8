package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus/registry"
)

// offer is a snapshot that the engine fetches from peers.
type offer struct {
	manifest *Manifest
	dir      string
	have     []bool
	missing  int
}

// ListSnapshots names the snapshots that peers can have.
func (a *app) ListSnapshots(context.Context, *abci.RequestListSnapshots) (*abci.ResponseListSnapshots, error) {
	res := &abci.ResponseListSnapshots{}
	heights, err := a.snapshots.list()
	if err != nil {
		a.log.Warn("list snapshots", slog.Any("error", err))
		return res, nil
	}
	for _, h := range heights {
		b, err := os.ReadFile(filepath.Join(a.snapshots.path(h), manifestFile))
		if err != nil {
			continue // pruned meanwhile
		}
		m, err := ParseManifest(b)
		if err != nil {
			a.log.Warn("skip a damaged snapshot", slog.Uint64("height", h), slog.Any("error", err))
			continue
		}
		sum := sha256.Sum256(b)
		res.Snapshots = append(res.Snapshots, &abci.Snapshot{
			Height: m.Height, Format: snapshotABCI, Chunks: uint32(len(m.Chunks)), Hash: sum[:], Metadata: b,
		})
	}
	return res, nil
}

// LoadSnapshotChunk gives a peer one chunk; nothing when it is damaged here.
func (a *app) LoadSnapshotChunk(_ context.Context, req *abci.RequestLoadSnapshotChunk) (*abci.ResponseLoadSnapshotChunk, error) {
	res := &abci.ResponseLoadSnapshotChunk{}
	if req.Format != snapshotABCI {
		return res, nil
	}
	dir := a.snapshots.path(req.Height)
	m, err := ReadManifest(dir)
	if err != nil || int(req.Chunk) >= len(m.Chunks) {
		return res, nil
	}
	b, err := os.ReadFile(filepath.Join(dir, ChunkFile(int(req.Chunk))))
	if err == nil {
		err = m.Check(int(req.Chunk), b)
	}
	if err != nil {
		a.log.Error("a snapshot of this node is damaged", slog.Any("error", err))
		return res, nil
	}
	res.Chunk = b
	return res, nil
}

// OfferSnapshot accepts a snapshot whose manifest is sound and claims the
// application hash that the engine's light client verified.
func (a *app) OfferSnapshot(_ context.Context, req *abci.RequestOfferSnapshot) (*abci.ResponseOfferSnapshot, error) {
	answer := func(r abci.ResponseOfferSnapshot_Result) (*abci.ResponseOfferSnapshot, error) {
		return &abci.ResponseOfferSnapshot{Result: r}, nil
	}
	if req.Snapshot == nil || req.Snapshot.Format != snapshotABCI {
		return answer(abci.ResponseOfferSnapshot_REJECT_FORMAT)
	}
	select {
	case <-a.closing:
		return answer(abci.ResponseOfferSnapshot_ABORT)
	default:
	}
	if a.view() != nil {
		return answer(abci.ResponseOfferSnapshot_ABORT)
	}
	sum := sha256.Sum256(req.Snapshot.Metadata)
	m, err := ParseManifest(req.Snapshot.Metadata)
	if err != nil || !bytes.Equal(sum[:], req.Snapshot.Hash) || m.Height != req.Snapshot.Height ||
		m.ChainID != a.cfg.Genesis.ChainID || len(m.Chunks) != int(req.Snapshot.Chunks) || !bytes.Equal(m.AppHash, req.AppHash) {
		return answer(abci.ResponseOfferSnapshot_REJECT)
	}
	dir := filepath.Join(a.snapshots.dir, "incoming")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		a.log.Error("cannot keep a snapshot", slog.Any("error", err))
		return answer(abci.ResponseOfferSnapshot_ABORT)
	}
	a.snapshots.offered = &offer{manifest: m, dir: dir, have: make([]bool, len(m.Chunks)), missing: len(m.Chunks)}
	return answer(abci.ResponseOfferSnapshot_ACCEPT)
}

// ApplySnapshotChunk keeps a chunk that is what the manifest says, asks for a
// damaged one again and refuses who sent it; after the last one it rebuilds the
// registry.
func (a *app) ApplySnapshotChunk(_ context.Context, req *abci.RequestApplySnapshotChunk) (*abci.ResponseApplySnapshotChunk, error) {
	o := a.snapshots.offered
	i := int(req.Index)
	if o == nil || i >= len(o.have) {
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_ABORT}, nil
	}
	if err := o.manifest.Check(i, req.Chunk); err != nil {
		a.log.Warn("a peer sent a damaged chunk", slog.String("peer", req.Sender), slog.Any("error", err))
		res := &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_RETRY, RefetchChunks: []uint32{req.Index}}
		if req.Sender != "" {
			res.RejectSenders = []string{req.Sender}
		}
		return res, nil
	}
	if !o.have[i] {
		if err := writeSynced(filepath.Join(o.dir, ChunkFile(i)), req.Chunk); err != nil {
			a.log.Error("cannot keep a chunk", slog.Any("error", err))
			return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_ABORT}, nil
		}
		o.have[i] = true
		o.missing--
		a.snapshots.applied.Add(1)
	}
	if o.missing > 0 {
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_ACCEPT}, nil
	}
	a.snapshots.offered = nil
	defer os.RemoveAll(o.dir)
	if err := a.adopt(o); err != nil {
		a.log.Error("the snapshot is not what it claims", slog.Any("error", err))
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT}, nil
	}
	return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_ACCEPT}, nil
}

// adopt replaces the empty registry by a snapshot's. A snapshot that turns out
// false leaves nothing behind, so that the next one can be tried.
func (a *app) adopt(o *offer) error {
	if err := a.markAdopting(); err != nil {
		return err
	}
	machine, err := importChunks(o.manifest, func(i int) ([]byte, error) {
		return os.ReadFile(filepath.Join(o.dir, ChunkFile(i)))
	}, a.store)
	if err != nil {
		if cleared := a.store.clear(); cleared != nil {
			a.engineFailed(engineFailure{detail: "a false snapshot could not be removed: " + cleared.Error()})
		}
		return err
	}
	a.store.stage([]registry.KV{{Key: genesisKey, Value: a.genesis[:]}}, nil)
	if err := a.store.flush(); err != nil {
		return err
	}
	a.machine.Store(machine)
	a.loadPeers()
	a.announce()
	return nil
}

// clear removes every key of the registry.
func (s *store) clear() error {
	it := s.db.NewIterator(util.BytesPrefix([]byte{registrySpace}), nil)
	defer it.Release()
	var keys [][]byte
	for it.Next() {
		keys = append(keys, append([]byte(nil), it.Key()[1:]...))
		if len(keys) == 10_000 {
			if err := s.Write(nil, keys); err != nil {
				return err
			}
			keys = keys[:0]
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	return s.Write(nil, keys)
}
