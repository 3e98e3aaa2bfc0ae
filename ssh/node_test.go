package ssh_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/handlertest"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
)

// How long a test waits for what must come, and how often it looks.
const (
	patience = 30 * time.Second
	tick     = time.Millisecond
)

// allScopes are those of a peer that may do everything.
var allScopes = []string{ssh.ScopeShell, ssh.ScopeAgent, forward.ScopeDial, forward.ScopeListen}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return key
}

func peerOf(key crypto.Signer) alknet.PeerID { return alknet.PeerID(key.Public().(ed25519.PublicKey)) }

// A node serves a Handler on loopback.
type node struct {
	*handlertest.Node
	t    testing.TB
	h    *ssh.Handler
	gate *forward.Gate
	log  *syncBuffer
}

// A syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// newNode starts a node on QUIC and Mux; set changes its Handler before.
func newNode(t testing.TB, set func(*ssh.Handler)) *node {
	t.Helper()
	return newNodeOver(t, 0, set)
}

// newNodeOver starts a node on transports.
func newNodeOver(t testing.TB, over alknet.Transport, set func(*ssh.Handler)) *node {
	t.Helper()
	n := &node{Node: handlertest.NewNode(t), t: t, gate: &forward.Gate{}, log: &syncBuffer{}}
	n.Logger = slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n.h = &ssh.Handler{Node: n.Key, Accounts: testAccount, Gate: n.gate, Logger: n.Logger}
	if set != nil {
		set(n.h)
	}
	service := ssh.Service(n.h)
	service.Over = over
	n.Serve(service)
	return n
}

// testAccount is the account that the tests run as, with a plain shell and a
// folder of its own.
func testAccount(ctx context.Context, id *alknet.Identity, user string) (*ssh.Account, error) {
	a, err := ssh.OwnAccount(ctx, id, user)
	if err == nil {
		a.Shell = "/bin/sh"
		a.Home = os.TempDir()
	}
	return a, err
}

// admit makes key a peer with scopes.
func (n *node) admit(key ed25519.PrivateKey, name string, scopes ...string) {
	n.Admit(peerOf(key), alknet.Identity{ID: name, Scopes: scopes})
}

func (n *node) policy(text string) {
	n.t.Helper()
	p, err := forward.ParsePolicy(text)
	require.NoError(n.t, err)
	n.gate.SetPolicy(p)
}

// client is a connection of our own client, by a fresh peer with scopes.
func (n *node) client(over alknet.Transport, scopes ...string) *ssh.Client {
	n.t.Helper()
	c, _ := n.clientOf(over, nil, scopes...)
	return c
}

// clientOf is client, and the key of the peer.
func (n *node) clientOf(over alknet.Transport, cfg *ssh.ClientConfig, scopes ...string) (*ssh.Client, alknet.PeerID) {
	n.t.Helper()
	ep := n.Peer(alknet.Identity{ID: "bob", Scopes: scopes})
	ctx, cancel := context.WithTimeout(n.t.Context(), 30*time.Second)
	defer cancel()
	c, err := ssh.Dial(ctx, ep, n.Addr(over), cfg)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { _ = c.Close() })
	return c, ep.ID()
}

var (
	bridgeOnce sync.Once
	bridgePath string
	bridgeErr  error
)

// bridge builds the ProxyCommand once and copies it beside the files it reads.
func bridge(t testing.TB) []byte {
	t.Helper()
	bridgeOnce.Do(func() {
		dir, err := os.MkdirTemp("", "alknet-bridge-")
		if err != nil {
			bridgeErr = err
			return
		}
		bridgePath = filepath.Join(dir, "alknet")
		out, err := exec.Command("go", "build", "-o", bridgePath, "./testdata/alknet").CombinedOutput()
		if err != nil {
			bridgeErr = fmt.Errorf("%w: %s", err, out)
		}
	})
	require.NoError(t, bridgeErr)
	program, err := os.ReadFile(bridgePath)
	require.NoError(t, err)
	return program
}

// A stock is a folder with what a stock client needs to reach a node.
type stock struct {
	dir    string
	config string // of ssh(1)
	alknet string // the ProxyCommand's program
	id     string // of the node
	key    ed25519.PrivateKey
}

// stock makes bob a peer with scopes, who reaches the node as "node".
func (n *node) stock(over alknet.Transport, scopes ...string) *stock {
	n.t.Helper()
	program := bridge(n.t)
	s := &stock{dir: n.t.TempDir(), key: newKey(n.t), id: n.Endpoint.ID().String()}
	n.admit(s.key, "bob", scopes...)
	s.alknet = filepath.Join(s.dir, "alknet")
	s.config = filepath.Join(s.dir, "config")
	var config bytes.Buffer
	require.NoError(n.t, ssh.WriteConfig(&config, s.alknet, map[string]alknet.PeerID{"node": n.Endpoint.ID()}))
	write := func(name string, text []byte, perm os.FileMode) {
		require.NoError(n.t, os.WriteFile(filepath.Join(s.dir, name), text, perm))
	}
	write("alknet", program, 0o700)
	write("key", []byte(hex.EncodeToString(s.key.Seed())), 0o600)
	write("peers", fmt.Appendf(nil, "%v %s %v\n", n.Endpoint.ID(), n.Endpoint.Addr().HostPort, over), 0o600)
	write("config", append(config.Bytes(), "Host *\n\tLogLevel ERROR\n"...), 0o600)
	return s
}

// ssh is a command of stock ssh with the printed configuration only.
func (s *stock) ssh(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := testenv.Command(t, "ssh", append([]string{"-F", s.config, "-o", "BatchMode=yes"}, args...)...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK=", "HOME="+s.dir)
	return cmd
}

// run runs a command and returns its output, its errors and its status.
func run(t testing.TB, cmd *exec.Cmd) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Run()
	if err != nil {
		require.NotNil(t, cmd.ProcessState, "%v", err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// eachTransport runs a test over QUIC and over Mux.
func eachTransport(t *testing.T, f func(t *testing.T, over alknet.Transport)) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux} {
		t.Run(strings.ToLower(over.String()), func(t *testing.T) { f(t, over) })
	}
}
