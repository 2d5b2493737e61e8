package ledger

import (
	"context"

	abci "github.com/cometbft/cometbft/abci/types"
)

type snapshots struct{ app *app }

func newSnapshots(a *app) *snapshots         { return &snapshots{app: a} }
func (s *snapshots) run(ctx context.Context) { <-ctx.Done() }
func (s *snapshots) committed(height uint64) {}

// ExportSnapshot writes a snapshot of the registry as of now below dir and
// returns its directory.
func (n *Node) ExportSnapshot(ctx context.Context, dir string) (string, error) { return "", ErrClosed }

// RestoreSnapshot fills the empty node directory of cfg from a snapshot.
func RestoreSnapshot(ctx context.Context, cfg Config, snapshot string) error { return ErrClosed }

func (a *app) ListSnapshots(context.Context, *abci.RequestListSnapshots) (*abci.ResponseListSnapshots, error) {
	return &abci.ResponseListSnapshots{}, nil
}
func (a *app) OfferSnapshot(context.Context, *abci.RequestOfferSnapshot) (*abci.ResponseOfferSnapshot, error) {
	return &abci.ResponseOfferSnapshot{}, nil
}
func (a *app) LoadSnapshotChunk(context.Context, *abci.RequestLoadSnapshotChunk) (*abci.ResponseLoadSnapshotChunk, error) {
	return &abci.ResponseLoadSnapshotChunk{}, nil
}
func (a *app) ApplySnapshotChunk(context.Context, *abci.RequestApplySnapshotChunk) (*abci.ResponseApplySnapshotChunk, error) {
	return &abci.ResponseApplySnapshotChunk{}, nil
}
