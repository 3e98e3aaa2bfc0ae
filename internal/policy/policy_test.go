package policy

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// A row is a file, and the rule that finds something in it; "" is none.
type row struct {
	name, path, rule, src string
}

// doc is the package comment that the files of the table get.
const doc = "// Package p is documented.\n"

var table = []row{
	// imports
	{"root imports a subpackage", "x.go", "imports", `package alknet; import _ "github.com/alkdev/alknet/call"`},
	{"root imports internal", "x.go", "", `package alknet; import _ "github.com/alkdev/alknet/internal/budget"`},
	{"vault imports internal", "vault/x.go", "imports", `package vault; import _ "github.com/alkdev/alknet/internal/durable"`},
	{"a subpackage of vault imports vault", "vault/keyring/x.go", "", `package keyring; import _ "github.com/alkdev/alknet/vault"`},
	{"dns imports ssh", "dns/x.go", "imports", `package dns; import _ "github.com/alkdev/alknet/ssh"`},
	{"a subpackage of dns imports ssh", "dns/pkarr/x.go", "imports", `package pkarr; import _ "github.com/alkdev/alknet/ssh"`},
	{"dns imports root", "dns/x.go", "", `package dns; import _ "github.com/alkdev/alknet"`},
	{"a test of ssh imports sftp", "ssh/x_test.go", "", `package ssh; import _ "github.com/alkdev/alknet/sftp"`},
	{"internal imports root", "internal/a/x.go", "imports", `package a; import _ "github.com/alkdev/alknet"`},
	{"a helper of tests imports root", "internal/testenv/x.go", "imports", `package testenv; import _ "github.com/alkdev/alknet"`},
	{"the conformance suite imports root", "internal/handlertest/x.go", "", `package handlertest; import _ "github.com/alkdev/alknet"`},
	{"an example imports internal", "examples/echo/x.go", "imports", `package main; import _ "github.com/alkdev/alknet/internal/safe"`},
	{"an example imports a nested internal", "examples/echo/x.go", "imports", `package main; import _ "github.com/alkdev/alknet/msg/internal/ratchet"`},
	{"an example with a module of its own", "examples/otel/x.go", "imports", `package main; import _ "github.com/alkdev/alknet/internal/safe"`},
	{"cmd imports internal", "cmd/alknet/x.go", "", `package main; import _ "github.com/alkdev/alknet/internal/safe"`},
	{"a folder outside the layout", "util/x.go", "imports", `package util`},
	{"another module", "bench/x.go", "", `package bench; import _ "github.com/alkdev/alknet/internal/safe"`},

	// dependencies
	{"quic-go in root", "x.go", "dependencies", `package alknet; import _ "github.com/quic-go/quic-go"`},
	{"quic-go in internal", "internal/session/x.go", "", `package session; import _ "github.com/quic-go/quic-go"`},
	{"http3 in httpx", "httpx/x.go", "", `package httpx; import _ "github.com/quic-go/quic-go/http3"`},
	{"yamux in internal/session", "internal/session/x.go", "dependencies", `package session; import _ "github.com/libp2p/go-yamux/v5"`},
	{"x/crypto/ssh in ssh", "ssh/x.go", "", `package ssh; import xssh "golang.org/x/crypto/ssh"`},
	{"x/crypto/ssh below ssh", "ssh/forward/x.go", "dependencies", `package forward; import xssh "golang.org/x/crypto/ssh"`},
	{"agessh in vault", "vault/x.go", "dependencies", `package vault; import _ "filippo.io/age/agessh"`},
	{"age in vault", "vault/x.go", "", `package vault; import _ "filippo.io/age"`},
	{"go-git in git", "git/x.go", "", `package git; import _ "github.com/go-git/go-git/v5/plumbing/object"`},
	{"go-git in fs", "fs/x.go", "dependencies", `package fs; import _ "github.com/go-git/go-billy/v5"`},
	{"testify in a program", "dns/x.go", "dependencies", `package dns; import _ "github.com/stretchr/testify/require"`},
	{"testify in a helper of tests", "internal/testenv/x.go", "", `package testenv; import _ "github.com/stretchr/testify/require"`},
	{"assert", "dns/x_test.go", "dependencies", `package dns; import _ "github.com/stretchr/testify/assert"`},

	// alias
	{"io/fs under its own name", "x.go", "alias", `package alknet; import "io/fs"`},
	{"x/crypto/ssh under another name", "ssh/x.go", "alias", `package ssh; import gossh "golang.org/x/crypto/ssh"`},

	// goroutines
	{"go statement", "x.go", "goroutines", `package alknet; func f() { go f() }`},
	{"WaitGroup.Go", "x.go", "goroutines", `package alknet; import "sync"; func f(wg *sync.WaitGroup) { wg.Go(func() {}) }`},
	{"Go of a field", "x.go", "goroutines", `package alknet; type s struct{ wg interface{ Go(func()) } }; func (s *s) f() { s.wg.Go(nil) }`},
	{"Go of what is only called safe", "x.go", "goroutines", `package alknet; import "sync"; func f(safe *sync.WaitGroup) { safe.Go(nil) }`},
	{"safe.Go under another name", "internal/policy/x.go", "", `package policy; import s "github.com/alkdev/alknet/internal/safe"; func f() { s.Go(nil, nil, f) }`},
	{"go statement in safe", "internal/safe/x.go", "", `package safe; func f() { go f() }`},
	{"go statement in a test", "x_test.go", "", `package alknet; func f() { go f() }`},
	{"go statement in an example", "examples/echo/x.go", "", `package main; func f() { go f() }`},

	// init, globals
	{"init", "x.go", "init", `package alknet; func init() {}`},
	{"a method called init", "x.go", "", `package alknet; type t int; func (t) init() {}`},
	{"assignment", "x.go", "globals", `package alknet; var v int; func f() { v = 1 }`},
	{"increment", "x.go", "globals", `package alknet; var v int; func f() { v++ }`},
	{"assignment to an element", "x.go", "globals", `package alknet; var v = map[int]int{}; func f() { v[1] = 2 }`},
	{"assignment to a field", "x.go", "globals", `package alknet; var v struct{ a int }; func f() { v.a = 2 }`},
	{"assignment by range", "x.go", "globals", `package alknet; var v int; func f() { for v = range 3 {} }`},
	{"assignment to another package", "x.go", "globals", `package alknet; import "net/http"; func f() { http.DefaultClient = nil }`},
	{"assignment to a local of that name", "x.go", "", `package alknet; var v int; func f() { v := 1; v = 2; _ = v }`},
	{"assignment in a test", "x_test.go", "", `package alknet; var v int; func f() { v = 1 }`},

	// ambient
	{"Getenv", "x.go", "ambient", `package alknet; import "os"; var v = os.Getenv("A")`},
	{"Exit as a value", "x.go", "ambient", `package alknet; import "os"; var v = os.Exit`},
	{"signals", "x.go", "ambient", `package alknet; import "os/signal"; func f() { signal.Notify(nil) }`},
	{"flag", "x.go", "ambient", `package alknet; import "flag"; func f() { flag.Parse() }`},
	{"log", "x.go", "ambient", `package alknet; import "log"; func f() { log.Printf("") }`},
	{"fmt.Println", "x.go", "ambient", `package alknet; import "fmt"; func f() { fmt.Println() }`},
	{"default slog", "x.go", "ambient", `package alknet; import "log/slog"; func f() { slog.Info("") }`},
	{"println", "x.go", "ambient", `package alknet; func f() { println() }`},
	{"fmt.Fprintln", "x.go", "", `package alknet; import "fmt"; func f() { fmt.Fprintln(nil) }`},
	{"a variable called log", "x.go", "", `package alknet; import _ "log"; func f(log interface{ Println() }) { log.Println() }`},
	{"Getenv in cmd", "cmd/alknet/x.go", "", `package main; import "os"; var v = os.Getenv("A")`},
	{"Getenv in a helper of tests", "internal/testenv/x.go", "", `package testenv; import "os"; var v = os.Getenv("A")`},

	// unsafe, random
	{"unsafe", "x.go", "unsafe", `package alknet; import _ "unsafe"`},
	{"cgo", "x.go", "unsafe", `package alknet; import "C"`},
	{"math/rand in a test", "x_test.go", "random", `package alknet; import _ "math/rand"`},
	{"math/rand/v2", "x.go", "random", `package alknet; import _ "math/rand/v2"`},
	{"math/rand/v2 in a test", "x_test.go", "", `package alknet; import _ "math/rand/v2"`},
	{"math/rand/v2 in peer", "peer/x.go", "", `package peer; import _ "math/rand/v2"`},

	// tls
	{"InsecureSkipVerify in a literal", "x.go", "tls",
		`package alknet; import "crypto/tls"; var v = tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}`},
	{"InsecureSkipVerify by assignment", "x.go", "tls", `package alknet; import "crypto/tls"; func f(c *tls.Config) { c.InsecureSkipVerify = true }`},
	{"InsecureSkipVerify in session", "internal/session/x.go", "", `package session; import "crypto/tls"; func f(c *tls.Config) { c.InsecureSkipVerify = true }`},
	{"TLS 1.2", "x.go", "tls", `package alknet; import "crypto/tls"; func f(c *tls.Config) { c.MinVersion = tls.VersionTLS12 }`},
	{"TLS 1.2 as a number", "x.go", "tls", `package alknet; import "crypto/tls"; var v = &tls.Config{MinVersion: 0x303}`},
	{"no MinVersion", "x.go", "tls", `package alknet; import "crypto/tls"; var v = &tls.Config{}`},
	{"TLS 1.3", "x.go", "", `package alknet; import "crypto/tls"; var v = &tls.Config{MinVersion: tls.VersionTLS13}`},
	{"TLS 1.2 for the web", "httpx/x.go", "", `package httpx; import "crypto/tls"; var v = &tls.Config{MinVersion: tls.VersionTLS12}`},

	// paths
	{"os.Open", "sftp/x.go", "paths", `package sftp; import "os"; func f(n string) { os.Open(n) }`},
	{"os.Rename", "git/x.go", "paths", `package git; import "os"; func f(n string) { os.Rename(n, n) }`},
	{"filepath.Clean", "httpx/x.go", "paths", `package httpx; import "path/filepath"; func f(n string) { filepath.Clean(n) }`},
	{"os.MkdirAll", "fs/x.go", "paths", `package fs; import "os"; func f(n string) { os.MkdirAll(n, 0) }`},
	{"os.OpenRoot", "fs/x.go", "", `package fs; import "os"; func f(n string) { os.OpenRoot(n) }`},
	{"os.Open elsewhere", "vault/x.go", "", `package vault; import "os"; func f(n string) { os.Open(n) }`},

	// ssh callbacks
	{"captured by a literal's field", "ssh/x.go", "ssh callbacks",
		`package ssh; type c struct{ PublicKeyCallback func() }; func f() { var who string; _ = c{PublicKeyCallback: func() { who = "bob" }} }`},
	{"captured by an assigned field", "ssh/x.go", "ssh callbacks",
		`package ssh; type c struct{ PasswordCallback func() }; func f(c *c, s []int) { c.PasswordCallback = func() { s[0]++ } }`},
	{"its own variable", "ssh/x.go", "",
		`package ssh; type c struct{ PublicKeyCallback func() }; var v = c{PublicKeyCallback: func() { n := 1; n = 2; _ = n }}`},

	// sleep
	{"sleep in a test", "x_test.go", "sleep", `package alknet; import "time"; func TestX() { time.Sleep(1) }`},
	{"sleep in a helper that a bubble and another test use", "x_test.go", "sleep", `package alknet
import ("testing/synctest"; "time")
func TestX() { synctest.Test(nil, func() { h() }) }
func TestY() { h() }
func h() { time.Sleep(1) }`},
	{"sleep in a bubble", "x_test.go", "", `package alknet
import ("testing/synctest"; "time")
func TestX() { synctest.Test(nil, func() { time.Sleep(1) }) }`},
	{"sleep in the function that a bubble runs", "x_test.go", "", `package alknet
import ("testing/synctest"; "time")
func TestX() { synctest.Test(nil, testX) }
func testX() { h() }
func h() { time.Sleep(1) }`},

	// goleak
	{"goroutines without goleak", "dns/x.go", "goleak", `package dns; import _ "github.com/alkdev/alknet/internal/safe"`},

	// size
	{"long file", "internal/a/x.go", "size", "package a" + strings.Repeat("\n", maxFileLines)},
	{"long enough file", "internal/a/x.go", "", "package a" + strings.Repeat("\n", maxFileLines-1-1)},
	{"long function", "internal/a/x.go", "size", "package a; func f() {" + strings.Repeat("\n", maxFuncLines) + "}"},
	{"long enough function", "internal/a/x.go", "", "package a; func f() {" + strings.Repeat("\n", maxFuncLines-1) + "}"},
	{"long function in a test", "internal/a/x_test.go", "", "package a; func f() {" + strings.Repeat("\n", maxFuncLines) + "}"},
	{"many parameters", "internal/a/x.go", "size", "package a; func f(a, b, c int, d, e, f string) {}"},
	{"vague name", "internal/a/util.go", "size", "package a"},

	// doc, golden
	{"undocumented function", "internal/a/x.go", "doc", "package a; func F() {}"},
	{"undocumented field", "internal/a/x.go", "doc", "package a\n// T is documented.\ntype T struct { F int }"},
	{"no package comment", "internal/a/bare.go", "doc", "package a"},
	{"no golden file", "dns/bare/x.go", "golden", "package bare"},
}

func TestCheckFindsWhatEachRuleForbids(t *testing.T) {
	for _, r := range table {
		t.Run(r.name, func(t *testing.T) {
			src := doc + r.src
			if strings.HasSuffix(r.path, "bare.go") {
				src = r.src
			}
			tree := fstest.MapFS{
				r.path:                      {Data: []byte(src)},
				"bench/go.mod":              {Data: []byte("module bench")},
				"examples/otel/go.mod":      {Data: []byte("module otel")},
				"internal/policy/x_test.go": {Data: []byte("package policy // goleak.VerifyTestMain")},
			}
			for _, dir := range []string{"", "vault/", "vault/keyring/", "ssh/", "ssh/forward/", "sftp/", "git/", "fs/", "dns/", "dns/pkarr/", "httpx/", "peer/", "util/"} {
				tree[dir+"testdata/api.txt"] = &fstest.MapFile{}
			}
			found, err := Check(tree)
			require.NoError(t, err)
			var rules []string
			for _, f := range found {
				require.Equal(t, r.path, f.Pos.Filename)
				require.Positive(t, f.Pos.Line)
				rules = append(rules, f.Rule)
			}
			if r.rule == "" {
				require.Empty(t, found)
			} else {
				require.Equal(t, []string{r.rule}, rules, "%v", found)
			}
		})
	}
}

// A rule without a row that it finds could do nothing and nobody would know.
func TestEveryRuleHasARow(t *testing.T) {
	rows := make(map[string]bool)
	for _, r := range table {
		rows[r.rule] = true
	}
	for _, r := range rules {
		require.True(t, rows[r.name], "rule %q finds nothing in the table", r.name)
	}
}

// Each entry of the tables of names is found, not only those with a row.
func TestEveryConfinedModuleIsFound(t *testing.T) {
	for _, c := range confined {
		t.Run(c.path, func(t *testing.T) {
			src := doc + "package call\nimport xssh \"" + c.path + "/x\""
			found, err := Check(fstest.MapFS{"call/x.go": {Data: []byte(src)}, "call/testdata/api.txt": {}})
			require.NoError(t, err)
			require.NotEmpty(t, found)
			require.Equal(t, "dependencies", found[0].Rule)
		})
	}
}

func TestFindingPrintsPlaceAndRule(t *testing.T) {
	found, err := Check(fstest.MapFS{"internal/a/x.go": {Data: []byte(doc + "package a\n\nfunc init() {}\n")}})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, "internal/a/x.go:4: init: no init function: nothing happens on import", found[0].String())
}

func TestFuzzTargetsAndTests(t *testing.T) {
	tree := fstest.MapFS{
		"x_test.go":            {Data: []byte("package alknet; func FuzzA() {}; func TestB() {}; func TestMain() {}; type s int; func (s) TestC() {}")},
		"internal/a/y_test.go": {Data: []byte("package a_test; func FuzzD() {}")},
		"internal/a/y.go":      {Data: []byte("package a; func FuzzE() {}")},
		"bench/go.mod":         {},
		"bench/y_test.go":      {Data: []byte("package bench; func FuzzF() {}")},
		"testdata/z_test.go":   {Data: []byte("not Go")},
	}
	fuzz, err := FuzzTargets(tree)
	require.NoError(t, err)
	require.Equal(t, []string{"..FuzzA", "internal/a.FuzzD"}, fuzz)
	tests, err := Tests(tree)
	require.NoError(t, err)
	require.Equal(t, []string{"..TestB"}, tests)
}

func TestConstants(t *testing.T) {
	list, err := Constants(fstest.MapFS{
		"dns/a.go":        {Data: []byte("package dns; const ALPN = \"dot\"; const ( ALPNQUIC, B = \"doq\", 1; alpn = \"x\" )")},
		"dns/a_test.go":   {Data: []byte("package dns; const ALPNTest = \"t\"")},
		"internal/b/b.go": {Data: []byte("package b; const ALPN = \"b\"")},
		"cmd/c/c.go":      {Data: []byte("package main; const ALPN = \"c\"")},
		"msg/d.go":        {Data: []byte("package msg; const ALPN = prefix + \"d\"")},
	}, "ALPN")
	require.NoError(t, err)
	require.Equal(t, []Constant{{"dns", "ALPN", "dot"}, {"dns", "ALPNQUIC", "doq"}, {"msg", "ALPN", ""}}, list)
}

func TestCheckReportsWhatDoesNotParse(t *testing.T) {
	_, err := Check(fstest.MapFS{"x.go": {Data: []byte("package")}})
	require.ErrorContains(t, err, "policy: x.go:1:8")
}
