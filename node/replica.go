package node

import (
	"context"
	"sync/atomic"

	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/ledger/light"
	"github.com/civibus/civibus/registry"
)

// replica is how the node reads and changes the registry: a ledger node of its own
// (ledger.Node), or the blocks of others' that it verifies (light.Client).
type replica interface {
	// View is the registry as of the last verified block, nil before there is one.
	View() *registry.View
	// Changed is closed when there is a newer view.
	Changed() <-chan struct{}
	// WaitView waits until done says true of a view.
	WaitView(ctx context.Context, done func(*registry.View) bool) error
	// Submit hands an envelope over and waits until a block took it.
	Submit(ctx context.Context, envelope []byte) (ledger.Committed, error)
	// Checkpoint is the text of the registry's checkpoint at an event-log size.
	Checkpoint(size uint64) (string, error)
	// Cosign is the own cosignature of it, or ledger.ErrNoWitness.
	Cosign(ctx context.Context, size uint64) (string, error)
	// HeaderHash is the hash of the verified header at a height that is kept.
	HeaderHash(height uint64) ([]byte, error)
	// Status is what it knows about itself.
	Status() ledger.Status
	// ListenAddress and NodeID are how peers know a ledger node; empty for others.
	ListenAddress() string
	NodeID() string
	// Close stops it.
	Close(ctx context.Context) error
}

var (
	_ replica = (*ledger.Node)(nil)
	_ replica = (*light.Client)(nil)
)

// replicaRef holds the node's replica once there is one.
type replicaRef struct{ p atomic.Pointer[replica] }

// Load returns the replica, nil before there is one.
func (r *replicaRef) Load() replica {
	if p := r.p.Load(); p != nil {
		return *p
	}
	return nil
}

// Store sets it.
func (r *replicaRef) Store(to replica) { r.p.Store(&to) }

// fullNode is the own ledger node, nil where there is none.
func (r *replicaRef) fullNode() *ledger.Node {
	n, _ := r.Load().(*ledger.Node)
	return n
}
