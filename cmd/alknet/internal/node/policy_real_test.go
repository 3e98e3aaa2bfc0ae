package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/tunnel"
)

// The size of the comparison: 4 nodes, each with 16 peers and 18 targets.
const (
	comparedNodes = 4
	comparedPeers = 16
)

// TestPolicyExplainIsWhatHappens compares what `policy explain` says with what the
// node does, for more than 1,000 pairs of a peer and a target, under policies that
// were drawn at random.
func TestPolicyExplainIsWhatHappens(t *testing.T) {
	if testing.Short() {
		t.Skip("a thousand cases on real connections")
	}
	compared, allowed := 0, 0
	for seed := range uint64(comparedNodes) {
		w := newPolicyWorld(t, rand.New(rand.NewPCG(seed, 5)))
		c, a := w.compare(t)
		compared, allowed = compared+c, allowed+a
	}
	require.GreaterOrEqual(t, compared, 1000)
	require.Greater(t, allowed, compared/10, "the policies must not refuse everything")
	require.Less(t, allowed, compared*9/10, "nor allow everything")
	t.Logf("%d cases, %d allowed", compared, allowed)
}

// A policyWorld is a node under a random policy and the keys of its peers.
type policyWorld struct {
	n       *Node
	to      alknet.Addr
	keys    map[string]ed25519.PrivateKey
	targets []string
}

var (
	someScopes = []string{"box:read", "box:write", forward.ScopeDial, forward.ScopeListen, ssh.ScopeShell, "node:read"}
	someTypes  = []string{"box", "site"}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// draw is each of a list with probability 1 in n.
func draw(r *rand.Rand, from []string, n int) (some []string) {
	for _, s := range from {
		if r.IntN(n) == 0 {
			some = append(some, s)
		}
	}
	return some
}

func randomAccess(r *rand.Rand) (ac alknet.AccessControl) {
	switch r.IntN(5) {
	case 0:
	case 1:
		ac.RequiredScopes = []string{pick(r, someScopes)}
	case 2:
		ac.RequiredScopes = draw(r, someScopes, 4)
	case 3:
		ac.RequiredScopesAny = draw(r, someScopes, 2)
	case 4:
		ac.ResourceType, ac.ResourceAction = pick(r, someTypes), pick(r, []string{"open", "close"})
	}
	return ac
}

func newPolicyWorld(t *testing.T, r *rand.Rand) *policyWorld {
	w := &policyWorld{keys: make(map[string]ed25519.PrivateKey)}
	var text strings.Builder
	text.WriteString("[node]\nlisten = [\"127.0.0.1:0\"]\ndrain = \"1s\"\n[limits]\nmax_conns_per_peer = -1\nmax_handshakes_per_addr = -1\n")
	section := func(name string, odds int) {
		fmt.Fprintf(&text, "[%s]\n", name)
		if r.IntN(odds) == 0 {
			fmt.Fprintf(&text, "access = { required_scopes = [%q] }\n", pick(r, someScopes))
		}
	}
	section("call", 3)
	section("ssh", 3)
	if r.IntN(2) == 0 {
		text.WriteString("accounts = \"own\"\n")
	}
	section("tunnel", 3)
	w.peers(t, r, &text)
	for range 4 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
		w.targets = append(w.targets, "dial:"+l.Addr().String())
	}
	w.rules(r, &text)
	dir := t.TempDir()
	f, problems := config.Load("alknet.toml", []byte(text.String()), nil)
	require.False(t, config.Fatal(problems), "%v\n%s", problems, text.String())
	var ops []call.Operation
	for i := range 8 {
		name := fmt.Sprintf("box/op%d", i)
		ops = append(ops, call.Operation{Name: name, Access: randomAccess(r), AllowAnonymous: r.IntN(6) == 0,
			Func: call.QueryFunc(func(context.Context, struct{}) (string, error) { return "done", nil })})
		w.targets = append(w.targets, name)
	}
	w.targets = append(w.targets, call.ALPN, tunnel.ALPN, ssh.ALPN, "shell")
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	w.n, err = Start(t.Context(), Options{File: f, Signer: key, Operations: ops, Version: "test", Log: slog.New(slog.DiscardHandler),
		Places: config.Places{State: dir, Runtime: dir, Vault: filepath.Join(dir, "vault"), Control: filepath.Join(dir, "c.sock")}})
	require.NoError(t, err)
	t.Cleanup(func() { w.n.Stop(true) })
	w.to = alknet.Addr{HostPort: w.n.Listeners()[0].UDP, Peer: w.n.ID()}
	return w
}

// peers draws who is known. The last one publishes the names that others dial.
func (w *policyWorld) peers(t *testing.T, r *rand.Rand, text *strings.Builder) {
	for i := range comparedPeers + 1 {
		id := fmt.Sprintf("p%d", i)
		pub, key, err := ed25519.GenerateKey(nil)
		require.NoError(t, err)
		w.keys[id] = key
		if i == 0 {
			delete(w.keys, id) // a stranger: known by its key only
			w.keys[alknet.PeerID(pub).String()] = key
			continue
		}
		fmt.Fprintf(text, "[[peer]]\nid = %q\nkeys = [%q]\n", id, alknet.PeerID(pub))
		scopes := draw(r, someScopes, 2)
		if i == comparedPeers {
			scopes = append([]string{}, someScopes...)
		}
		fmt.Fprintf(text, "scopes = [%s]\n", quoteAll(scopes))
		fmt.Fprintf(text, "resources = { %s = [%s] }\n", pick(r, someTypes), quoteAll(draw(r, []string{"open", "close"}, 2)))
		if i != comparedPeers && r.IntN(8) == 0 {
			text.WriteString("disabled = true\n")
		}
	}
}

func quoteAll(list []string) string {
	var all []string
	for _, s := range list {
		all = append(all, fmt.Sprintf("%q", s))
	}
	return strings.Join(all, ", ")
}

// rules draws a policy for forwards.
func (w *policyWorld) rules(r *rand.Rand, text *strings.Builder) {
	owner := fmt.Sprintf("peer:p%d", comparedPeers)
	text.WriteString("[forward]\npolicy = \"\"\"\nallow " + owner + " publish name *\n")
	who := func() string {
		return pick(r, []string{"*", forward.ScopeDial, "box:read", "box:write", "peer:p1", "peer:p2", "peer:p3"})
	}
	for range 10 {
		action := pick(r, []string{"allow", "allow", "deny"})
		switch r.IntN(3) {
		case 0, 1:
			fmt.Fprintf(text, "%s %s dial tcp %s\n", action, who(), strings.TrimPrefix(pick(r, w.targets), "dial:"))
		case 2:
			op := pick(r, []string{"dial", "publish"})
			fmt.Fprintf(text, "%s %s %s name %s\n", action, who(), op, pick(r, []string{"one", "t*", "*"}))
		}
	}
	text.WriteString("\"\"\"\n")
	w.targets = append(w.targets, "name:one", "name:two", "publish:three", "publish:other")
}

// compare goes through all pairs, the peers at once.
func (w *policyWorld) compare(t *testing.T) (compared, allowed int) {
	owner := w.client(t, fmt.Sprintf("p%d", comparedPeers))
	defer owner.close()
	if c, err := owner.tunnel(t.Context()); err == nil { // else nobody reaches a name
		for _, name := range []string{"one", "two"} {
			l, err := c.Publish(t.Context(), name)
			if err != nil {
				continue
			}
			go func() {
				for {
					nc, err := l.Accept()
					if err != nil {
						return
					}
					_ = nc.Close()
				}
			}()
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for id := range w.keys {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c := w.client(t, id)
			defer c.close()
			for _, target := range w.targets {
				if strings.HasPrefix(target, "publish:") {
					target += "-" + id // a name is one peer's
				}
				v, err := w.n.policy(t.Context(), PolicyIn{Peer: id, Target: target})
				if err != nil {
					t.Errorf("explain %s %s: %v", id, target, err)
					continue
				}
				does, why := c.does(t.Context(), target)
				if does != v.Allowed {
					t.Errorf("%s %s: explained %+v, but it is %v (%v)\n%s", id, target, v, does, why, w.n.File().Source())
				}
				mu.Lock()
				if compared++; does {
					allowed++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return compared, allowed
}

// A policyClient is a peer that tries what it may do.
type policyClient struct {
	w        *policyWorld
	id       string
	endpoint *alknet.Endpoint
	calls    *call.Client   // nil: not yet, or refused
	tun      *tunnel.Client // the same
	shell    *ssh.Client
}

func (w *policyWorld) client(t *testing.T, id string) *policyClient {
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: w.keys[id], DialFallback: time.Minute})
	require.NoError(t, err)
	return &policyClient{w: w, id: id, endpoint: ep}
}

func (c *policyClient) close() {
	if c.shell != nil {
		_ = c.shell.Close()
	}
	_ = c.endpoint.Close()
}

func (c *policyClient) dialCalls(ctx context.Context) (*call.Client, error) {
	if c.calls != nil {
		return c.calls, nil
	}
	conn, err := c.endpoint.Dial(ctx, c.w.to, call.ALPN)
	if err != nil {
		return nil, err
	}
	cl := call.NewClient(conn, nil)
	if _, _, err := cl.Ping(ctx); err != nil {
		return nil, err
	}
	c.calls = cl
	return cl, nil
}

// tunnel is a connection to the tunnels that was let in: the node has answered.
func (c *policyClient) tunnel(ctx context.Context) (*tunnel.Client, error) {
	if c.tun != nil {
		return c.tun, nil
	}
	cl, err := tunnel.Dial(ctx, c.endpoint, c.w.to)
	if err != nil {
		return nil, err
	}
	nc, err := cl.DialContext(ctx, "name", "nobody-has-it")
	if err == nil {
		_ = nc.Close()
	}
	if !answered(err) {
		return nil, err
	}
	c.tun = cl
	return cl, nil
}

// answered reports whether the other side has decided, and not just ended the
// connection.
func answered(err error) bool {
	_, decided := errors.AsType[*forward.Error](err)
	_, closed := errors.AsType[*alknet.Error](err)
	return err == nil || decided && !closed && !errors.Is(err, net.ErrClosed)
}

func (c *policyClient) ssh(ctx context.Context) (*ssh.Client, error) {
	if c.shell != nil {
		return c.shell, nil
	}
	cl, err := ssh.Dial(ctx, c.endpoint, c.w.to, nil)
	if err == nil {
		c.shell = cl
	}
	return cl, err
}

// does tries it.
func (c *policyClient) does(ctx context.Context, target string) (bool, error) {
	kind, rest, _ := strings.Cut(target, ":")
	switch {
	case kind == "dial":
		if err := c.dial(ctx, "tcp", rest); err == nil {
			return true, nil
		}
		sc, err := c.ssh(ctx)
		if err != nil {
			return false, err
		}
		nc, err := sc.DialContext(ctx, "tcp", rest)
		if err == nil {
			_ = nc.Close()
		}
		return err == nil, err
	case kind == "name":
		err := c.dial(ctx, "name", rest)
		if fe, ok := errors.AsType[*forward.Error](err); ok && answered(err) && fe.Code != forward.CodeDenied {
			err = nil // allowed, but nobody has published it
		}
		return err == nil, err
	case kind == "publish":
		tc, err := c.tunnel(ctx)
		if err != nil {
			return false, err
		}
		l, err := tc.Publish(ctx, rest)
		if err == nil {
			_ = l.Close()
		}
		return err == nil, err
	case target == "shell":
		sc, err := c.ssh(ctx)
		if err != nil {
			return false, err
		}
		err = sc.Run(ctx, &ssh.Cmd{Line: "true"})
		return err == nil, err
	case target == call.ALPN:
		_, err := c.dialCalls(ctx)
		return err == nil, err
	case target == tunnel.ALPN:
		_, err := c.tunnel(ctx)
		return err == nil, err
	case target == ssh.ALPN:
		_, err := c.ssh(ctx)
		return err == nil, err
	}
	cl, err := c.dialCalls(ctx)
	if err != nil {
		return false, err
	}
	_, err = call.Call[string](ctx, cl, target, struct{}{})
	return err == nil, err
}

func (c *policyClient) dial(ctx context.Context, network, address string) error {
	tc, err := c.tunnel(ctx)
	if err != nil {
		return err
	}
	nc, err := tc.DialContext(ctx, network, address)
	if err == nil {
		_ = nc.Close()
	}
	return err
}
