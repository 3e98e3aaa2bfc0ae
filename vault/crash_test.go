//go:build linux

package vault

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/testenv"
)

// maxPoints is the most calls of one kind that a change makes; every victim is
// done before.
const maxPoints = 40

// A victim is what became of a process with an injected fault.
type victim struct {
	begun, done, failed, killed bool
	sees                        string
}

// inject runs a job under strace with a fault: "fsync:signal=SIGKILL:when=3".
func inject(t *testing.T, fault, job string, args ...string) victim {
	t.Helper()
	self := must(os.Executable())
	call, _, _ := strings.Cut(fault, ":")
	cmd := testenv.Command(t, "strace", append([]string{"-f", "-qq", "-o", os.DevNull, "-e", "trace=" + call, "-e", "inject=" + fault, self}, args...)...)
	cmd.Env = append(os.Environ(), helperJob+"="+job)
	out, err := cmd.Output()
	v := victim{killed: err != nil}
	if err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		require.True(t, ok, "%v", err)
		if strings.Contains(string(exit.Stderr), "ptrace") {
			t.Skipf("tracing is not allowed here: %s", exit.Stderr)
		}
	}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		v.begun = v.begun || line == "begin"
		v.done = v.done || line == "done"
		v.failed = v.failed || strings.HasPrefix(line, "failed") || strings.HasPrefix(line, "error")
		if sees, ok := strings.CutPrefix(line, "sees "); ok {
			v.sees = sees
		}
	}
	return v
}

// mutators are the calls by which a folder changes.
var mutators = []string{"fsync", "renameat", "renameat2", "write", "openat", "linkat", "unlinkat", "pwrite64", "mkdirat"}

// sweep runs a job that is killed at each call that could matter, and checks
// what it leaves each time.
func sweep(t *testing.T, job string, prepare func() []string, check func(v victim)) {
	t.Helper()
	alone(t)
	testenv.Tool(t, "strace")
	kills := 0
	for _, call := range mutators {
		for at := 1; ; at++ {
			require.Less(t, at, maxPoints, call)
			v := inject(t, fmt.Sprintf("%s:signal=SIGKILL:when=%d", call, at), job, prepare()...)
			if !v.killed {
				require.True(t, v.done, "%s %s %d: %+v", job, call, at, v)
				break
			}
			kills++
			check(v)
			if testing.Short() && at > 1 {
				break
			}
		}
	}
	require.Greater(t, kills, 6, "the faults were injected")
	t.Logf("%s: killed at %d points", job, kills)
}

// seen opens a folder after a crash, and requires that work goes on in it.
func seen(t *testing.T, dir string) string {
	t.Helper()
	v, err := tryFolder(t, dir, nil)
	require.NoError(t, err)
	defer v.Close()
	line := look(v)
	require.NoError(t, v.Put("more", "x", secret("new")))
	for _, d := range []string{dir, filepath.Join(dir, slotsName)} {
		for _, e := range must(os.ReadDir(d)) {
			require.False(t, strings.HasPrefix(e.Name(), tempStart), "a temporary file is left")
		}
	}
	return line
}

// TestChangesSurviveKills: kill -9 at every fsync, rename, write and open leaves
// the old content or the new, and what was reported as done stays.
func TestChangesSurviveKills(t *testing.T) {
	template := filled(t)
	const before = "index 0 version 2 github 2 old gitlab 2 ?"
	for job, after := range map[string][]string{
		"put":      {"index 0 version 2 github 2 new gitlab 2 ?"},
		"delete":   {"index 0 version 2 gitlab 2 ?"},
		"rotate":   {"index 0 version 3 github 3 old gitlab 3 ?", "index 0 version 3 github 2 old gitlab 2 ?"},
		"identity": {"index 1 version 2 github 2 old gitlab 2 ?"},
	} {
		t.Run(job, func(t *testing.T) {
			var dir string
			prepare := func() []string {
				dir = copyFolder(t, template)
				return []string{dir}
			}
			sweep(t, job, prepare, func(v victim) {
				line := seen(t, dir)
				if v.done {
					require.Equal(t, after[0], line, "what was reported is there")
				} else {
					require.Contains(t, append(after, before), line)
				}
			})
		})
	}
}

func TestCreateSurvivesKills(t *testing.T) {
	var dir string
	prepare := func() []string {
		dir = filepath.Join(t.TempDir(), "v")
		return []string{dir}
	}
	sweep(t, "create", prepare, func(v victim) {
		_, err := Inspect(dir)
		if err != nil {
			require.False(t, v.done)
			require.ErrorIs(t, err, ErrNotFound)
			made, err := Create(dir, phrase(t, about), Secret{}, nil)
			require.NoError(t, err, "it can be made again")
			require.NoError(t, made.Close())
		}
		seen(t, dir)
	})
}

// TestSaveSurvivesKills: a folder is whole, or it opens to nobody and can be made
// again; the vault in memory is lost with its process either way.
func TestSaveSurvivesKills(t *testing.T) {
	device := must(age25519())
	var dir string
	prepare := func() []string {
		dir = filepath.Join(t.TempDir(), "v")
		return []string{dir, device.Recipient().String()}
	}
	whole := 0
	sweep(t, "save", prepare, func(victim victim) {
		v, err := Open(dir, nil)
		if err == nil {
			err = errors.Join(v.Unlock(t.Context(), device))
			defer v.Close()
		}
		if err != nil {
			require.False(t, victim.done)
			require.ErrorIs(t, err, ErrNotFound, "what is missing is vault.json")
			if v != nil {
				require.ErrorIs(t, v.UnlockPhrase(phrase(t, about), Secret{}), ErrNotFound)
				require.NoError(t, v.Close())
			}
			require.NoError(t, os.RemoveAll(dir))
			again := must(savable())
			require.NoError(t, again.Save(dir, device.Recipient()))
			require.NoError(t, again.Close())
			v = must(Open(dir, nil))
			defer v.Close()
			require.NoError(t, v.Unlock(t.Context(), device))
		} else {
			whole++
		}
		require.Equal(t, "index 0 version 2 github 2 old gitlab 2 new", look(v))
	})
	require.NotZero(t, whole, "killed after the last rename")
}

// TestSealSurvivesKills: a slot that is replaced opens with the old key or the
// new one.
func TestSealSurvivesKills(t *testing.T) {
	v, template := folderVault(t, nil)
	old, next := must(age25519()), must(age25519())
	require.NoError(t, v.Seal("device", old.Recipient()))
	require.NoError(t, v.Close())
	var dir string
	prepare := func() []string {
		dir = copyFolder(t, template)
		return []string{dir, next.Recipient().String()}
	}
	sweep(t, "seal", prepare, func(victim victim) {
		v, err := Open(dir, nil)
		require.NoError(t, err)
		err = v.Unlock(t.Context(), next)
		if err != nil {
			require.False(t, victim.done)
			require.ErrorIs(t, err, ErrNoSlot)
			err = v.Unlock(t.Context(), old)
		}
		require.NoError(t, err)
		require.NoError(t, v.Close())
		seen(t, dir)
	})
}

// TestDiskErrorsFailTheChange: an error of the disk is reported, and what the
// process then sees is what the folder holds.
func TestDiskErrorsFailTheChange(t *testing.T) {
	alone(t)
	testenv.Tool(t, "strace")
	template := filled(t)
	failures := 0
	// Each file that is written is synced, and its folder after it.
	for job, syncs := range map[string]int{"put": 4, "rotate": 6, "identity": 2} {
		for _, fault := range []string{"fsync:error=EIO", "fsync:error=ENOSPC", "renameat:error=EIO", "renameat2:error=EIO", "linkat:error=EPERM"} {
			for at := 1; ; at++ {
				require.Less(t, at, maxPoints)
				dir := copyFolder(t, template)
				v := inject(t, fmt.Sprintf("%s:when=%d", fault, at), job, dir)
				if !v.failed && !strings.HasPrefix(fault, "linkat") {
					if strings.HasPrefix(fault, "fsync") {
						require.Equal(t, syncs, at-1, "%s: syncs", job)
					}
					break
				}
				require.False(t, v.killed)
				require.NotEqual(t, v.done, v.failed)
				require.Equal(t, v.sees, seen(t, dir), "%s %s %d", job, fault, at)
				if v.done {
					break // without links
				}
				failures++
				if testing.Short() {
					break
				}
			}
		}
	}
	require.Greater(t, failures, 5)
}

func TestSecondProcessIsErrInUse(t *testing.T) {
	dir := filled(t)
	cmd := exec.CommandContext(t.Context(), must(os.Executable()), dir)
	cmd.Env = append(os.Environ(), helperJob+"=hold")
	in := must(cmd.StdinPipe())
	defer in.Close()
	out := must(cmd.StdoutPipe())
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)

	_, err = Open(dir, nil)
	require.ErrorIs(t, err, ErrInUse)
	require.Contains(t, err.Error(), "by process "+strconv.Itoa(cmd.Process.Pid))
	_, err = Create(dir, phrase(t, about), Secret{}, nil)
	require.ErrorIs(t, err, ErrInUse)
	st, err := Inspect(dir)
	require.NoError(t, err, "needs no lock")
	require.Equal(t, 2, st.Secrets)

	require.NoError(t, cmd.Process.Kill())
	require.EqualError(t, cmd.Wait(), "signal: killed")
	v := reopen(t, dir, nil)
	_, err = Open(dir, nil)
	require.ErrorIs(t, err, ErrInUse, "in one process too")
	require.NoError(t, v.Close())
	v, err = Open(dir, nil)
	require.NoError(t, err)
	require.NoError(t, v.Close())
}

// TestAnotherProcessUnlocksByCredential: an unattended start.
func TestAnotherProcessUnlocksByCredential(t *testing.T) {
	dir := filled(t)
	for credential, want := range map[string]string{
		"pw\n":    "e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc\n",
		"wrong\n": "error vault: no slot opens\n",
	} {
		cmd := exec.CommandContext(t.Context(), must(os.Executable()), dir)
		cmd.Env = append(os.Environ(), helperJob+"=unlock")
		cmd.Stdin = strings.NewReader(credential)
		out, _ := cmd.Output()
		require.Equal(t, want, string(out))
	}
}
