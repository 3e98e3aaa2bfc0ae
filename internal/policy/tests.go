package policy

import (
	"go/ast"
	"go/types"
	iofs "io/fs"
	"path"
	"slices"
	"strings"
)

// checkSleep: in a test, time passes only in a synctest bubble. A function with
// a Sleep of its own is fine when every use of it is in one.
func checkSleep(p *pkg, report report) {
	spans := bubbles(p)
	inBubble := func(n ast.Node) bool {
		for _, s := range spans {
			if s.Pos() <= n.Pos() && n.End() <= s.End() {
				return true
			}
		}
		return false
	}
	bubbled := onlyFrom(p, inBubble)
	for _, f := range p.files {
		if !f.test {
			continue
		}
		for _, decl := range f.Decls {
			fn, _ := decl.(*ast.FuncDecl)
			ast.Inspect(decl, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				imp, name := p.callee(call.Fun)
				if imp == "time" && name == "Sleep" && !inBubble(call) && (fn == nil || !bubbled[p.defs[fn.Name]]) {
					report(call, "time.Sleep in a test belongs in a synctest bubble: wait for the event instead")
				}
				return true
			})
		}
	}
}

// bubbles are the arguments of the calls of synctest.Test.
func bubbles(p *pkg) []ast.Node {
	var spans []ast.Node
	p.inspect(func(f *file) bool { return f.test }, func(n ast.Node) {
		if call, ok := n.(*ast.CallExpr); ok {
			if imp, name := p.callee(call.Fun); imp == "testing/synctest" && name == "Test" {
				for _, arg := range call.Args {
					spans = append(spans, arg)
				}
			}
		}
	})
	return spans
}

// onlyFrom returns the functions of p that are used, and used only where in
// says so or in each other.
func onlyFrom(p *pkg, in func(ast.Node) bool) map[types.Object]bool {
	users := make(map[types.Object][]types.Object) // function → functions that use it; nil: where in says so
	for _, f := range p.files {
		for _, decl := range f.Decls {
			ast.Inspect(decl, func(n ast.Node) bool {
				id, ok := n.(*ast.Ident)
				if !ok {
					return true
				}
				if fn, ok := p.uses[id].(*types.Func); ok {
					users[fn] = append(users[fn], user(p, decl, in(id)))
				}
				return true
			})
		}
	}
	good := make(map[types.Object]bool)
	for fn := range users {
		good[fn] = true
	}
	for changed := true; changed; {
		changed = false
		for fn, by := range users {
			if good[fn] && slices.ContainsFunc(by, func(u types.Object) bool { return u != nil && !good[u] }) {
				good[fn], changed = false, true
			}
		}
	}
	return good
}

// user is the function that decl declares, nil in a bubble, and for other
// declarations an object that no function is.
func user(p *pkg, decl ast.Decl, bubble bool) types.Object {
	if bubble {
		return nil
	}
	if fn, ok := decl.(*ast.FuncDecl); ok && p.defs[fn.Name] != nil {
		return p.defs[fn.Name]
	}
	return types.Universe.Lookup("nil")
}

// checkGoleak: a package that starts goroutines shows that none is left.
func checkGoleak(p *pkg, report report) {
	if strings.HasSuffix(p.name, "_test") || p.below(suites...) || p.below("cmd", "examples") {
		return
	}
	for _, f := range p.files {
		for _, spec := range f.Imports {
			if !f.test && imported(spec) == module+"/internal/safe" {
				if !mentions(p, "goleak.VerifyTestMain") {
					report(spec, "it starts goroutines: its tests need goleak.VerifyTestMain")
				}
				return
			}
		}
	}
}

// mentions reports whether a test file in the folder of p, of whichever
// package, has the text s.
func mentions(p *pkg, s string) bool {
	names, err := iofs.Glob(p.tree, path.Join(p.dir, "*_test.go"))
	if err != nil {
		return false
	}
	for _, name := range names {
		if src, err := iofs.ReadFile(p.tree, name); err == nil && strings.Contains(string(src), s) {
			return true
		}
	}
	return false
}
