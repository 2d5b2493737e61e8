package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// PolicyText is a C2SP tlog-policy over the witnesses of a view: the witness keys
// in force of the members that have a validator key in force. Its quorum is more
// than two thirds of these members, floor(2n/3)+1, whatever the validators'
// voting powers; instances give their validators equal power. A member that is
// changing its witness key has both in a group of its own and counts once.
//
// Where the instance requires second seals, a member counts only with a
// cosignature of each kind, Ed25519 and ML-DSA-44; one without a key for the
// second cannot contribute, and counts in n all the same.
func PolicyText(v *registry.View) (string, error) {
	witnesses, err := policyWitnesses(v)
	if err != nil {
		return "", err
	}
	if len(witnesses) == 0 {
		return "", fmt.Errorf("witness policy at height %d: no member with a validator has a witness key in force", v.Height())
	}
	var p policyLines
	var names []string
	need := len(witnesses)*2/3 + 1
	for _, w := range witnesses {
		name := WitnessName(v.ChainID(), w.first[0].Member)
		switch {
		case !v.SecondSeals():
			err = p.any(name, name, w.first)
		case len(w.second) == 0:
			continue
		default:
			if err = p.any(name+"/ed25519", name, w.first); err == nil {
				err = p.any(name+"/ml-dsa-44", name, w.second)
			}
			fmt.Fprintf(&p.groups, "group %[1]s all %[1]s/ed25519 %[1]s/ml-dsa-44\n", name)
		}
		if err != nil {
			return "", err
		}
		names = append(names, name)
	}
	if len(names) < need {
		return "", fmt.Errorf("witness policy at height %d: %d of %d witnesses have an ML-DSA-44 witness key in force, the instance requires second signatures and %d are needed: make them with \"civibus register key add witness --algorithm ml-dsa-44\"", v.Height(), len(names), len(witnesses), need)
	}
	fmt.Fprintf(&p.groups, "group ledger %d %s\nquorum ledger\n", need, strings.Join(names, " "))
	return p.witnesses.String() + p.groups.String(), nil
}

// policyLines are the lines of a policy.
type policyLines struct{ witnesses, groups strings.Builder }

// any defines local as one of the keys of a witness under its key name.
func (p *policyLines) any(local, keyName string, keys []civibus.RegisteredKey) error {
	var own []string
	for i, key := range keys {
		one := local
		if len(keys) > 1 {
			one = fmt.Sprintf("%s/%d", local, i+1)
		}
		vkey, err := WitnessVerifierKey(keyName, key.PublicKey)
		if err != nil {
			return err
		}
		fmt.Fprintf(&p.witnesses, "witness %s %s\n", one, vkey)
		own = append(own, one)
	}
	if len(keys) > 1 {
		fmt.Fprintf(&p.groups, "group %s any %s\n", local, strings.Join(own, " "))
	}
	return nil
}

// policyWitness is a member's witness keys in force, oldest first: those for
// first signatures, at least one, and those for second ones.
type policyWitness struct{ first, second []civibus.RegisteredKey }

// policyWitnesses groups the witness keys by member, in a fixed order.
func policyWitnesses(v *registry.View) ([]*policyWitness, error) {
	height := v.Height()
	byMember := make(map[civibus.MemberID]*policyWitness)
	validators := make(map[civibus.MemberID]bool)
	for after := ""; ; {
		keys, next := v.Keys(after, 200)
		for _, k := range keys {
			switch {
			case !k.InForce(height):
			case k.Purpose == civibus.WitnessKey:
				w := byMember[k.Member]
				if w == nil {
					w = new(policyWitness)
					byMember[k.Member] = w
				}
				switch k.Algorithm {
				case civibus.Ed25519:
					w.first = append(w.first, k)
				case civibus.MLDSA44:
					w.second = append(w.second, k)
				}
			case k.Purpose == civibus.ValidatorKey:
				validators[k.Member] = true
			}
		}
		if next == "" {
			break
		}
		if next == after {
			return nil, fmt.Errorf("witness policy: the list of keys does not go on after %q", after)
		}
		after = next
	}
	var out []*policyWitness
	for member, w := range byMember {
		if m, ok := v.Member(member); !ok || m.Status != civibus.Active || !validators[member] || len(w.first) == 0 {
			continue
		}
		for _, keys := range [][]civibus.RegisteredKey{w.first, w.second} {
			slices.SortFunc(keys, func(a, b civibus.RegisteredKey) int {
				return cmp.Or(cmp.Compare(a.Activate, b.Activate), slices.Compare(a.ID[:], b.ID[:]))
			})
		}
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b *policyWitness) int {
		return cmp.Compare(a.first[0].Member.String(), b.first[0].Member.String())
	})
	return out, nil
}
