package registry

import (
	"strings"

	"github.com/civibus/civibus"
)

// Pages of lists are in ascending order of the canonical key's bytes, and begin
// after a key: what is added or removed elsewhere between two calls neither
// repeats nor hides anything.
const (
	defaultPage = 100
	maxPage     = 1000
)

// page returns the records after a key, at most limit, and the key to go on
// after, "" at the end.
func page[V any](t *table[*V], prefix, after string, limit int) (items []V, next string) {
	each(t, prefix, after, limit, func(_ string, p *V) { items = append(items, *p) }, &next)
	return items, next
}

// each calls fn with the keys without their prefix.
func each[V any](t *table[V], prefix, after string, limit int, fn func(key string, v V), next *string) {
	if limit <= 0 {
		limit = defaultPage
	}
	limit = min(limit, maxPage)
	count, last := 0, ""
	t.Ascend(prefix+after, func(key string, v V) bool {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok {
			return false
		}
		if after != "" && rest == after {
			return true
		}
		if count == limit {
			*next = last
			return false
		}
		fn(rest, v)
		count, last = count+1, rest
		return true
	})
}

// Members lists members by identifier, the ended ones included. It returns at
// most limit of them (0: 100, at most 1,000) that follow after, and what to
// pass as after for the next page, "" at the end.
func (v *View) Members(after string, limit int) (items []civibus.Member, next string) {
	return page(v.state.members, "", after, limit)
}

// Subsystems lists subsystems by identifier, like Members.
func (v *View) Subsystems(after string, limit int) (items []civibus.Subsystem, next string) {
	return page(v.state.subsystems, "", after, limit)
}

// Services lists services by identifier, like Members.
func (v *View) Services(after string, limit int) (items []civibus.Service, next string) {
	return page(v.state.services, "", after, limit)
}

// Rights lists access rights by id, like Members.
func (v *View) Rights(after string, limit int) (items []civibus.AccessRight, next string) {
	return page(v.state.rights, "", after, limit)
}

// Keys lists keys by id, like Members.
func (v *View) Keys(after string, limit int) (items []civibus.RegisteredKey, next string) {
	return page(v.state.keys, "", after, limit)
}

// Groups lists groups by id, like Members.
func (v *View) Groups(after string, limit int) (items []civibus.Group, next string) {
	return page(v.state.groups, "", after, limit)
}

// Logs lists evidence logs by origin, like Members.
func (v *View) Logs(after string, limit int) (items []civibus.Log, next string) {
	return page(v.state.logs, "", after, limit)
}

// LogCount is how many evidence logs are anchored.
func (v *View) LogCount() int { return v.state.logs.Len() }

// GroupMembers lists the clients that are in a group now, by identifier, like
// Members. A page may be shorter than its limit, also an inner one.
func (v *View) GroupMembers(group, after string, limit int) (items []civibus.ClientID, next string) {
	each(v.state.groupMembers, pair(group, ""), after, limit, func(_ string, g *groupMember) {
		if g.open() {
			items = append(items, g.client)
		}
	}, &next)
	return items, next
}
