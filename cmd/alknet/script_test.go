package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/call/schema"
	"github.com/alkdev/alknet/cmd/alknet/internal/cli"
	"github.com/alkdev/alknet/internal/testenv"
)

// judged are the names of the schemas by which a story has judged a real output.
var judged sync.Map

// schemas is where the schemas are.
var schemas = func() string {
	dir, err := filepath.Abs(filepath.Join("..", "..", "docs", "cli", "schema"))
	if err != nil {
		panic(err)
	}
	return dir
}()

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"alknet": main}) }

// TestScript runs the stories of testdata/script, which are the manual of the
// program too.
func TestScript(t *testing.T) {
	t.Cleanup(func() { schemasAreUsed(t) }) // when all of them have ended
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":      code,
			"ready":     ready,
			"document":  document,
			"until":     until,
			"web":       web,
			"replace":   replace,
			"fetch":     fetch,
			"setvar":    setvar,
			"listeners": listeners,
		},
	})
}

// schemasAreUsed: each schema has judged a real output of a story.
func schemasAreUsed(t *testing.T) {
	if f := flag.Lookup("test.run"); testing.Short() || f != nil && f.Value.String() != "" {
		return // not all stories ran
	}
	for _, d := range cli.Documents() {
		_, ok := judged.Load(d.Name)
		require.True(t, ok, "no story judges a document by %s.json", d.Name)
	}
}

// TestScriptTools makes sure that no story is skipped where all tools have to be
// there.
func TestScriptTools(t *testing.T) {
	for _, name := range []string{"ssh", "scp", "rsync", "curl", "python3", "strace"} {
		t.Run(name, func(t *testing.T) { testenv.Tool(t, name) })
	}
}

func setup(e *testscript.Env) error {
	home := filepath.Join(e.WorkDir, "home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	e.Setenv("HOME", home)
	e.Setenv("NO_COLOR", "1")
	e.Setenv("LANG", "C.UTF-8")
	return nil
}

// code runs a program and wants an exit status: code 4 alknet config check.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code STATUS PROGRAM [ARG]...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// ready waits until the node of a folder serves: ready DIR.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready DIR")
	}
	ts.Check(ts.Exec("alknet", "--dir", args[0], "--timeout", patience.String(), "status", "--wait", "ready"))
}

// document judges the last standard output by a schema of docs/cli/schema, each line
// for itself: document NAME. document -stderr NAME judges standard error.
func document(ts *testscript.TestScript, neg bool, args []string) {
	from := "stdout"
	if len(args) == 2 && args[0] == "-stderr" {
		from, args = "stderr", args[1:]
	}
	if neg || len(args) != 1 {
		ts.Fatalf("usage: document [-stderr] NAME")
	}
	text, err := os.ReadFile(filepath.Join(schemas, args[0]+".json"))
	ts.Check(err)
	check, err := schema.Check(text)
	ts.Check(err)
	lines := 0
	for line := range strings.Lines(ts.ReadFile(from)) {
		lines++
		if err := check([]byte(line)); err != nil {
			ts.Fatalf("not a document %q: %v: %s", args[0], err, line)
		}
	}
	if lines == 0 {
		ts.Fatalf("there is no document")
	}
	judged.Store(args[0], true)
}

// until runs a line of sh until it succeeds: until LINE.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: until LINE")
	}
	end := time.Now().Add(patience)
	for tick := time.NewTicker(50 * time.Millisecond); ; <-tick.C {
		if ts.Exec("sh", "-c", args[0]) == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("not within %v: %s", patience, args[0])
		}
	}
}

// patience is how long a story waits for something that has to come; it ends with
// that, and is only so long where something is wrong.
const patience = 2 * time.Minute

// web starts a web server on loopback and puts its address into a variable:
// web ADDR TEXT.
func web(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: web VARIABLE TEXT")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, args[1]) })}
	go func() { _ = srv.Serve(l) }()
	ts.Defer(func() { _ = srv.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

// replace edits a file: replace FILE OLD NEW.
func replace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: replace FILE OLD NEW")
	}
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	unquote := strings.NewReplacer(`\n`, "\n")
	old := unquote.Replace(args[1])
	if !bytes.Contains(b, []byte(old)) {
		ts.Fatalf("%s does not contain %q", args[0], old)
	}
	ts.Check(os.WriteFile(path, bytes.ReplaceAll(b, []byte(old), []byte(unquote.Replace(args[2]))), 0o600))
}

// fetch gets a page until it has a text: fetch URL TEXT [PROXY].
func fetch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fetch URL TEXT [PROXY]")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var last string
	for tick := time.NewTicker(50 * time.Millisecond); ; <-tick.C {
		curl := []string{"-sS", "--noproxy", "", "--max-time", "5", args[0]}
		if len(args) == 3 {
			curl = append(curl, "--proxy", args[2])
		}
		out, err := exec.CommandContext(ctx, "curl", curl...).CombinedOutput()
		if last = string(out); err == nil && strings.Contains(last, args[1]) {
			return
		}
		if ctx.Err() != nil {
			ts.Fatalf("%s: %v %s", args[0], err, last)
		}
	}
}

// setvar puts the first line of the last standard output into a variable.
func setvar(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: setvar VARIABLE")
	}
	line, _, _ := strings.Cut(ts.ReadFile("stdout"), "\n")
	ts.Setenv(args[0], line)
}
