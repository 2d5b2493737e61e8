// Package arch holds the rules of the house as tests: which room may import
// which, who alone may know an engine, what the registry may not touch, and
// that every package says what it is and whom it trusts.
//
// Trust: it runs in tests only and decides nothing at run time.
package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// Module is the module's import path.
const Module = "github.com/civibus/civibus"

// Package is what the rules look at: one directory of Go files.
type Package struct {
	Dir     string // relative to the root, "." for the root package
	Doc     string
	Imports []string // of non-test files, sorted
	Files   []*ast.File
	Names   []string // file names, in the order of Files
}

// Load parses the non-test Go files of every package below root, skipping
// hidden folders, testdata and node_modules.
func Load(root string) ([]Package, *token.FileSet, error) {
	fset := token.NewFileSet()
	dirs := map[string]*Package{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return fmt.Errorf("parse %s: %w", path, err)
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		p := dirs[rel]
		if p == nil {
			p = &Package{Dir: filepath.ToSlash(rel)}
			dirs[rel] = p
		}
		p.Files = append(p.Files, f)
		p.Names = append(p.Names, name)
		if f.Doc != nil {
			p.Doc += f.Doc.Text()
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	var out []Package
	for _, p := range dirs {
		seen := map[string]bool{}
		for _, f := range p.Files {
			for _, i := range f.Imports {
				path, _ := strconv.Unquote(i.Path.Value)
				if !seen[path] {
					seen[path] = true
					p.Imports = append(p.Imports, path)
				}
			}
		}
		sort.Strings(p.Imports)
		out = append(out, *p)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Dir < out[j].Dir })
	return out, fset, nil
}

// Rule says what the packages of one room may import of this module.
type Rule struct {
	Room  string   // directory; packages below it belong to it unless they have a rule of their own
	Allow []string // directories, each with everything below it; "." is the root package
}

// Own returns the import's directory within the module, or "" and false for
// other modules.
func Own(path string) (string, bool) {
	if path == Module {
		return ".", true
	}
	if rest, ok := strings.CutPrefix(path, Module+"/"); ok {
		return rest, true
	}
	return "", false
}

// RuleFor returns the most specific rule for dir.
func RuleFor(rules []Rule, dir string) (Rule, bool) {
	best, found := Rule{}, false
	for _, r := range rules {
		if within(dir, r.Room) && (!found || len(r.Room) > len(best.Room)) {
			best, found = r, true
		}
	}
	return best, found
}

// Allows reports whether the rule lets its room import dir.
func (r Rule) Allows(dir string) bool {
	if within(dir, r.Room) && r.Room != "." {
		return true
	}
	for _, a := range r.Allow {
		if a == dir || a != "." && within(dir, a) {
			return true
		}
	}
	return false
}

func within(dir, room string) bool {
	if room == "." {
		return dir == "."
	}
	return dir == room || strings.HasPrefix(dir, room+"/")
}
