package definition

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// commitDomain begins what is hashed for a commitment.
const commitDomain = "civibus/fact/v1\n"

// SaltBytes is how long the salt of a commitment is. Each has a fresh one.
const SaltBytes = 32

// Commit binds a fact of an instance to its value: SHA-256 of the domain, the salt, and
// the instance's id, the fact's id and the value's text, each followed by a zero byte.
// Without the salt nobody can tell which value it is.
func Commit(salt [SaltBytes]byte, instance, fact, text string) Commitment {
	b := make([]byte, 0, len(commitDomain)+SaltBytes+len(instance)+len(fact)+len(text)+3)
	b = append(append(b, commitDomain...), salt[:]...)
	for _, s := range [...]string{instance, fact, text} {
		b = append(append(b, s...), 0)
	}
	return sha256.Sum256(b)
}

// Text writes a value: true or false, a decimal number, a code, YYYY-MM-DD, or lower-case
// hex. It is the one text of the value.
func Text(v Value) string {
	switch v := v.(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case time.Time:
		return v.UTC().Format(time.DateOnly)
	case []byte:
		return hex.EncodeToString(v)
	}
	return PublicText(v)
}

// ParseText reads what Text writes, and nothing else.
func (f *Fact) ParseText(text string) (Value, error) {
	var v Value
	switch f.Type {
	case Bool:
		v = text == "true"
	case Code:
		v = text
	case Int:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("fact %s: %.64q is no number", f.ID, text)
		}
		v = n
	case Date:
		d, err := time.Parse(time.DateOnly, text)
		if err != nil {
			return nil, fmt.Errorf("fact %s: %.64q is no date YYYY-MM-DD", f.ID, text)
		}
		v = d
	case Hash:
		b, err := hex.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("fact %s: %.80q is not in hex", f.ID, text)
		}
		v = b
	}
	if Text(v) != text {
		return nil, fmt.Errorf("fact %s: %.80q is no %s in its one form", f.ID, text, f.Type)
	}
	return v, f.CheckValue(v)
}

// Fact returns a fact of the process.
func (p *Process) Fact(id string) (*Fact, bool) {
	for n := range p.Facts {
		if p.Facts[n].ID == id {
			return &p.Facts[n], true
		}
	}
	return nil, false
}

// Guard returns the condition of a step of a variant, nil if it has none.
func (i *Instance) Guard(step string) *Guard {
	n, ok := i.plan.index[step]
	if !ok {
		return nil
	}
	return i.plan.guards[n]
}

// SealedGuard reports whether the body that does a step decides whether it is done.
func (i *Instance) SealedGuard(step string) bool {
	n, ok := i.plan.index[step]
	return ok && i.sealedGuard(&i.plan.steps[n])
}

// Opened are the facts that a step's body is shown for it, in order: those of its guard,
// those that it uses, and, if it is to take the step back, those that it found out.
func (i *Instance) Opened(step string) []string {
	n, ok := i.plan.index[step]
	if !ok {
		return nil
	}
	s := &i.plan.steps[n]
	out := slices.Clone(s.Uses)
	if g := i.plan.guards[n]; g != nil {
		out = append(out, g.Facts()...)
	}
	if i.Steps[n].Status == Reverting {
		out = append(out, s.Yields...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Concerned are the roles to which a fact is opened, in the order of the definition: of
// the steps that use it or whose condition asks for it, and those that get the result
// of a step that found it out.
func (i *Instance) Concerned(fact string) (roles []string) {
	concerned := make(map[string]bool)
	for n := range i.plan.steps {
		s := &i.plan.steps[n]
		if i.plan.left[n] {
			continue
		}
		if g := i.plan.guards[n]; slices.Contains(s.Uses, fact) || g != nil && slices.Contains(g.Facts(), fact) {
			concerned[s.From] = true
		}
		if slices.Contains(s.Yields, fact) && s.To != "" {
			concerned[s.To] = true
		}
	}
	for _, r := range i.process.Roles {
		if concerned[r.ID] {
			roles = append(roles, r.ID)
		}
	}
	return roles
}

// Opening says that a role opens facts to another one.
type Opening struct {
	From, To string
	Facts    []string // in the order of the definition
}

// Openings are what roles open to each other in a variant, sealed facts only: who sees
// what. They are in the order of the definition's roles.
func (p *Process) Openings(variant string) ([]Opening, error) {
	plan, ok := p.plans[variant]
	if !ok {
		return nil, fmt.Errorf("process %s has no variant %.64q", p.ID, variant)
	}
	i := &Instance{process: p, plan: plan}
	to := make(map[[2]string][]string)
	for n := range p.Facts {
		f := &p.Facts[n]
		if f.Public {
			continue
		}
		for s := range plan.steps {
			from := plan.steps[s].From
			if plan.left[s] || !slices.Contains(plan.steps[s].Yields, f.ID) {
				continue
			}
			for _, role := range i.Concerned(f.ID) {
				key := [2]string{from, role}
				if role != from && !slices.Contains(to[key], f.ID) {
					to[key] = append(to[key], f.ID)
				}
			}
		}
	}
	var out []Opening
	for _, from := range p.Roles {
		for _, role := range p.Roles {
			if facts := to[[2]string{from.ID, role.ID}]; len(facts) > 0 {
				out = append(out, Opening{from.ID, role.ID, facts})
			}
		}
	}
	return out, nil
}
