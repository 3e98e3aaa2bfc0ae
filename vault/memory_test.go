//go:build linux

package vault

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// scan counts how often each needle is in the memory of another process.
func scan(t *testing.T, pid int, needles map[string][]byte) map[string]int {
	t.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Skip(err)
	}
	defer mem.Close()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	require.NoError(t, err)
	found := make(map[string]int)
	total := 0
	for line := range strings.Lines(string(maps)) {
		if !strings.Contains(line, " rw") || strings.Contains(line, "[v") {
			continue
		}
		var from, to int64
		_, err := fmt.Sscanf(line, "%x-%x", &from, &to)
		require.NoError(t, err)
		data, err := io.ReadAll(io.NewSectionReader(mem, from, to-from))
		if err != nil && len(data) == 0 {
			continue
		}
		total += len(data)
		for name, needle := range needles {
			found[name] += bytes.Count(data, needle)
		}
	}
	require.Greater(t, total, 1<<20, "the memory was read")
	return found
}

// TestMemoryAfterLock looks into the memory of a process that has used a vault:
// before the lock, where the seed and keys must be found, and after it.
//
// The plain build wipes what our own code holds; the standard library's hashes
// keep copies until the collector overwrites them, and what is left is logged.
// A build with GOEXPERIMENT=runtimesecret must leave nothing.
func TestMemoryAfterLock(t *testing.T) {
	alone(t)
	r := random(t)
	seed := randomBytes(r, seedBytes)
	needles := map[string][]byte{"seed": seed[:32], "seed's end": seed[32:]}
	for _, path := range []string{"m/74'/0'/0'/0'", "m/74'/0'/0'/1'", "m/74'/2'/0'/0'", "m/74'/4'/0'"} {
		key, _ := nodeHex(t, seed, path)
		needles[path] = unhex(t, key)
	}
	require.Len(t, ed25519.NewKeyFromSeed(needles["m/74'/0'/0'/0'"]), ed25519.PrivateKeySize)

	cmd := exec.CommandContext(t.Context(), must(os.Executable()), "")
	cmd.Env = append(os.Environ(), helperJob+"=memory")
	in, out := must(cmd.StdinPipe()), must(cmd.StdoutPipe())
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(out)
	say := func(text []byte, want string) {
		t.Helper()
		must(in.Write(text))
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, want+"\n", line)
	}
	say(seed, "unlocked")
	before := scan(t, cmd.Process.Pid, needles)
	for name := range needles {
		require.NotZero(t, before[name], "the search finds %s while it is there", name)
	}
	say([]byte("\n"), "locked")
	after := scan(t, cmd.Process.Pid, needles)
	t.Logf("runtimesecret %v: unlocked %v, locked %v", runtimeSecret, before, after)
	for name, n := range after {
		if runtimeSecret {
			require.Zero(t, n, "%s is left", name)
		} else {
			require.Less(t, n, before[name], "%s: seed page and cache are wiped", name)
		}
	}
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
}

// TestPageIsWiped, the seed's and the cache's, before it is given back.
func TestPageIsWiped(t *testing.T) {
	var seed [seedBytes]byte
	copy(seed[:], randomBytes(random(t), seedBytes))
	text := hex.EncodeToString(seed[:])
	s := newSession(&seed, time.Hour) // the cache is left alone
	require.True(t, hex.EncodeToString(s.page.seed()) == text)
	require.NoError(t, s.derived(place{identityPath, 0}, formEd25519, func([]byte) error { return nil }))
	p := *s.page
	unmapped := &page{bytes: p.bytes} // wiped, but not given back
	s.page.mapped, s.page.bytes = false, p.bytes
	s.end()
	require.Equal(t, make([]byte, pageBytes), unmapped.bytes())
	p.free()
}

// TestStatusSaysWhatHoldsNow: memory that could be locked when the vault was made
// and cannot be now is in Status, and in one event.
func TestStatusSaysWhatHoldsNow(t *testing.T) {
	if !inMemoryVault(t, nil).Status().Mlock {
		t.Skip("memory cannot be locked here")
	}
	cmd := exec.CommandContext(t.Context(), must(os.Executable()), "")
	cmd.Env = append(os.Environ(), helperJob+"=mlock")
	out, err := cmd.Output()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "true 0\nfalse 1\nfalse 1\n", string(out))
}

// helpMlock unlocks a vault before and after its process may lock memory.
func helpMlock(string, []string) error {
	warnings := 0
	v, err := New(aboutPhrase(), Secret{}, &Options{Events: func(e Event) {
		if e.Kind == eventWarning {
			warnings++
		}
	}})
	if err != nil {
		return err
	}
	defer v.Close()
	fmt.Println(v.Status().Mlock, warnings)
	var none [2]unix.CapUserData
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{}); err != nil {
		return err
	}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil { // of this thread
		return err
	}
	for range 2 {
		v.Lock()
		if err := v.UnlockPhrase(aboutPhrase(), Secret{}); err != nil {
			return err
		}
		fmt.Println(v.Status().Mlock, warnings)
	}
	return nil
}

// TestStatusSaysWhatProtectsMemory on this machine.
func TestStatusSaysWhatProtectsMemory(t *testing.T) {
	p := newPage()
	defer p.free()
	st := inMemoryVault(t, nil).Status()
	require.Equal(t, p.mlock, st.Mlock)
	require.Equal(t, p.noDump, st.NoDump)
	require.Equal(t, runtimeSecret, st.RuntimeSecret)
	if !p.mlock {
		return
	}
	addr := fmt.Sprintf("%p", &p.bytes()[0])
	smaps := string(must(os.ReadFile("/proc/self/smaps")))
	_, mapping, found := strings.Cut(smaps, "\n"+strings.TrimPrefix(addr, "0x"))
	require.True(t, found)
	flags, _, _ := strings.Cut(mapping[strings.Index(mapping, "VmFlags:"):], "\n")
	require.Contains(t, flags, " lo", "locked")
	require.Contains(t, flags, " dd", "not dumped")
}
