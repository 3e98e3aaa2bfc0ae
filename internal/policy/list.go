package policy

import (
	"go/ast"
	"go/token"
	iofs "io/fs"
	"slices"
	"strconv"
	"strings"
)

// FuzzTargets are the fuzz functions of the module, each after the folder of its
// package and a dot: "internal/printable.FuzzQuote". The root's folder is ".".
func FuzzTargets(tree iofs.FS) ([]string, error) { return functions(tree, "Fuzz") }

// Tests are the test functions of the module, as FuzzTargets.
func Tests(tree iofs.FS) ([]string, error) { return functions(tree, "Test") }

// functions lists the functions of test files with a prefix, as folder.Name.
func functions(tree iofs.FS, prefix string) ([]string, error) {
	pkgs, _, err := load(tree)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range pkgs {
		for _, f := range p.files {
			for _, decl := range f.Decls {
				fn, ok := decl.(*ast.FuncDecl)
				if ok && f.test && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, prefix) && fn.Name.Name != "TestMain" {
					names = append(names, p.dir+"."+fn.Name.Name)
				}
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// A Constant is an exported constant of a public package.
type Constant struct {
	Dir   string // the folder of its package
	Name  string // within the package
	Value string // if it is declared as a string literal
}

// Constants are the exported constants of public packages whose names have a prefix.
func Constants(tree iofs.FS, prefix string) ([]Constant, error) {
	pkgs, _, err := load(tree)
	if err != nil {
		return nil, err
	}
	var list []Constant
	for _, p := range pkgs {
		if !p.public() {
			continue
		}
		for _, f := range p.files {
			for _, decl := range f.Decls {
				if d, ok := decl.(*ast.GenDecl); ok && d.Tok == token.CONST && !f.test {
					list = append(list, constants(p.dir, d, prefix)...)
				}
			}
		}
	}
	return list, nil
}

func constants(dir string, d *ast.GenDecl, prefix string) []Constant {
	var list []Constant
	for _, spec := range d.Specs {
		vs, ok := spec.(*ast.ValueSpec)
		if !ok {
			continue
		}
		for i, name := range vs.Names {
			if !name.IsExported() || !strings.HasPrefix(name.Name, prefix) {
				continue
			}
			c := Constant{Dir: dir, Name: name.Name}
			if i < len(vs.Values) {
				if lit, ok := vs.Values[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
					c.Value, _ = strconv.Unquote(lit.Value) // it was parsed as a string
				}
			}
			list = append(list, c)
		}
	}
	return list
}
