package registry

import (
	"cmp"
	"slices"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// maxNewKeys is how many keys a member is admitted with.
const maxNewKeys = 32

// admitMember takes a body in at the top level, with its keys, nodes, votes and
// voting power. The new keys show that it wants to.
func (x *txn) admitMember(m *registrypb.AdmitMember) ([]record, *refusal) {
	// 1. The member.
	id, r := x.memberID("id", m.Id)
	if r != nil {
		return nil, r
	}
	if r := checkText("name", m.Name, 1, maxName); r != nil {
		return nil, r
	}
	gateways, r := checkGateways(m.Gateways)
	if r != nil {
		return nil, r
	}
	next := &civibus.Member{ID: id, Name: m.Name, Gateways: gateways, Status: civibus.Active, Periods: begin(nil, x.height)}
	if old := x.member(id); old != nil {
		// A member under another one can be admitted to the top level.
		if old.Parent.IsZero() || old.Status != civibus.Active {
			return nil, refuse(AlreadyExists, "member %s is already registered", id)
		}
		next.Periods = old.Periods
	}
	out := []record{memberRecord{next}}
	// 2. Its keys, all of which agree.
	keys, r := x.newKeys(id, m.Keys)
	if r != nil {
		return nil, r
	}
	for _, k := range keys {
		out = append(out, keyRecord{k})
	}
	if !slices.ContainsFunc(keys, func(k *civibus.RegisteredKey) bool { return k.Purpose == civibus.AdminKey }) {
		return nil, refuse(InvalidField, "keys: there is no admin key, the rule is at least one")
	}
	// 3. Its votes and nodes.
	if m.Votes > maxVotes {
		return nil, refuse(InvalidField, "votes: %d, the rule is at most %d", m.Votes, maxVotes)
	}
	if old, ok := x.votes.Get(id.String()); ok && old.votes != m.Votes || !ok && m.Votes > 0 {
		out = append(out, votesRecord{&memberVotes{id, m.Votes}})
	}
	nodes, r := checkNodes(id, m.Nodes)
	if r != nil {
		return nil, r
	}
	if len(nodes) > 0 {
		out = append(out, nodesRecord{&memberNodes{id, nodes}})
	}
	if r := x.mustBeFree(id, nodes); r != nil {
		return nil, r
	}
	// 4. Its voting power.
	if m.Power > maxVotingPower {
		return nil, refuse(InvalidField, "power: %d, the rule is at most %d", m.Power, maxVotingPower)
	}
	if m.Power == 0 {
		return out, nil
	}
	key := slices.IndexFunc(keys, func(k *civibus.RegisteredKey) bool { return k.Purpose == civibus.ValidatorKey })
	if key < 0 {
		return nil, refuse(InvalidField, "power: %d, but there is no validator key", m.Power)
	}
	return append(out, validatorRecord{&validator{keys[key].ID, id, m.Power, x.height}}), nil
}

// newKeys checks the keys of a body that is not yet a member.
func (x *txn) newKeys(id civibus.MemberID, in []*registrypb.NewKey) ([]*civibus.RegisteredKey, *refusal) {
	if len(in) > maxNewKeys {
		return nil, refuse(InvalidField, "keys: %d, the rule is at most %d", len(in), maxNewKeys)
	}
	var out []*civibus.RegisteredKey
	for i, k := range in {
		purpose := civibus.Purpose(k.Purpose)
		public, r := x.checkKey(purpose, k.Spki, k.Certificate)
		switch {
		case r != nil:
			return nil, refuse(r.code, "keys[%d].%s", i, r.reason)
		case !x.signatures.verify(&public, possessionMessage(x.params.ChainID, id.String(), purpose, k.Spki), k.Possession):
			return nil, refuse(BadPossession, "keys[%d].possession is not the signature of key %s over %s as a %s key on this chain", i, public.ID, id, purpose)
		case x.state.key(public.ID) != nil || slices.ContainsFunc(out, func(o *civibus.RegisteredKey) bool { return o.ID == public.ID }):
			return nil, refuse(AlreadyExists, "keys[%d]: key %s is already registered", i, public.ID)
		case purpose == civibus.ValidatorKey && slices.ContainsFunc(out, func(o *civibus.RegisteredKey) bool { return o.Purpose == purpose }):
			return nil, refuse(InvalidField, "keys[%d]: it is a second validator key, the rule is at most one", i)
		}
		out = append(out, &civibus.RegisteredKey{PublicKey: public, Member: id, Purpose: purpose, Certificate: k.Certificate, Activate: x.height})
	}
	return out, nil
}

// voteStatus suspends, reinstates or removes a member.
func (x *txn) voteStatus(member string, status civibus.Status) ([]record, *refusal) {
	id, r := x.memberID("id", member)
	if r != nil {
		return nil, r
	}
	old := x.member(id)
	if old == nil {
		return nil, refuse(NotFound, "member %s is not registered", id)
	}
	next := *old
	next.Status = status
	if next.Periods, r = x.changeStatus("member "+id.String(), old.Status, status, old.Periods); r != nil {
		return nil, r
	}
	if status == civibus.Ended {
		return x.endOf(&next)
	}
	return []record{memberRecord{&next}}, nil
}

// setVotes changes a member's weight.
func (x *txn) setVotes(m *registrypb.SetVotes) ([]record, *refusal) {
	id, r := x.memberID("member", m.Member)
	if r != nil {
		return nil, r
	}
	if m.Votes > maxVotes {
		return nil, refuse(InvalidField, "votes: %d, the rule is at most %d", m.Votes, maxVotes)
	}
	if r := x.mustLive(id); r != nil {
		return nil, r
	}
	if !x.member(id).Parent.IsZero() {
		return nil, refuse(BadHierarchy, "member %s is under %s, the rule is a top-level member", id, x.member(id).Parent)
	}
	if old, ok := x.votes.Get(id.String()); ok && old.votes == m.Votes || !ok && m.Votes == 0 {
		return nil, refuse(NoChange, "member %s has %d votes already", id, m.Votes)
	}
	return []record{votesRecord{&memberVotes{id, m.Votes}}}, nil
}

// setParams changes those parameters that are given.
func (x *txn) setParams(m *registrypb.SetParams) ([]record, *refusal) {
	// 1. The limits.
	change := Params{Protocol: x.params.Protocol, MaxTxBytes: m.MaxTxBytes, Rules: rulesOf(m.Rules), MaxOpenProposals: m.MaxOpenProposals, BlockShare: m.BlockShare, MemberQuota: m.MemberQuota}
	if r := change.checkLimits(); r != nil {
		return nil, r
	}
	next := *x.params
	replace(&next.MaxTxBytes, m.MaxTxBytes)
	replace(&next.MaxOpenProposals, m.MaxOpenProposals)
	replace(&next.BlockShare, m.BlockShare)
	replace(&next.MemberQuota, m.MemberQuota)
	switch m.SecondSeals {
	case registrypb.SecondSeals_SECOND_SEALS_UNSPECIFIED:
	case registrypb.SecondSeals_SECOND_SEALS_REQUIRED, registrypb.SecondSeals_SECOND_SEALS_OPTIONAL:
		next.SecondSeals = m.SecondSeals == registrypb.SecondSeals_SECOND_SEALS_REQUIRED
	default:
		return nil, refuse(InvalidField, "second_seals: %d, the rule is required or optional", m.SecondSeals)
	}
	// 2. The rules.
	next.Rules = slices.Clone(next.Rules)
	for _, r := range change.Rules {
		if i := slices.IndexFunc(next.Rules, func(o Rule) bool { return o.Kind == r.Kind }); i >= 0 {
			next.Rules[i] = r
		} else { // of a kind whose default is not in the state
			next.Rules = append(next.Rules, r)
			slices.SortFunc(next.Rules, func(a, b Rule) int { return cmp.Compare(a.Kind, b.Kind) })
		}
	}
	// 3. The registrars.
	if m.Registrars != nil {
		next.Registrars = nil
		for i, s := range m.Registrars.Members {
			id, r := x.memberID("registrars", s)
			if r != nil {
				return nil, r
			}
			if slices.Contains(next.Registrars, id) {
				return nil, refuse(InvalidField, "registrars[%d]: %s occurs twice", i, id)
			}
			if r := x.mustLive(id); r != nil {
				return nil, r
			}
			if !x.member(id).Parent.IsZero() {
				return nil, refuse(BadHierarchy, "registrars[%d]: %s is under another member, the rule is a top-level member", i, id)
			}
			next.Registrars = append(next.Registrars, id)
		}
	}
	if paramsEqual(&next, x.params) {
		return nil, refuse(NoChange, "the parameters are already so")
	}
	return []record{paramsRecord{&next}}, nil
}

// replace sets what is not absent.
func replace[T uint32 | uint64](to *T, value T) {
	if value != 0 {
		*to = value
	}
}

func paramsEqual(a, b *Params) bool {
	return a.MaxTxBytes == b.MaxTxBytes && a.MaxOpenProposals == b.MaxOpenProposals && a.BlockShare == b.BlockShare &&
		a.MemberQuota == b.MemberQuota && a.SecondSeals == b.SecondSeals && slices.Equal(a.Rules, b.Rules) && slices.Equal(a.Registrars, b.Registrars)
}

// revokeKeyNow ends a key's force in this block, whoever owns it.
func (x *txn) revokeKeyNow(m *registrypb.RevokeKeyEmergency) ([]record, *refusal) {
	id, err := keyIDOf(m.KeyId)
	if err != nil {
		return nil, refuse(InvalidField, "key_id: %v", err)
	}
	if m.Reason < registrypb.RevocationReason_REVOCATION_REASON_ROTATED || m.Reason > registrypb.RevocationReason_REVOCATION_REASON_CEASED {
		return nil, refuse(InvalidField, "reason: %d, the rule is rotated, compromised or ceased", m.Reason)
	}
	old := x.state.key(id)
	switch {
	case old == nil:
		return nil, refuse(NotFound, "key %s is not registered", id)
	case old.Revoke != 0 && old.Revoke <= x.height:
		return nil, refuse(Ended, "key %s is revoked since height %d", id, old.Revoke)
	}
	return []record{keyRecord{revoked(old, x.height, reasons()[m.Reason])}}, nil
}

// recoverMember registers an admin key of a member that cannot do it itself.
func (x *txn) recoverMember(m *registrypb.RecoverMember) ([]record, *refusal) {
	id, r := x.memberID("id", m.Id)
	if r != nil {
		return nil, r
	}
	if r := x.mustLive(id); r != nil {
		return nil, r
	}
	if m.Key == nil || civibus.Purpose(m.Key.Purpose) != civibus.AdminKey {
		return nil, refuse(InvalidField, "key is missing or not an admin key")
	}
	if x.member(id).Status == civibus.Active && x.hasAdmin(id) {
		return nil, refuse(NotAuthorised, "member %s is active and has an admin key in force; it adds keys itself", id)
	}
	keys, r := x.newKeys(id, []*registrypb.NewKey{m.Key})
	if r != nil {
		return nil, r
	}
	if list, _ := x.keysOf.Get(keysOfKey(id, civibus.AdminKey)); len(list) >= maxKeysPerPurpose {
		return nil, refuse(LimitReached, "member %s has %d admin keys, the rule is at most %d", id, len(list), maxKeysPerPurpose)
	}
	return []record{keyRecord{keys[0]}}, nil
}

// revoked is a key with its end.
func revoked(k *civibus.RegisteredKey, at uint64, reason string) *civibus.RegisteredKey {
	next := *k
	next.Revoke, next.Reason = at, reason
	return &next
}
