package ssh_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh/agent"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
)

// scopeApp is what the functions of these tests ask for.
const scopeApp = "app:use"

// A holder is something open on a connection, by a scope of its peer.
type holder struct {
	name  string
	scope string
	alive func() error // carries something, or fails
	again func() error // opens another one
}

// carries writes a line and reads it back.
func carries(w io.Writer, r *bufio.Reader) error {
	if _, err := io.WriteString(w, "alive\n"); err != nil {
		return err
	}
	l, err := r.ReadString('\n')
	if err == nil && l != "alive\n" {
		err = fmt.Errorf("got %q", l)
	}
	return err
}

// A rights is a peer with all that it can hold.
type rights struct {
	t    *testing.T
	n    *node
	c    *ssh.Client
	peer alknet.PeerID
	dir  string
	all  []*holder
}

// echoFunc is a registered command that decides access itself.
func echoFunc(_ context.Context, id *alknet.Identity, cmd *exec.Cmd) int {
	if !slices.Contains(id.Scopes, scopeApp) {
		return 1
	}
	_, _ = io.Copy(cmd.Stdout, cmd.Stdin)
	return 0
}

func newRights(t *testing.T, over alknet.Transport) *rights {
	r := &rights{t: t, dir: t.TempDir()}
	r.n = newNodeOver(t, over, func(h *ssh.Handler) {
		h.AllowAgent = true
		h.Commands = map[string]ssh.CommandFunc{"echo-lines": echoFunc}
		h.Subsystems = map[string]ssh.SubsystemFunc{"echo-lines": func(_ context.Context, rw io.ReadWriteCloser, id *alknet.Identity) error {
			if !slices.Contains(id.Scopes, scopeApp) {
				return errors.New("no")
			}
			_, err := io.Copy(rw, rw)
			return err
		}}
	})
	r.n.policy(strings.ReplaceAll("allow * dial tcp 127.0.0.1:*\nallow * listen tcp 127.0.0.1:*\nallow * dial unix DIR/*\nallow * listen unix DIR/*", "DIR", r.dir))
	ring := agent.NewKeyring()
	r.c, r.peer = r.n.clientOf(over, &ssh.ClientConfig{Agent: func() (net.Conn, error) {
		here, there := net.Pipe()
		go func() { _ = agent.ServeAgent(ring, there); _ = there.Close() }()
		return here, nil
	}}, append([]string{scopeApp}, allScopes...)...)
	r.dials("tcp", testenv.Echo(t, "tcp", "127.0.0.1:0").String())
	r.dials("unix", testenv.Echo(t, "unix", filepath.Join(r.dir, "echo")).String())
	r.listens("tcp", "127.0.0.1:0")
	r.listens("unix", filepath.Join(r.dir, "listener"))
	r.runs("shell", ssh.ScopeShell, &ssh.Cmd{Line: "while read x; do echo $x; done"})
	r.runs("terminal", ssh.ScopeShell, &ssh.Cmd{
		Line: "while read x; do echo $x; done", PTY: &ssh.PTY{Term: "xterm", Modes: map[uint8]uint32{53: 0, 72: 0}}, // no ECHO, no ONLCR
	})
	r.runs("command", scopeApp, &ssh.Cmd{Line: "echo-lines"})
	r.subsystem()
	r.agent()
	return r
}

func (r *rights) hold(h *holder) {
	r.t.Helper()
	require.NoError(r.t, h.alive(), h.name)
	r.all = append(r.all, h)
}

// dials holds a flow to an echo server.
func (r *rights) dials(network, address string) {
	dial := func() (net.Conn, error) { return r.c.DialContext(within(r.t), network, address) }
	nc, err := dial()
	require.NoError(r.t, err)
	in := bufio.NewReader(nc)
	r.hold(&holder{"dial " + network, forward.ScopeDial, func() error { return carries(nc, in) }, func() error {
		nc, err := dial()
		if err == nil {
			_ = nc.Close()
		}
		return err
	}})
}

// listens holds a remote forward, and a connection that came by it.
func (r *rights) listens(network, address string) {
	l, err := r.c.Listen(within(r.t), network, address)
	require.NoError(r.t, err)
	go echoes(l)
	dial := func() (net.Conn, error) { return net.Dial(network, l.Addr().String()) }
	nc, err := dial()
	require.NoError(r.t, err)
	in := bufio.NewReader(nc)
	r.hold(&holder{"accepted " + network, forward.ScopeListen, func() error { return carries(nc, in) }, func() error {
		l, err := r.c.Listen(within(r.t), network, address+"1")
		if network == "tcp" {
			l, err = r.c.Listen(within(r.t), network, address)
		}
		if err == nil {
			_ = l.Close()
		}
		return err
	}})
	r.hold(&holder{"listener " + network, forward.ScopeListen, func() error {
		nc, err := dial()
		if err != nil {
			return err
		}
		defer nc.Close()
		return carries(nc, bufio.NewReader(nc))
	}, nil})
}

func echoes(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(nc, nc)
			_ = nc.Close()
		}()
	}
}

// start runs cmd with pipes.
func (r *rights) start(cmd ssh.Cmd) (in io.Writer, out *bufio.Reader, done chan error) {
	stdin, feed := io.Pipe()
	text, stdout := io.Pipe()
	cmd.Stdin, cmd.Stdout, done = stdin, stdout, make(chan error, 1)
	go func() {
		err := r.c.Run(context.Background(), &cmd)
		_ = stdout.Close()
		_ = stdin.CloseWithError(io.ErrClosedPipe)
		done <- err
	}()
	r.t.Cleanup(func() { _ = feed.Close() })
	return feed, bufio.NewReader(text), done
}

// runs holds a program that repeats lines.
func (r *rights) runs(name, scope string, cmd *ssh.Cmd) {
	in, out, _ := r.start(*cmd)
	r.hold(&holder{name, scope, func() error { return carries(in, out) }, func() error {
		again := *cmd
		if again.Stdin = strings.NewReader(""); scope == ssh.ScopeShell {
			again.Line = "true"
		}
		return r.c.Run(within(r.t), &again)
	}})
}

func (r *rights) subsystem() {
	rw, err := r.c.Subsystem(within(r.t), "echo-lines")
	require.NoError(r.t, err)
	in := bufio.NewReader(rw)
	r.hold(&holder{"subsystem", scopeApp, func() error { return carries(rw, in) }, nil})
}

// agent holds a connection to the client's agent, by the socket of a program.
func (r *rights) agent() {
	in, out, _ := r.start(ssh.Cmd{Line: "echo $SSH_AUTH_SOCK; while read x; do echo $x; done", Agent: true})
	path, err := out.ReadString('\n')
	require.NoError(r.t, err)
	path = strings.TrimSpace(path)
	dial := func() (net.Conn, error) { return net.Dial("unix", path) }
	nc, err := dial()
	require.NoError(r.t, err)
	client := agent.NewClient(nc)
	r.hold(&holder{"agent", ssh.ScopeAgent, func() error { _, err := client.List(); return err }, func() error {
		return r.c.Run(within(r.t), &ssh.Cmd{Line: "true", Agent: true})
	}})
	r.hold(&holder{"agent socket", ssh.ScopeAgent, func() error {
		nc, err := dial()
		if err != nil {
			return err
		}
		defer nc.Close()
		_, err = agent.NewClient(nc).List()
		return err
	}, nil})
	r.hold(&holder{"program with an agent", ssh.ScopeShell, func() error { return carries(in, out) }, nil})
}

// dies waits until something that was open no longer is. The wait ends by the
// cut; a flow that is not cut carries what it is given for ever.
func (r *rights) dies(h *holder) {
	r.t.Helper()
	begun := time.Now()
	for h.alive() == nil {
		if time.Since(begun) > 10*time.Second {
			r.t.Errorf("%s outlives its scope %s", h.name, h.scope)
			return
		}
	}
}

// Whoever loses a scope loses what it has by it, and nothing else, on every
// transport; what is opened after that is judged by the scopes that are left.
func TestLostScopeEndsWhatWasOpenedByIt(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux, alknet.Raw} {
		for _, lost := range append([]string{scopeApp}, allScopes...) {
			t.Run(strings.ToLower(over.String())+"/"+lost, func(t *testing.T) {
				r := newRights(t, over)
				left := slices.DeleteFunc(append([]string{scopeApp}, allScopes...), func(s string) bool { return s == lost })
				r.n.Admit(r.peer, alknet.Identity{ID: "bob", Scopes: left})
				require.NoError(t, r.n.Router.Reauthenticate(within(t)))
				for _, h := range r.all {
					if h.scope == lost {
						r.dies(h)
						if h.again != nil {
							require.Error(t, h.again(), h.name)
						}
					}
				}
				for _, h := range r.all {
					if h.scope == lost || lost == ssh.ScopeShell && h.scope == ssh.ScopeAgent { // its program has ended
						continue
					}
					require.NoError(t, h.alive(), "%s has nothing to do with %s", h.name, lost)
					if h.again != nil {
						require.NoError(t, h.again(), h.name)
					}
				}
			})
		}
	}
}

// A peer that is no longer welcome loses all of it.
func TestRevokedPeerLosesWhatItHolds(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux, alknet.Raw} {
		t.Run(strings.ToLower(over.String()), func(t *testing.T) {
			r := newRights(t, over)
			r.n.Admit(r.peer, alknet.Identity{})
			require.NoError(t, r.n.Router.Reauthenticate(within(t)))
			for _, h := range r.all {
				r.dies(h)
			}
			require.Eventually(t, func() bool { return r.n.gate.Flows() == 0 }, 30*time.Second, time.Millisecond)
		})
	}
}

// A policy that changes cuts what it forbids, and nothing else.
func TestPolicyCutsWhatItForbids(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux, alknet.Raw} {
		for _, lost := range []string{forward.ScopeDial, forward.ScopeListen} {
			t.Run(strings.ToLower(over.String())+"/"+lost, func(t *testing.T) {
				r := newRights(t, over)
				op := map[string]string{forward.ScopeDial: "listen", forward.ScopeListen: "dial"}[lost]
				r.n.policy(strings.ReplaceAll("allow * "+op+" tcp 127.0.0.1:*\nallow * "+op+" unix DIR/*", "DIR", r.dir))
				for _, h := range r.all {
					if h.scope == lost {
						r.dies(h)
					} else {
						require.NoError(t, h.alive(), h.name)
					}
				}
			})
		}
	}
}
