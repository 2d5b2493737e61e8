package civibus_test

import (
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"pgregory.net/rapid"
)

func TestIdentifiersKeepTheirCanonicalForm(t *testing.T) {
	for _, s := range []string{
		"DEMO/GOV/1001",
		"DEMO/GOV/1001/population",
		"EE/GOV/70000310/s%2Fub",
		"EE/GOV/%C3%B6%C3%A4%C3%A5/x",
		"a-._~!$&'()*+,;=:@/b/c",
	} {
		id, err := civibus.ParseClientID(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if got := id.String(); got != s {
			t.Errorf("%s became %s", s, got)
		}
	}
	id, err := civibus.ParseServiceID("DEMO/GOV/1001/population/person/v1")
	if err != nil || id.Version != "v1" || id.XRoad() != "SERVICE:DEMO/GOV/1001/population/person/v1" {
		t.Errorf("service id: %+v, %v", id, err)
	}
	if got := (civibus.ClientID{MemberID: civibus.MemberID{Instance: "I", Class: "C", Code: "M"}}).XRoad(); got != "MEMBER:I/C/M" {
		t.Errorf("member form: %s", got)
	}
}

func TestMalformedIdentifiersAreRefusedWithTheRule(t *testing.T) {
	for s, want := range map[string]string{
		"":                                     "parts",
		"DEMO/GOV":                             "the rule is 3 to 4 parts",
		"DEMO/GOV/1/2/3":                       "the rule is 3 to 4 parts",
		"DEMO//1":                              "at least one character",
		"DEMO/GOV/a%2":                         "two hex digits",
		"DEMO/GOV/a%zz":                        "two hex digits",
		"DEMO/GOV/%ff":                         "UTF-8",
		"DEMO/GOV/a b":                         "must be percent-encoded",
		"DEMO/GOV/ö":                           "must be percent-encoded",
		"DEMO%2FGOV%2F1":                       "parts",
		"DEMO/GOV/" + strings.Repeat("x", 256): "at most 255",
	} {
		_, err := civibus.ParseClientID(s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one that says %q", s, err, want)
		}
	}
}

func TestEveryPartSurvivesEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringN(1, 40, 255).Draw(t, "part")
		got, err := civibus.DecodePart(civibus.EncodePart(part))
		if err != nil || got != part {
			t.Fatalf("%q became %q, %v", part, got, err)
		}
	})
}

func FuzzParseServiceID(f *testing.F) {
	f.Add("DEMO/GOV/1001/population/person")
	f.Add("%2F/%00/%C3%B6/+/a")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := civibus.ParseServiceID(s)
		if err != nil {
			return
		}
		again, err := civibus.ParseServiceID(id.String())
		if err != nil || again != id {
			t.Fatalf("%q parsed to %+v, whose canonical form parses to %+v, %v", s, id, again, err)
		}
	})
}

func TestPeriodsAreHalfOpen(t *testing.T) {
	periods := []civibus.Period{{From: 5, To: 8}, {From: 10}}
	for height, want := range map[uint64]bool{4: false, 5: true, 7: true, 8: false, 9: false, 10: true, 1 << 60: true} {
		if civibus.InForce(periods, height) != want {
			t.Errorf("height %d: in force %v, want %v", height, !want, want)
		}
	}
}
