package ledger

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// Sender signs and submits transactions of one key, one after the other, with the
// right sequence numbers. Its methods may be called by several goroutines at once.
type Sender struct {
	node   *Node
	signer civibus.Signer

	mu   sync.Mutex
	last uint64
}

// NewSender makes the sender of a key. A key has one sender: two that run at the
// same time take each other's numbers, which costs tries but no transactions.
func (n *Node) NewSender(signer civibus.Signer) *Sender {
	return &Sender{node: n, signer: signer}
}

// senderTries is how often a sender takes a new number when another used it.
const senderTries = 5

// Send fills in chain id and sequence of tx, signs it and waits for its result.
// After ErrUncertain the transaction may still count: look at the registry before
// sending it again.
func (s *Sender) Send(ctx context.Context, tx *registrypb.Tx) (Committed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx = proto.CloneOf(tx)
	var c Committed
	for range senderTries {
		v := s.node.View()
		if v == nil {
			return c, fmt.Errorf("send a transaction: the registry is not there yet")
		}
		s.last = max(s.last, v.Sequence(s.signer.Key().ID)) + 1
		tx.ChainId, tx.Sequence = v.ChainID(), s.last
		envelope, err := registry.SignTx(ctx, s.signer, tx)
		if err != nil {
			return c, fmt.Errorf("send a transaction: %w", err)
		}
		c, err = s.node.Submit(ctx, envelope)
		if err != nil || c.Code != registry.BadSequence {
			return c, err
		}
	}
	return c, nil
}
