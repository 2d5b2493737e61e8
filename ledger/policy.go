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
func PolicyText(v *registry.View) (string, error) {
	witnesses, err := policyWitnesses(v)
	if err != nil {
		return "", err
	}
	if len(witnesses) == 0 {
		return "", fmt.Errorf("witness policy at height %d: no member with a validator has a witness key in force", v.Height())
	}
	var lines, groups strings.Builder
	var names []string
	for _, keys := range witnesses {
		name := WitnessName(v.ChainID(), keys[0].Member)
		var own []string
		for i, key := range keys {
			local := name
			if len(keys) > 1 {
				local = fmt.Sprintf("%s/%d", name, i+1)
			}
			vkey, err := WitnessVerifierKey(name, key.PublicKey)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&lines, "witness %s %s\n", local, vkey)
			own = append(own, local)
		}
		if len(keys) > 1 {
			fmt.Fprintf(&groups, "group %s any %s\n", name, strings.Join(own, " "))
		}
		names = append(names, name)
	}
	fmt.Fprintf(&groups, "group ledger %d %s\nquorum ledger\n", len(names)*2/3+1, strings.Join(names, " "))
	return lines.String() + groups.String(), nil
}

// policyWitnesses groups the witness keys by member, in a fixed order.
func policyWitnesses(v *registry.View) ([][]civibus.RegisteredKey, error) {
	height := v.Height()
	byMember := make(map[civibus.MemberID][]civibus.RegisteredKey)
	validators := make(map[civibus.MemberID]bool)
	for after := ""; ; {
		keys, next := v.Keys(after, 200)
		for _, k := range keys {
			switch {
			case !k.InForce(height):
			case k.Purpose == civibus.WitnessKey && k.Algorithm == civibus.Ed25519:
				byMember[k.Member] = append(byMember[k.Member], k)
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
	var out [][]civibus.RegisteredKey
	for member, keys := range byMember {
		if m, ok := v.Member(member); !ok || m.Status != civibus.Active || !validators[member] {
			continue
		}
		slices.SortFunc(keys, func(a, b civibus.RegisteredKey) int {
			return cmp.Or(cmp.Compare(a.Activate, b.Activate), slices.Compare(a.ID[:], b.ID[:]))
		})
		out = append(out, keys)
	}
	slices.SortFunc(out, func(a, b []civibus.RegisteredKey) int {
		return cmp.Compare(a[0].Member.String(), b[0].Member.String())
	})
	return out, nil
}
