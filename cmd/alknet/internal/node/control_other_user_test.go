//go:build unix

package node

import (
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
)

// nobody is a user that is not the node's.
const nobody = 65534

// TestControlSocketRefusesOtherUsers: a process of another user is refused although
// nothing in the file system stands in its way.
func TestControlSocketRefusesOtherUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start a process of another user: run the tests as root to test this")
	}
	dir, err := os.MkdirTemp("", "alknet-other-") // not t.TempDir: nobody may not look into that
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "program")
	copyProgram(t, program)

	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	f, problems := config.Load("alknet.toml", []byte("[node]\nlisten = []\n[call]\n"), nil)
	require.False(t, config.Fatal(problems))
	var log strings.Builder
	n, err := Start(t.Context(), Options{File: f, Signer: key, Version: "test", Log: slog.New(slog.NewTextHandler(&log, nil)),
		Places: config.Places{State: dir, Runtime: dir, Vault: filepath.Join(dir, "vault"), Control: filepath.Join(dir, "control.sock")}})
	require.NoError(t, err)
	_, socketKey, err := ControlID(n.Control())
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Chmod(n.Control(), 0o666))

	ask := func(uid uint32) string {
		cmd := exec.CommandContext(t.Context(), program, "-test.run", "^TestAskControlSocket$", "-test.v")
		cmd.Env = []string{"ALKNET_TEST_SOCKET=" + n.Control(), "ALKNET_TEST_KEY=" + socketKey.String()}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	require.Contains(t, ask(0), "the node answered", "the node's own user is let in")
	refused := ask(nobody)
	require.NotContains(t, refused, "the node answered")
	require.Contains(t, refused, "connected", "the path was open to it")
	n.Stop(true)
	require.Contains(t, log.String(), "another user's process was refused")
	require.Contains(t, log.String(), "uid=65534")
}

// TestAskControlSocket is the other process; alone it does nothing.
func TestAskControlSocket(t *testing.T) {
	socket := os.Getenv("ALKNET_TEST_SOCKET")
	if socket == "" {
		t.Skip("a part of TestControlSocketRefusesOtherUsers")
	}
	key, err := alknet.ParsePeerID(os.Getenv("ALKNET_TEST_KEY"))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	nc, err := net.Dial("unix", socket)
	if err != nil {
		t.Log("no way:", err)
		return
	}
	t.Log("connected")
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Anonymous: true})
	require.NoError(t, err)
	defer ep.Close()
	conn, err := ep.DialConn(ctx, nc, alknet.Addr{Peer: key, Over: alknet.Raw}, call.ALPN)
	if err != nil {
		t.Log("refused:", err)
		return
	}
	c := call.NewClient(conn, nil)
	defer c.Close()
	if _, err := call.Call[Status](ctx, c, "node/status", struct{}{}); err != nil {
		t.Log("refused:", err)
		return
	}
	t.Log("the node answered")
}

// copyProgram copies this program to where everybody may run it.
func copyProgram(t *testing.T, to string) {
	self, err := os.Executable()
	require.NoError(t, err)
	in, err := os.Open(self)
	require.NoError(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, err)
	require.NoError(t, out.Close())
}
