// Package testenv finds the programs that judge our work: OpenSSH, git, curl
// and others. It is for tests only. A test that needs one begins with
//
//	dig := testenv.Tool(t, "dig")
//
// and is skipped where it is absent, except where ALKNET_REQUIRE_TOOLS=1 says
// that all of them are there. Every tool is named in tools.txt with its package.
package testenv

import (
	_ "embed" // tools.txt
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// requireTools is the environment variable that makes an absent tool a failure.
const requireTools = "ALKNET_REQUIRE_TOOLS"

// waitDelay is how long the output of a program that was killed may stay open,
// because a child of its own has it.
const waitDelay = 5 * time.Second

// list is the text of tools.txt: lines "tool package"; a # begins a comment.
//
//go:embed tools.txt
var list string

// Tool returns the path of a program. It skips the test with the name of the
// Debian package if the program is absent, or fails it if the environment says
// ALKNET_REQUIRE_TOOLS=1. A tool that is not in tools.txt fails the test always,
// so that the list stays whole.
//
// "python3:mnemonic" is a package without a program: the path is python3's, which
// has the module.
func Tool(t testing.TB, name string) string {
	t.Helper()
	program, module, isModule := strings.Cut(name, ":")
	pkg, listed := packageOf(list, name)
	if !listed {
		t.Fatalf("testenv: %s is not in internal/testenv/tools.txt", name)
	}
	path, err := exec.LookPath(program)
	if err == nil && isModule {
		path, err = withModule(t, program, module)
	}
	if err == nil {
		return path
	}
	if os.Getenv(requireTools) == "1" {
		t.Fatalf("testenv: %s is absent and %s=1: install the package %s", name, requireTools, pkg)
	}
	t.Skipf("%s is absent: install the package %s to run this test", name, pkg)
	return ""
}

// withModule returns the first program of a name on PATH that has a module: the
// system's may stand behind another one, which sees other packages.
func withModule(t testing.TB, program, module string) (path string, err error) {
	err = exec.ErrNotFound
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path = filepath.Join(dir, program)
		if _, lookErr := exec.LookPath(path); lookErr != nil || dir == "" {
			continue
		}
		if err = exec.CommandContext(t.Context(), path, "-c", "import "+module).Run(); err == nil {
			return path, nil
		}
	}
	return "", err
}

// packageOf returns the package of a tool in a list like tools.txt.
func packageOf(list, name string) (pkg string, listed bool) {
	for line := range strings.Lines(list) {
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == name {
			return fields[1], true
		}
	}
	return "", false
}

// Command is the command of a tool, which [Tool] finds. It is killed when the
// test is about to end, or when t's context ends before; what a test has
// started with Start is waited for then, unless it was. Where the system has
// process groups, the children that the tool started die with it.
func Command(t testing.TB, tool string, args ...string) *exec.Cmd {
	t.Helper()
	return bind(t, exec.CommandContext(t.Context(), Tool(t, tool), args...))
}

// bind makes a command end with t.
func bind(t testing.TB, cmd *exec.Cmd) *exec.Cmd {
	group(cmd)
	cmd.WaitDelay = waitDelay
	t.Cleanup(func() { // t.Context() has just ended, and Cancel kills
		if cmd.Process != nil && cmd.ProcessState == nil {
			_ = cmd.Wait() // the test did not ask how it ends
		}
	})
	return cmd
}
