package ssh_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/net/proxy"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/socks"
	"github.com/alkdev/alknet/ssh/tunnel"
)

// peerEnv makes the test program a peer that is killed: "server SEED CLIENT" or
// "client SEED ADDRESS ECHO TRANSPORT".
const peerEnv = "ALKNET_TEST_PEER"

// How soon a peer that is gone without a word is missed: three keep-alives of
// SSH, or the idle time of a QUIC connection.
const (
	killKeepAlive = time.Second
	killIdle      = 3 * time.Second
)

// runPeer is the test program as a peer. It ends with its standard input.
func runPeer(args []string) error {
	seed, err := hex.DecodeString(args[1])
	if err != nil {
		return err
	}
	key := ed25519.NewKeyFromSeed(seed)
	switch args[0] {
	case "server":
		client, err := alknet.ParsePeerID(args[2])
		if err != nil {
			return err
		}
		s, err := serveAll(key, client)
		if err != nil {
			return err
		}
		fmt.Println(s.ep.Addr().HostPort)
	case "client":
		ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})
		if err != nil {
			return err
		}
		to, err := alknet.ParseAddr(args[2])
		if err != nil {
			return err
		}
		if to.Over = alknet.QUIC; args[4] == alknet.Mux.String() {
			to.Over = alknet.Mux
		}
		h, err := holdAll(ep, to, args[3])
		if err != nil {
			return err
		}
		for _, l := range h.listeners {
			go echoes(l)
		}
		fmt.Println(h.pid, h.agent, h.listeners[0].Addr(), h.listeners[1].Addr())
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// A serving is a node with shells, forwards and tunnels.
type serving struct {
	ep     *alknet.Endpoint
	router *alknet.Router
	h      *ssh.Handler
	gate   *forward.Gate
	served chan error
}

// serveAll serves one client, who may do everything.
func serveAll(key ed25519.PrivateKey, client alknet.PeerID) (*serving, error) {
	s := &serving{gate: &forward.Gate{}, served: make(chan error, 1)}
	policy, err := forward.ParsePolicy("allow * dial tcp 127.0.0.1:*\nallow * listen tcp 127.0.0.1:*")
	if err != nil {
		return nil, err
	}
	s.gate.SetPolicy(policy)
	s.h = &ssh.Handler{Node: key, Accounts: testAccount, Gate: s.gate, AllowAgent: true, Limits: ssh.Limits{KeepAlive: killKeepAlive}}
	s.router = &alknet.Router{Limits: alknet.Limits{IdleTimeout: killIdle}, Authenticate: func(_ context.Context, state tls.ConnectionState, _ string) (alknet.Identity, error) {
		if len(state.PeerCertificates) == 1 {
			if key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey); ok && alknet.PeerID(key) == client {
				return alknet.Identity{ID: "bob", Scopes: allScopes}, nil
			}
		}
		return alknet.Identity{}, nil
	}}
	if err := errors.Join(s.router.Register(ssh.Service(s.h)), s.router.Register(tunnel.Service(&tunnel.Handler{Gate: s.gate}))); err != nil {
		return nil, err
	}
	s.ep, err = alknet.Listen(context.Background(), "127.0.0.1:0", &alknet.Config{Key: key})
	if err != nil {
		return nil, err
	}
	go func() { s.served <- s.router.Serve(s.ep) }()
	return s, nil
}

func (s *serving) close() error {
	err := errors.Join(s.router.Close(), s.ep.Close())
	<-s.served
	return err
}

// A heldAll is what a client has open: a program with an agent, and by SSH, by a
// tunnel and by SOCKS over that one a flow, and a listener with a connection.
type heldAll struct {
	ssh       *ssh.Client
	tunnel    *tunnel.Client
	pid       int    // of the program
	agent     string // its socket
	ran       chan error
	flows     map[string]net.Conn
	listeners []net.Listener // of SSH, of the tunnel
	front     *socks.Server
	dialer    proxy.Dialer
	served    chan error // of front
}

// holdAll opens all of it, and has each flow carry something.
func holdAll(ep *alknet.Endpoint, to alknet.Addr, echo string) (*heldAll, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	h := &heldAll{ran: make(chan error, 1), flows: make(map[string]net.Conn), served: make(chan error, 1)}
	ring := agent.NewKeyring()
	var err error
	h.ssh, err = ssh.Dial(ctx, ep, to, &ssh.ClientConfig{KeepAlive: killKeepAlive, Agent: func() (net.Conn, error) {
		here, there := net.Pipe()
		go func() { _ = agent.ServeAgent(ring, there); _ = there.Close() }()
		return here, nil
	}})
	if err != nil {
		return nil, err
	}
	if h.tunnel, err = tunnel.Dial(ctx, ep, to); err != nil {
		return nil, err
	}
	out, stdout := io.Pipe()
	go func() {
		h.ran <- h.ssh.Run(context.Background(), &ssh.Cmd{Line: "echo $$ $SSH_AUTH_SOCK; exec sleep 1000", Stdout: stdout, Agent: true})
	}()
	if _, err := fmt.Fscan(out, &h.pid, &h.agent); err != nil {
		return nil, err
	}
	for name, link := range map[string]forward.Link{"ssh": h.ssh, "tunnel": h.tunnel} {
		if h.flows[name], err = link.DialContext(ctx, "tcp", echo); err != nil {
			return nil, err
		}
	}
	for _, link := range []forward.Link{h.ssh, h.tunnel} {
		l, err := link.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		h.listeners = append(h.listeners, l)
	}
	h.front = &socks.Server{Dial: func(ctx context.Context, _, network, address string) (net.Conn, error) {
		return h.tunnel.DialContext(ctx, network, address)
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { h.served <- h.front.Serve(l) }()
	if h.dialer, err = proxy.SOCKS5("tcp", l.Addr().String(), nil, proxy.Direct); err != nil {
		return nil, err
	}
	if h.flows["socks"], err = h.dialer.Dial("tcp", echo); err != nil {
		return nil, err
	}
	for _, nc := range h.flows {
		if err := carries(nc, bufio.NewReader(nc)); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// wantCut wants a connection to have broken off: an end would say that all that
// was sent is there.
func wantCut(t *testing.T, name string, nc net.Conn) {
	t.Helper()
	_ = nc.SetReadDeadline(time.Now().Add(time.Minute)) // where there are deadlines
	_, err := nc.Read(make([]byte, 1))
	require.Error(t, err, name)
	require.NotErrorIs(t, err, io.EOF, name)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, name)
	_ = nc.Close()
}

// startPeer starts the test program as a peer, and returns the first line that it
// prints.
func startPeer(t *testing.T, args ...string) (kill func(), line string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), peerEnv+"="+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe() // its end ends the peer, if the test does not
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	killed := false
	kill = func() {
		if !killed {
			killed = true
			require.NoError(t, cmd.Process.Kill())
			require.Error(t, cmd.Wait())
			_ = in.Close()
		}
	}
	t.Cleanup(kill)
	line, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, "the peer did not start")
	return kill, strings.TrimSpace(line)
}

// wantDescriptors wants about as many to be open as before: what was held is three
// times what the poller, an echo server and the start of a process leave. Pipes
// with which the runtime copies between sockets are open until they are collected.
func wantDescriptors(t *testing.T, before int) {
	t.Helper()
	require.Eventually(t, func() bool { runtime.GC(); return openFiles(t) <= before+4 }, 30*time.Second, 10*time.Millisecond, "descriptors are left")
}

// The process of a server dies in the middle of all that a client has open: every
// call returns, what was cut is not taken for whole, and nothing is left.
func TestServerIsKilled(t *testing.T) {
	eachTransport(t, func(t *testing.T, over alknet.Transport) {
		fds := openFiles(t)
		key, mine := newKey(t), newKey(t)
		kill, at := startPeer(t, "server", hex.EncodeToString(key.Seed()), peerOf(mine).String())
		ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: mine})
		require.NoError(t, err)
		echo := testenv.Echo(t, "tcp", "127.0.0.1:0").String()
		h, err := holdAll(ep, alknet.Addr{HostPort: at, Peer: peerOf(key), Over: over}, echo)
		require.NoError(t, err)
		defer func() { _ = syscall.Kill(h.pid, syscall.SIGKILL) }() // nobody is left to end it
		kill()
		require.ErrorIs(t, <-h.ran, net.ErrClosed)
		for name, nc := range h.flows {
			wantCut(t, name, nc)
		}
		for i, l := range h.listeners {
			_, err := l.Accept()
			require.ErrorIs(t, err, net.ErrClosed, i)
		}
		<-h.ssh.Done()
		<-h.tunnel.Done()
		_, err = h.ssh.DialContext(within(t), "tcp", echo)
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = h.tunnel.DialContext(within(t), "tcp", echo)
		var refused *forward.Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, forward.CodeNetUnreachable, refused.Code)
		_, err = h.dialer.Dial("tcp", echo)
		require.ErrorContains(t, err, "network unreachable", "and not a direct connection")
		_ = h.ssh.Close()
		_ = h.tunnel.Close()
		require.NoError(t, h.front.Shutdown(within(t)))
		require.ErrorIs(t, <-h.served, net.ErrClosed)
		require.NoError(t, ep.Close())
		wantDescriptors(t, fds)
	})
}

// The process of a client dies: the server ends what it had.
func TestClientIsKilled(t *testing.T) {
	eachTransport(t, func(t *testing.T, over alknet.Transport) {
		key, theirs := newKey(t), newKey(t)
		s, err := serveAll(key, peerOf(theirs))
		require.NoError(t, err)
		defer func() { require.NoError(t, s.close()) }()
		echo := testenv.Echo(t, "tcp", "127.0.0.1:0").String()
		fds := openFiles(t)
		to := alknet.Addr{HostPort: s.ep.Addr().HostPort, Peer: peerOf(key), Over: over}
		kill, line := startPeer(t, "client", hex.EncodeToString(theirs.Seed()), to.String(), echo, over.String())
		var pid int
		var socket string
		var listeners [2]string
		_, err = fmt.Sscan(line, &pid, &socket, &listeners[0], &listeners[1])
		require.NoError(t, err, line)
		var outside []net.Conn // that reach the client
		for _, address := range listeners {
			nc, err := net.Dial("tcp", address)
			require.NoError(t, err)
			require.NoError(t, carries(nc, bufio.NewReader(nc)))
			outside = append(outside, nc)
		}
		require.Eventually(t, func() bool { return s.gate.Flows() == 5 }, 30*time.Second, time.Millisecond, "three dialled, two listeners")
		_, err = os.Stat(socket)
		require.NoError(t, err)
		kill()
		waitGone(t, pid)
		for i, nc := range outside {
			wantCut(t, listeners[i], nc)
		}
		for _, address := range listeners {
			require.Eventually(t, func() bool {
				nc, err := net.Dial("tcp", address)
				if err == nil {
					_ = nc.Close()
				}
				return err != nil
			}, 30*time.Second, time.Millisecond, "the listener is left")
		}
		require.Eventually(t, func() bool {
			_, err := os.Stat(socket)
			return s.gate.Flows() == 0 && s.router.Stats().Connections == 0 && errors.Is(err, os.ErrNotExist)
		}, 30*time.Second, time.Millisecond)
		wantDescriptors(t, fds)
	})
}
