package registry

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// maxVotingPower bounds one validator's power, so that no sum can come near what
// the ledger's arithmetic takes; maxValidators bounds how many have any.
const (
	maxVotingPower = 1_000_000
	maxValidators  = 256
)

// Validator is a key that votes on the ledger's blocks.
type Validator struct {
	Key    civibus.PublicKey
	Member civibus.MemberID
	Power  int64 // at least 1
}

// validator is the state's record of a key that votes, or voted, on blocks.
type validator struct {
	key    civibus.KeyID
	member civibus.MemberID
	power  uint64 // 0: it no longer votes
	height uint64 // of the block that set the power
}

type validatorRecord struct{ *validator }

func (r validatorRecord) stateKey() string           { return validatorPrefix + r.key.String() }
func (r validatorRecord) put(s *state)               { s.validators.Set(r.key.String(), r.validator) }
func (validatorRecord) eventField() protowire.Number { return 20 }

func (r validatorRecord) encode() []byte {
	return writer{}.bytes(1, r.key[:]).str(2, r.member.String()).num(3, r.power).num(4, r.height)
}

func decodeValidator(value []byte) (record, error) {
	var m registrypb.Validator
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	key, err := keyIDOf(m.KeyId)
	if err != nil {
		return nil, err
	}
	member, err := civibus.ParseMemberID(m.Member)
	return validatorRecord{&validator{key, member, m.Power, m.Height}}, err
}

// Validators returns the keys that vote on blocks, by key id. The ledger gives
// them their votes two blocks later. In protocol 0 it is empty: then those of
// the genesis vote forever.
func (v *View) Validators() []Validator {
	var out []Validator
	scan(v.state.validators, func(_ string, r *validator) {
		if k := v.state.key(r.key); r.power > 0 && k != nil {
			out = append(out, Validator{k.PublicKey, r.member, int64(r.power)})
		}
	})
	return out
}

// ValidatorHistory lists the keys that vote, or voted, on blocks, by key id in
// hex, with the height since which they have their present power, like Members.
func (v *View) ValidatorHistory(after string, limit int) (items []ValidatorEntry, next string) {
	each(v.state.validators, "", after, limit, func(_ string, r *validator) {
		items = append(items, ValidatorEntry{r.key, r.member, int64(r.power), r.height})
	}, &next)
	return items, next
}

// ValidatorEntry is what the registry knows of a key that has ever voted on
// blocks.
type ValidatorEntry struct {
	Key    civibus.KeyID
	Member civibus.MemberID
	Power  int64  // 0: it no longer votes
	Height uint64 // of the block that set the power
}

// canVote reports whether a key may have voting power at a height: it is a
// validator key in force and its member is active.
func (s *state) canVote(k *civibus.RegisteredKey, height uint64) bool {
	if k == nil || k.Purpose != civibus.ValidatorKey || !k.InForce(height) {
		return false
	}
	m := s.member(k.Member)
	return m != nil && m.Status == civibus.Active
}

// setValidators checks new powers and returns the records that change, by key.
func (x *txn) setValidators(powers []*registrypb.ValidatorPower) ([]record, *refusal) {
	if len(powers) == 0 || len(powers) > maxValidators {
		return nil, refuse(InvalidField, "validators: %d, the rule is 1 to %d", len(powers), maxValidators)
	}
	var out []record
	for i, p := range powers {
		next, r := x.validatorPower(p)
		if r != nil {
			return nil, r
		}
		if slices.ContainsFunc(powers[:i], func(o *registrypb.ValidatorPower) bool { return string(o.KeyId) == string(p.KeyId) }) {
			return nil, refuse(InvalidField, "validators: key %s occurs twice", next.key)
		}
		if old, ok := x.validators.Get(next.key.String()); ok && old.power == next.power || !ok && next.power == 0 {
			continue
		}
		out = append(out, validatorRecord{next})
	}
	if len(out) == 0 {
		return nil, refuse(NoChange, "the validators are already so")
	}
	slices.SortFunc(out, func(a, b record) int { return cmp.Compare(a.stateKey(), b.stateKey()) })
	return out, nil
}

func (x *txn) validatorPower(p *registrypb.ValidatorPower) (*validator, *refusal) {
	id, err := keyIDOf(p.KeyId)
	if err != nil {
		return nil, refuse(InvalidField, "validators: %v", err)
	}
	if p.Power > maxVotingPower {
		return nil, refuse(InvalidField, "validators: power of key %s is %d, the rule is at most %d", id, p.Power, maxVotingPower)
	}
	k := x.state.key(id)
	if k == nil || k.Purpose != civibus.ValidatorKey {
		return nil, refuse(NotFound, "validators: key %s is not a registered validator key", id)
	}
	// In protocol 0 the ledger's validators are what they are.
	if p.Power > 0 && x.params.Protocol > 0 && (!x.canVote(k, x.height) || k.Revoke != 0) {
		return nil, refuse(NotInForce, "validators: key %s is not in force without an end, or its member %s is not active", id, k.Member)
	}
	return &validator{id, k.Member, p.Power, x.height}, nil
}

// moveVotingPower gives the power of one validator key to another one of the same
// member: rotation without a vote.
func (x *txn) moveVotingPower(m *registrypb.MoveVotingPower) ([]record, *refusal) {
	// 1. The keys.
	from, err := keyIDOf(m.From)
	if err != nil {
		return nil, refuse(InvalidField, "from: %v", err)
	}
	old, ok := x.validators.Get(from.String())
	if !ok || old.power == 0 {
		return nil, refuse(NotFound, "from: key %s has no voting power", from)
	}
	next, r := x.validatorPower(&registrypb.ValidatorPower{KeyId: m.To, Power: old.power})
	if r != nil {
		return nil, r
	}
	// 2. Who may do it, and between which keys.
	if r := x.mustAdminister(old.member, ownAuthority); r != nil {
		return nil, r
	}
	if next.member != old.member {
		return nil, refuse(InvalidField, "to: key %s is of %s, the rule is a key of %s", next.key, next.member, old.member)
	}
	if has, ok := x.validators.Get(next.key.String()); ok && has.power > 0 {
		return nil, refuse(InvalidField, "to: key %s has voting power already", next.key)
	}
	return []record{validatorRecord{&validator{from, old.member, 0, x.height}}, validatorRecord{next}}, nil
}
