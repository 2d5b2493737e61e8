package registry

import (
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/civibus/civibus"
)

// record is one state record: what a transaction produces, what the tree holds
// and what an event tells.
type record interface {
	// stateKey is the record's key in the tree.
	stateKey() string
	// encode returns its value: the canonical encoding of its message in
	// registry.proto.
	encode() []byte
	// put makes it part of the state.
	put(s *state)
	// eventField is the number of its field in the message Event.
	eventField() protowire.Number
}

// Notarisation is a digest with the time at which the registry saw it.
type Notarisation struct {
	Digest [32]byte
	Member civibus.MemberID
	Height uint64
	Time   time.Time
}

type (
	memberRecord       struct{ *civibus.Member }
	keyRecord          struct{ *civibus.RegisteredKey }
	subsystemRecord    struct{ *civibus.Subsystem }
	serviceRecord      struct{ *civibus.Service }
	rightRecord        struct{ *civibus.AccessRight }
	groupRecord        struct{ *civibus.Group }
	groupMemberRecord  struct{ *groupMember }
	logRecord          struct{ *civibus.Log }
	notarisationRecord struct{ *Notarisation }
	paramsRecord       struct{ *Params }
)

// The prefixes of the state keys.
const (
	memberPrefix       = "member/"
	keyPrefix          = "key/"
	subsystemPrefix    = "subsystem/"
	servicePrefix      = "service/"
	rightPrefix        = "right/"
	groupPrefix        = "group/"
	groupMemberPrefix  = "groupmember/"
	logPrefix          = "log/"
	notaryPrefix       = "notary/"
	sequencePrefix     = "sequence/"
	validatorPrefix    = "validator/"
	nodesPrefix        = "nodes/"
	votesPrefix        = "votes/"
	proposalPrefix     = "proposal/"
	votePrefix         = "vote/"
	delegationPrefix   = "delegation/"
	hostingPrefix      = "hosting/"
	upgradePrefix      = "upgrade/"
	misbehaviorPrefix  = "misbehaviour/"
	chainPrefix        = "chain/"
	processPrefix      = "process/"
	rolePrefix         = "role/"
	instancePrefix     = "instance/"
	rulePrefix         = "rule/"
	topicPrefix        = "topic/"
	evidenceTypePrefix = "evidence-type/"
	usagePrefix        = "usage/"
	paramsKey          = "params"
)

func (r memberRecord) stateKey() string    { return memberPrefix + r.ID.String() }
func (r keyRecord) stateKey() string       { return keyPrefix + r.ID.String() }
func (r subsystemRecord) stateKey() string { return subsystemPrefix + r.ID.String() }
func (r serviceRecord) stateKey() string   { return servicePrefix + r.ID.String() }
func (r rightRecord) stateKey() string     { return rightPrefix + r.ID }
func (r groupRecord) stateKey() string     { return groupPrefix + r.ID }
func (r groupMemberRecord) stateKey() string {
	return groupMemberPrefix + pair(r.group, r.client.String())
}
func (r logRecord) stateKey() string          { return logPrefix + r.Origin }
func (r notarisationRecord) stateKey() string { return notaryKey(r.Digest) }
func (r paramsRecord) stateKey() string       { return paramsKey }

func (r memberRecord) put(s *state) { s.putMember(r.Member) }
func (r keyRecord) put(s *state)    { s.putKey(r.RegisteredKey) }
func (r subsystemRecord) put(s *state) {
	set(s, s.subsystems, r.ID.String(), r.Subsystem, r.ID.MemberID, 1)
}
func (r serviceRecord) put(s *state) {
	set(s, s.services, r.ID.String(), r.Service, r.ID.MemberID, 1)
}
func (r rightRecord) put(s *state)       { s.putRight(r.AccessRight) }
func (r groupRecord) put(s *state)       { set(s, s.groups, r.ID, r.Group, groupOwner(r.ID), 1) }
func (r groupMemberRecord) put(s *state) { s.putGroupMember(r.groupMember) }
func (r logRecord) put(s *state)         { set(s, s.logs, r.Origin, r.Log, r.Member, 1) }

// put charges a notarisation and does not keep it: there may be very many, and they
// are read from the store. What is charged is what the key's sequence counts.
func (r notarisationRecord) put(s *state) {
	if s.params.Protocol > 0 {
		s.charge(r.Member, 1)
	}
}

func (r paramsRecord) put(s *state) { s.params = r.Params }

func (memberRecord) eventField() protowire.Number       { return 10 }
func (keyRecord) eventField() protowire.Number          { return 11 }
func (subsystemRecord) eventField() protowire.Number    { return 12 }
func (serviceRecord) eventField() protowire.Number      { return 13 }
func (rightRecord) eventField() protowire.Number        { return 14 }
func (groupRecord) eventField() protowire.Number        { return 15 }
func (groupMemberRecord) eventField() protowire.Number  { return 16 }
func (logRecord) eventField() protowire.Number          { return 17 }
func (notarisationRecord) eventField() protowire.Number { return 18 }
func (paramsRecord) eventField() protowire.Number       { return 19 }

const blockCommittedField protowire.Number = 30

func (r memberRecord) encode() []byte {
	w := writer{}.str(1, r.ID.String()).str(2, r.Name)
	if !r.Parent.IsZero() {
		w = w.str(3, r.Parent.String())
	}
	for _, g := range r.Gateways {
		w = w.message(4, writer{}.str(1, g.Code).str(2, g.Address))
	}
	return w.num(5, uint64(r.Status)).periods(6, r.Periods)
}

func (r keyRecord) encode() []byte {
	return writer{}.bytes(1, r.ID[:]).str(2, r.Member.String()).num(3, uint64(r.Purpose)).
		num(4, uint64(algorithmNumber(r.Algorithm))).bytes(5, r.SPKI).bytes(6, r.Certificate).
		num(7, r.Activate).num(8, r.Revoke).num(9, uint64(slices.Index(reasons(), r.Reason)))
}

func (r subsystemRecord) encode() []byte {
	return writer{}.str(1, r.ID.String()).str(2, r.Name).num(3, uint64(r.Status)).periods(4, r.Periods)
}

func (r serviceRecord) encode() []byte {
	return writer{}.str(1, r.ID.String()).num(2, uint64(r.Type)).str(3, r.Title).endpoints(4, r.Endpoints).
		bytes(5, r.DescriptionDigest).num(6, uint64(r.Status)).str(7, r.Notice).periods(8, r.Periods)
}

func (r rightRecord) encode() []byte {
	var room [512]byte // as a rule it is enough, and nothing is allocated
	terms := writer(room[:0]).str(1, r.Service.String()).endpoints(2, r.Endpoints)
	if r.Group != "" {
		terms = terms.str(4, r.Group)
	} else {
		terms = terms.str(3, r.Client.String())
	}
	terms = terms.str(5, r.Purpose).str(6, r.LegalBasis).num(7, unixSeconds(r.ValidFrom)).num(8, unixSeconds(r.ValidUntil))
	if r.Limit.Requests != 0 {
		terms = terms.message(9, writer{}.num(1, uint64(r.Limit.Requests)).num(2, uint64(r.Limit.Per/time.Second)))
	}
	terms = terms.str(10, r.Supersedes).num(11, uint64(r.Disclosure)).num(12, unixSeconds(r.DisclosedFrom)).str(13, r.Sentence)
	w := make(writer, 0, len(r.ID)+len(terms)+64).str(1, r.ID).message(2, terms).num(3, uint64(r.Status)).periods(4, r.Periods)
	if r.GrantedBy.IsZero() {
		return w
	}
	return w.bytes(5, r.GrantedBy[:])
}

func (r groupRecord) encode() []byte { return writer{}.str(1, r.ID).str(2, r.Title) }

func (r groupMemberRecord) encode() []byte {
	return writer{}.str(1, r.group).str(2, r.client.String()).periods(3, r.periods)
}

func (r logRecord) encode() []byte {
	member := r.Member.String()
	return make(writer, 0, len(r.Origin)+len(member)+64).str(1, r.Origin).str(2, member).num(3, r.Size).bytes(4, r.Root[:]).num(5, r.Anchored)
}

func (r notarisationRecord) encode() []byte {
	return writer{}.bytes(1, r.Digest[:]).str(2, r.Member.String()).num(3, r.Height).num(4, uint64(r.Time.UnixNano()))
}

func (r paramsRecord) encode() []byte {
	w := writer{}.str(1, r.Instance).str(2, r.ChainID)
	for _, m := range r.Registrars {
		w = w.str(3, m.String())
	}
	w = w.num(4, uint64(r.MaxTxBytes)).num(5, uint64(r.Protocol))
	for _, rule := range r.Rules {
		w = w.message(6, rule.encode())
	}
	return w.num(7, uint64(r.MaxOpenProposals)).num(8, uint64(r.BlockShare)).num(9, r.MemberQuota).
		flag(10, r.MLDSAValidators).flag(11, r.SecondSeals)
}

func (q sequence) encode() []byte {
	return writer{}.num(1, q.last).num(2, q.notarised).num(3, q.started)
}

// unixSeconds is the wire form of a time that may be absent.
func unixSeconds(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.Unix())
}

// writer appends fields in the canonical encoding: in the order of the calls,
// which is ascending, and without default values. The state's encoding is part
// of the consensus, so it is written out here instead of left to a library that
// does not promise to keep it.
type writer []byte

func (w writer) num(field protowire.Number, v uint64) writer {
	if v == 0 {
		return w
	}
	return protowire.AppendVarint(protowire.AppendTag(w, field, protowire.VarintType), v)
}

func (w writer) flag(field protowire.Number, v bool) writer {
	if !v {
		return w
	}
	return w.num(field, 1)
}

func (w writer) str(field protowire.Number, v string) writer {
	if v == "" {
		return w
	}
	return protowire.AppendString(protowire.AppendTag(w, field, protowire.BytesType), v)
}

func (w writer) bytes(field protowire.Number, v []byte) writer {
	if len(v) == 0 {
		return w
	}
	return appendBytes(w, field, v)
}

// message appends a message, which unlike a string may be empty.
func (w writer) message(field protowire.Number, v []byte) writer { return appendBytes(w, field, v) }

func (w writer) periods(field protowire.Number, periods []civibus.Period) writer {
	var room [32]byte
	for _, p := range periods {
		w = w.message(field, writer(room[:0]).num(1, p.From).num(2, p.To))
	}
	return w
}

func (w writer) endpoints(field protowire.Number, endpoints []civibus.Endpoint) writer {
	var room [128]byte
	for _, e := range endpoints {
		w = w.message(field, writer(room[:0]).str(1, e.Method).str(2, e.Path))
	}
	return w
}

// cause is why a record changed: a transaction of a member, a proposal that
// passed, or, if it is zero, the rules themselves.
type cause struct {
	txHash   []byte
	author   string
	proposal uint64
}

// encodeEvent encodes an Event around an encoded body.
func encodeEvent(height uint64, index int, c cause, field protowire.Number, body []byte) []byte {
	w := make(writer, 0, len(body)+len(c.author)+64)
	return w.num(1, height).num(2, uint64(index)).bytes(3, c.txHash).str(4, c.author).num(5, c.proposal).message(field, body)
}

func encodeBlockCommitted(t time.Time, stateRoot [32]byte, transactions int) []byte {
	return writer{}.num(1, uint64(t.UnixNano())).bytes(2, stateRoot[:]).num(3, uint64(transactions))
}
