package main

import (
	"strings"
	"testing"
)

// FuzzParseTarget feeds arbitrary targets of "civibus call": what is accepted
// goes out as it was typed.
func FuzzParseTarget(f *testing.F) {
	f.Add("DEMO/GOV/1/s/svc/a%2Fb//?x=?&y")
	f.Add("/r1/DEMO/GOV/1/s/svc")
	f.Add("DEMO/GOV/%zz/s/svc?")
	f.Fuzz(func(t *testing.T, target string) {
		call, err := parseTarget(target)
		if err != nil {
			return
		}
		path, query, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(target, "/"), "r1/"), "?")
		if call.Query != query || !strings.HasSuffix(path, call.Path) || strings.Count(strings.TrimSuffix(path, call.Path), "/") != 4 {
			t.Fatalf("%q became %+v", target, call)
		}
	})
}
