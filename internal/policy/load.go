package policy

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	iofs "io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// module is the import path of the root package.
const module = "github.com/alkdev/alknet"

// A pkg is the files of one folder that share a package clause: the tests
// inside a package belong to it, an external test package is one of its own.
type pkg struct {
	dir   string // "." is the root
	name  string
	files []*file
	uses  map[*ast.Ident]types.Object // what names mean; nothing where a dependency would be needed
	defs  map[*ast.Ident]types.Object // what names declare
	tree  iofs.FS
}

// A file is one source file of a pkg.
type file struct {
	*ast.File
	fset *token.FileSet
	path string // within the module
	test bool   // its name ends in _test.go
}

// load parses the module. Packages and their files are in the order of their names.
func load(tree iofs.FS) ([]*pkg, *token.FileSet, error) {
	fset := token.NewFileSet()
	byKey := make(map[string]*pkg)
	var keys []string
	err := iofs.WalkDir(tree, ".", func(name string, d iofs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return enter(tree, name)
		case path.Ext(name) != ".go":
			return nil
		}
		f, err := parse(fset, tree, name)
		if err != nil {
			return err
		}
		key := path.Dir(name) + " " + f.Name.Name
		if byKey[key] == nil {
			byKey[key] = &pkg{dir: path.Dir(name), name: f.Name.Name, tree: tree}
			keys = append(keys, key)
		}
		byKey[key].files = append(byKey[key].files, f)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	slices.Sort(keys)
	var pkgs []*pkg
	for _, key := range keys {
		byKey[key].resolve(fset)
		pkgs = append(pkgs, byKey[key])
	}
	return pkgs, fset, nil
}

// enter says whether a folder belongs to the module.
func enter(tree iofs.FS, name string) error {
	base := path.Base(name)
	if name != "." && (base[0] == '.' || base[0] == '_') || base == "testdata" || base == "node_modules" {
		return iofs.SkipDir
	}
	if name == "." || within(name, "examples") {
		return nil
	}
	if _, err := iofs.Stat(tree, path.Join(name, "go.mod")); err == nil {
		return iofs.SkipDir
	} else if !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	return nil
}

func parse(fset *token.FileSet, tree iofs.FS, name string) (*file, error) {
	src, err := iofs.ReadFile(tree, name)
	if err != nil {
		return nil, err
	}
	f, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &file{File: f, fset: fset, path: name, test: strings.HasSuffix(name, "_test.go")}, nil
}

// resolve fills p.uses. Imported packages are empty shells, so most of what the
// type checker has to say is wrong and not listened to; which name means which
// import, package variable or local is right.
func (p *pkg) resolve(fset *token.FileSet) {
	p.uses, p.defs = make(map[*ast.Ident]types.Object), make(map[*ast.Ident]types.Object)
	conf := types.Config{Importer: shells{}, Error: func(error) {}}
	var files []*ast.File
	for _, f := range p.files {
		files = append(files, f.File)
	}
	_, _ = conf.Check(path.Join(module, p.dir), fset, files, &types.Info{Uses: p.uses, Defs: p.defs}) // the errors went to conf.Error
}

// shells is an importer of empty packages.
type shells struct{}

// Import returns an empty package with the name that imp most likely has.
func (shells) Import(imp string) (*types.Package, error) {
	if imp == "unsafe" {
		return types.Unsafe, nil
	}
	name := path.Base(imp)
	if len(name) > 1 && name[0] == 'v' && strings.Trim(name[1:], "0123456789") == "" {
		name = path.Base(path.Dir(imp))
	}
	shell := types.NewPackage(imp, strings.TrimPrefix(name, "go-"))
	shell.MarkComplete()
	return shell, nil
}

// callee returns the import path and the name of a function that a call or a
// reference names with its package: "time", "Sleep".
func (p *pkg) callee(e ast.Expr) (imp, name string) {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return "", ""
	}
	id, ok := sel.X.(*ast.Ident)
	if !ok {
		return "", ""
	}
	if pn, ok := p.uses[id].(*types.PkgName); ok {
		return pn.Imported().Path(), sel.Sel.Name
	}
	return "", ""
}

// imported is the path of an import.
func imported(spec *ast.ImportSpec) string {
	s, _ := strconv.Unquote(spec.Path.Value) // it was parsed as a string
	return s
}

// within reports whether a path is dir or below it.
func within(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, dir+"/")
}

// below reports whether p is in one of the folders or below it.
func (p *pkg) below(dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return within(p.dir, dir) })
}

// suites are the packages that only tests import.
var suites = []string{
	"internal/apigolden", "internal/canary", "internal/crashfs", "internal/handlertest", "internal/impair",
	"internal/irohtest", "internal/policy", "internal/testenv",
}

// lenient reports whether f is a test, or of a package that only tests use, or
// of a program: they may talk to the process around them.
func (p *pkg) lenient(f *file) bool {
	return f.test || p.below(suites...) || p.below("cmd", "examples")
}

// public reports whether users of the module can import p.
func (p *pkg) public() bool {
	return !strings.HasSuffix(p.name, "_test") && p.name != "main" && !p.below("cmd", "examples") &&
		!strings.Contains("/"+p.dir+"/", "/internal/")
}
