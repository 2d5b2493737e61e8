package rule

import (
	"time"

	"github.com/civibus/civibus/internal/celguard"
)

// Kind is what a rule is about.
type Kind int

// The kinds.
const (
	Exchange Kind = iota + 1
	Step
)

// Context is what is declared of an exchange or a step, by the names of the variables
// that conditions have. A name without a value is one that is not known.
type Context interface {
	Kind() Kind
	// Value returns a variable's value: bool, int64, string, time.Time (dates of facts
	// and the moment) or []byte.
	Value(name string) (v any, ok bool)
}

// Variable is a name that conditions may use, with what it says.
type Variable struct {
	Name string
	Type string // bool, int, string, timestamp, bytes
	Says string
	max  int
	kind celguard.Type
}

// The longest values that the estimate of a condition's cost counts with. Longer ones
// cost more when the condition runs, and stop it.
const (
	maxID   = 512
	maxPath = 2048
	maxCode = 64
)

func text(name string, max int, says string) Variable {
	return Variable{name, "string", says, max, celguard.String}
}

func number(name, says string) Variable { return Variable{name, "int", says, 0, celguard.Int} }
func truth(name, says string) Variable  { return Variable{name, "bool", says, 0, celguard.Bool} }

// clock are the variables of the moment. The rule gives them their values: they are
// read at its offset.
func clock() []Variable {
	return []Variable{
		{"time", "timestamp", "the moment of the decision, by the clock of the gateway that decides", 0, celguard.Time},
		text("date", 10, "its day at the rule's offset, YYYY-MM-DD; dates compare as strings"),
		number("hour", "its hour at the rule's offset, 0 to 23"),
		number("weekday", "its day of the week at the rule's offset, 1 (Monday) to 7 (Sunday)"),
	}
}

// Variables are those of an exchange's or a step's context.
func Variables(k Kind) []Variable {
	if k == Step {
		return append([]Variable{
			text("process", maxID, "the process, INSTANCE/CLASS/MEMBER/ID"),
			number("process_version", "its version"),
			text("variant", maxCode, "the instance's variant, or empty"),
			text("step", maxCode, "the step's id"),
			number("attempt", "the number of the attempt, from 1"),
			truth("escalated", "a civil servant has taken the step over because it was late"),
			text("role", maxCode, "the role that does the step"),
			text("member", maxID, "the member that plays it, INSTANCE/CLASS/MEMBER"),
			text("member_class", maxCode, "its class"),
			text("subsystem", maxID, "its subsystem, INSTANCE/CLASS/MEMBER/SUBSYSTEM"),
			text("to_role", maxCode, "the role that gets the result, or empty"),
			text("to_member", maxID, "the member that plays it, or empty"),
		}, clock()...)
	}
	return append([]Variable{
		text("consumer_member", maxID, "who asks, INSTANCE/CLASS/MEMBER"),
		text("consumer_class", maxCode, "its class, such as GOV or MUN"),
		text("consumer_subsystem", maxID, "its system, INSTANCE/CLASS/MEMBER/SUBSYSTEM, or empty if the member itself asks"),
		text("provider_member", maxID, "who is asked, INSTANCE/CLASS/MEMBER"),
		text("provider_class", maxCode, "its class"),
		text("provider_subsystem", maxID, "its system, INSTANCE/CLASS/MEMBER/SUBSYSTEM"),
		text("service", maxID, "the service's code"),
		text("service_version", maxCode, "its version, or empty"),
		text("method", maxCode, "the HTTP method, such as GET"),
		text("path", maxPath, "the path after the service's code, normalised, without the query"),
		text("purpose", maxID, "the purpose of the access right that the exchange relies on"),
		text("legal_basis", maxID, "the legal basis of that right"),
		truth("purpose_stated", "the caller states its purpose (Civibus-Purpose)"),
		truth("issue", "the caller names a case or ticket (X-Road-Issue)"),
		truth("user", "the caller names the civil servant (X-Road-UserId)"),
		truth("represented", "the caller acts for another party (X-Road-Represented-Party)"),
		text("body", maxCode, "the request's body: none, small (at most 1 MiB), large, or unknown if its length is not announced"),
	}, clock()...)
}

// The classes of bodies.
const (
	NoBody      = "none"
	SmallBody   = "small"
	LargeBody   = "large"
	UnknownBody = "unknown"
)

// BodyClass is the class of a body of so many bytes; -1: not announced.
func BodyClass(length int64) string {
	switch {
	case length == 0:
		return NoBody
	case length < 0:
		return UnknownBody
	case length <= 1<<20:
		return SmallBody
	}
	return LargeBody
}

// Values is a Context in a map: of examples, of past exchanges and of steps.
type Values struct {
	Of  Kind
	Map map[string]any
}

// Kind implements Context.
func (v Values) Kind() Kind { return v.Of }

// Value implements Context.
func (v Values) Value(name string) (any, bool) { x, ok := v.Map[name]; return x, ok }

// moment is a context at a time, read at a rule's offset.
type moment struct {
	Context
	now  time.Time // at the offset
	none bool      // the time is not known
}

// Value implements celguard.Values.
func (m *moment) Value(name string) (any, bool) {
	switch name {
	case "time":
		return m.now, !m.none
	case "date":
		return m.now.Format(time.DateOnly), !m.none
	case "hour":
		return int64(m.now.Hour()), !m.none
	case "weekday":
		return int64((m.now.Weekday()+6)%7 + 1), !m.none
	}
	return m.Context.Value(name)
}
