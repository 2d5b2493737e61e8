package arch_test

import (
	"go/ast"
	"testing"
)

// tlsMakers are the packages that may write a TLS configuration from nothing: the
// profile itself, and what stands for other people's programs.
var tlsMakers = []string{"internal/tlsprofile", "internal/demo", "internal/demostack", "bench", "test"}

// TestOneTLSProfile holds that every TLS port and connection of the product has
// the profile of internal/tlsprofile, and that nobody weakens what it fixes.
func TestOneTLSProfile(t *testing.T) {
	packages, fset := load(t)
	users := 0
	for _, p := range packages {
		if inAny(p.Dir, tlsMakers) {
			continue
		}
		for _, f := range p.Files {
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CompositeLit:
					if selects(n.Type, "tls", "Config") {
						t.Errorf("%s: a TLS configuration of its own: use internal/tlsprofile", fset.Position(n.Pos()))
					}
				case *ast.AssignStmt:
					for _, to := range n.Lhs {
						if sel, ok := to.(*ast.SelectorExpr); ok && fixed[sel.Sel.Name] {
							t.Errorf("%s: %s is the profile's to set", fset.Position(n.Pos()), sel.Sel.Name)
						}
					}
				case *ast.CallExpr:
					if selects(n.Fun, "tlsprofile", "New") || selects(n.Fun, "tlsprofile", "Upstream") {
						users++
					}
					if selects(n.Fun, "tls", "LoadX509KeyPair") {
						t.Errorf("%s: tls.LoadX509KeyPair does not look at the key file's mode: use tlsprofile.LoadPair", fset.Position(n.Pos()))
					}
				}
				return true
			})
		}
	}
	if users < 5 {
		t.Errorf("the profile is used in %d places: the test does not see them", users)
	}
}

// fixed are the fields that the profile sets.
var fixed = map[string]bool{"MinVersion": true, "MaxVersion": true, "CurvePreferences": true, "CipherSuites": true, "SessionTicketsDisabled": true, "ClientSessionCache": true}

func selects(e ast.Expr, pkg, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == pkg
}
