package policy

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strconv"
	"strings"
)

// inspect calls visit for every node of the files of p that want admits.
func (p *pkg) inspect(want func(*file) bool, visit func(ast.Node)) {
	for _, f := range p.files {
		if !want(f) {
			continue
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			if n != nil {
				visit(n)
			}
			return true
		})
	}
}

// source admits the files that a program can link.
func source(f *file) bool { return !f.test }

// checkGoroutines: a goroutine has an owner that waits for it and hears of its panic.
func checkGoroutines(p *pkg, report report) {
	if p.below("internal/safe", "examples") {
		return
	}
	p.inspect(source, func(n ast.Node) {
		switch n := n.(type) {
		case *ast.GoStmt:
			report(n, "no bare go statement: start it with safe.Go")
		case *ast.CallExpr:
			sel, ok := n.Fun.(*ast.SelectorExpr)
			if imp, _ := p.callee(n.Fun); ok && sel.Sel.Name == "Go" && imp != module+"/internal/safe" {
				report(n, "no %s: start it with safe.Go", types.ExprString(n.Fun))
			}
		}
	})
}

// checkInit: assembly is code in main.
func checkInit(p *pkg, report report) {
	for _, f := range p.files {
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && !f.test && fn.Recv == nil && fn.Name.Name == "init" {
				report(fn, "no init function: nothing happens on import")
			}
		}
	}
}

// checkGlobals: a package-level variable is assigned at its declaration and never again.
func checkGlobals(p *pkg, report report) {
	assign := func(e ast.Expr) {
		id := base(e)
		if id == nil {
			return
		}
		switch obj := p.uses[id].(type) {
		case *types.PkgName:
			report(id, "a variable of %s is assigned: it belongs to the whole program", obj.Imported().Path())
		case *types.Var:
			if obj.Parent() == obj.Pkg().Scope() {
				report(id, "package-level variable %s is assigned after its declaration", id.Name)
			}
		}
	}
	p.inspect(source, func(n ast.Node) {
		for _, e := range assigned(n) {
			assign(e)
		}
	})
}

// assigned returns what a statement assigns to, without what it declares.
func assigned(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		return n.Lhs // of := too, where a new name has no use and is not found
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.RangeStmt:
		if n.Tok == token.ASSIGN {
			return []ast.Expr{n.Key, n.Value}
		}
	}
	return nil
}

// base is the variable that an assignment to e changes: x of x, x.f, x[i], *x.
func base(e ast.Expr) *ast.Ident {
	switch e := e.(type) {
	case *ast.Ident:
		return e
	case *ast.SelectorExpr:
		return base(e.X)
	case *ast.IndexExpr:
		return base(e.X)
	case *ast.StarExpr:
		return base(e.X)
	case *ast.ParenExpr:
		return base(e.X)
	}
	return nil
}

// ambient are the functions through which a library would read or change the
// process around it, by import path. An entry that ends in * is a prefix.
var ambient = map[string][]string{
	"os":        {"Getenv", "LookupEnv", "Environ", "ExpandEnv", "Setenv", "Unsetenv", "Clearenv", "Exit", "Chdir"},
	"os/signal": {"*"},
	"flag":      {"*"},
	"log":       {"*"},
	"fmt":       {"Print*"},
	"log/slog":  {"Default", "SetDefault", "Debug*", "Info*", "Warn*", "Error*"},
}

// checkAmbient: a library is silent and reads nothing but what it is given.
func checkAmbient(p *pkg, report report) {
	want := func(f *file) bool { return !p.lenient(f) }
	p.inspect(want, func(n ast.Node) {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			imp, name := p.callee(n)
			if listed(ambient[imp], name) {
				report(n, "no %s.%s in a library: the program decides", imp, name)
			}
		case *ast.CallExpr:
			id, ok := n.Fun.(*ast.Ident)
			if _, builtin := p.uses[id].(*types.Builtin); ok && builtin && (id.Name == "print" || id.Name == "println") {
				report(n, "no %s", id.Name)
			}
		}
	})
}

// listed reports whether name is in a list whose entries may end in *.
func listed(list []string, name string) bool {
	return slices.ContainsFunc(list, func(entry string) bool {
		prefix, ok := strings.CutSuffix(entry, "*")
		return entry == name || ok && strings.HasPrefix(name, prefix)
	})
}

func checkUnsafe(p *pkg, report report) {
	for _, f := range p.files {
		for _, spec := range f.Imports {
			if imp := imported(spec); imp == "unsafe" || imp == "C" {
				report(spec, "no %s", imp)
			}
		}
	}
}

// checkRandom: what is random is from crypto/rand, but for choice and jitter.
func checkRandom(p *pkg, report report) {
	for _, f := range p.files {
		for _, spec := range f.Imports {
			switch imp := imported(spec); {
			case imp == "math/rand":
				report(spec, "no math/rand: crypto/rand, or math/rand/v2 in tests and peer")
			case imp == "math/rand/v2" && !p.lenient(f) && !p.below("peer"):
				report(spec, "no math/rand/v2 here: only in tests, and in peer for choice and jitter")
			}
		}
	}
}

// checkTLS: certificates are checked, and TLS is 1.3 except for the web. A test
// may be a hostile or an old peer.
func checkTLS(p *pkg, report report) {
	p.inspect(source, func(n ast.Node) {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if imp, name := p.callee(n.Type); imp == "crypto/tls" && name == "Config" && !p.below("httpx") && minVersion(n) == nil {
				report(n, "a tls.Config says MinVersion: tls.VersionTLS13")
			}
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok {
				checkTLSField(p, key, n.Value, report)
			}
		case *ast.AssignStmt:
			for i, lhs := range n.Lhs {
				if sel, ok := lhs.(*ast.SelectorExpr); ok && len(n.Lhs) == len(n.Rhs) {
					checkTLSField(p, sel.Sel, n.Rhs[i], report)
				}
			}
		}
	})
}

func checkTLSField(p *pkg, field *ast.Ident, value ast.Expr, report report) {
	switch field.Name {
	case "InsecureSkipVerify":
		if !p.below("internal/session") {
			report(field, "InsecureSkipVerify is set in internal/session only, where the key is pinned instead")
		}
	case "MinVersion":
		if imp, name := p.callee(value); !p.below("httpx") && (imp != "crypto/tls" || name != "VersionTLS13") {
			report(field, "MinVersion below TLS 1.3 is for the web listener only")
		}
	}
}

// minVersion is the MinVersion of a tls.Config literal.
func minVersion(lit *ast.CompositeLit) ast.Expr {
	for _, elt := range lit.Elts {
		if kv, ok := elt.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "MinVersion" {
				return kv.Value
			}
		}
	}
	return nil
}

// byName are the functions that reach a file by its name outside an *os.Root.
var byName = map[string][]string{
	"os": {
		"Open", "OpenFile", "Create", "CreateTemp", "ReadFile", "WriteFile", "ReadDir", "Stat", "Lstat", "Rename", "Remove*",
		"Mkdir*", "Link", "Symlink", "Readlink", "Chmod", "Chown", "Lchown", "Chtimes", "Truncate", "DirFS", "CopyFS",
	},
	"path/filepath": {"Clean", "EvalSymlinks", "Walk*", "Glob"},
}

// checkPaths: paths from peers exist only inside *os.Root.
func checkPaths(p *pkg, report report) {
	if !p.below("sftp", "fs", "git", "httpx") {
		return
	}
	p.inspect(source, func(n ast.Node) {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if imp, name := p.callee(sel); listed(byName[imp], name) {
				report(sel, "no %s.%s on names from peers: use *os.Root", imp, name)
			}
		}
	})
}

// sshCallbacks are the fields through which x/crypto/ssh asks who a user is.
// They run for keys that are offered and never proven.
var sshCallbacks = []string{
	"NoClientAuthCallback", "PasswordCallback", "PublicKeyCallback", "VerifiedPublicKeyCallback", "KeyboardInteractiveCallback",
}

// checkSSHCallbacks: an identity leaves a callback as its result, never through
// a captured variable.
func checkSSHCallbacks(p *pkg, report report) {
	if !p.below("ssh", "git") {
		return
	}
	check := func(field *ast.Ident, value ast.Expr) {
		if lit, ok := value.(*ast.FuncLit); ok && slices.Contains(sshCallbacks, field.Name) {
			captured(p, lit, report)
		}
	}
	p.inspect(source, func(n ast.Node) {
		switch n := n.(type) {
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok {
				check(key, n.Value)
			}
		case *ast.AssignStmt:
			for i, lhs := range n.Lhs {
				if sel, ok := lhs.(*ast.SelectorExpr); ok && len(n.Lhs) == len(n.Rhs) {
					check(sel.Sel, n.Rhs[i])
				}
			}
		}
	})
}

// captured reports the assignments in lit to variables from outside of it.
func captured(p *pkg, lit *ast.FuncLit, report report) {
	ast.Inspect(lit.Body, func(n ast.Node) bool {
		for _, e := range assigned(n) {
			id := base(e)
			if id == nil {
				continue
			}
			if v, ok := p.uses[id].(*types.Var); ok && (v.Pos() < lit.Pos() || v.Pos() > lit.End()) {
				report(id, "an authentication callback runs for keys that are only offered: it may not assign to captured %s", strconv.Quote(id.Name))
			}
		}
		return true
	})
}
