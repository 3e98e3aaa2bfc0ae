package tunnel

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/proxy"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/socks"
)

// A holder is something open that a peer has by a scope.
type holder struct {
	name  string
	scope string
	nc    net.Conn
	in    *bufio.Reader
}

// alive carries a line there and back, or fails.
func (h *holder) alive() error {
	if _, err := io.WriteString(h.nc, "alive\n"); err != nil {
		return err
	}
	l, err := h.in.ReadString('\n')
	if err == nil && l != "alive\n" {
		err = fmt.Errorf("got %q", l)
	}
	return err
}

// dies waits until it carries nothing any more.
func (h *holder) dies(t *testing.T) {
	t.Helper()
	begun := time.Now()
	for h.alive() == nil {
		if time.Since(begun) > 10*time.Second {
			t.Errorf("%s outlives its scope %s", h.name, h.scope)
			return
		}
	}
}

// A holding is a peer with all that it can hold, and another peer.
type holding struct {
	t       *testing.T
	r       *rig
	bob     *alknet.Endpoint
	over    alknet.Transport
	dir     string
	holders []*holder
	clients []*Client
}

// client connects as bob: on Raw a connection has one stream.
func (x *holding) client() *Client {
	if x.over == alknet.Raw || len(x.clients) == 0 {
		x.clients = append(x.clients, x.r.dial(x.bob, x.over))
	}
	return x.clients[len(x.clients)-1]
}

func (x *holding) hold(name, scope string) func(nc net.Conn, err error) {
	return func(nc net.Conn, err error) {
		x.t.Helper()
		require.NoError(x.t, err, name)
		x.t.Cleanup(func() { _ = nc.Close() })
		h := &holder{name, scope, nc, bufio.NewReader(nc)}
		require.NoError(x.t, h.alive(), name)
		x.holders = append(x.holders, h)
	}
}

func (x *holding) accept(l net.Listener, err error) net.Listener {
	x.t.Helper()
	require.NoError(x.t, err)
	go func() {
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
	}()
	return l
}

const holdingPolicy = `
allow * dial tcp,udp 127.0.0.1:*
allow * dial unix DIR/*
allow * dial name *
allow * listen tcp 127.0.0.1:1024-65535
allow * listen unix DIR/*
allow * publish name *`

func newHolding(t *testing.T, over alknet.Transport) *holding {
	carrier := []alknet.Transport{over}
	if over == alknet.Raw { // alice publishes, which takes streams
		carrier = []alknet.Transport{alknet.Raw, alknet.QUIC}
	}
	x := &holding{t: t, r: newRig(t, carrier...), over: over, dir: t.TempDir()}
	x.r.policy(strings.ReplaceAll(holdingPolicy, "DIR", x.dir))
	x.bob = x.r.Peer(bob)
	alice := x.r.dial(x.r.Peer(alknet.Identity{ID: "alice", Scopes: bob.Scopes}), carrier[len(carrier)-1])
	ctx := t.Context()
	tcp := testenv.Echo(t, "tcp", "127.0.0.1:0").String()
	x.hold("dial tcp", forward.ScopeDial)(x.client().DialContext(ctx, "tcp", tcp))
	x.hold("dial unix", forward.ScopeDial)(x.client().DialContext(ctx, "unix", testenv.Echo(t, "unix", filepath.Join(x.dir, "echo")).String()))
	x.hold("dial udp", forward.ScopeDial)(x.client().DialContext(ctx, "udp", testenv.Echo(t, "udp", "127.0.0.1:0").String()))
	x.accept(alice.Publish(ctx, "hers"))
	x.hold("dial name", forward.ScopeDial)(x.client().DialContext(ctx, "name", "hers"))
	x.hold("SOCKS", forward.ScopeDial)(x.socks().Dial("tcp", tcp))
	if over == alknet.Raw {
		return x
	}
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(x.dir, "listener")} {
		l := x.accept(x.client().Listen(ctx, network, address))
		x.hold("accepted "+network, forward.ScopeListen)(net.Dial(network, l.Addr().String()))
	}
	x.accept(x.client().Publish(ctx, "his"))
	x.hold("published name", forward.ScopeListen)(alice.DialContext(ctx, "name", "his"))
	return x
}

// socks is a proxy in front of the tunnel.
func (x *holding) socks() proxy.Dialer {
	front := &socks.Server{Dial: func(ctx context.Context, _, network, address string) (net.Conn, error) {
		return x.client().DialContext(ctx, network, address)
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(x.t, err)
	done := make(chan struct{})
	go func() { defer close(done); _ = front.Serve(l) }()
	x.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = front.Shutdown(ctx) // what the test left open is cut
		<-done
	})
	d, err := proxy.SOCKS5("tcp", l.Addr().String(), nil, proxy.Direct)
	require.NoError(x.t, err)
	return d
}

// Whoever loses a scope loses what it has by it and nothing else, on every
// transport; what is asked for after that is judged by what is left.
func TestLostScopeCutsItsFlows(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux, alknet.Raw} {
		for lost, left := range map[string][]string{
			forward.ScopeDial: {forward.ScopeListen}, forward.ScopeListen: {forward.ScopeDial}, "both": {"other"},
		} {
			t.Run(strings.ToLower(over.String())+"/"+lost, func(t *testing.T) {
				x := newHolding(t, over)
				x.r.Admit(x.bob.ID(), alknet.Identity{ID: "bob", Scopes: left})
				require.NoError(t, x.r.Router.Reauthenticate(t.Context()))
				for _, h := range x.holders {
					if h.scope == lost || lost == "both" {
						h.dies(t)
					} else {
						require.NoError(t, h.alive(), h.name)
					}
				}
				if over == alknet.Raw || lost == "both" {
					return
				}
				_, err := x.client().DialContext(t.Context(), "name", "hers")
				require.Equal(t, lost == forward.ScopeDial, err != nil, "%v", err)
				_, err = x.client().Publish(t.Context(), "again")
				require.Equal(t, lost == forward.ScopeListen, err != nil, "%v", err)
				if lost == forward.ScopeListen {
					require.Eventually(t, func() bool { // the name is no longer offered
						_, err := x.r.h.DialName(t.Context(), &alknet.Identity{ID: "carol", Scopes: bob.Scopes}, "his")
						return err != nil && len(x.r.h.Published()) == 1
					}, 30*time.Second, time.Millisecond)
				}
			})
		}
	}
}

// So does a policy that is replaced.
func TestPolicyCutsWhatItForbids(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux, alknet.Raw} {
		for lost, keep := range map[string]string{forward.ScopeDial: " listen ", forward.ScopeListen: " dial "} {
			t.Run(strings.ToLower(over.String())+"/"+lost, func(t *testing.T) {
				x := newHolding(t, over)
				rules := []string{"allow peer:alice publish name hers", "allow peer:alice dial name his"}
				for l := range strings.Lines(strings.ReplaceAll(holdingPolicy, "DIR", x.dir)) {
					if strings.Contains(l, keep) || strings.Contains(l, " publish ") && keep == " listen " {
						rules = append(rules, strings.TrimSpace(l))
					}
				}
				x.r.policy(strings.Join(rules, "\n"))
				for _, h := range x.holders {
					if h.scope == lost {
						h.dies(t)
					} else {
						require.NoError(t, h.alive(), h.name)
					}
				}
			})
		}
	}
}
