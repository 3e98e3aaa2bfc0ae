package vault

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestComparisonsAreConstantTime: what compares check values, MACs and secrets
// does it with subtle or hmac, and nothing else compares bytes but two functions
// that look at the form of what anybody may read.
func TestComparisonsAreConstantTime(t *testing.T) {
	constant := map[string]bool{}
	quick := map[string]bool{}
	for _, name := range must(filepath.Glob("*.go")) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, decl := range must(parser.ParseFile(token.NewFileSet(), name, nil, 0)).Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				switch pkg, _ := call.X.(*ast.Ident); {
				case pkg == nil:
				case pkg.Name == "subtle" || pkg.Name == "hmac" && call.Sel.Name == "Equal":
					constant[f.Name.Name] = true
				case (pkg.Name == "bytes" || pkg.Name == "slices" || pkg.Name == "reflect") &&
					(strings.HasSuffix(call.Sel.Name, "Equal") || strings.HasPrefix(call.Sel.Name, "Compare")):
					quick[f.Name.Name] = true
				}
				return true
			})
		}
	}
	require.Equal(t, map[string]bool{"sameCheck": true, "verify": true, "Equal": true}, constant)
	require.Equal(t, map[string]bool{"UnmarshalText": true, "decodeFile": true}, quick)
}
