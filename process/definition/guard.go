package definition

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
)

// MaxGuardCost bounds what a guard may cost at most, in the units of CEL's cost
// estimate; a comparison costs about two.
const MaxGuardCost = 1000

// Value is the value of a fact: bool, int64, string (a code), time.Time (midnight
// UTC) or []byte (a hash).
type Value = any

// Guard is a compiled condition over facts: CEL of a fixed version without macros,
// functions of the standard library only, and with a bounded cost.
type Guard struct {
	text    string
	facts   []string // that it asks for, in order
	program cel.Program
}

// Facts are the facts that the guard asks for, in order.
func (g *Guard) Facts() []string { return g.facts }

// env is the language in which a definition's facts are variables.
func env(facts []Fact) (*cel.Env, error) {
	options := []cel.EnvOption{cel.StdLib(), cel.ClearMacros(), cel.ParserRecursionLimit(32), cel.ParserExpressionSizeLimit(MaxGuard)}
	for _, f := range facts {
		options = append(options, cel.Variable(f.ID, celType(f.Type)))
	}
	return cel.NewCustomEnv(options...)
}

func celType(t FactType) *cel.Type {
	switch t {
	case Bool:
		return cel.BoolType
	case Int:
		return cel.IntType
	case Date:
		return cel.TimestampType
	case Hash:
		return cel.BytesType
	}
	return cel.StringType
}

// compile checks a guard and makes it runnable.
func compile(in *cel.Env, text string) (*Guard, error) {
	if len(text) > MaxGuard {
		return nil, fmt.Errorf("it has %d bytes, the rule is at most %d", len(text), MaxGuard)
	}
	ast, issues := in.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, err
	}
	if ast.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("it is of type %s, the rule is bool", ast.OutputType())
	}
	estimate, err := in.EstimateCost(ast, sizes{})
	if err != nil {
		return nil, fmt.Errorf("its cost: %w", err)
	}
	if estimate.Max > MaxGuardCost {
		return nil, fmt.Errorf("it may cost %d units, the rule is at most %d", estimate.Max, MaxGuardCost)
	}
	program, err := in.Program(ast, cel.CostLimit(MaxGuardCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	used := make(map[string]bool)
	for _, ref := range ast.NativeRep().ReferenceMap() {
		if ref.Name != "" {
			used[ref.Name] = true
		}
	}
	return &Guard{text: text, facts: slices.Sorted(maps.Keys(used)), program: program}, nil
}

// sizes bounds the values of facts for the estimate: codes are short.
type sizes struct{}

// EstimateSize implements cost.Estimator.
func (sizes) EstimateSize(cost.AstNode) *cost.SizeEstimate {
	return &cost.SizeEstimate{Min: 0, Max: maxCode}
}

// EstimateCallCost implements cost.Estimator: the standard costs.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// ErrNoValue says that a guard asks for a fact that no step has found out.
var ErrNoValue = errors.New("a fact has no value")

// Holds evaluates the guard. A fact without a value is ErrNoValue.
func (g *Guard) Holds(facts map[string]Value) (bool, error) {
	for _, f := range g.facts {
		if _, ok := facts[f]; !ok {
			return false, fmt.Errorf("guard %q: %s: %w", g.text, f, ErrNoValue)
		}
	}
	out, _, err := g.program.Eval(facts)
	if err != nil {
		return false, fmt.Errorf("guard %q: %w", g.text, err)
	}
	return out == types.True, nil
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
