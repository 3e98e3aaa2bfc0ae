package ssh_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
)

// web is a server that says hello, and its port.
func web(t *testing.T) (url, port string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))
	t.Cleanup(srv.Close)
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	require.NoError(t, err)
	return srv.URL, port
}

// freePort is a port that is free at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// get fetches a URL with an own connection, through a proxy if there is one.
func get(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, _ := run(t, testenv.Command(t, "curl", append([]string{"-sS", "--max-time", "30"}, args...)...))
	return out + errs
}

// background starts a client that forwards, and waits until it is ready.
func (s *stock) background(t *testing.T, args ...string) (errors *bufio.Reader, stop func()) {
	t.Helper()
	cmd := s.ssh(t, append(args, "-o", "ExitOnForwardFailure=yes", "-o", "LogLevel=INFO", "node", "echo ready; cat")...)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	errs, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	stop = func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		text, _ := io.ReadAll(errs)
		require.Equal(t, "ready\n", line, "%s", text)
	}
	return bufio.NewReader(errs), stop
}

func TestStockForwards(t *testing.T) {
	url, port := web(t)
	n := newNode(t, nil)
	n.policy("allow * dial tcp 127.0.0.1:" + port + "\nallow * listen tcp 127.0.0.1:1024-65535")
	s := n.stock(alknet.QUIC, allScopes...)
	local, remote, socks := freePort(t), freePort(t), freePort(t)
	errs, stop := s.background(t, "-L", local+":127.0.0.1:"+port, "-R", remote+":127.0.0.1:"+port, "-R", "0:127.0.0.1:"+port, "-D", socks)
	defer stop()
	require.Equal(t, "hello", get(t, "http://127.0.0.1:"+local))
	require.Equal(t, "hello", get(t, "http://127.0.0.1:"+remote))
	require.Equal(t, "hello", get(t, "--socks5-hostname", "127.0.0.1:"+socks, url))
	line, err := errs.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "Allocated port")
	require.Equal(t, "hello", get(t, "http://127.0.0.1:"+strings.Fields(line)[2]))
	// Another target over the same connection is judged for itself.
	_, other := web(t)
	require.Contains(t, get(t, "--socks5-hostname", "127.0.0.1:"+socks, "http://127.0.0.1:"+other), "curl: (97)")
	// A new policy cuts what it forbids and nothing else.
	n.policy("allow * dial tcp 127.0.0.1:" + port)
	require.Equal(t, "hello", get(t, "http://127.0.0.1:"+local))
	require.Contains(t, get(t, "http://127.0.0.1:"+remote), "curl: (")
	require.NotContains(t, n.log.String(), port, "a destination in the log")
}

// ssh -W, which is what ProxyJump uses, and a jump through the node to a host
// that only it reaches.
func TestStockJump(t *testing.T) {
	inner := newHost(t, nil)
	user := newKey(t)
	inner.allow(line(t, "", user, "bob"))
	n := newNode(t, nil)
	n.policy("allow * dial tcp " + inner.addr)
	s := n.stock(alknet.QUIC, allScopes...)
	host, port, _ := net.SplitHostPort(inner.addr)
	out, errs, status := run(t, s.ssh(t, "-J", "node", "-p", port, "-i", writeKey(t, s.dir, user), "-o", "IdentitiesOnly=yes",
		"-o", "UserKnownHostsFile="+s.dir+"/known", "-o", "StrictHostKeyChecking=accept-new", "bob@"+host, "echo inner; exit 4"))
	require.Equal(t, "inner\n", out, errs)
	require.Equal(t, 4, status)
}

func TestStockAgentForwarding(t *testing.T) {
	n := newNode(t, func(h *ssh.Handler) { h.AllowAgent = true })
	s := n.stock(alknet.Mux, allScopes...)
	socket := filepath.Join(s.dir, "agent")
	agent := testenv.Command(t, "ssh-agent", "-D", "-a", socket)
	require.NoError(t, agent.Start())
	defer func() { _ = agent.Process.Kill(); _ = agent.Wait() }()
	require.Eventually(t, func() bool { _, err := net.Dial("unix", socket); return err == nil }, 30*time.Second, 5*time.Millisecond)
	add := testenv.Command(t, "ssh-add", writeKey(t, s.dir, newKey(t)))
	add.Env = []string{"SSH_AUTH_SOCK=" + socket}
	_, errs, status := run(t, add)
	require.Equal(t, 0, status, errs)
	cmd := s.ssh(t, "-A", "node", "ssh-add -l")
	cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
	out, errs, status := run(t, cmd)
	require.Equal(t, 0, status, errs)
	require.Contains(t, out, "ED25519")
	cmd = s.ssh(t, "-a", "node", "ssh-add -l")
	cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
	_, _, status = run(t, cmd)
	require.Equal(t, 2, status, "there is no agent unless it is asked for")
}

func TestStockForwardsBothWaysOverSockets(t *testing.T) {
	n := newNode(t, nil)
	s := n.stock(alknet.QUIC, allScopes...)
	target := filepath.Join(s.dir, "target.sock")
	l, err := net.Listen("unix", target)
	require.NoError(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	n.policy("allow * dial unix " + target + "\nallow * listen unix " + s.dir + "/*.sock")
	local, remote := filepath.Join(s.dir, "local.sock"), filepath.Join(s.dir, "remote.sock")
	_, stop := s.background(t, "-L", local+":"+target, "-R", remote+":"+target)
	defer stop()
	require.Equal(t, "hello", get(t, "--unix-socket", local, "http://x"))
	require.Equal(t, "hello", get(t, "--unix-socket", remote, "http://x"))
	require.NotContains(t, n.log.String(), target)
}

// Without a policy, an account and a command every request of a peer with every
// scope is refused, and nothing listens.
func TestNothingIsServedByDefault(t *testing.T) {
	n := newNode(t, func(h *ssh.Handler) { h.Accounts = nil })
	s := n.stock(alknet.QUIC, allScopes...)
	for _, args := range [][]string{
		{"node", "true"}, {"node"}, {"-s", "node", "sftp"}, {"-o", "ExitOnForwardFailure=yes", "-N", "-R", "0:127.0.0.1:1", "node"},
		{"-W", "127.0.0.1:22", "node"}, {"-o", "ExitOnForwardFailure=yes", "-N", "-R", filepath.Join(s.dir, "x.sock") + ":127.0.0.1:1", "node"},
		{"-tt", "node"},
	} {
		out, errs, status := run(t, s.ssh(t, args...))
		require.NotEqual(t, 0, status, args)
		require.Empty(t, out)
		require.NotEmpty(t, errs, args)
	}
	c := n.client(alknet.QUIC, allScopes...)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := c.DialContext(ctx, "tcp", "127.0.0.1:22")
	require.ErrorContains(t, err, "denied")
	_, err = c.DialContext(ctx, "unix", "/x.sock")
	require.ErrorContains(t, err, "denied")
	_, err = c.Listen(ctx, "tcp", "127.0.0.1:0")
	var fe *forward.Error
	require.ErrorAs(t, err, &fe)
	require.Equal(t, forward.CodeDenied, fe.Code)
	require.ErrorContains(t, c.Run(ctx, &ssh.Cmd{Line: "true"}), "no shells")
	require.ErrorContains(t, c.Run(ctx, &ssh.Cmd{}), "refused")
	_, err = c.Subsystem(ctx, "sftp")
	require.Error(t, err)
	require.Zero(t, n.gate.Flows())
}
