package registry

import (
	"github.com/civibus/civibus"
)

// leave ends the membership of the author.
func (x *txn) leave() ([]record, *refusal) {
	next := *x.author
	var r *refusal
	if next.Periods, r = x.changeStatus("member "+next.ID.String(), x.author.Status, civibus.Ended, x.author.Periods); r != nil {
		return nil, r
	}
	next.Status = civibus.Ended
	return x.endOf(&next)
}

// endOf returns what ends with a member: itself and its keys. Those under it
// move up to its parent. What it provides and is granted is not in force any more
// because the member is not; its voting power and its votes end with it.
func (x *txn) endOf(m *civibus.Member) ([]record, *refusal) {
	out := []record{memberRecord{m}}
	children := 0
	for child := range x.childrenOf(m.ID) {
		if children++; children > maxDescendants {
			return nil, refuse(InUse, "member %s has more than %d members directly under it; move them first", m.ID, maxDescendants)
		}
		next := *child
		next.Parent = m.Parent
		out = append(out, memberRecord{&next})
	}
	return append(out, x.endedKeys(m.ID)...), nil
}

// endedKeys revokes a member's keys, by purpose.
func (x *txn) endedKeys(id civibus.MemberID) (out []record) {
	for purpose := civibus.SealKey; purpose <= civibus.WitnessKey; purpose++ {
		list, _ := x.keysOf.Get(keysOfKey(id, purpose))
		for _, k := range list {
			if k.Revoke == 0 || k.Revoke > x.height {
				out = append(out, keyRecord{revoked(k, x.height, "ceased")})
			}
		}
	}
	return out
}
