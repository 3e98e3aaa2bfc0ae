//go:build linux

package pair

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/peer"
)

// helper is the environment variable that makes this program a victim: its
// value is the folder to work in.
const helper = "ALKNET_PAIR_HELPER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helper); dir != "" {
		runtime.LockOSThread() // strace counts the calls of each thread
		if err := victim(dir); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// seedKey is a key that the test and its victim both know.
func seedKey(n byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = n
	return ed25519.NewKeyFromSeed(seed)
}

func idOf(k ed25519.PrivateKey) alknet.PeerID { return alknet.PeerID(k.Public().(ed25519.PublicKey)) }

// open opens what a head keeps in a folder.
func open(dir string) (*Handler, error) {
	book, err := peer.OpenBook(filepath.Join(dir, "peers.json"))
	if err != nil {
		return nil, err
	}
	return &Handler{Book: book, Dir: dir, Head: idOf(seedKey(1)), Addrs: func() []string { return []string{"h:1"} }}, nil
}

// victim updates, invites, lets somebody join and rotates a key, and says what is
// done each time.
func victim(dir string) error {
	h, err := open(dir)
	if err != nil {
		return err
	}
	for round := range 2 {
		err := h.Book.Update(func(m map[string]peer.Peer) error {
			id := fmt.Sprintf("updated-%d", round)
			m[id] = peer.Peer{ID: id, Keys: []peer.Key{{ID: idOf(seedKey(byte(10 + round)))}}}
			return nil
		})
		if err != nil {
			return err
		}
		fmt.Println("updated", round)
		t, err := h.Invite(Invite{Peer: peer.Peer{ID: fmt.Sprintf("joined-%d", round)}})
		if err != nil {
			return err
		}
		fmt.Println("invited", round, t.Secret)
		if _, err := h.admit(hashOf(t.Secret), idOf(seedKey(byte(20+round))), &joinInput{Secret: t.Secret}); err != nil {
			return err
		}
		fmt.Println("joined", round, t.Secret)
		s, err := peer.SignSuccessor(seedKey(byte(10+round)), seedKey(byte(30+round)), time.Hour)
		if err != nil {
			return err
		}
		if err := h.Book.Succeed(s); err != nil {
			return err
		}
		fmt.Println("rotated", round)
	}
	return nil
}

// TestKillSweep kills a head at every write, sync and rename of update, invite,
// join and rotation: what it said is kept, and what it did not say is whole or
// absent.
func TestKillSweep(t *testing.T) {
	testenv.Tool(t, "strace")
	self, err := os.Executable()
	require.NoError(t, err)
	killed := 0
	for _, fault := range []string{"fsync", "renameat", "write", "openat"} {
		for at := 1; ; at++ {
			if (testing.Short() || raceOn) && at%4 != 1 {
				at++ // half of them
			}
			dir := t.TempDir()
			cmd := testenv.Command(t, "strace", "-f", "-qq", "-o", os.DevNull, "-e", "trace="+fault,
				"-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", fault, at), self)
			cmd.Env = append(os.Environ(), helper+"="+dir)
			out, err := cmd.Output()
			if exit, ok := errors.AsType[*exec.ExitError](err); ok && strings.Contains(string(exit.Stderr), "ptrace") {
				t.Skipf("tracing is not allowed here: %s", exit.Stderr)
			}
			require.NotContains(t, string(out), "error")
			requireKept(t, dir, string(out))
			if strings.Contains(string(out), "rotated 1") {
				break // the fault was not reached
			}
			killed++
		}
	}
	t.Logf("killed %d times", killed)
	require.Greater(t, killed, 8, "the faults were injected")
}

// requireKept judges what a killed head left, and that it can be started again.
func requireKept(t *testing.T, dir, said string) {
	t.Helper()
	h, err := open(dir)
	require.NoError(t, err, "restart without repair")
	defer h.Book.Close()
	for line := range strings.Lines(said) {
		var what, secret string
		var round int
		_, _ = fmt.Sscan(line, &what, &round, &secret) // some have no secret
		switch what {
		case "updated":
			_, ok := h.Book.Get(fmt.Sprintf("updated-%d", round))
			require.True(t, ok, line)
		case "invited":
			key := idOf(seedKey(byte(20 + round)))
			p, err := h.admit(hashOf(secret), key, &joinInput{Secret: secret})
			require.NoError(t, err, "the joiner finishes it: %s", line)
			require.Equal(t, fmt.Sprintf("joined-%d", round), p.ID)
			require.Equal(t, []peer.Key{{ID: key}}, p.Keys)
			_, err = h.admit(hashOf(secret), idOf(seedKey(99)), &joinInput{Secret: secret})
			require.Error(t, err, "and nobody else")
		case "joined":
			p, ok := h.Book.Get(fmt.Sprintf("joined-%d", round))
			require.True(t, ok, line)
			require.Len(t, p.Keys, 1)
		case "rotated":
			p, ok := h.Book.Get(fmt.Sprintf("updated-%d", round))
			require.True(t, ok)
			require.Len(t, p.Keys, 2, line)
		}
	}
	for _, p := range h.Book.Peers() {
		require.NotEmpty(t, p.Keys, "no half entry: %s", p.ID)
	}
}
