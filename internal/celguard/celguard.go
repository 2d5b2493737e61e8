// Package celguard evaluates conditions that others wrote, in a small part of CEL:
// comparisons, logic, integers, strings, lists, times and durations over declared
// variables.
//
// A condition is checked when it is compiled: it is short, it has no macros and no
// loops, it calls only the functions listed here, its value is a bool, and what it
// costs at most is estimated from the longest values that its variables may have.
// While it runs it is stopped at the same cost. Regular expressions are not in the
// list, because their cost does not follow from their length, and neither are the
// functions that look up a time zone, because machines differ in what they know of
// zones: the same condition over the same values gives the same outcome everywhere.
//
// Trust: an attacker who controls a condition can at most have it refused, or make it
// true or false over the values that it is given; who controls the values can at most
// choose among the outcomes that the condition allows, or have it fail.
package celguard

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
)

// MaxCost bounds what a condition may cost, in the units of CEL's estimate; a
// comparison costs about two.
const MaxCost = 1000

// Type is what values a variable has.
type Type int

// The types, and the Go values of their variables.
const (
	Bool   Type = iota + 1 // bool
	Int                    // int64
	String                 // string
	Time                   // time.Time
	Bytes                  // []byte
)

func (t Type) cel() *cel.Type {
	switch t {
	case Bool:
		return cel.BoolType
	case Int:
		return cel.IntType
	case Time:
		return cel.TimestampType
	case Bytes:
		return cel.BytesType
	}
	return cel.StringType
}

// Variable is a name that conditions may use.
type Variable struct {
	Name string
	Type Type
	// Max is the longest value of a string or of bytes, for the estimate of the cost.
	// Default: 64.
	Max int
}

const defaultMax = 64

// Language is CEL over declared variables.
type Language struct {
	env      *cel.Env
	maxBytes int
	sizes    sizes
}

// New makes the language of conditions of at most maxBytes over these variables.
func New(variables []Variable, maxBytes int) (*Language, error) {
	l := &Language{maxBytes: maxBytes, sizes: sizes{"": defaultMax}}
	options := []cel.EnvOption{
		cel.StdLib(), cel.ClearMacros(), cel.ParserRecursionLimit(32), cel.ParserExpressionSizeLimit(maxBytes), cel.DefaultUTCTimeZone(true),
	}
	for _, v := range variables {
		options = append(options, cel.Variable(v.Name, v.Type.cel()))
		if v.Max > 0 {
			l.sizes[v.Name] = uint64(v.Max)
			l.sizes[""] = max(l.sizes[""], uint64(v.Max))
		}
	}
	var err error
	if l.env, err = cel.NewCustomEnv(options...); err != nil {
		return nil, fmt.Errorf("language of conditions: %w", err)
	}
	return l, nil
}

// sizes bounds the values of variables, by name; "" is what nothing else is said of.
type sizes map[string]uint64

// EstimateSize implements cost.Estimator.
func (s sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	bound := s[""]
	if path := node.Path(); len(path) > 0 {
		bound = defaultMax
		if named, ok := s[path[0]]; ok {
			bound = named
		}
	}
	return &cost.SizeEstimate{Min: 0, Max: bound}
}

// EstimateCallCost implements cost.Estimator: the standard costs.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// Functions are the names of what a condition may call, operators included.
func Functions() []string {
	return []string{
		"_&&_", "_||_", "!_", "_?_:_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in",
		"_+_", "_-_", "_*_", "_/_", "_%_", "-_", "_[_]",
		"size", "startsWith", "endsWith", "contains", "int", "string", "timestamp", "duration",
		"getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear",
		"getHours", "getMinutes", "getSeconds", "getMilliseconds",
	}
}

// Condition is a compiled condition. It may be used by any number of goroutines.
type Condition struct {
	text      string
	variables []string // that it asks for, in order
	program   cel.Program
	partial   func() (cel.Program, error) // for values some of which are not known
}

// Text is the condition as it was written.
func (c *Condition) Text() string { return c.text }

// Variables are the variables that the condition asks for, in order.
func (c *Condition) Variables() []string { return c.variables }

// Compile checks a condition and makes it runnable.
func (l *Language) Compile(text string) (*Condition, error) {
	// 1. Its length, syntax and types.
	if len(text) > l.maxBytes {
		return nil, fmt.Errorf("it has %d bytes, the rule is at most %d", len(text), l.maxBytes)
	}
	ast, issues := l.env.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, err
	}
	if ast.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("it is of type %s, the rule is bool", ast.OutputType())
	}
	// 2. What it calls.
	if err := checkCalls(ast.NativeRep()); err != nil {
		return nil, err
	}
	// 3. What it may cost.
	estimate, err := l.env.EstimateCost(ast, l.sizes)
	if err != nil {
		return nil, fmt.Errorf("its cost: %w", err)
	}
	if estimate.Max > MaxCost {
		return nil, fmt.Errorf("it may cost %d units, the rule is at most %d", estimate.Max, MaxCost)
	}
	// 4. The program.
	program, err := l.env.Program(ast, cel.CostLimit(MaxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	used := make(map[string]bool)
	for _, ref := range ast.NativeRep().ReferenceMap() {
		if ref.Name != "" {
			used[ref.Name] = true
		}
	}
	partial := sync.OnceValues(func() (cel.Program, error) {
		return l.env.Program(ast, cel.CostLimit(MaxCost), cel.EvalOptions(cel.OptPartialEval))
	})
	return &Condition{text, slices.Sorted(maps.Keys(used)), program, partial}, nil
}

// checkCalls checks that a condition calls nothing but what Functions lists.
func checkCalls(ast *celast.AST) error {
	var found error
	celast.PreOrderVisit(ast.Expr(), celast.NewExprVisitor(func(e celast.Expr) {
		switch {
		case found != nil:
		case e.Kind() == celast.CallKind && !slices.Contains(Functions(), e.AsCall().FunctionName()):
			found = fmt.Errorf("it calls %s, which conditions may not; they have comparisons, logic, integers, strings (size, startsWith, endsWith, contains), lists (in) and times (timestamp, duration, getHours ...)", e.AsCall().FunctionName())
		case e.Kind() == celast.StructKind || e.Kind() == celast.MapKind || e.Kind() == celast.ComprehensionKind:
			found = errors.New("it has a map, a message or a loop, which conditions may not")
		}
	}))
	for _, ref := range ast.ReferenceMap() {
		if i := slices.IndexFunc(ref.OverloadIDs, func(id string) bool { return strings.HasSuffix(id, "_with_tz") }); i >= 0 && found == nil {
			found = errors.New("it names a time zone, which machines know differently; all times are in UTC, add a duration for another offset")
		}
	}
	return found
}

// ErrNoValue says that a condition asks for a variable that has no value.
var ErrNoValue = errors.New("a variable has no value")

// Values gives the values of variables.
type Values interface {
	// Value returns a variable's value; ok is false if it has none.
	Value(name string) (v any, ok bool)
}

// Map is Values in a map.
type Map map[string]any

// Value implements Values.
func (m Map) Value(name string) (any, bool) { v, ok := m[name]; return v, ok }

// activation is Values as CEL wants them.
type activation struct{ Values }

// ResolveName implements cel.Activation.
func (a activation) ResolveName(name string) (any, bool) { return a.Value(name) }

// Parent implements cel.Activation.
func (activation) Parent() cel.Activation { return nil }

// Holds evaluates the condition. A variable without a value is ErrNoValue.
func (c *Condition) Holds(values Values) (bool, error) {
	for _, name := range c.variables {
		if _, ok := values.Value(name); !ok {
			return false, fmt.Errorf("condition %q: %s: %w", c.text, name, ErrNoValue)
		}
	}
	out, _, err := c.program.Eval(activation{values})
	if err != nil {
		return false, fmt.Errorf("condition %q: %w", c.text, err)
	}
	return out == types.True, nil
}

// HoldsPartly evaluates the condition where variables may have no value. known is
// false if the outcome depends on them.
func (c *Condition) HoldsPartly(values Values) (holds, known bool, err error) {
	var patterns []*cel.AttributePatternType
	for _, name := range c.variables {
		if _, ok := values.Value(name); !ok {
			patterns = append(patterns, cel.AttributePattern(name))
		}
	}
	if len(patterns) == 0 {
		holds, err = c.Holds(values)
		return holds, err == nil, err
	}
	program, err := c.partial()
	if err != nil {
		return false, false, fmt.Errorf("condition %q: %w", c.text, err)
	}
	vars, err := cel.PartialVars(activation{values}, patterns...)
	if err != nil {
		return false, false, fmt.Errorf("condition %q: %w", c.text, err)
	}
	out, _, err := program.Eval(vars)
	switch {
	case err != nil:
		return false, false, fmt.Errorf("condition %q: %w", c.text, err)
	case types.IsUnknown(out):
		return false, false, nil
	}
	return out == types.True, true, nil
}

// Check reports whether a Go value is one of a type.
func (t Type) Check(v any) bool {
	switch v.(type) {
	case bool:
		return t == Bool
	case int64:
		return t == Int
	case string:
		return t == String
	case time.Time:
		return t == Time
	case []byte:
		return t == Bytes
	}
	return false
}
