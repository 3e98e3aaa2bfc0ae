package ssh_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh"
)

// The first contact of a stock client, with the printed configuration and
// StrictHostKeyChecking=yes.
func TestStockFirstContact(t *testing.T) {
	eachTransport(t, func(t *testing.T, over alknet.Transport) {
		s := newNode(t, nil).stock(over, ssh.ScopeShell)
		out, errs, status := run(t, s.ssh(t, "node", "echo ok; echo err >&2; exit 7"))
		require.Equal(t, "ok\n", out, errs)
		require.Equal(t, "err\n", errs)
		require.Equal(t, 7, status)
		for _, host := range []string{"node.alk", s.id, s.id + ".alk"} {
			_, errs, status = run(t, s.ssh(t, host, "true"))
			require.Equal(t, 0, status, "%s: %s", host, errs)
		}
		cmd := s.ssh(t, "node", "cat")
		cmd.Stdin = strings.NewReader(strings.Repeat("x", 1<<20))
		out, errs, status = run(t, cmd)
		require.Equal(t, 0, status, errs)
		require.Len(t, out, 1<<20)
	})
}

// A server with another key is refused, whatever it says of itself.
func TestStockRefusesAnotherHost(t *testing.T) {
	a, b := newNode(t, nil), newNode(t, nil)
	s := b.stock(alknet.QUIC, ssh.ScopeShell)
	config, err := os.ReadFile(s.config)
	require.NoError(t, err)
	// The connection leads to b, and a is who was meant.
	changed := strings.ReplaceAll(string(config), "HostKeyAlias "+s.id, "HostKeyAlias "+a.Endpoint.ID().String())
	changed = strings.ReplaceAll(changed, "known-hosts "+s.id, "known-hosts "+a.Endpoint.ID().String())
	require.NoError(t, os.WriteFile(s.config, []byte(changed), 0o600))
	_, errs, status := run(t, s.ssh(t, "node", "true"))
	require.Equal(t, 255, status)
	require.Contains(t, errs, "Host key verification failed")
	// The right authority and a name that the certificate does not have.
	changed = strings.ReplaceAll(string(config), "HostKeyAlias "+s.id, "HostKeyAlias other")
	require.NoError(t, os.WriteFile(s.config, []byte(changed), 0o600))
	_, _, status = run(t, s.ssh(t, "node", "true"))
	require.Equal(t, 255, status)
}

func TestStockSignalEndsAsSignal(t *testing.T) {
	s := newNode(t, nil).stock(alknet.QUIC, ssh.ScopeShell)
	_, errs, status := run(t, s.ssh(t, "-v", "node", "kill -TERM $$"))
	require.Equal(t, 255, status)
	require.Contains(t, errs, "exit-signal")
}

func TestStockEnvironment(t *testing.T) {
	t.Setenv("ALKNET_CANARY", "of the node")
	s := newNode(t, nil).stock(alknet.QUIC, ssh.ScopeShell)
	var set []string
	for _, v := range []string{"LANG=C.UTF-8", "LC_TIME=de", "LD_PRELOAD=/x.so", "PATH=/evil", "BASH_ENV=/evil", "IFS=x", "HOME=/evil", "SHELL=/evil"} {
		set = append(set, "-o", "SetEnv="+v)
	}
	out, errs, status := run(t, s.ssh(t, append(set, "node", "env")...))
	require.Equal(t, 0, status, errs)
	require.Contains(t, out, "ALKNET_IDENTITY=bob\n")
	require.Contains(t, out, "ALKNET_PEER="+peerOf(s.key).String()+"\n")
	require.Contains(t, out, "SSH_CONNECTION=127.0.0.1 ")
	for _, no := range []string{"LD_PRELOAD", "/evil", "BASH_ENV", "IFS=x", "ALKNET_CANARY"} {
		require.NotContains(t, out, no)
	}
	// OpenSSH sends the first SetEnv only.
	for _, v := range []string{"LC_TIME=de", "LANG=C.UTF-8"} {
		out, _, _ = run(t, s.ssh(t, "-o", "SetEnv="+v, "node", "env"))
		require.Contains(t, out, v+"\n")
	}
	for _, v := range []string{"LD_PRELOAD=/x.so", "PATH=/evil", "BASH_ENV=/evil"} {
		out, _, _ = run(t, s.ssh(t, "-o", "SetEnv="+v, "node", "env"))
		require.NotContains(t, out, v)
	}
}

// python drives a terminal: stock ssh wants one of its own.
const python = `
import os, pty, sys, time, select, termios, fcntl, struct, signal
def size(fd, rows, cols): fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
size(fd, 33, 101)
buf = b""
def expect(text, secs=20):
    global buf
    end = time.time() + secs
    while text not in buf:
        r, _, _ = select.select([fd], [], [], max(0, end - time.time()))
        if not r: print("no", text, "in", buf); sys.exit(3)
        try: data = os.read(fd, 4096)
        except OSError: data = b""
        if not data: print("end before", text, "in", buf); sys.exit(4)
        buf += data
    buf = buf[buf.index(text)+len(text):]
def send(text): os.write(fd, text)
def until(text, want, every=0.1, secs=40): # types text again and again
    global buf
    end = time.time() + secs
    while want not in buf and time.time() < end:
        send(text)
        again = time.time() + every
        while want not in buf and time.time() < again:
            if select.select([fd], [], [], max(0, again - time.time()))[0]: buf += os.read(fd, 4096)
    expect(want, 1)
send(b"stty -echo; PS1=; echo rea''dy\r"); expect(b"ready\r\n")
send(b"stty size; tty; echo $TERM\r"); expect(b"33 101\r\n"); expect(b"/dev/pts/"); expect(b"xterm-test\r\n")
send(b"trap 'stty size; echo resized' WINCH; echo se''t\r"); expect(b"set\r\n")
size(fd, 44, 99); os.kill(pid, signal.SIGWINCH)
until(b"\r", b"44 99\r\nresized\r\n") # the size may overtake what is typed, and the reverse
send(b"sh -c 'trap \"echo interr''upted; exit\" INT; echo run''ning; while :; do sleep 1; done'\r"); expect(b"running\r\n")
until(b"\x03", b"interrupted\r\n", every=5) # it takes what is typed with it along
until(b"echo ba''ck\r", b"back\r\n", every=5)
send(b"exit 5\r")
while True:
    try:
        if not os.read(fd, 4096): break
    except OSError: break
_, st = os.waitpid(pid, 0)
print("status", os.waitstatus_to_exitcode(st))
`

func TestStockTerminal(t *testing.T) {
	eachTransport(t, func(t *testing.T, over alknet.Transport) {
		s := newNode(t, nil).stock(over, ssh.ScopeShell)
		client := s.ssh(t, "-tt", "node")
		cmd := testenv.Command(t, "python3", append([]string{"-c", python}, client.Args...)...)
		cmd.Env = append(client.Env, "TERM=xterm-test")
		out, errs, _ := run(t, cmd)
		require.Equal(t, "status 5\n", out, errs)
	})
}

// A terminal ends with its shell, whatever still runs in the background.
func TestStockTerminalEndsWithItsShell(t *testing.T) {
	s := newNode(t, nil).stock(alknet.QUIC, ssh.ScopeShell)
	begun := time.Now()
	out, errs, status := run(t, s.ssh(t, "-tt", "node", "trap '' HUP; sleep 70 & echo x; exit 6"))
	require.Equal(t, 6, status, errs)
	require.Equal(t, "x\r\n", out)
	require.Less(t, time.Since(begun), 60*time.Second)
}

// A client that goes away takes its processes along.
func TestStockClientGoneEndsTheProcessGroup(t *testing.T) {
	s := newNode(t, nil).stock(alknet.QUIC, ssh.ScopeShell)
	for _, tty := range []string{"-T", "-tt"} {
		cmd := s.ssh(t, tty, "node", "sleep 1000 & echo $! $$; exec sleep 1000")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		var child, leader int
		_, err = fmt.Fscan(out, &child, &leader)
		require.NoError(t, err)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		waitGone(t, child)
		waitGone(t, leader)
	}
}

// waitGone waits until a process is no more.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	}, 30*time.Second, 10*time.Millisecond, "process %d", pid)
}

func TestStockFilesAndTools(t *testing.T) {
	s := newNode(t, func(h *ssh.Handler) {
		h.Subsystems = map[string]ssh.SubsystemFunc{"sftp": openSSHSFTP}
	}).stock(alknet.Mux, ssh.ScopeShell)
	src := filepath.Join(s.dir, "src")
	require.NoError(t, os.WriteFile(src, bytes.Repeat([]byte("alknet"), 100_000), 0o600))
	want, err := os.ReadFile(src)
	require.NoError(t, err)
	for i, args := range [][]string{
		{"scp", "-O", "-F", s.config, src, "node:" + s.dir + "/dst0"},
		{"scp", "-F", s.config, src, "node:" + s.dir + "/dst1"},
		{"rsync", "-e", "ssh -F " + s.config, src, "node:" + s.dir + "/dst2"},
		{"scp", "-F", s.config, "node:" + src, s.dir + "/dst3"},
	} {
		t.Run(args[0], func(t *testing.T) {
			out, errs, status := run(t, testenv.Command(t, args[0], args[1:]...))
			require.Equal(t, 0, status, "%s%s", out, errs)
			got, err := os.ReadFile(filepath.Join(s.dir, fmt.Sprintf("dst%d", i)))
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
		})
	}
}

// openSSHSFTP is the server of OpenSSH as a subsystem.
func openSSHSFTP(ctx context.Context, rw io.ReadWriteCloser, _ *alknet.Identity) error {
	cmd := exec.CommandContext(ctx, "/usr/lib/openssh/sftp-server")
	cmd.Stdout = rw
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, _ = io.Copy(in, rw)
	_ = in.Close()
	return cmd.Wait()
}
