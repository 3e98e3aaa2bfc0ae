//go:build linux

package durable

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet/internal/testenv"
)

// helper is the environment variable that makes this program a victim: its
// value is the folder to write in.
const helper = "ALKNET_DURABLE_HELPER"

// versions is how often a victim writes.
const versions = 4

func TestMain(m *testing.M) {
	if dir := os.Getenv(helper); dir != "" {
		runtime.LockOSThread() // strace counts the calls of each thread
		if err := victim(dir, os.Args[1]); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// victim writes version after version and says so on standard output, each time
// that WriteFile returned. After an error it goes on once and then ends with it.
func victim(name, job string) error {
	dir, err := os.OpenRoot(name)
	if err != nil {
		return err
	}
	if _, err := Lock(dir, "lock"); err != nil {
		return err
	}
	if job == "hold" {
		fmt.Println("held")
		_, err := io.Copy(io.Discard, os.Stdin) // until it is killed
		return err
	}
	var failed error
	for n := 1; n <= versions; n++ {
		if err := WriteFile(dir, "file", content(n), 0o600); err != nil {
			failed = errors.Join(failed, err)
			fmt.Println("failed", n)
			continue
		}
		fmt.Println("wrote", n)
	}
	return failed
}

// run runs a victim under strace with an injected fault, in a folder that has
// version 0, and returns the last version that it reported as written, whether
// one failed, and the folder.
func run(t *testing.T, fault string) (acked int, failed bool, dir *os.Root) {
	t.Helper()
	dir = openRoot(t)
	require.NoError(t, WriteFile(dir, "file", content(0), 0o600))
	self, err := os.Executable()
	require.NoError(t, err)
	call, _, _ := strings.Cut(fault, ":")
	cmd := testenv.Command(t, "strace", "-f", "-qq", "-o", os.DevNull, "-e", "trace="+call, "-e", "inject="+fault, self, "write")
	cmd.Env = append(os.Environ(), helper+"="+dir.Name())
	out, err := cmd.Output()
	if err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		require.True(t, ok, "%v", err)
		if strings.Contains(string(exit.Stderr), "ptrace") {
			t.Skipf("tracing is not allowed here: %s", exit.Stderr)
		}
	}
	for line := range strings.Lines(string(out)) {
		if text, found := strings.CutPrefix(strings.TrimSpace(line), "wrote "); found {
			acked, err = strconv.Atoi(text)
			require.NoError(t, err)
		}
		failed = failed || strings.HasPrefix(line, "failed ")
	}
	return acked, failed, dir
}

// requireWhole checks what a fault left: the last version that was reported or
// the one after it, and a folder in which work goes on.
func requireWhole(t *testing.T, dir *os.Root, acked int) {
	t.Helper()
	got, err := dir.ReadFile("file")
	require.NoError(t, err)
	n := version(t, got)
	require.GreaterOrEqual(t, n, acked, "a version that was reported is lost")
	require.LessOrEqual(t, n, acked+1)
	unlock, err := Lock(dir, "lock")
	require.NoError(t, err, "the lock ended with its process")
	defer unlock()
	require.NoError(t, WriteFile(dir, "file", content(100), 0o600))
	got, err = dir.ReadFile("file")
	require.NoError(t, err)
	require.Equal(t, 100, version(t, got))
}

// TestWriteFileSurvivesKills kills a writer at every call that matters.
func TestWriteFileSurvivesKills(t *testing.T) {
	testenv.Tool(t, "strace")
	killed := 0
	for call, perWrite := range map[string]int{"fsync": 2, "renameat": 1, "renameat2": 1, "write": 2, "openat": 2} {
		for at := 1; at <= perWrite*versions; at++ {
			if testing.Short() && at > perWrite {
				break
			}
			acked, failed, dir := run(t, fmt.Sprintf("%s:signal=SIGKILL:when=%d", call, at))
			require.False(t, failed)
			if acked < versions {
				killed++
			}
			requireWhole(t, dir, acked)
			dir.Close()
		}
	}
	require.NotZero(t, killed, "the faults were injected")
}

// TestWriteFileFailsCleanly makes calls fail: the old content stays, no
// temporary file does, and a failure is not reported as success.
func TestWriteFileFailsCleanly(t *testing.T) {
	testenv.Tool(t, "strace")
	tests := []struct {
		fault string
		kept  int // the version that is in place when only the last write failed
	}{
		{"fsync:error=EIO:when=%d", versions - 1},
		{"fsync:error=ENOSPC:when=%d", versions - 1},
		{"renameat:error=EIO:when=%d", versions - 1},
	}
	for _, tt := range tests {
		t.Run(tt.fault, func(t *testing.T) {
			last := versions // renames; of the syncs the first of a write
			if strings.HasPrefix(tt.fault, "fsync") {
				last = 2*versions - 1
			}
			acked, failed, dir := run(t, fmt.Sprintf(tt.fault, last))
			require.True(t, failed)
			require.Equal(t, tt.kept, acked)
			got, err := dir.ReadFile("file")
			require.NoError(t, err)
			require.Equal(t, tt.kept, version(t, got))
			require.Empty(t, temps(t, dir))
			requireWhole(t, dir, acked)
		})
	}
	acked, failed, dir := run(t, fmt.Sprintf("fsync:error=EIO:when=%d", 2*versions))
	require.True(t, failed, "the folder was not synced")
	require.Equal(t, versions-1, acked)
	requireWhole(t, dir, acked)
}

func TestLockNamesAnotherProcessAndEndsWithIt(t *testing.T) {
	dir := openRoot(t)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, "hold")
	cmd.Env = append(os.Environ(), helper+"="+dir.Name())
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)

	_, err = Lock(dir, "lock")
	require.ErrorIs(t, err, ErrLocked)
	require.Contains(t, err.Error(), "by process "+strconv.Itoa(cmd.Process.Pid))
	require.FileExists(t, filepath.Join(dir.Name(), "lock"))

	require.NoError(t, cmd.Process.Kill())
	require.EqualError(t, cmd.Wait(), "signal: killed")
	unlock, err := Lock(dir, "lock")
	require.NoError(t, err, "a killed process holds nothing")
	unlock()
}
