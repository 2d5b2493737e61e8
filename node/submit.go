package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

const (
	submitPatience = 30 * time.Second
	submitTries    = 4
	// expireAfter bounds how long a transaction that no block took can still
	// surprise: in blocks, of which at least one is made in ledger.heartbeat.
	expireAfter = 1000
)

// submitter gives out sequence numbers, so that transactions of one key that are
// submitted at the same time do not collide.
type submitter struct {
	mu   sync.Mutex
	last map[civibus.KeyID]uint64
}

func (s *submitter) next(v *registry.View, id civibus.KeyID) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = make(map[civibus.KeyID]uint64)
	}
	s.last[id] = max(s.last[id], v.Sequence(id)) + 1
	return s.last[id]
}

// submit signs tx with the newest key of a purpose and waits until it is in the
// registry or refused. Transactions that overtook each other get a new sequence
// number.
func (n *Node) submit(ctx context.Context, p civibus.Purpose, tx *registrypb.Tx) (ledger.Committed, error) {
	ctx, cancel := context.WithTimeout(ctx, submitPatience)
	defer cancel()
	led := n.ledger.Load()
	for try := 1; ; try++ {
		v := led.View()
		if v == nil {
			return ledger.Committed{}, errors.New("there is no registry view yet")
		}
		signer, err := n.ring.For(p, n.inForce(p))
		if err != nil {
			return ledger.Committed{}, err
		}
		tx.ChainId = v.ChainID()
		tx.Sequence = n.submitter.next(v, signer.Key().ID)
		if tx.ExpiresAtHeight == 0 {
			tx.ExpiresAtHeight = v.Height() + expireAfter
		}
		envelope, err := registry.SignTx(ctx, signer, tx)
		if err != nil {
			return ledger.Committed{}, fmt.Errorf("sign transaction: %w", err)
		}
		c, err := led.Submit(ctx, envelope)
		if err != nil || c.Code != registry.BadSequence || try == submitTries {
			return c, err
		}
	}
}

// anchorer is the registry as the evidence log sees it.
type anchorer struct{ n *Node }

var (
	_ evidence.HeightAnchorer   = anchorer{}
	_ evidence.CountingAnchorer = anchorer{}
)

// Anchor has the registry accept a checkpoint.
func (a anchorer) Anchor(ctx context.Context, checkpoint []byte, oldSize uint64, proof [][]byte) (uint64, error) {
	c, err := a.n.submit(ctx, civibus.LogKey, &registrypb.Tx{Body: &registrypb.Tx_AnchorLog{
		AnchorLog: &registrypb.AnchorLog{Checkpoint: checkpoint, OldSize: oldSize, Consistency: proof},
	}})
	if err != nil {
		return 0, err
	}
	if c.Code != 0 {
		return 0, fmt.Errorf("the registry refused the checkpoint: %s: %s", c.Code, c.Reason)
	}
	return c.Height, nil
}

// Anchored returns the last anchored state of a log.
func (a anchorer) Anchored(origin string) (uint64, [32]byte, bool) {
	v := a.n.view()
	if v == nil {
		return 0, [32]byte{}, false
	}
	l, ok := v.Log(origin)
	return l.Size, l.Root, ok
}

// AnchoredHeight returns when it was anchored.
func (a anchorer) AnchoredHeight(origin string) (uint64, bool) {
	v := a.n.view()
	if v == nil {
		return 0, false
	}
	l, ok := v.Log(origin)
	return l.Anchored, ok
}

// AnchoredLogs is how many logs the registry has anchored.
func (a anchorer) AnchoredLogs() int {
	v := a.n.view()
	if v == nil {
		return 0
	}
	return v.LogCount()
}

// change submits an administrator's change and turns refusals into problems.
func (n *Node) change(ctx context.Context, tx *registrypb.Tx) (admin.Change, error) {
	if n.view() == nil {
		return admin.Change{}, admin.Problemf(http.StatusServiceUnavailable, "starting", "the node has no registry view yet")
	}
	purpose := registry.PurposeOf(tx)
	if _, err := n.ring.For(purpose, n.inForce(purpose)); err != nil {
		return admin.Change{}, admin.Problemf(http.StatusForbidden, "key_not_in_force", "%v", err)
	}
	c, err := n.submit(ctx, purpose, tx)
	switch {
	case errors.Is(err, ledger.ErrUncertain):
		return admin.Change{}, admin.Problemf(http.StatusGatewayTimeout, "uncertain", "no block took the change in time, but one still may").
			WithHint("look whether it is in the registry before trying again; \"civibus status\" shows how the ledger is")
	case errors.Is(err, ledger.ErrBusy):
		return admin.Change{}, admin.Problemf(http.StatusServiceUnavailable, "busy", "%v", err)
	case err != nil:
		return admin.Change{}, err
	case c.Code != 0:
		return admin.Change{}, refused(c)
	}
	id := changeID(tx, c)
	if p := tx.GetPropose(); p != nil {
		id = n.proposalID(p, c, id)
	}
	n.log.InfoContext(ctx, "registry changed", "change", changeName(tx), "id", id, "height", c.Height)
	return admin.Change{Height: c.Height, TxHash: hex.EncodeToString(c.TxHash[:]), ID: id}, nil
}

// proposalID finds the number of the proposal that a transaction of the body
// opened; otherwise is returned if the view does not have it yet. Of two equal
// ones in a block it is the first.
func (n *Node) proposalID(p *registrypb.Propose, c ledger.Committed, otherwise string) string {
	v := n.view()
	for after := ""; ; {
		items, next := v.Proposals(after, 1000)
		for _, q := range items {
			if q.OpenHeight == c.Height && q.Proposer == n.member && proto.Equal(q.Change, p.Change) {
				return strconv.FormatUint(q.ID, 10)
			}
		}
		if after = next; next == "" {
			return otherwise
		}
	}
}

// refused turns a registry's refusal into a problem.
func refused(c ledger.Committed) *admin.Problem {
	status := http.StatusUnprocessableEntity
	hint := ""
	switch c.Code {
	case registry.NotAuthorised:
		status = http.StatusForbidden
		hint = "a body changes what is its own or below it; the rest is proposed and voted on with \"civibus governance\""
	case registry.UnknownKey, registry.KeyNotInForce, registry.WrongPurpose:
		status = http.StatusForbidden
	case registry.NotFound:
		status = http.StatusNotFound
	case registry.AlreadyExists, registry.BadSequence, registry.Ended:
		status = http.StatusConflict
	}
	p := admin.Problemf(status, c.Code.String(), "the registry refused the change: %s", c.Reason)
	p.Height = c.Height
	if hint != "" {
		p = p.WithHint("%s", hint)
	}
	return p
}

func changeName(tx *registrypb.Tx) string {
	m := tx.ProtoReflect()
	if f := m.WhichOneof(m.Descriptor().Oneofs().ByName("body")); f != nil {
		return string(f.Name())
	}
	return "nothing"
}

// changeID names what a change set.
func changeID(tx *registrypb.Tx, c ledger.Committed) string {
	switch b := tx.Body.(type) {
	case *registrypb.Tx_SetMember:
		return b.SetMember.Id
	case *registrypb.Tx_SetMemberStatus:
		return b.SetMemberStatus.Id
	case *registrypb.Tx_AddKey:
		if k, err := civibus.ParsePublicKey(b.AddKey.Spki); err == nil {
			return k.ID.String()
		}
	case *registrypb.Tx_RevokeKey:
		return hex.EncodeToString(b.RevokeKey.KeyId)
	case *registrypb.Tx_SetSubsystem:
		return b.SetSubsystem.Id
	case *registrypb.Tx_SetSubsystemStatus:
		return b.SetSubsystemStatus.Id
	case *registrypb.Tx_SetService:
		return b.SetService.Id
	case *registrypb.Tx_SetTopic:
		return b.SetTopic.Topic
	case *registrypb.Tx_SetServiceStatus:
		return b.SetServiceStatus.Id
	case *registrypb.Tx_GrantRight:
		return hex.EncodeToString(c.TxHash[:16])
	case *registrypb.Tx_SetRightStatus:
		return b.SetRightStatus.Id
	case *registrypb.Tx_SetGroup:
		return b.SetGroup.Id
	case *registrypb.Tx_SetGroupMember:
		return b.SetGroupMember.Group
	case *registrypb.Tx_CastVote:
		return strconv.FormatUint(b.CastVote.Proposal, 10)
	case *registrypb.Tx_WithdrawProposal:
		return strconv.FormatUint(b.WithdrawProposal.Proposal, 10)
	case *registrypb.Tx_SetNodes:
		return b.SetNodes.Member
	case *registrypb.Tx_MoveVotingPower:
		return hex.EncodeToString(b.MoveVotingPower.To)
	case *registrypb.Tx_SetHost:
		return b.SetHost.Member
	case *registrypb.Tx_AcceptHost:
		return b.AcceptHost.Member
	case *registrypb.Tx_SetChain:
		return hex.EncodeToString(b.SetChain.KeyId)
	case *registrypb.Tx_Delegate:
		return b.Delegate.Root
	case *registrypb.Tx_RevokeDelegation:
		return b.RevokeDelegation.Root
	case *registrypb.Tx_Notarise:
		return hex.EncodeToString(b.Notarise.Digest)
	}
	return hex.EncodeToString(c.TxHash[:])
}

// newKey makes a key of the body, keeps it and registers it with a proof of
// possession. The key is on disk before it is registered; if the registry refuses
// it, it stays there unused.
func (n *Node) newKey(ctx context.Context, req admin.NewKey) (admin.Change, error) {
	purpose, err := civibus.ParsePurpose(req.Purpose)
	if err != nil {
		return admin.Change{}, admin.Problemf(http.StatusBadRequest, "invalid_field", "%v", err)
	}
	v := n.view()
	if v == nil {
		return admin.Change{}, admin.Problemf(http.StatusServiceUnavailable, "starting", "the node has no registry view yet")
	}
	if req.ActivateHeight != 0 && req.ActivateHeight < v.Height() {
		return admin.Change{}, admin.Problemf(http.StatusBadRequest, "invalid_field", "height %d has passed, the registry is at %d", req.ActivateHeight, v.Height()).
			WithHint("leave the height out to activate the key at once")
	}
	algorithm := civibus.Algorithm(req.Algorithm)
	if algorithm == "" {
		algorithm = civibus.Ed25519
		if purpose == civibus.TransportKey {
			algorithm = civibus.ECDSAP256SHA256
		}
	}
	if purpose == civibus.ValidatorKey && algorithm.PostQuantum() && !v.Params().MLDSAValidators {
		return admin.Change{}, admin.Problemf(http.StatusBadRequest, "invalid_field", "a validator key of algorithm %s: this instance's genesis allows %s only", algorithm, civibus.Ed25519)
	}
	var key *keys.Key
	var certificate []byte
	switch {
	case req.Key != "":
		key, certificate, err = n.heldKey(purpose, req.Key)
	case purpose == civibus.TransportKey:
		m, _ := v.Member(n.member)
		var hosts []string
		for _, g := range m.Gateways {
			hosts = append(hosts, g.Address)
		}
		key, certificate, err = n.ring.CreateTransport(n.member, hosts, algorithm, n.clock())
	default:
		key, err = n.ring.Create(purpose, algorithm, n.clock())
	}
	if err != nil {
		return admin.Change{}, admin.Problemf(http.StatusUnprocessableEntity, "invalid_field", "make the key: %v", err)
	}
	possession, err := registry.ProvePossession(ctx, key, v.ChainID(), n.member, purpose)
	if err != nil {
		return admin.Change{}, fmt.Errorf("prove possession: %w", err)
	}
	out, err := n.change(ctx, &registrypb.Tx{Body: &registrypb.Tx_AddKey{AddKey: &registrypb.AddKey{
		Member: n.member.String(), Purpose: registrypb.Purpose(purpose), Spki: key.Key().SPKI, Certificate: certificate,
		ActivateHeight: req.ActivateHeight, Possession: possession,
	}}})
	if err == nil {
		out.ID = key.Key().ID.String()
	}
	return out, err
}

// heldKey finds a key in the key folder, a transport key with its certificate.
func (n *Node) heldKey(purpose civibus.Purpose, id string) (*keys.Key, []byte, error) {
	if _, err := n.ring.Refresh(); err != nil {
		return nil, nil, err
	}
	for _, held := range n.ring.List() {
		if held.Key.Key().ID.String() != id {
			continue
		}
		if held.Purpose() != purpose {
			return nil, nil, fmt.Errorf("key %s is a %s key, the request says %s", id, held.Purpose(), purpose)
		}
		var certificate []byte
		if purpose == civibus.TransportKey {
			file := strings.TrimSuffix(held.File, filepath.Ext(held.File)) + ".crt"
			var err error
			if certificate, err = keys.OpenCertificate(filepath.Join(n.cfg.Keys.Dir, file)); err != nil {
				return nil, nil, err
			}
		}
		return held.Key, certificate, nil
	}
	return nil, nil, fmt.Errorf("key %s is not in %s; \"civibus key list\" shows what there is", id, n.cfg.Keys.Dir)
}
