package arch_test

import (
	"go/ast"
	"slices"
	"testing"
)

// serverMakers are the packages that may make HTTP servers by hand: httpd bounds
// heads, idle connections, stalls and the number of connections, and tests it.
// The demonstration's and the benchmarks' servers stand for other people's.
var serverMakers = []string{"internal/httpd", "internal/demostack", "bench", "test"}

// TestServersHaveLimits holds that no listener of the node is served by a bare
// net/http server, which lets whoever connects hold it for ever.
func TestServersHaveLimits(t *testing.T) {
	packages, fset := load(t)
	for _, p := range packages {
		if inAny(p.Dir, serverMakers) {
			continue
		}
		for _, f := range p.Files {
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "http" &&
					slices.Contains([]string{"Server", "Serve", "ServeTLS", "ListenAndServe", "ListenAndServeTLS"}, sel.Sel.Name) {
					t.Errorf("%s: http.%s: use internal/httpd, which has limits", fset.Position(sel.Pos()), sel.Sel.Name)
				}
				return true
			})
		}
	}
}
