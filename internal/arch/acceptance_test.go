package arch_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/civibus/civibus/internal/arch"
)

// named is a test as docs/acceptance.md writes it: `room TestName`.
var named = regexp.MustCompile("`([a-z0-9./-]+) ((?:Test|Fuzz|Benchmark)[A-Za-z0-9_]+)`")

// tests lists every test, fuzz target and benchmark of the module as "room Name".
func tests(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") || strings.Contains(path, "node_modules") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		room, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && regexp.MustCompile(`^(Test|Fuzz|Benchmark)`).MatchString(fn.Name.Name) {
				out = append(out, filepath.ToSlash(room)+" "+fn.Name.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestAcceptanceNamesWhatIsThere holds that docs/acceptance.md names tests that
// exist, and every fuzz target.
func TestAcceptanceNamesWhatIsThere(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/acceptance.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := tests(t)
	var said []string
	for _, m := range named.FindAllStringSubmatch(string(text), -1) {
		said = append(said, m[1]+" "+m[2])
	}
	if len(said) < 100 {
		t.Fatalf("found %d tests in docs/acceptance.md", len(said))
	}
	for _, s := range said {
		if !slices.Contains(all, s) {
			t.Errorf("docs/acceptance.md names %q, which is not there", s)
		}
	}
	for _, a := range all {
		if strings.Contains(a, " Fuzz") && !slices.Contains(said, a) {
			t.Errorf("docs/acceptance.md does not name the fuzz target %q", a)
		}
	}
}

// TestVerifierNeedsLittle holds that the offline verifier imports no network,
// no files, and of other modules the protobuf runtime alone, with all that it
// takes of this one, and the implementation of ML-DSA, which the standard library
// does not have (Go 1.27 will; the second verifier has its own).
func TestVerifierNeedsLittle(t *testing.T) {
	packages, _ := load(t)
	byDir := map[string][]string{}
	for _, p := range packages {
		byDir[p.Dir] = p.Imports
	}
	seen := map[string]bool{}
	var visit func(dir string)
	visit = func(dir string) {
		if seen[dir] {
			return
		}
		seen[dir] = true
		for _, i := range byDir[dir] {
			if own, ok := arch.Own(i); ok {
				visit(own)
				continue
			}
			first, _, _ := strings.Cut(i, "/")
			if strings.Contains(first, ".") && !strings.HasPrefix(i, "google.golang.org/protobuf/") && !strings.HasPrefix(i, "github.com/cloudflare/circl/sign/mldsa/") {
				t.Errorf("evidence/proof needs %s, by %s", i, dir)
			}
			if i == "net" || i == "net/http" || i == "crypto/tls" || i == "os" || i == "os/exec" {
				t.Errorf("evidence/proof needs %s, by %s", i, dir)
			}
		}
	}
	visit("evidence/proof")
	if len(seen) < 3 {
		t.Fatalf("looked at %v only", seen)
	}
}
