package arch_test

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"

	"github.com/civibus/civibus/internal/arch"
)

const root = "../.."

// rules is the import table: the rooms in the order of an exchange. A package
// that no rule covers fails the test, so a new room states its place here.
var rules = []arch.Rule{
	{Room: "."},

	{Room: "policy", Allow: []string{".", "internal/rawurl"}},
	{Room: "seal/httpsig"},
	{Room: "seal", Allow: []string{".", "internal/rawio", "internal/schema"}},
	{Room: "transport", Allow: []string{".", "internal/h1", "internal/httpd", "internal/h1serve", "internal/tlsprofile"}},                                      // one server for all faces, so that their limits are one code
	{Room: "evidence", Allow: []string{".", "internal/rawio", "internal/schema", "internal/shred", "internal/pqnote", "internal/ldb", "internal/backup/dump"}}, // one form of mark for every store on disk
	{Room: "evidence/proof", Allow: []string{".", "policy", "evidence/evidencepb", "registry/registrypb", "registry/smt", "internal/mldsa"}},                   // second signatures
	{Room: "usage", Allow: []string{".", "evidence", "internal/ldb", "internal/schema", "internal/shred"}},
	{Room: "service", Allow: []string{".", "internal/h1", "internal/rawurl", "internal/tlsprofile"}},
	{Room: "link", Allow: []string{"."}},
	{Room: "rule", Allow: []string{".", "internal/celguard"}},
	{Room: "rule/examples"},
	{Room: "once", Allow: []string{".", "registry", "internal/vault"}},
	{Room: "events", Allow: []string{".", "evidence/wal", "internal/backup/dump", "internal/ldb", "policy", "registry"}},
	{Room: "process/definition", Allow: []string{".", "internal/celguard"}},
	{Room: "process", Allow: []string{".", "registry", "registry/registrypb", "process/definition", "rule", "internal/vault"}},
	{Room: "process/draw", Allow: []string{"process/definition"}},
	{Room: "process/examples", Allow: []string{"process/definition"}},
	{Room: "registry", Allow: []string{".", "process/definition", "rule", "internal/mldsa"}},
	{Room: "keys", Allow: []string{".", "internal/mldsa"}},

	{Room: "gateway", Allow: []string{".", "policy", "rule", "seal", "transport", "evidence", "usage", "service", "registry", "internal/problem", "internal/httpd", "internal/rawurl"}},
	{Room: "ledger", Allow: []string{".", "registry", "internal/mldsa", "internal/schema", "internal/pqnote", "internal/tlsprofile", "internal/ldb", "internal/backup/dump"}},
	{Room: "node", Allow: []string{".", "gateway", "policy", "rule", "seal", "transport", "evidence", "events", "service", "link", "once", "process", "usage", "registry", "ledger", "keys", "admin", "internal/problem", "internal/httpd", "internal/obs", "internal/tlsprofile", "internal/mldsa", "internal/backup", "internal/ldb", "internal/vault"}},
	{Room: "admin", Allow: []string{".", "registry", "process/definition", "rule", "internal/problem", "internal/httpd"}},
	{Room: "client", Allow: []string{"."}},
	{Room: "apps", Allow: []string{".", "client"}},

	{Room: "internal/arch"},
	{Room: "internal/celguard"},
	{Room: "internal/problem", Allow: []string{"."}},
	{Room: "internal/h1", Allow: []string{"internal/rawio"}},
	{Room: "internal/httpd", Allow: []string{"internal/h1serve", "internal/rawio", "internal/tlsprofile"}},
	{Room: "internal/h1serve"},
	{Room: "internal/ldb", Allow: []string{"internal/backup/dump"}},
	{Room: "internal/mldsa", Allow: []string{"."}},
	{Room: "internal/pqnote", Allow: []string{".", "internal/mldsa"}},
	{Room: "internal/tlsprofile"},
	{Room: "internal/obs", Allow: []string{"."}},
	{Room: "internal/rawio"},
	{Room: "internal/rawurl"},
	{Room: "internal/schema"},
	{Room: "internal/shred"},
	{Room: "internal/vault", Allow: []string{"internal/backup/dump", "internal/ldb", "internal/schema", "internal/shred"}},
	{Room: "internal/backup", Allow: []string{"keys/secret"}},
	{Room: "internal/backup/dump"},
	{Room: "internal/demostack"},
	{Room: "internal/receipttest", Allow: []string{".", "internal/mldsa", "evidence/evidencepb", "evidence/proof", "registry/registrypb"}},
}

// composers may import any room: the command, the test network, the demo and
// what only measures or tests.
var composers = []string{"cmd", "internal/testnet", "internal/demo", "bench", "test"}

// engines are the modules that one room alone may know.
var engines = map[string][]string{
	"github.com/cometbft/cometbft":            {"ledger", "bench/ledger"},
	"github.com/cometbft/cometbft-db":         {"ledger", "bench/ledger"},
	"github.com/transparency-dev/tessera":     {"evidence", "bench/evidence"},
	"github.com/syndtr/goleveldb":             {"ledger", "evidence", "events", "usage", "internal/ldb", "internal/vault", "bench/ledger", "bench/registry"},
	"github.com/dunglas/httpsfv":              {"seal"},
	"github.com/spf13/cobra":                  {"cmd"},
	"github.com/pelletier/go-toml":            {"node", "registry", "cmd", "internal"},
	"github.com/getkin/kin-openapi":           {"service", "admin"},
	"github.com/prometheus/client_golang":     {"node", "gateway", "transport", "ledger", "evidence", "internal", "bench", "service"},
	"github.com/oasisprotocol/curve25519-voi": {"seal", "registry", "keys"},
	"github.com/cloudflare/circl":             {"internal/mldsa"},
	"github.com/miekg/pkcs11":                 {"keys/pkcs11"},
	"cel.dev/cel-go":                          {"internal/celguard"},
}

func load(t *testing.T) ([]arch.Package, *token.FileSet) {
	t.Helper()
	packages, fset, err := arch.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) < 15 {
		t.Fatalf("found %d packages below %s, the tree has more", len(packages), root)
	}
	return packages, fset
}

func inAny(dir string, rooms []string) bool {
	return slices.ContainsFunc(rooms, func(r string) bool { return dir == r || strings.HasPrefix(dir, r+"/") })
}

func TestImportsGoOneWay(t *testing.T) {
	packages, _ := load(t)
	for _, p := range packages {
		if inAny(p.Dir, composers) {
			continue
		}
		rule, ok := arch.RuleFor(rules, p.Dir)
		if !ok {
			t.Errorf("package %s belongs to no room: give it a rule in the import table", p.Dir)
			continue
		}
		for _, i := range p.Imports {
			if dir, own := arch.Own(i); own && !rule.Allows(dir) {
				t.Errorf("package %s imports %s: the room %q may import only %v", p.Dir, dir, rule.Room, rule.Allow)
			}
		}
	}
}

func TestRootPackageNeedsTheStandardLibraryOnly(t *testing.T) {
	packages, _ := load(t)
	for _, p := range packages {
		if p.Dir != "." {
			continue
		}
		for _, i := range p.Imports {
			if strings.Contains(i, ".") {
				t.Errorf("the root package imports %s", i)
			}
		}
	}
}

func TestEnginesAreKnownToOneRoom(t *testing.T) {
	packages, _ := load(t)
	for _, p := range packages {
		for _, i := range p.Imports {
			for engine, rooms := range engines {
				if (i == engine || strings.HasPrefix(i, engine+"/")) && !inAny(p.Dir, rooms) {
					t.Errorf("package %s imports %s: only %v may know it", p.Dir, i, rooms)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsAndWhomItTrusts(t *testing.T) {
	packages, _ := load(t)
	for _, p := range packages {
		if p.Doc == "" {
			t.Errorf("package %s has no package comment", p.Dir)
			continue
		}
		if !strings.Contains(p.Doc, "Trust:") && !inAny(p.Dir, []string{"bench", "test"}) {
			t.Errorf("package %s: its comment has no sentence that begins with \"Trust:\"", p.Dir)
		}
	}
}

// pure are the packages whose outcome must be the same on every node.
var pure = []string{"registry", "policy", "rule"}

var impure = []string{"os", "net", "net/http", "math/rand", "math/rand/v2", "crypto/rand", "log/slog", "path/filepath", "os/exec", "syscall", "unsafe"}

func TestRegistryAndPolicyArePure(t *testing.T) {
	packages, fset := load(t)
	for _, p := range packages {
		if !inAny(p.Dir, pure) || strings.HasSuffix(p.Dir, "registrypb") {
			continue
		}
		for _, i := range p.Imports {
			if slices.Contains(impure, i) {
				t.Errorf("package %s imports %s: the state machine has no I/O and no randomness", p.Dir, i)
			}
		}
		for _, f := range p.Files {
			for _, call := range forbidden(f) {
				t.Errorf("%s: %s", fset.Position(call.pos), call.why)
			}
		}
	}
}

type finding struct {
	pos token.Pos
	why string
}

// forbidden finds what makes two replicas differ: the machine's clock and
// floating-point numbers.
func forbidden(f *ast.File) []finding {
	var out []finding
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "Tick", "NewTimer", "NewTicker", "AfterFunc"}, n.Sel.Name) {
				out = append(out, finding{n.Pos(), "time." + n.Sel.Name + ": the only clock is the block's"})
			}
		case *ast.Ident:
			if n.Name == "float64" || n.Name == "float32" {
				out = append(out, finding{n.Pos(), n.Name + ": floating point differs between machines"})
			}
		case *ast.BasicLit:
			if n.Kind == token.FLOAT {
				out = append(out, finding{n.Pos(), "floating-point literal " + n.Value})
			}
		}
		return true
	})
	return out
}

// TestTheRulesBite shows that a breach would be found.
func TestTheRulesBite(t *testing.T) {
	rule, ok := arch.RuleFor(rules, "evidence/proof")
	if !ok || rule.Room != "evidence/proof" {
		t.Fatalf("the most specific rule for evidence/proof is %q", rule.Room)
	}
	for dir, want := range map[string]bool{".": true, "registry/smt": true, "registry": false, "ledger": false, "evidence/wal": false} {
		if rule.Allows(dir) != want {
			t.Errorf("evidence/proof may import %s: %v, want %v", dir, !want, want)
		}
	}
	if r, _ := arch.RuleFor(rules, "apps/credential"); r.Allows("registry") {
		t.Error("an application may import the registry")
	}
	if _, ok := arch.RuleFor(rules, "misc"); ok {
		t.Error("a package outside every room has a rule")
	}
}
