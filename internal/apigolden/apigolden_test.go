package apigolden

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func parse(t *testing.T, src string) []*ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, parser.ParseComments|parser.SkipObjectResolution)
	require.NoError(t, err)
	return []*ast.File{f}
}

const sample = `package p

// A is documented.
const A = "a"

// Codes of p.
const (
	B Code = 0x10 + iota // with a comment
	C
	d
)

var (
	// ErrE is documented.
	ErrE = errors.New("e")
	ErrF error
)

// Code is documented.
type Code uint64

func (c Code) String() string { return "" }

// G is documented.
type G[K comparable, V any] struct {
	H, I int // both
	j    int
	K    func(context.Context, ...string) (n int, err error)
	io.Reader
	hidden
}

type L interface {
	// M is documented.
	M(x int) error
	N()
}

// O is another name.
type O = G[string, int]

type p struct{ Q int }

// R is of a type nobody sees.
func (*p) R() {}

// S is documented.
func S[T ~int | ~int64](v, def T) T { return v }

func (g *G[K, V]) U() {}

func w() {}
`

func TestSurface(t *testing.T) {
	want := `const A = "a"
const B Code = 0x10 + iota
const C Code
func S[T ~int | ~int64](v, def T) T
method (*G[K, V]) U()
method (Code) String() string
type Code uint64
type G[K comparable, V any] struct
type G[K comparable, V any] struct, H int
type G[K comparable, V any] struct, I int
type G[K comparable, V any] struct, K func(context.Context, ...string) (n int, err error)
type G[K comparable, V any] struct, embedded io.Reader
type L interface
type L interface, M(x int) error
type L interface, N()
type O = G[string, int]
var ErrE
var ErrF error
`
	require.Equal(t, want, Surface(parse(t, sample)))
}

func TestUndocumented(t *testing.T) {
	var names []string
	for _, id := range Undocumented(parse(t, sample)) {
		names = append(names, id.Name)
	}
	require.Equal(t, []string{"C", "ErrF", "String", "K", "L", "N", "U"}, names)
}

func TestCheckLimitsNames(t *testing.T) {
	tests := []struct {
		pkg   string
		names int
		ok    bool
	}{
		{"alknet", maxRoot, true},
		{"alknet", maxRoot + 1, false},
		{"sub", maxSub, true},
		{"sub", maxSub + 1, false},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.pkg, tt.names), func(t *testing.T) {
			var src strings.Builder
			fmt.Fprintf(&src, "package %s\n", tt.pkg)
			for i := range tt.names {
				fmt.Fprintf(&src, "// F%d is documented.\nfunc F%d() {}\n", i, i)
			}
			require.Equal(t, tt.ok, check(parse(t, src.String())) == nil)
		})
	}
}
