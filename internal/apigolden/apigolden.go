// Package apigolden compares the exported surface of a package with the file in
// which it was agreed. A public package has this test, and the file that
// go test -run TestAPI -update writes:
//
//	func TestAPI(t *testing.T) { apigolden.Check(t) }
package apigolden

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// golden is where a package keeps its surface, one signature a line.
const golden = "testdata/api.txt"

// The most exported names a package may have: types, functions and values,
// without methods and fields.
const (
	maxRoot = 45
	maxSub  = 40
)

var update = flag.Bool("update", false, "write golden files instead of comparing with them")

// Update reports whether the test runs with -update, for packages that have
// golden files of other kinds too.
func Update() bool { return *update }

// Check fails t unless the package in the working folder, which is the package
// under test, exports what testdata/api.txt says, documents all of it, and has
// no more names than the style allows. Files for every platform count.
func Check(t *testing.T) {
	t.Helper()
	files, err := parseDir(".")
	require.NoError(t, err)
	require.NotEmpty(t, files, "no Go files here")
	for _, problem := range check(files) {
		t.Error(problem)
	}
	got := Surface(files)
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(golden), 0o777))
		require.NoError(t, os.WriteFile(golden, []byte(got), 0o666))
		return
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err, "run go test -run TestAPI -update once")
	require.Equal(t, strings.ReplaceAll(string(want), "\r\n", "\n"), got,
		"the exported surface changed; if that is meant, run go test -run TestAPI -update")
}

// check returns what is wrong with a surface whatever the golden file says.
func check(files []*ast.File) []string {
	var problems []string
	for _, id := range Undocumented(files) {
		problems = append(problems, "exported "+id.Name+" has no doc comment")
	}
	limit := maxSub
	if files[0].Name.Name == "alknet" {
		limit = maxRoot
	}
	if top := topNames(files); len(top) > limit {
		problems = append(problems, fmt.Sprintf("the package exports %d names, at most %d: %s", len(top), limit, strings.Join(top, " ")))
	}
	return problems
}

// topNames are the exported types, functions and values.
func topNames(files []*ast.File) []string {
	var names []string
	for _, it := range items(files) {
		if it.top {
			names = append(names, it.name.Name)
		}
	}
	slices.Sort(names)
	return names
}

// parseDir parses the files of the package in dir, without tests.
func parseDir(dir string) ([]*ast.File, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}
