// Package policy holds the rules of the house as checks of the source text:
// what may import what, and what no package may do. The test in the root of the
// module runs them over the whole tree. They parse and resolve names within a
// package; nothing is built and no dependency is loaded.
package policy

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	iofs "io/fs"
	"slices"
)

// A Finding is a place that breaks a rule.
type Finding struct {
	Pos  token.Position // file and line; line 0: the file as a whole
	Rule string         // the rule's name
	Text string         // what is wrong, and what to do instead
}

// String is "file:line: rule: text".
func (f Finding) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", f.Pos.Filename, f.Pos.Line, f.Rule, f.Text)
}

// A report receives what a rule finds at a node.
type report func(at ast.Node, format string, args ...any)

// A rule is one statement of policy. It looks at a package at a time.
type rule struct {
	name  string
	check func(p *pkg, report report)
}

// rules are what Check runs.
var rules = []rule{
	{"imports", checkImports},
	{"dependencies", checkDependencies},
	{"alias", checkAliases},
	{"goroutines", checkGoroutines},
	{"init", checkInit},
	{"globals", checkGlobals},
	{"ambient", checkAmbient},
	{"unsafe", checkUnsafe},
	{"random", checkRandom},
	{"tls", checkTLS},
	{"paths", checkPaths},
	{"ssh callbacks", checkSSHCallbacks},
	{"sleep", checkSleep},
	{"goleak", checkGoleak},
	{"size", checkSize},
	{"doc", checkDoc},
	{"golden", checkGolden},
}

// Check applies every rule to the module whose root is tree. A folder with a
// go.mod of its own is another module and left out, except in examples. The
// error is a file that cannot be read or parsed.
func Check(tree iofs.FS) ([]Finding, error) {
	pkgs, fset, err := load(tree)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	var found []Finding
	for _, p := range pkgs {
		for _, r := range rules {
			r.check(p, func(at ast.Node, format string, args ...any) {
				found = append(found, Finding{fset.Position(at.Pos()), r.name, fmt.Sprintf(format, args...)})
			})
		}
	}
	slices.SortFunc(found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Pos.Filename, b.Pos.Filename), cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Rule, b.Rule))
	})
	return slices.Compact(found), nil
}
