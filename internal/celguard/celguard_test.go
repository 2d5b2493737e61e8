package celguard_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/internal/celguard"
)

func language(t testing.TB) *celguard.Language {
	t.Helper()
	l, err := celguard.New([]celguard.Variable{
		{Name: "b", Type: celguard.Bool}, {Name: "n", Type: celguard.Int}, {Name: "s", Type: celguard.String},
		{Name: "long", Type: celguard.String, Max: 4096}, {Name: "t", Type: celguard.Time}, {Name: "h", Type: celguard.Bytes},
	}, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

var values = celguard.Map{
	"b": true, "n": int64(7), "s": "audit", "long": "/persons/1", "h": []byte{1, 2},
	"t": time.Date(2026, 11, 22, 23, 30, 5, 0, time.FixedZone("", 5*3600)), // 18:30 UTC, a Sunday
}

// TestConformance holds the allowed part of CEL to the language's definition.
func TestConformance(t *testing.T) {
	l := language(t)
	for _, c := range []struct {
		text string
		want bool
	}{
		// Comparisons.
		{`n == 7`, true}, {`n != 7`, false}, {`n < 8`, true}, {`n <= 7`, true}, {`n > 7`, false}, {`n >= 7`, true},
		{`s == "audit"`, true}, {`s < "b"`, true}, {`s > "Z"`, true}, {`s == 'audit'`, true}, {`b == true`, true}, {`false < true`, true},
		{`h == b"\x01\x02"`, true}, {`h < b"\x02"`, true},
		// Logic, which decides as soon as it can.
		{`b && n == 7`, true}, {`b && !b`, false}, {`!b || n == 7`, true}, {`!(n == 7)`, false}, {`b ? n == 7 : n == 8`, true},
		{`b || 1 / 0 == 1`, true}, {`1 / 0 == 1 || b`, true}, {`!b && 1 / 0 == 1`, false}, {`1 / 0 == 1 && !b`, false},
		// Integers.
		{`n + 1 == 8`, true}, {`n - 8 == -1`, true}, {`n * n == 49`, true}, {`n / 2 == 3`, true}, {`-n / 2 == -3`, true},
		{`n % 2 == 1`, true}, {`-n % 2 == -1`, true}, {`-n == -7`, true}, {`0x10 == 16`, true}, {`9223372036854775807 > n`, true},
		{`-9223372036854775808 < n`, true}, {`int("12") == 12`, true}, {`string(n) == "7"`, true},
		// Strings, in code points.
		{`s.startsWith("au")`, true}, {`s.endsWith("dit")`, true}, {`s.contains("di")`, true}, {`s.contains("")`, true}, {`size(s) == 5`, true},
		{`s.size() == 5`, true}, {`size("ж") == 1`, true}, {`size(b"ж") == 2`, true}, {`s + "s" == "audits"`, true}, {`"\u0041" == "A"`, true},
		{`r"\n" == "\\n"`, true}, {`'''a''' == "a"`, true}, {`"A" == "a"`, false}, {`"é" == "e\u0301"`, false},
		// Lists.
		{`s in ["audit", "residence"]`, true}, {`n in [1, 2, 3]`, false}, {`n in []`, false}, {`[1, 2][1] == 2`, true}, {`size([1, 2]) == 2`, true}, {`[1] + [2] == [1, 2]`, true},
		// Times, in UTC.
		{`t == timestamp("2026-11-22T18:30:05Z")`, true}, {`t < timestamp("2027-01-01T00:00:00Z")`, true}, {`t.getFullYear() == 2026`, true},
		{`t.getMonth() == 10`, true}, {`t.getDate() == 22`, true}, {`t.getDayOfMonth() == 21`, true}, {`t.getDayOfWeek() == 0`, true},
		{`t.getDayOfYear() == 325`, true}, {`t.getHours() == 18`, true}, {`t.getMinutes() == 30`, true}, {`t.getSeconds() == 5`, true}, {`t.getMilliseconds() == 0`, true},
		{`t + duration("24h") == timestamp("2026-11-23T18:30:05Z")`, true}, {`t - timestamp("2026-11-22T18:00:00Z") == duration("1805s")`, true},
		{`duration("1h") > duration("59m")`, true}, {`duration("90m").getHours() == 1`, true}, {`(t + duration("5h")).getHours() == 23`, true},
	} {
		cond, err := l.Compile(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got, err := cond.Holds(values); err != nil || got != c.want {
			t.Errorf("%s: %v, %v; want %v", c.text, got, err, c.want)
		}
	}
}

// TestErrors: what has no value is an error, never false.
func TestErrors(t *testing.T) {
	l := language(t)
	for _, text := range []string{
		`1 / 0 == 1`, `n % 0 == 1`, `9223372036854775807 + n > 0`, `-9223372036854775808 - n < 0`, `n * 9223372036854775807 > 0`,
		`int(s) == 1`, `timestamp(s) == t`, `duration(s) == duration("1h")`, `[1, 2][n] == 1`, `b && 1 / 0 == 1`, `timestamp("9999-12-31T23:59:59Z") + duration("24h") > t`,
	} {
		cond, err := l.Compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := cond.Holds(values); err == nil {
			t.Errorf("%s: %v and no error", text, got)
		}
	}
	cond, err := l.Compile(`b || n == 7`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cond.Holds(celguard.Map{"b": true}); !errors.Is(err, celguard.ErrNoValue) {
		t.Errorf("without n: %v", err)
	}
}

// TestHostile: what is not in the allowed part, too long, too deep or too costly is
// refused when it is compiled, in words that say why.
func TestHostile(t *testing.T) {
	l := language(t)
	for _, c := range []struct{ text, want string }{
		{``, "Syntax error"}, {`b &&`, "Syntax error"}, {`b; b`, "Syntax error"}, {"b\x00", "Syntax error"}, {"\xff", "Syntax error"},
		{`n`, "it is of type int, the rule is bool"}, {`s`, "the rule is bool"}, {`[true]`, "the rule is bool"}, {`null`, "the rule is bool"},
		{`unknown == 1`, "undeclared reference"}, {`n == "7"`, "no matching overload"}, {`n == 7.0`, "no matching overload"}, {`n == 7u`, "no matching overload"},
		{`n && b`, "expected type 'bool' but found 'int'"}, {`s.reverse() == s`, "undeclared reference"}, {`b.x`, "type 'bool' does not support field selection"},
		// Macros and loops.
		{`[1, 2].all(x, x > 0)`, "undeclared reference"}, {`[1, 2].exists(x, x == n)`, "undeclared reference"}, {`size([1].map(x, x)) == 1`, "undeclared reference"},
		{`has(s.x)`, "undeclared reference"}, {`{"a": 1}["a"] == 1`, "a map, a message or a loop"}, {`google.protobuf.Duration{seconds: 1} == duration("1s")`, "a map, a message or a loop"},
		// Costly regular expressions, and functions that machines answer differently or not at all.
		{`s.matches("(a{1000}){1000}")`, "it calls matches"}, {`s.matches("a")`, "it calls matches"}, {`matches(s, "(a+)+$")`, "it calls matches"},
		{`t.getHours("Europe/Berlin") == 1`, "it names a time zone"}, {`t.getHours("+05:00") == 1`, "it names a time zone"},
		{`double(n) == 7.0`, "it calls double"}, {`dyn(n) == 7`, "it calls dyn"}, {`type(n) == int`, "it calls type"}, {`bytes(s) == h`, "it calls bytes"}, {`uint(n) == 7u`, "it calls uint"},
		// Depth, length and cost.
		{strings.Repeat("(", 300) + "b" + strings.Repeat(")", 300), "recursion"},
		{strings.Repeat("!", 300) + "b", ""}, // 300 signs of one operator are not deep
		{strings.Repeat("-", 500) + "b", ""},
		{`"` + strings.Repeat("x", 1200) + `" == s`, "it has 1207 bytes, the rule is at most 1024"},
		{strings.Repeat("[", 200) + strings.Repeat("]", 200) + " == []", "recursion"},
		{strings.Repeat(`long.contains(long) || `, 20) + "b", "it may cost"},
		{`(long + long + long + long + long).contains(long)`, "it may cost"},
		{strings.TrimSuffix(strings.Repeat(`long == s + s || `, 60), " || "), ""},
	} {
		cond, err := l.Compile(c.text)
		switch {
		case c.want == "":
			if err == nil { // it may be compiled; then it is bounded
				_, _ = cond.Holds(values)
			}
		case err == nil:
			t.Errorf("%.60s: accepted, want %q", c.text, c.want)
		case !strings.Contains(err.Error(), c.want):
			t.Errorf("%.60s: %v, want %q", c.text, err, c.want)
		}
	}
}

// TestCostWhileRunning: a value that is longer than declared stops the condition.
func TestCostWhileRunning(t *testing.T) {
	cond, err := language(t).Compile(`s.contains("x") || s.contains("y")`)
	if err != nil {
		t.Fatal(err)
	}
	huge := celguard.Map{"s": strings.Repeat("a", 1<<20)}
	if got, err := cond.Holds(huge); err == nil || !strings.Contains(err.Error(), "cost") {
		t.Errorf("a megabyte: %v, %v; want the limit of the cost", got, err)
	}
}

// TestPartly: an outcome that does not depend on what is unknown is known.
func TestPartly(t *testing.T) {
	l := language(t)
	for _, c := range []struct {
		text         string
		holds, known bool
	}{
		{`b`, true, true}, {`n == 7`, false, false}, {`b || n == 7`, true, true}, {`n == 7 || b`, true, true}, {`!b && n == 7`, false, true},
		{`b && n == 7`, false, false}, {`n == n`, false, false}, {`!b ? n == 7 : s == "audit"`, true, true}, {`n > 1 ? b : b`, false, false},
	} {
		cond, err := l.Compile(c.text)
		if err != nil {
			t.Fatal(err)
		}
		holds, known, err := cond.HoldsPartly(celguard.Map{"b": true, "s": "audit"})
		if err != nil || holds != c.holds || known != c.known {
			t.Errorf("%s: %v, %v, %v; want %v, %v", c.text, holds, known, err, c.holds, c.known)
		}
	}
}

// FuzzCompile: whatever is compiled ends, with an outcome or an error.
func FuzzCompile(f *testing.F) {
	f.Add(`b && n in [1, 2] || s.startsWith("a") && t.getHours() < 8`)
	f.Add(`s.matches("(a{1000}){1000}")`)
	f.Add(`((((((((b))))))))`)
	l := language(f)
	f.Fuzz(func(t *testing.T, text string) {
		cond, err := l.Compile(text)
		if err != nil {
			return
		}
		_, _ = cond.Holds(values)
		if _, known, err := cond.HoldsPartly(celguard.Map{}); known && err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkHolds(b *testing.B) {
	cond, err := language(b).Compile(`b && s in ["audit", "residence"] && t.getHours() >= 8 && n > 3`)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cond.Holds(values); err != nil {
			b.Fatal(err)
		}
	}
}
