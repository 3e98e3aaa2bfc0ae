package ssh_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/tty"
)

// within is a context for one step of a test.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestClientRun(t *testing.T) {
	eachTransport(t, func(t *testing.T, over alknet.Transport) {
		c := newNode(t, nil).client(over, ssh.ScopeShell)
		var out, errs bytes.Buffer
		err := c.Run(within(t), &ssh.Cmd{
			Line: "cat; echo $LANG; echo err >&2; exit 7", Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &errs, Env: []string{"LANG=C.UTF-8"},
		})
		var exit *ssh.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, ssh.ExitError{Status: 7}, *exit)
		require.Equal(t, "in\nC.UTF-8\n", out.String())
		require.Equal(t, "err\n", errs.String())
		require.NoError(t, c.Run(within(t), &ssh.Cmd{Line: "true"}))
		require.ErrorAs(t, c.Run(within(t), &ssh.Cmd{Line: "kill -KILL $$"}), &exit)
		require.Equal(t, "KILL", exit.Signal)
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
		out.Reset()
		require.NoError(t, c.Run(within(t), &ssh.Cmd{Line: "cat", Stdin: bytes.NewReader(big), Stdout: &out}))
		require.True(t, bytes.Equal(big, out.Bytes()))
	})
}

func TestClientSignalsAndContext(t *testing.T) {
	c := newNode(t, nil).client(alknet.QUIC, ssh.ScopeShell)
	signals := make(chan string)
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- c.Run(within(t), &ssh.Cmd{Line: "trap 'echo got it; exit 9' USR1; echo ready; while :; do sleep 0.05; done", Stdout: w, Signals: signals})
		_ = w.Close()
	}()
	line := make([]byte, len("ready\n"))
	_, err := io.ReadFull(r, line)
	require.NoError(t, err)
	signals <- "USR1"
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "got it\n", string(rest))
	var exit *ssh.ExitError
	require.ErrorAs(t, <-done, &exit)
	require.Equal(t, 9, exit.Status)

	ctx, cancel := context.WithCancel(t.Context())
	r, w = io.Pipe()
	go func() { done <- c.Run(ctx, &ssh.Cmd{Line: "echo $$; exec sleep 1000", Stdout: w}) }()
	var pid int
	_, err = fmt.Fscan(r, &pid)
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	waitGone(t, pid)
}

func TestClientTerminal(t *testing.T) {
	c := newNode(t, nil).client(alknet.Mux, ssh.ScopeShell)
	resizes := make(chan tty.Size)
	in, typed := io.Pipe()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- c.Run(within(t), &ssh.Cmd{
			Stdin: in, Stdout: w, Resizes: resizes,
			PTY: &ssh.PTY{Term: "vt100", Size: tty.Size{Cols: 91, Rows: 31}, Modes: map[uint8]uint32{53: 0, 128: 38400, 129: 38400}},
		})
		_ = w.Close()
	}()
	seen := ""
	expect := func(text string) {
		t.Helper()
		buf := make([]byte, 1024)
		for !strings.Contains(seen, text) {
			n, err := r.Read(buf)
			require.NoError(t, err, "%q", seen)
			seen += string(buf[:n])
		}
		_, seen, _ = strings.Cut(seen, text)
	}
	send := func(text string) {
		_, err := io.WriteString(typed, text)
		require.NoError(t, err)
	}
	send("PS1=; stty size; echo $TERM; stty -a | grep -o -e -echo\\ \n")
	expect("31 91\r\nvt100\r\n-echo")
	resizes <- tty.Size{Cols: 70, Rows: 20}
	// What is typed may overtake the size.
	send("until stty size | grep '20 70'; do sleep 0.01; done; exit 3\n")
	expect("20 70\r\n")
	_, _ = io.Copy(io.Discard, r)
	var exit *ssh.ExitError
	require.ErrorAs(t, <-done, &exit)
	require.Equal(t, 3, exit.Status)
	_ = typed.Close()
}

func TestClientSubsystemAndSession(t *testing.T) {
	c := newNode(t, func(h *ssh.Handler) {
		h.Subsystems = map[string]ssh.SubsystemFunc{"echo": func(_ context.Context, rw io.ReadWriteCloser, id *alknet.Identity) error {
			fmt.Fprintf(rw, "%s:", id.ID)
			_, err := io.Copy(rw, rw)
			return err
		}}
		h.Session = func(ctx context.Context, s *ssh.Session) int {
			fmt.Fprintf(s, "%s|%s|%v|%v", s.Identity.ID, s.Command, s.Environ, s.PTY != nil)
			fmt.Fprint(s.Stderr, "err")
			return 5
		}
	}).client(alknet.QUIC, ssh.ScopeShell)
	rw, err := c.Subsystem(within(t), "echo")
	require.NoError(t, err)
	_, err = io.WriteString(rw, "hello")
	require.NoError(t, err)
	require.NoError(t, rw.(interface{ CloseWrite() error }).CloseWrite())
	text, err := io.ReadAll(rw)
	require.NoError(t, err)
	require.Equal(t, "bob:hello", string(text))
	require.NoError(t, rw.Close())
	var out, errs bytes.Buffer
	var exit *ssh.ExitError
	require.ErrorAs(t, c.Run(within(t), &ssh.Cmd{Line: "x y", Stdout: &out, Stderr: &errs, Env: []string{"LANG=C"}}), &exit)
	require.Equal(t, 5, exit.Status)
	require.Equal(t, "bob|x y|[LANG=C]|false", out.String())
	require.Equal(t, "err", errs.String())
}

func TestClientForwards(t *testing.T) {
	eachTransport(t, func(t *testing.T, over alknet.Transport) {
		n := newNode(t, nil)
		dir := t.TempDir()
		n.policy("allow * dial tcp 127.0.0.1:*\nallow * listen tcp 127.0.0.1:*\nallow * dial unix " + dir + "/*\nallow * listen unix " + dir + "/*")
		c := n.client(over, allScopes...)
		for _, tt := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", filepath.Join(dir, "s")}} {
			l, err := c.Listen(within(t), tt[0], tt[1])
			require.NoError(t, err)
			if tt[0] == "unix" {
				fi, err := os.Stat(tt[1])
				require.NoError(t, err)
				require.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					nc, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = io.Copy(nc, nc)
					_ = nc.Close()
				}
			}()
			for range 3 {
				nc, err := c.DialContext(within(t), tt[0], l.Addr().String())
				require.NoError(t, err)
				data := bytes.Repeat([]byte("x"), 1<<20)
				go func() {
					_, _ = nc.Write(data)
					_ = nc.(interface{ CloseWrite() error }).CloseWrite()
				}()
				got, err := io.ReadAll(nc)
				require.NoError(t, err)
				require.Len(t, got, len(data))
				require.NoError(t, nc.Close())
			}
			require.NoError(t, l.Close())
			<-done
			_, err = l.Accept()
			require.ErrorIs(t, err, net.ErrClosed)
		}
		require.Eventually(t, func() bool { // the socket is unlinked
			_, err := os.Stat(filepath.Join(dir, "s"))
			return n.gate.Flows() == 0 && errors.Is(err, os.ErrNotExist)
		}, 30*time.Second, time.Millisecond)
	})
}

// A jump: the connection to the second node runs through the first.
func TestClientJump(t *testing.T) {
	key := newKey(t)
	inner := newHost(t, func(h *ssh.Handler) { h.Node = key })
	user := newKey(t)
	inner.allow(line(t, "", user, "bob"))
	n := newNode(t, nil)
	n.policy("allow * dial tcp " + inner.addr)
	outer := n.client(alknet.QUIC, allScopes...)
	nc, err := outer.DialContext(within(t), "tcp", inner.addr)
	require.NoError(t, err)
	c, err := ssh.NewClient(within(t), nc, &ssh.ClientConfig{User: "bob", Peer: peerOf(key), Keys: []crypto.Signer{user}})
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, c.Run(within(t), &ssh.Cmd{Line: "echo inner", Stdout: &out}))
	require.Equal(t, "inner\n", out.String())
	require.NoError(t, c.Close())
}

// S7: who answers with another key, or with none that is certified, gets nothing.
func TestClientPinsTheHost(t *testing.T) {
	node := newKey(t)
	user := newKey(t)
	x := newHost(t, func(h *ssh.Handler) { h.Node = node })
	x.allow(line(t, "", user, "bob"))
	plain := newHost(t, nil)
	plain.allow(line(t, "", user, "bob"))
	try := func(to *host, cfg ssh.ClientConfig) error {
		nc, err := net.Dial("tcp", to.addr)
		require.NoError(t, err)
		cfg.Keys = []crypto.Signer{newKey(t), user} // the first is not known
		c, err := ssh.NewClient(within(t), nc, &cfg)
		if err == nil {
			require.NoError(t, c.Close())
		}
		return err
	}
	require.NoError(t, try(x, ssh.ClientConfig{Peer: peerOf(node)}))
	require.Error(t, try(x, ssh.ClientConfig{Peer: peerOf(newKey(t))}))
	require.Error(t, try(plain, ssh.ClientConfig{Peer: peerOf(node)}))
	require.ErrorContains(t, try(x, ssh.ClientConfig{}), "can not be proven")
	known := filepath.Join(t.TempDir(), "known")
	host, port, _ := net.SplitHostPort(plain.addr)
	pub := strings.TrimSpace(string(xssh.MarshalAuthorizedKey(signerOf(t, plain.key).PublicKey())))
	require.NoError(t, os.WriteFile(known, fmt.Appendf(nil, "[%s]:%s %s\n", host, port, pub), 0o600))
	require.NoError(t, try(plain, ssh.ClientConfig{KnownHosts: []string{known}}))
	require.Error(t, try(x, ssh.ClientConfig{KnownHosts: []string{known}}))
}

func TestAgentForwarding(t *testing.T) {
	ring := agent.NewKeyring()
	require.NoError(t, ring.Add(agent.AddedKey{PrivateKey: newKey(t), Comment: "planted"}))
	dial := func() (net.Conn, error) {
		here, there := net.Pipe()
		go func() { _ = agent.ServeAgent(ring, there); _ = there.Close() }()
		return here, nil
	}
	for _, tt := range []struct {
		allow  bool
		scopes []string
		ok     bool
	}{{true, allScopes, true}, {false, allScopes, false}, {true, []string{ssh.ScopeShell}, false}} {
		n := newNode(t, func(h *ssh.Handler) { h.AllowAgent = tt.allow })
		key := newKey(t)
		n.admit(key, "bob", tt.scopes...)
		ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})
		require.NoError(t, err)
		c, err := ssh.Dial(within(t), ep, n.Addr(alknet.QUIC), &ssh.ClientConfig{Agent: dial})
		require.NoError(t, err)
		var out bytes.Buffer
		err = c.Run(within(t), &ssh.Cmd{Line: "ssh-add -l; stat -c %a $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK); echo $SSH_AUTH_SOCK", Stdout: &out, Agent: true})
		require.Equal(t, tt.ok, err == nil, "%v", err)
		if tt.ok {
			require.Contains(t, out.String(), "planted")
			require.Contains(t, out.String(), "600\n700\n")
			lines := strings.Fields(out.String())
			_, err := os.Stat(filepath.Dir(lines[len(lines)-1]))
			require.ErrorIs(t, err, os.ErrNotExist, "the socket is gone with the program")
		}
		require.NoError(t, c.Close())
		require.NoError(t, ep.Close())
	}
}

// Go to Go agrees on the hybrid key exchange.
func TestGoToGoIsPostQuantum(t *testing.T) {
	conn, _, _ := pair(t, nil)
	algs := conn.(xssh.AlgorithmsConnMetadata).Algorithms()
	require.Equal(t, xssh.KeyExchangeMLKEM768X25519, algs.KeyExchange)
	require.Equal(t, xssh.CipherAES128GCM, algs.Write.Cipher)
}

// Sessions that are cut at any point leave no process, descriptor or goroutine.
func TestNothingIsLeftOfCutSessions(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	n := newNode(t, nil)
	n.policy("allow * dial tcp 127.0.0.1:*\nallow * listen tcp 127.0.0.1:*")
	key := newKey(t)
	n.admit(key, "bob", allScopes...)
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})
	require.NoError(t, err)
	defer ep.Close()
	conn, err := ep.Dial(within(t), n.Addr(alknet.QUIC), ssh.ALPN)
	require.NoError(t, err)
	defer conn.Close()
	marker := fmt.Sprintf("98%06d", os.Getpid()%1000000)
	fds := openFiles(t)
	done := make(chan struct{}, 8)
	for i := range rounds {
		done <- struct{}{}
		go func() {
			defer func() { <-done }()
			cutSession(conn, i, marker)
		}()
	}
	for range cap(done) {
		done <- struct{}{}
	}
	require.Eventually(t, func() bool {
		out, _ := exec.Command("pgrep", "-f", "sleep "+marker).Output()
		return len(out) == 0
	}, 30*time.Second, 50*time.Millisecond, "processes are left")
	require.Eventually(t, func() bool { return n.gate.Flows() == 0 }, patience, tick)
	wantDescriptors(t, fds)
}

func openFiles(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}

// cutSession begins something and resets its stream at a point that i chooses.
func cutSession(conn *alknet.Conn, i int, marker string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := conn.OpenStream(ctx)
	if err != nil {
		return
	}
	defer s.Reset(77)
	if i%10 == 0 { // in the middle of the handshake
		_, _ = io.WriteString(s, "SSH-2.0-cut\r\n")
		_, _ = io.CopyN(io.Discard, s, int64(i%500))
		return
	}
	c, chans, reqs, err := xssh.NewClientConn(s, "x", &xssh.ClientConfig{HostKeyCallback: xssh.InsecureIgnoreHostKey(), User: "x"})
	if err != nil {
		return
	}
	client := xssh.NewClient(c, chans, reqs)
	defer func() { s.Reset(77); _ = client.Wait() }()
	switch i % 4 {
	case 0:
		_, _ = client.Listen("tcp", "127.0.0.1:0")
	case 1:
		session, err := client.NewSession()
		if err != nil {
			return
		}
		_ = session.RequestPty("xterm", 24, 80, nil)
		_ = session.Start("sleep " + marker)
	default:
		session, err := client.NewSession()
		if err != nil {
			return
		}
		out, _ := session.StdoutPipe()
		if session.Start("echo x; sleep "+marker+" & sleep "+marker) == nil && i%3 == 0 {
			_, _ = out.Read(make([]byte, 1))
		}
	}
}

// The program shuts down: what runs is waited for, what is new is refused.
func TestDrain(t *testing.T) {
	n := newNode(t, nil)
	c := n.client(alknet.QUIC, ssh.ScopeShell)
	idle := n.client(alknet.QUIC, ssh.ScopeShell)
	r, w := io.Pipe()
	in, feed := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- c.Run(within(t), &ssh.Cmd{Line: "echo ready; read x; echo $x", Stdin: in, Stdout: w})
		_ = w.Close()
	}()
	buf := make([]byte, len("ready\n"))
	_, err := io.ReadFull(r, buf)
	require.NoError(t, err)
	shut := make(chan error, 1)
	go func() { shut <- n.Router.Shutdown(within(t)) }()
	select {
	case <-idle.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("an idle connection stays")
	}
	require.ErrorContains(t, c.Run(within(t), &ssh.Cmd{Line: "true"}), "draining")
	_, err = io.WriteString(feed, "finished\n")
	require.NoError(t, err)
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "finished\n", string(text))
	require.NoError(t, <-done)
	require.NoError(t, feed.Close())
	require.NoError(t, <-shut)
	require.True(t, errors.Is(c.Run(within(t), &ssh.Cmd{Line: "true"}), net.ErrClosed))
}

var _ forward.Link = (*ssh.Client)(nil)
