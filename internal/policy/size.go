package policy

import (
	"go/ast"
	iofs "io/fs"
	"path"
	"slices"

	"github.com/alkdev/alknet/internal/apigolden"
)

// The hard stops of the style. Reviewers ask for much less.
const (
	maxFileLines = 500
	maxFuncLines = 90
	maxParams    = 5
)

// vague are file names that say nothing.
var vague = []string{"util.go", "utils.go", "common.go", "helpers.go", "types.go", "misc.go"}

// checkSize: short files, short functions, few parameters. Of tests only the
// file counts: a table is as long as its inputs.
func checkSize(p *pkg, report report) {
	for _, f := range p.files {
		lines := f.fset.Position(f.FileEnd).Line
		if lines > maxFileLines {
			report(f.Name, "the file has %d lines, at most %d: one idea each", lines, maxFileLines)
		}
		if slices.Contains(vague, path.Base(f.path)) {
			report(f.Name, "%s says nothing: name the file for its idea", path.Base(f.path))
		}
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || f.test {
				continue
			}
			if n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1; n > maxFuncLines {
				report(fn, "%s has %d lines, at most %d", fn.Name.Name, n, maxFuncLines)
			}
			if n := fn.Type.Params.NumFields(); n > maxParams {
				report(fn, "%s has %d parameters, at most %d", fn.Name.Name, n, maxParams)
			}
		}
	}
}

// checkDoc: every package has a comment, and everything exported, in internal
// packages too.
func checkDoc(p *pkg, report report) {
	var files []*ast.File
	comment := false
	for _, f := range p.files {
		if !f.test {
			files = append(files, f.File)
			comment = comment || f.Doc != nil
		}
	}
	if len(files) == 0 {
		return
	}
	if !comment {
		report(files[0].Name, "package %s has no package comment", p.name)
	}
	for _, id := range apigolden.Undocumented(files) {
		report(id, "exported %s has no doc comment", id.Name)
	}
}

// checkGolden: every public package has its exported surface in testdata.
func checkGolden(p *pkg, report report) {
	if !p.public() {
		return
	}
	if _, err := iofs.Stat(p.tree, path.Join(p.dir, "testdata/api.txt")); err != nil {
		report(p.files[0].Name, "a public package has a TestAPI with testdata/api.txt (internal/apigolden)")
	}
}
