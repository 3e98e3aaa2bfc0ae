package ssh_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/impair"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh"
)

// What a peer has open, a program, a forward and a remote forward, ends at both
// ends when the network falls silent for good, and when the connection breaks.
func TestFaultsInTheMiddle(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux} {
		for _, fault := range []string{"silence", "break"} {
			if over == alknet.QUIC && fault == "break" {
				continue // a datagram has nothing that breaks
			}
			t.Run(strings.ToLower(over.String())+"/"+fault, func(t *testing.T) {
				t.Parallel() // it waits for keep-alives
				faultInTheMiddle(t, over, fault)
			})
		}
	}
}

func faultInTheMiddle(t *testing.T, over alknet.Transport, fault string) {
	const keepAlive = 2 * time.Second
	n := newNode(t, func(h *ssh.Handler) { h.Limits.KeepAlive = keepAlive })
	n.policy("allow * dial tcp 127.0.0.1:*\nallow * listen tcp 127.0.0.1:*")
	relayed := impair.TCP
	if over == alknet.QUIC {
		relayed = impair.UDP
	}
	to := n.Addr(over)
	relay := relayed(t, to.HostPort, impair.Profile{})
	to.HostPort = relay.Addr()
	c, err := ssh.Dial(within(t), n.Peer(alknet.Identity{ID: "bob", Scopes: allScopes}), to, &ssh.ClientConfig{KeepAlive: keepAlive})
	require.NoError(t, err)
	defer c.Close()
	out, stdout := io.Pipe()
	ran := make(chan error, 1)
	go func() { ran <- c.Run(context.Background(), &ssh.Cmd{Line: "echo $$; sleep 1000", Stdout: stdout}) }()
	var pid int
	_, err = fmt.Fscan(out, &pid)
	require.NoError(t, err)
	flow, err := c.DialContext(within(t), "tcp", testenv.Echo(t, "tcp", "127.0.0.1:0").String())
	require.NoError(t, err)
	require.NoError(t, carries(flow, bufio.NewReader(flow)))
	l, err := c.Listen(within(t), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go echoes(l)
	accepted, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer accepted.Close()
	require.NoError(t, carries(accepted, bufio.NewReader(accepted)))

	if fault == "break" {
		relay.Cut()
	} else {
		relay.SetProfile(impair.Profile{Up: time.Nanosecond, Down: time.Hour})
	}
	require.ErrorIs(t, <-ran, net.ErrClosed)
	_, err = flow.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed, "a flow that was cut is not one that ended")
	_, err = accepted.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET, "nor is one that the server had accepted")
	<-c.Done()
	_, err = c.DialContext(within(t), "tcp", "127.0.0.1:1")
	require.Error(t, err)
	waitGone(t, pid)
	require.Eventually(t, func() bool { return n.gate.Flows() == 0 }, 30*time.Second, time.Millisecond)
}

// Input that is cut off is not whole: a program that reads to its end and then
// does something does not do it when the connection is lost.
func TestCutInputIsNotWhole(t *testing.T) {
	dir := t.TempDir()
	n := newNode(t, nil)
	for i := range 20 {
		c := n.client(alknet.Mux, ssh.ScopeShell)
		out, stdout := io.Pipe()
		in, feed := io.Pipe()
		ran := make(chan error, 1)
		go func() {
			ran <- c.Run(context.Background(), &ssh.Cmd{
				Line: fmt.Sprintf("echo $$; cat > %s/part && mv %s/part %s/whole%d", dir, dir, dir, i), Stdin: in, Stdout: stdout,
			})
		}()
		var pid int
		_, err := fmt.Fscan(out, &pid)
		require.NoError(t, err)
		_, err = io.WriteString(feed, "the first half")
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Error(t, <-ran)
		require.NoError(t, feed.Close())
		waitGone(t, pid)
		require.NoFileExists(t, fmt.Sprintf("%s/whole%d", dir, i))
	}
}

// maxServerBytes is the ceiling under which a server stays, whatever is done to it
// before a login and by one peer after it.
const maxServerBytes = 256 << 20

// A server of its own process, pushed by silent and stalled sockets and by a peer
// that does all it may to make it hold data, serves others and stays small.
func TestMemoryCeiling(t *testing.T) {
	dir := t.TempDir()
	sshd := filepath.Join(dir, "sshd")
	built, err := exec.Command("go", "build", "-o", sshd, "./testdata/sshd").CombinedOutput()
	require.NoError(t, err, "%s", built)
	key, hostKey, port := newKey(t), newKey(t), freePort(t)
	keys, pid, config := filepath.Join(dir, "keys"), filepath.Join(dir, "pid"), filepath.Join(dir, "config")
	require.NoError(t, os.WriteFile(keys, []byte(line(t, "", key, "bob")), 0o600))
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "Port %s\nPidFile %s\nHostKey %s\nAuthorizedKeysFile %s\n", port, pid, writeKey(t, dir, hostKey), keys), 0o600))
	server := exec.CommandContext(t.Context(), sshd, "-f", config)
	server.Env = append(os.Environ(), "SSHD_DAEMON=1", fmt.Sprint("GOMEMLIMIT=", maxServerBytes*3/4))
	require.NoError(t, server.Start())
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	require.Eventually(t, func() bool { _, err := os.Stat(pid); return err == nil }, 30*time.Second, 10*time.Millisecond)
	x := &host{t: t, addr: "127.0.0.1:" + port, key: hostKey}
	honest := func() {
		c, err := x.login(key)
		require.NoError(t, err)
		require.Equal(t, "ok\n", output(t, c, "echo ok"))
		require.NoError(t, c.Close())
	}
	for i := range 90 { // of 100 that may be there before a login
		nc := x.from(fmt.Sprintf("127.3.%d.1", i))
		if i%2 == 0 {
			_, _ = io.WriteString(nc, "SSH-2.0-stall\r\n")
		}
	}
	honest()
	deaf, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never reads
	require.NoError(t, err)
	defer deaf.Close()
	peer, err := x.login(key)
	require.NoError(t, err)
	for i := range 30 {
		pushes(t, peer, deaf.Addr().String(), i%2 == 0)
	}
	for range 5000 {
		_, _, err := peer.OpenChannel("no-such-type", nil)
		require.Error(t, err)
	}
	honest()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", server.Process.Pid))
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(status), "VmHWM:")
	require.True(t, ok)
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	t.Logf("at most %d MiB", kib>>10)
	require.Less(t, kib<<10, maxServerBytes)
	require.NotEmpty(t, children(t, server.Process.Pid))
	require.NoError(t, peer.Close())
	require.Eventually(t, func() bool { return len(children(t, server.Process.Pid)) == 0 }, 30*time.Second, 10*time.Millisecond, "its processes end with it")
}

// children are the processes that a process has started and that still run.
func children(t *testing.T, pid int) (list []string) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	require.NoError(t, err)
	for _, name := range files {
		text, _ := os.ReadFile(name) // the thread may be gone
		list = append(list, strings.Fields(string(text))...)
	}
	return list
}

// pushes fills the window of a new channel whose data nobody takes.
func pushes(t *testing.T, c *xssh.Client, target string, session bool) {
	t.Helper()
	var w io.Writer
	if session {
		s, err := c.NewSession()
		if err != nil { // more than a connection may have
			return
		}
		w, err = s.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, s.Start("sleep 1000"))
	} else {
		nc, err := c.Dial("tcp", target)
		require.NoError(t, err)
		w = nc
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for data := make([]byte, 64<<10); ; {
			if _, err := w.Write(data); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = c.Close(); <-done })
}
