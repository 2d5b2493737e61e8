package registry

import (
	"slices"

	"github.com/civibus/civibus"
)

// keeps checks that the instance goes on to work when records are put: that a
// validator stays whose key is in force without an announced end, so that blocks
// follow whatever was announced before; and that somebody can vote. Both hold
// since the genesis.
func (x *txn) keeps(records []record) *refusal {
	if x.params.Protocol == 0 || !slices.ContainsFunc(records, ofPower) {
		return nil
	}
	after := x.after(records)
	if after.powers {
		lasting, voting := after.validators()
		switch {
		case lasting == 0:
			return refuse(LastValidator, "no validator would be left whose key is in force without an announced end")
		case voting > maxValidators:
			return refuse(LimitReached, "there would be %d validators, the rule is at most %d", voting, maxValidators)
		}
	}
	if after.weights && !x.leaving && after.allVotes() == 0 && x.allVotes() > 0 {
		return refuse(LastVoter, "no active member with votes would be left")
	}
	return nil
}

// ofPower reports whether power can depend on a record.
func ofPower(r record) bool {
	switch r.(type) {
	case memberRecord, keyRecord, validatorRecord, votesRecord:
		return true
	}
	return false
}

// after is the state with some records put, as far as power depends on them. It
// looks at the state and does not copy it: Check asks too.
type after struct {
	x               *txn
	members         map[civibus.MemberID]*civibus.Member
	keys            map[civibus.KeyID]*civibus.RegisteredKey
	powerOf         map[civibus.KeyID]*validator
	votesOf         map[civibus.MemberID]uint32
	powers, weights bool // whether they could be other than before
}

func (x *txn) after(records []record) *after {
	a := &after{
		x: x, members: make(map[civibus.MemberID]*civibus.Member), keys: make(map[civibus.KeyID]*civibus.RegisteredKey),
		powerOf: make(map[civibus.KeyID]*validator), votesOf: make(map[civibus.MemberID]uint32),
	}
	for _, r := range records {
		switch r := r.(type) {
		case memberRecord:
			a.members[r.ID] = r.Member
			a.powers, a.weights = a.powers || r.Status != civibus.Active, true
		case keyRecord:
			a.keys[r.ID] = r.RegisteredKey
			a.powers = a.powers || r.Purpose == civibus.ValidatorKey && r.Revoke != 0
		case validatorRecord:
			a.powerOf[r.key] = r.validator
			a.powers = true
		case votesRecord:
			a.votesOf[r.member] = r.votes
			a.weights = true
		}
	}
	return a
}

func (a *after) member(id civibus.MemberID) *civibus.Member {
	if m, ok := a.members[id]; ok {
		return m
	}
	return a.x.member(id)
}

func (a *after) key(id civibus.KeyID) *civibus.RegisteredKey {
	if k, ok := a.keys[id]; ok {
		return k
	}
	return a.x.state.key(id)
}

// validators counts those that have power, and those of them that keep it until
// something else happens.
func (a *after) validators() (lasting, voting int) {
	count := func(v *validator) {
		k := a.key(v.key)
		if v.power == 0 || k == nil || !k.InForce(a.x.height) {
			return
		}
		if m := a.member(v.member); m == nil || m.Status != civibus.Active {
			return
		}
		voting++
		if k.Revoke == 0 {
			lasting++
		}
	}
	for _, v := range a.powerOf {
		count(v)
	}
	scan(a.x.state.validators, func(_ string, v *validator) {
		if a.powerOf[v.key] == nil {
			count(v)
		}
	})
	return lasting, voting
}

func (a *after) allVotes() (sum uint64) {
	for id, votes := range a.votesOf {
		sum += weightOf(a.member(id), votes)
	}
	scan(a.x.state.votes, func(_ string, r *memberVotes) {
		if _, ok := a.votesOf[r.member]; !ok {
			sum += weightOf(a.member(r.member), r.votes)
		}
	})
	return sum
}
