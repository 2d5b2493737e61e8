package registry

import (
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// txn is one transaction while it is looked at. Its handlers, one per kind,
// read the state and return the records to be put; they change nothing, so
// that Check can ask them too.
type txn struct {
	*state
	store      Store
	signatures *signatureCache
	facts      *facts    // about the envelope; nil: there is none
	height     uint64    // of the block
	now        time.Time // of the block
	hash       [32]byte
	voted      bool // it is a proposal that passed: there is no author
	leaving    bool // the author ends its membership
	checking   bool // what only a block can tell is not asked
	author     *civibus.Member
	key        *civibus.RegisteredKey
	keyID      string // of key, in hex
	// notarised holds the digests that earlier transactions of the block
	// recorded and the store does not have yet.
	notarised map[[32]byte]bool
	// err is a failure of the store. It is nobody's fault but this node's and
	// never becomes a result.
	err error
}

// member is the state's, without a search for the author.
func (x *txn) member(id civibus.MemberID) *civibus.Member {
	if x.author != nil && x.author.ID == id {
		return x.author
	}
	return x.state.member(id)
}

// PurposeOf returns which keys sign a kind of transaction.
func PurposeOf(tx *registrypb.Tx) civibus.Purpose {
	switch tx.Body.(type) {
	case *registrypb.Tx_AnchorLog, *registrypb.Tx_Notarise, *registrypb.Tx_StartInstance, *registrypb.Tx_PostStep, *registrypb.Tx_AnchorUsage:
		return civibus.LogKey
	}
	return civibus.AdminKey
}

// admit checks everything about a transaction that is not its body: chain, key,
// signature, sequence and expiry, in the order of spec/registry.md.
func (x *txn) admit(p *prepared) *refusal {
	tx := p.tx
	// 1. The chain.
	if tx.ChainId != x.params.ChainID {
		return refuse(WrongChain, "chain_id is %.80q, this chain is %q", tx.ChainId, x.params.ChainID)
	}
	// 2. The key and its signature.
	known := p.author != nil && p.author.directory == x.directory
	if known {
		x.keyID, x.key = p.author.keyID, p.author.key
	} else {
		x.keyID = civibus.KeyID(tx.KeyId).String()
		x.key, _ = x.keys.Get(x.keyID)
	}
	if x.key == nil {
		return refuse(UnknownKey, "key %x is not registered", tx.KeyId)
	}
	if p.badSignature || !p.signedBy(x.signatures, x.key, x.params.Protocol) {
		return refuse(BadSignature, "the signature is not that of key %s over this transaction", x.key.ID)
	}
	// 3. May this key speak now, about such things?
	if !x.key.InForce(x.height) {
		return refuse(KeyNotInForce, "key %s is in force from height %d to %d (0: open), this is height %d", x.key.ID, x.key.Activate, x.key.Revoke, x.height)
	}
	if x.key.Algorithm.PostQuantum() {
		return refuse(WrongPurpose, "key %s is %s, which makes second signatures only", x.key.ID, x.key.Algorithm)
	}
	if want := PurposeOf(tx); x.key.Purpose != want {
		return refuse(WrongPurpose, "key %s is a %s key, this transaction takes a key of purpose %s", x.key.ID, x.key.Purpose, want)
	}
	if known {
		x.author = p.author.member
	} else if x.author = x.member(x.key.Member); x.author == nil {
		return refuse(NotFound, "member %s of key %s is not registered", x.key.Member, x.key.ID)
	} else {
		p.author = &authorFact{x.directory, x.keyID, x.key, x.author}
	}
	// A suspended body's evidence is still witnessed: suspension must not be a
	// way to hide.
	_, anchor := tx.Body.(*registrypb.Tx_AnchorLog)
	if !anchor {
		_, anchor = tx.Body.(*registrypb.Tx_AnchorUsage)
	}
	if x.author.Status == civibus.Ended || x.author.Status != civibus.Active && !anchor {
		return refuse(MemberNotActive, "member %s is %s", x.author.ID, x.author.Status)
	}
	// 4. Never twice, and not too late.
	q, _ := x.sequences.Get(x.keyID)
	last := q.last
	if tx.Sequence <= last || tx.Sequence-last > maxSequenceStep {
		return refuse(BadSequence, "sequence is %d, the rule is %d to %d", tx.Sequence, last+1, last+maxSequenceStep)
	}
	if tx.ExpiresAtHeight != 0 && tx.ExpiresAtHeight < x.height {
		return refuse(Expired, "it expired at height %d, this is height %d", tx.ExpiresAtHeight, x.height)
	}
	return nil
}

// handle runs the handler for the transaction's body.
func (x *txn) handle(tx *registrypb.Tx) ([]record, *refusal) {
	switch b := tx.Body.(type) {
	case *registrypb.Tx_SetMember:
		return x.setMember(b.SetMember)
	case *registrypb.Tx_SetMemberStatus:
		return x.setMemberStatus(b.SetMemberStatus)
	case *registrypb.Tx_AddKey:
		return x.addKey(b.AddKey)
	case *registrypb.Tx_RevokeKey:
		return x.revokeKey(b.RevokeKey)
	case *registrypb.Tx_SetSubsystem:
		return x.setSubsystem(b.SetSubsystem)
	case *registrypb.Tx_SetSubsystemStatus:
		return x.setSubsystemStatus(b.SetSubsystemStatus)
	case *registrypb.Tx_SetService:
		return x.setService(b.SetService)
	case *registrypb.Tx_SetServiceStatus:
		return x.setServiceStatus(b.SetServiceStatus)
	case *registrypb.Tx_GrantRight:
		return x.grantRight(b.GrantRight)
	case *registrypb.Tx_SetRightStatus:
		return x.setRightStatus(b.SetRightStatus)
	case *registrypb.Tx_SetGroup:
		return x.setGroup(b.SetGroup)
	case *registrypb.Tx_SetGroupMember:
		return x.setGroupMember(b.SetGroupMember)
	case *registrypb.Tx_AnchorLog:
		return x.anchorLog(b.AnchorLog)
	case *registrypb.Tx_Notarise:
		return x.notarise(b.Notarise)
	}
	return x.handleNetwork(tx)
}

// firstOf are the numbers of the first kinds of transactions of each protocol.
var firstOf = [...]protoreflect.FieldNumber{1: 30, 2: 50}

// known checks that the state's protocol has this kind of transaction. To the
// software of an earlier protocol it is an unknown field.
func (x *txn) known(tx *registrypb.Tx) *refusal {
	if x.params.Protocol >= Protocol {
		return nil
	}
	if p := tx.GetPropose(); x.params.Protocol == 0 && isUpgrade(p.GetChange()) {
		return nil // by which the instance comes to protocol 1
	}
	m := tx.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
	if fd.Number() >= firstOf[x.params.Protocol+1] {
		return refuse(BadEncoding, "%s is not known in protocol %d", fd.Name(), x.params.Protocol)
	}
	if k := KindOf(tx.GetPropose().GetChange()); k > lastKindOf(x.params.Protocol) {
		return refuse(BadEncoding, "proposals of the kind %s are not known in protocol %d", k, x.params.Protocol)
	}
	if g := tx.GetGrantRight(); g != nil && (g.Disclosure != 0 || g.DisclosedFrom != 0 || g.Sentence != "") {
		return refuse(BadEncoding, "grant_right: fields 11 to 13 are not known in protocol %d", x.params.Protocol)
	}
	return nil
}

// handleNetwork runs the handlers of protocol 1.
func (x *txn) handleNetwork(tx *registrypb.Tx) ([]record, *refusal) {
	switch b := tx.Body.(type) {
	case *registrypb.Tx_Propose:
		return x.propose(b.Propose)
	case *registrypb.Tx_CastVote:
		return x.castVote(b.CastVote)
	case *registrypb.Tx_WithdrawProposal:
		return x.withdrawProposal(b.WithdrawProposal)
	case *registrypb.Tx_SetNodes:
		return x.setNodes(b.SetNodes)
	case *registrypb.Tx_MoveVotingPower:
		return x.moveVotingPower(b.MoveVotingPower)
	case *registrypb.Tx_Delegate:
		return x.delegate(b.Delegate)
	case *registrypb.Tx_RevokeDelegation:
		return x.revokeDelegation(b.RevokeDelegation)
	case *registrypb.Tx_SetHost:
		return x.setHost(b.SetHost)
	case *registrypb.Tx_AcceptHost:
		return x.acceptHost(b.AcceptHost)
	case *registrypb.Tx_SetChain:
		return x.setChain(b.SetChain)
	case *registrypb.Tx_Leave:
		x.leaving = true
		return x.leave()
	}
	return x.handleCoordination(tx)
}

// handleCoordination runs the handlers of protocol 2.
func (x *txn) handleCoordination(tx *registrypb.Tx) ([]record, *refusal) {
	switch b := tx.Body.(type) {
	case *registrypb.Tx_SetProcess:
		return x.setProcess(b.SetProcess)
	case *registrypb.Tx_SetProcessStatus:
		return x.setProcessStatus(b.SetProcessStatus)
	case *registrypb.Tx_TakeRole:
		return x.takeRole(b.TakeRole)
	case *registrypb.Tx_ApproveRole:
		return x.approveRole(b.ApproveRole)
	case *registrypb.Tx_StartInstance:
		return x.startInstance(b.StartInstance)
	case *registrypb.Tx_PostStep:
		return x.postStep(b.PostStep)
	case *registrypb.Tx_MigrateInstance:
		return x.migrateInstance(b.MigrateInstance)
	case *registrypb.Tx_SetRule:
		return x.setRule(b.SetRule)
	case *registrypb.Tx_SetRuleStatus:
		return x.setRuleStatus(b.SetRuleStatus)
	case *registrypb.Tx_SetEvidenceType:
		return x.setEvidenceType(b.SetEvidenceType)
	case *registrypb.Tx_SetTopic:
		return x.setTopic(b.SetTopic)
	case *registrypb.Tx_AnchorUsage:
		return x.anchorUsage(b.AnchorUsage)
	}
	return nil, refuse(BadEncoding, "the transaction's body is of an unknown kind")
}
