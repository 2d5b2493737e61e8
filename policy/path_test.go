package policy_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/civibus/civibus/policy"
	"pgregory.net/rapid"
)

func TestNormalisePath(t *testing.T) {
	const refused = "refused"
	for raw, want := range map[string]string{
		"":                                "",
		"/":                               "/",
		"/a/b":                            "/a/b",
		"/a/b/":                           "/a/b/",
		"/a%20b":                          "/a b",
		"/path%3B/":                       "/path;/",
		"/%C3%B6":                         "/ö",
		"/a%2Fb":                          "/a/b",
		"/a/./b":                          "/a/b",
		"/a/.":                            "/a/",
		"/a/../b":                         "/b",
		"/a/b/..":                         "/a/",
		"/a/%2E%2e/b":                     "/b",
		"/.well-known/x.json":             "/.well-known/x.json",
		"/a//b":                           "/a//b",
		"/100%25":                         "/100%",
		"/%25zz":                          "/%zz",
		"/+":                              "/+",
		"a":                               refused,
		"/..":                             refused,
		"/../a":                           refused,
		"/a/../..":                        refused,
		"/a/../../b":                      refused,
		"/a//../b":                        refused,
		"/%2e%2e%2fadmin":                 refused,
		"/p/x%2f..%2fadmin":               refused,
		"/p/..%2fadmin":                   refused,
		"/p/..;/admin":                    refused,
		"/p/..;x=1/admin":                 refused,
		"/p/..\\admin":                    refused,
		"/p/..%5cadmin":                   refused,
		"/p/%252e%252e/admin":             refused,
		"/p/%252e%252e%252fadmin":         refused,
		"/p/.%252e/admin":                 refused,
		"/p/%25252525252e/admin":          refused,
		"/p/file..txt":                    refused,
		"/%":                              refused,
		"/%zz":                            refused,
		"/%2":                             refused,
		"/%FF":                            refused,
		"/a%00b":                          refused,
		"/p/" + strings.Repeat("%25", 40): "/p/" + strings.Repeat("%", 40),
	} {
		got, err := policy.NormalisePath(raw)
		if err != nil {
			got = refused
		}
		if got != want {
			t.Errorf("NormalisePath(%q) = %q (%v), want %q", raw, got, err, want)
		}
	}
}

func TestMatchPath(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"**", "", true}, {"**", "/a/b", true}, {"*", "", true}, {"*", "/", false},
		{"", "", true}, {"", "/", false}, {"/", "", false}, {"/", "/", true},
		{"/a", "/a", true}, {"/a", "/a/", false}, {"/a", "/A", false}, {"/a", "/ab", false},
		{"/a/*", "/a/", true}, {"/a/*", "/a/b", true}, {"/a/*", "/a/b/c", false},
		{"/a/*/c", "/a/b/c", true}, {"/a/*/c", "/a/b/b/c", false}, {"/a/**/c", "/a/b/b/c", true},
		{"/a/**", "/a/", true}, {"/a/**", "/a", false},
		{"**/x", "/a/x/b/x", true}, {"**/*.json", "/a/b.json", true}, {"**/*.json", "/a/b.json/c", false},
		{`/\*`, "/*", true}, {`/\*`, "/a", false}, {`/a\b`, `/a\b`, true}, {`/\**`, "/*abc", true},
		{"/*a*b", "/xaayb", true}, {"/*a*b", "/xa/b", false}, {"/a.b", "/axb", false},
		{"**/a*b/c", "/a/axb/c", true}, {"**/a*/a*b", "/a/ax/ab", true}, {"***", "/a/b", true},
		{"/p/**/q/*/r", "/p/q/1/r/q/2/r", true},
	} {
		if got := policy.MatchPath(c.pattern, c.path); got != c.want {
			t.Errorf("MatchPath(%q, %q) = %v, want %v", c.pattern, c.path, got, c.want)
		}
	}
}

// model is the pattern as a regular expression, as X-Road builds it.
func model(pattern string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i := 0; i < len(pattern); i++ {
		switch {
		case strings.HasPrefix(pattern[i:], `\*`):
			b.WriteString(`\*`)
			i++
		case strings.HasPrefix(pattern[i:], "**"):
			b.WriteString(`.*`)
			i++
		case pattern[i] == '*':
			b.WriteString(`[^/]*`)
		default:
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		}
	}
	b.WriteString(`\z`)
	return regexp.MustCompile(b.String())
}

func TestMatchPathAgreesWithModel(t *testing.T) {
	pattern := rapid.StringOfN(rapid.SampledFrom([]rune(`aab/**\`)), 0, 14, -1)
	path := rapid.StringOfN(rapid.SampledFrom([]rune(`aaab/*\`)), 0, 18, -1)
	matched := 0
	rapid.Check(t, func(t *rapid.T) {
		for range 50 {
			p, s := pattern.Draw(t, "pattern"), path.Draw(t, "path")
			want := model(p).MatchString(s)
			if want {
				matched++
			}
			if got := policy.MatchPath(p, s); got != want {
				t.Fatalf("MatchPath(%q, %q) = %v, the regular expression says %v", p, s, got, want)
			}
		}
	})
	if matched == 0 {
		t.Error("no drawn path ever matched: the test shows nothing")
	}
}

// TestMatchPathIsNotExponential would not end if stars were tried together.
func TestMatchPathIsNotExponential(t *testing.T) {
	pattern := "/" + strings.Repeat("*a", 30) + strings.Repeat("**b*a", 30) + "c"
	if policy.MatchPath(pattern, "/"+strings.Repeat("a", 4000)+strings.Repeat("/ab", 4000)) {
		t.Error("matched")
	}
}

func FuzzMatchPath(f *testing.F) {
	f.Add("/a/*/c", "/a/b/c")
	f.Add(`**\*/*a*b`, "/x*/aab")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		if len(pattern) > 200 || len(path) > 400 || !utf8.ValidString(pattern) || !utf8.ValidString(path) {
			return
		}
		// The model works on runes and the matcher on bytes; both agree on UTF-8.
		want := regexp.MustCompile(modelText(pattern)).MatchString(path)
		if got := policy.MatchPath(pattern, path); got != want {
			t.Fatalf("MatchPath(%q, %q) = %v, the regular expression says %v", pattern, path, got, want)
		}
	})
}

// modelText is the model without cutting characters of several bytes.
func modelText(pattern string) string {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for len(pattern) > 0 {
		switch {
		case strings.HasPrefix(pattern, `\*`):
			b.WriteString(`\*`)
			pattern = pattern[2:]
		case strings.HasPrefix(pattern, "**"):
			b.WriteString(`.*`)
			pattern = pattern[2:]
		case pattern[0] == '*':
			b.WriteString(`[^/]*`)
			pattern = pattern[1:]
		default:
			n := strings.IndexAny(pattern[1:], `*\`) + 1
			if n == 0 {
				n = len(pattern)
			}
			b.WriteString(regexp.QuoteMeta(pattern[:n]))
			pattern = pattern[n:]
		}
	}
	b.WriteString(`\z`)
	return b.String()
}

// FuzzNormalisePath holds what follows from the rules: what is accepted has no
// ".." in it and is its own normal form.
func FuzzNormalisePath(f *testing.F) {
	for _, s := range []string{"/a/../b", "/%2e%2e%2f", "/a//../b", "/%25252e", "/a/./b/..", "/ö"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := policy.NormalisePath(raw)
		if err != nil {
			return
		}
		if strings.Contains(got, "..") {
			t.Fatalf("NormalisePath(%q) = %q", raw, got)
		}
		if strings.Contains(strings.ToLower(raw), "%2f") {
			return // an encoded slash hides a single dot from resolving, which does no harm
		}
		again, err := policy.NormalisePath(strings.ReplaceAll(got, "%", "%25"))
		if err != nil || again != got {
			t.Fatalf("NormalisePath(%q) = %q, and that of it %q, %v", raw, got, again, err)
		}
	})
}
