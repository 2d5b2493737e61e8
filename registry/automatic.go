package registry

import (
	"crypto/ed25519"
	"slices"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
)

// before does what a block does ahead of its transactions: an upgrade that is due,
// and what follows from the ledger's evidence.
func (b *blockRun) before(evidence []Misbehaviour) error {
	if err := b.upgrade(); err != nil {
		return err
	}
	if b.state.params.Protocol == 0 {
		return nil
	}
	for _, e := range evidence {
		b.punish(e)
	}
	return nil
}

// after does what follows from a block's transactions.
func (b *blockRun) after() error {
	// The ledger compares the validators before and after a block. In the block
	// that takes them into the state all of them stay, so that it learns of each.
	if b.base.state.params.Protocol == 0 {
		return nil
	}
	if err := b.decide(); err != nil {
		return err
	}
	b.sweepValidators()
	return nil
}

// notice remembers what a record has to do with open proposals, before it is put.
func (b *blockRun) notice(r record) {
	switch r := r.(type) {
	case voteRecord:
		b.votedOn[r.Proposal] = true
	case votesRecord:
		b.electorate = true
	case memberRecord:
		old := b.state.member(r.ID)
		b.electorate = b.electorate || old != nil && weightOf(old, 1) != weightOf(r.Member, 1)
	}
}

// sweepValidators takes the power of validators whose key or member is no longer
// in force. The rules for transactions see to it that one stays.
func (b *blockRun) sweepValidators() {
	var gone []*validator
	voting := 0
	scan(b.state.validators, func(_ string, v *validator) {
		if v.power > 0 {
			voting++
		}
		if v.power > 0 && !b.state.canVote(b.state.key(v.key), b.height) {
			gone = append(gone, v)
		}
	})
	if len(gone) == voting {
		return // it cannot be, and the ledger could not go on from there
	}
	for _, v := range gone {
		b.put(validatorRecord{&validator{v.key, v.member, 0, b.height}}, cause{})
	}
}

// punish records a validator's misbehaviour, takes its power and revokes its key,
// unless no validator would be left.
func (b *blockRun) punish(e Misbehaviour) {
	// 1. Who it was.
	var v *validator
	b.state.validators.Scan(func(_ string, r *validator) bool {
		if k := b.state.key(r.key); k != nil && addressOf(&k.PublicKey) == e.Address {
			v = r
		}
		return v == nil
	})
	if v == nil {
		return
	}
	if _, ok := b.state.misbehaviour.Get(misconductKey(v.key, e.Height)); ok {
		return
	}
	b.put(misconductRecord{&Misconduct{v.key, v.member, e.Height, b.height}}, cause{})
	// 2. What it loses.
	var records []record
	if v.power > 0 {
		records = append(records, validatorRecord{&validator{v.key, v.member, 0, b.height}})
	}
	if k := b.state.key(v.key); k.Revoke == 0 || k.Revoke > b.height {
		records = append(records, keyRecord{revoked(k, b.height, "compromised")})
	}
	x := b.machine.txn(b.state, b.height, b.now, b.notarised)
	if x.keeps(records) != nil {
		return
	}
	for _, r := range records {
		b.put(r, cause{})
	}
}

// addressOf is the ledger's name of a validator key.
func addressOf(k *civibus.PublicKey) (address [20]byte) {
	var raw []byte
	switch public := k.Key.(type) {
	case ed25519.PublicKey:
		raw = public
	case *mldsa.PublicKey:
		raw = public.Bytes()
	}
	h := TxHash(raw) // SHA-256
	copy(address[:], h[:])
	return address
}

// upgrade makes the upgrade that is planned for this height.
func (b *blockRun) upgrade() error {
	u := b.state.planned()
	if u == nil || u.Height > b.height {
		return nil
	}
	if !KnowsUpgrade(u.Name) {
		return &UnknownUpgradeError{u.Name, u.Height}
	}
	done := *u
	done.Status = UpgradeDone
	b.put(upgradeRecord{&done}, cause{})
	n, ok := upgradeProtocol(u.Name)
	if !ok {
		return nil
	}
	params := *b.state.params
	params.Registrars = slices.Clone(params.Registrars)
	params.Protocol = n
	if n == 1 {
		params.setDefaults()
	}
	b.put(paramsRecord{&params}, cause{})
	if n == 1 {
		b.toProtocol1(u)
	}
	return nil
}

// toProtocol1 takes the ledger's validators into the state and gives each
// top-level member one vote.
func (b *blockRun) toProtocol1(u *Upgrade) {
	var voters []civibus.MemberID
	scan(b.state.members, func(_ string, m *civibus.Member) {
		if m.Parent.IsZero() && m.Status != civibus.Ended {
			voters = append(voters, m.ID)
		}
	})
	for _, id := range voters {
		b.put(votesRecord{&memberVotes{id, 1}}, cause{})
	}
	for _, p := range u.Validators {
		if k := b.state.key(civibus.KeyID(p.KeyId)); k != nil {
			b.put(validatorRecord{&validator{k.ID, k.Member, p.Power, b.height}}, cause{})
		}
	}
}
