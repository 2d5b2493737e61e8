package registry

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/eventlog"
	"github.com/civibus/civibus/registry/smt"
)

// View is the registry as it was after one block. It never changes, and may be
// used by any number of goroutines for as long as they want; its proofs can be
// had until 64 later blocks have changed something. What it returns is shared:
// callers do not change it.
type View struct {
	state   *state
	store   Store
	height  uint64
	now     time.Time
	tree    *smt.Version
	events  *eventlog.Head
	appHash [32]byte
}

// Height returns the height of the block.
func (v *View) Height() uint64 { return v.height }

// Time returns the block's time.
func (v *View) Time() time.Time { return v.now }

// AppHash returns the application hash.
func (v *View) AppHash() [32]byte { return v.appHash }

// Params returns what the genesis fixed.
func (v *View) Params() Params { return *v.state.params }

// ChainID returns the ledger's chain id.
func (v *View) ChainID() string { return v.state.params.ChainID }

// Instance returns the instance's name, the first part of every identifier.
func (v *View) Instance() string { return v.state.params.Instance }

// keyRoom is enough for most keys of the tables, which the lookups of every
// exchange make on the stack.
const keyRoom = 128

// Member looks up a member.
func (v *View) Member(id civibus.MemberID) (civibus.Member, bool) {
	var room [keyRoom]byte
	return get(v.state.members, string(id.Append(room[:0])))
}

// Subsystem looks up a subsystem.
func (v *View) Subsystem(id civibus.ClientID) (civibus.Subsystem, bool) {
	var room [keyRoom]byte
	return get(v.state.subsystems, string(id.Append(room[:0])))
}

// Service looks up a service version; the version is part of the identifier.
func (v *View) Service(id civibus.ServiceID) (civibus.Service, bool) {
	var room [keyRoom]byte
	return get(v.state.services, string(id.Append(room[:0])))
}

// Key looks up a key, whether or not it is in force.
func (v *View) Key(id civibus.KeyID) (civibus.RegisteredKey, bool) {
	return get(v.state.keys, id.String())
}

// MemberOf returns whose a key is.
func (v *View) MemberOf(key civibus.KeyID) (civibus.MemberID, bool) {
	k := v.state.key(key)
	if k == nil {
		return civibus.MemberID{}, false
	}
	return k.Member, true
}

// KeysOf returns all keys of a member for a purpose, also those not yet and no
// longer in force, by the height of their activation.
func (v *View) KeysOf(member civibus.MemberID, purpose civibus.Purpose) []civibus.RegisteredKey {
	list, _ := v.state.keysOf.Get(keysOfKey(member, purpose))
	out := make([]civibus.RegisteredKey, len(list))
	for i, k := range list {
		out[i] = *k
	}
	return out
}

// Sequence returns the last accepted sequence of a key, 0 if there is none.
func (v *View) Sequence(id civibus.KeyID) uint64 {
	q, _ := v.state.sequences.Get(id.String())
	return q.last
}

// Right looks up an access right by its id.
func (v *View) Right(id string) (civibus.AccessRight, bool) { return get(v.state.rights, id) }

// RightsFor yields the rights, active and suspended ones, that cover the
// service (its version or all versions) and whose subject is the client or a
// group that the client is in. Its cost depends on how many those are and in
// how many groups the client is, not on the size of the registry. Whether a
// right is in time and covers an endpoint is the policy's question.
func (v *View) RightsFor(service civibus.ServiceID, client civibus.ClientID) iter.Seq[*civibus.AccessRight] {
	return func(yield func(*civibus.AccessRight) bool) {
		var room [keyRoom]byte
		subject := string(client.Append(room[:0]))
		if !v.rightsOf(service, subject, &civibus.AccessRight{Client: client}, yield) {
			return
		}
		groups, _ := v.state.groupsOf.Get(subject)
		for _, g := range groups {
			if !v.rightsOf(service, g, &civibus.AccessRight{Group: g}, yield) {
				return
			}
		}
	}
}

// rightsOf yields the rights of one subject, whose client or group is that of like.
func (v *View) rightsOf(service civibus.ServiceID, subject string, like *civibus.AccessRight, yield func(*civibus.AccessRight) bool) bool {
	list, _ := v.state.rightsFor.Get(rightsForKey(service, subject))
	for _, r := range list {
		if r.Client != like.Client || r.Group != like.Group || r.Service.ClientID != service.ClientID || r.Service.Service != service.Service {
			continue
		}
		if r.Service.Version != "" && r.Service.Version != service.Version {
			continue
		}
		if !yield(r) {
			return false
		}
	}
	return true
}

// Group looks up a group by its id, "global/CODE" or "local/I/C/M/S/CODE".
func (v *View) Group(id string) (civibus.Group, bool) { return get(v.state.groups, id) }

// InGroup reports whether exactly this client is in the group now.
func (v *View) InGroup(group string, client civibus.ClientID) bool {
	g, ok := v.state.groupMembers.Get(pair(group, client.String()))
	return ok && g.open()
}

// GroupsOf returns the ids of the groups that exactly this client is in now.
func (v *View) GroupsOf(client civibus.ClientID) []string {
	list, _ := v.state.groupsOf.Get(client.String())
	return slices.Clone(list)
}

// GroupPeriods returns when the client was in the group.
func (v *View) GroupPeriods(group string, client civibus.ClientID) []civibus.Period {
	g, ok := v.state.groupMembers.Get(pair(group, client.String()))
	if !ok {
		return nil
	}
	return g.periods
}

// Log looks up what is known of an evidence log by its checkpoint origin.
func (v *View) Log(origin string) (civibus.Log, bool) { return get(v.state.logs, origin) }

// LogsOf returns the evidence logs of a member, by number.
func (v *View) LogsOf(member civibus.MemberID) []civibus.Log {
	var out []civibus.Log
	for n := 1; ; n++ {
		l, ok := v.state.logs.Get(EvidenceOrigin(member, n))
		if !ok {
			return out
		}
		out = append(out, *l)
	}
}

// Notarisation looks up a recorded digest.
func (v *View) Notarisation(digest [32]byte) (n Notarisation, ok bool, err error) {
	b, err := v.store.Get(stateStoreKey(notaryKey(digest)))
	if err != nil {
		return n, false, fmt.Errorf("look up notarisation: %w", err)
	}
	if b == nil {
		return n, false, nil
	}
	r, err := decodeNotarisation(b)
	if err != nil {
		return n, false, fmt.Errorf("look up notarisation: the store is damaged: %w", err)
	}
	// A notarisation is written once, so an old view knows it by its height.
	return *r.Notarisation, r.Height <= v.height, nil
}

// Children returns the members directly under a member.
func (v *View) Children(id civibus.MemberID) []civibus.Member {
	var out []civibus.Member
	for m := range v.state.childrenOf(id) {
		out = append(out, *m)
	}
	return out
}

// SubsystemsOf returns a member's subsystems, the ended ones included.
func (v *View) SubsystemsOf(id civibus.MemberID) []civibus.Subsystem {
	return under(v.state.subsystems, id.String()+"/")
}

// ServicesOf returns a subsystem's services, the ended ones included.
func (v *View) ServicesOf(id civibus.ClientID) []civibus.Service {
	return under(v.state.services, id.String()+"/")
}

func get[V any](t *table[*V], key string) (V, bool) {
	p, ok := t.Get(key)
	if !ok {
		var zero V
		return zero, false
	}
	return *p, true
}

func under[V any](t *table[*V], prefix string) []V {
	var out []V
	t.Ascend(prefix, func(key string, p *V) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		out = append(out, *p)
		return true
	})
	return out
}
