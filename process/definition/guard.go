package definition

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/civibus/civibus/internal/celguard"
)

// MaxGuardCost bounds what a guard may cost at most, in the units of CEL's cost
// estimate; a comparison costs about two.
const MaxGuardCost = celguard.MaxCost

// Value is the value of a fact: bool, int64, string (a code), time.Time (midnight
// UTC) or []byte (a hash).
type Value = any

// Guard is a compiled condition over facts: CEL of a fixed version without macros,
// a part of its standard library only, and with a bounded cost.
type Guard struct{ condition *celguard.Condition }

// Facts are the facts that the guard asks for, in order.
func (g *Guard) Facts() []string { return g.condition.Variables() }

// language is the one in which a definition's facts are variables.
func language(facts []Fact) (*celguard.Language, error) {
	variables := make([]celguard.Variable, len(facts))
	for i, f := range facts {
		variables[i] = celguard.Variable{Name: f.ID, Type: f.Type.variable(), Max: maxCode}
	}
	return celguard.New(variables, MaxGuard)
}

func (t FactType) variable() celguard.Type {
	switch t {
	case Bool:
		return celguard.Bool
	case Int:
		return celguard.Int
	case Date:
		return celguard.Time
	case Hash:
		return celguard.Bytes
	}
	return celguard.String
}

// compile checks a guard and makes it runnable.
func compile(in *celguard.Language, text string) (*Guard, error) {
	condition, err := in.Compile(text)
	if err != nil {
		return nil, err
	}
	return &Guard{condition}, nil
}

// ErrNoValue says that a guard asks for a fact that no step has found out.
var ErrNoValue = errors.New("a fact has no value")

// Holds evaluates the guard. A fact without a value is ErrNoValue.
func (g *Guard) Holds(facts map[string]Value) (bool, error) {
	for _, f := range g.Facts() {
		if _, ok := facts[f]; !ok {
			return false, fmt.Errorf("guard %q: %s: %w", g.condition.Text(), f, ErrNoValue)
		}
	}
	holds, err := g.condition.Holds(celguard.Map(facts))
	if err != nil {
		return false, fmt.Errorf("guard: %w", err)
	}
	return holds, nil
}

// CheckValue checks that a value is one of a fact.
func (f *Fact) CheckValue(v Value) error {
	ok := false
	switch v := v.(type) {
	case bool:
		ok = f.Type == Bool
	case int64:
		ok = f.Type == Int && v > math.MinInt64
	case string:
		ok = f.Type == Code && slices.Contains(f.Codes, v)
	case time.Time:
		ok = f.Type == Date && v.Equal(v.UTC().Truncate(24*time.Hour)) && v.Year() >= 1 && v.Year() <= 9999
	case []byte:
		ok = f.Type == Hash && len(v) == 32
	}
	if !ok {
		return fmt.Errorf("fact %s: %v is no %s of it", f.ID, v, f.Type)
	}
	return nil
}
