//go:build unix

package testenv

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A verdict is a test that writes down how it ended.
type verdict struct {
	testing.TB // panics on what is not overridden
	ctx        context.Context
	cleanups   []func()
	fatal      string
	skip       string
}

func (v *verdict) Helper()                  {}
func (v *verdict) Context() context.Context { return v.ctx }
func (v *verdict) Cleanup(f func())         { v.cleanups = append(v.cleanups, f) }

func (v *verdict) Fatalf(format string, args ...any) {
	v.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (v *verdict) Skipf(format string, args ...any) {
	v.skip = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// judge runs f as a test of its own, to the end.
func judge(t *testing.T, f func(v *verdict)) *verdict {
	ctx, cancel := context.WithCancel(t.Context())
	v := &verdict{ctx: ctx}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			cancel()
			for _, c := range slices.Backward(v.cleanups) {
				c()
			}
		}()
		f(v)
	}()
	<-done
	return v
}

// program makes a shell script the only thing on PATH, with that name.
func program(t *testing.T, name, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755))
	t.Setenv("PATH", filepath.Dir(path))
	return path
}

func TestToolIsFoundOnPath(t *testing.T) {
	t.Setenv(requireTools, "1")
	want := program(t, "curl", "exit 0")
	var got string
	v := judge(t, func(v *verdict) { got = Tool(v, "curl") })
	require.Empty(t, v.skip+v.fatal)
	require.Equal(t, want, got)
}

func TestToolAbsentSkipsAndNamesThePackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(requireTools, "")
	v := judge(t, func(v *verdict) { Tool(v, "gtlsclient") })
	require.Empty(t, v.fatal)
	require.Contains(t, v.skip, "gtlsclient")
	require.Contains(t, v.skip, "ngtcp2-client")
}

func TestToolAbsentFailsWhereAllAreRequired(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(requireTools, "1")
	v := judge(t, func(v *verdict) { Tool(v, "gtlsclient") })
	require.Empty(t, v.skip)
	require.Contains(t, v.fatal, "ngtcp2-client")
}

func TestToolThatIsNotListedFailsAlways(t *testing.T) {
	for _, name := range []string{"true", "curl:x", "python3:os", "#", ""} {
		t.Setenv(requireTools, "")
		v := judge(t, func(v *verdict) { Tool(v, name) })
		require.Empty(t, v.skip, name)
		require.Contains(t, v.fatal, "tools.txt", name)
	}
}

func TestToolOfAPythonModule(t *testing.T) {
	t.Setenv(requireTools, "")
	want := program(t, "python3", `[ "$2" = "import mnemonic" ]`)
	var got string
	v := judge(t, func(v *verdict) { got = Tool(v, "python3:mnemonic") })
	require.Empty(t, v.skip+v.fatal)
	require.Equal(t, want, got)

	program(t, "python3", "exit 1")
	v = judge(t, func(v *verdict) { Tool(v, "python3:mnemonic") })
	require.Contains(t, v.skip, "python3-mnemonic", "the module is absent")

	without := program(t, "python3", "exit 1")
	want = program(t, "python3", "exit 0")
	t.Setenv("PATH", filepath.Dir(without)+string(filepath.ListSeparator)+filepath.Dir(want))
	v = judge(t, func(v *verdict) { got = Tool(v, "python3:mnemonic") })
	require.Empty(t, v.skip+v.fatal)
	require.Equal(t, want, got, "the first on the PATH lacks the module")
}

func TestToolsListIsWellFormed(t *testing.T) {
	seen := make(map[string]bool)
	for line := range strings.Lines(list) {
		text, _, _ := strings.Cut(line, "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		require.Len(t, fields, 2, "%q is no line \"tool package\"", line)
		require.False(t, seen[fields[0]], "%s is listed twice", fields[0])
		seen[fields[0]] = true
		pkg, listed := packageOf(list, fields[0])
		require.True(t, listed)
		require.Equal(t, fields[1], pkg)
	}
	require.True(t, seen["curl"])
}

// TestCommandDiesWithTheTest: neither the tool nor a child of it, which has our
// pipe open, outlives the test that started it.
func TestCommandDiesWithTheTest(t *testing.T) {
	t.Setenv(requireTools, "")
	program(t, "curl", "PATH=/usr/bin:/bin\nsleep 1000 & echo $$ $!\nwait\n")
	var leader, child int
	v := judge(t, func(v *verdict) {
		cmd := Command(v, "curl", "x")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		_, err = fmt.Sscan(line, &leader, &child)
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(child, 0), "it runs")
	})
	require.Empty(t, v.skip+v.fatal)
	require.ErrorIs(t, syscall.Kill(leader, 0), syscall.ESRCH, "it was waited for")
	for syscall.Kill(child, 0) == nil { // until whoever adopts it has seen its end
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		runtime.Gosched()
	}
}

func TestCommandThatWasWaitedFor(t *testing.T) {
	program(t, "curl", `echo "$@"`)
	v := judge(t, func(v *verdict) {
		out, err := Command(v, "curl", "a b", "$c").Output()
		require.NoError(t, err)
		require.Equal(t, "a b $c\n", string(out))
		Command(v, "curl") // is never started
	})
	require.Empty(t, v.skip+v.fatal)
}

func TestCommandKilledByItsContextSaysSo(t *testing.T) {
	program(t, "curl", "PATH=/usr/bin:/bin\nexec sleep 1000\n")
	ctx, cancel := context.WithCancel(t.Context())
	v := &verdict{ctx: ctx}
	cmd := Command(v, "curl")
	require.NoError(t, cmd.Start())
	cancel()
	require.Error(t, cmd.Wait())
	require.False(t, cmd.ProcessState.Success())
	for _, c := range v.cleanups {
		c()
	}
}
