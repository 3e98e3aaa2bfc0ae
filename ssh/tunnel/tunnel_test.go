package tunnel

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/handlertest"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh/forward"
)

var bob = alknet.Identity{ID: "bob", Scopes: []string{forward.ScopeDial, forward.ScopeListen}}

// A rig is a handler and clients of it over one carrier.
type rig struct {
	*handlertest.Node // nil over Pipe
	t                 testing.TB
	h                 *Handler
	over              alknet.Transport // of clients; 0: Pipe
}

// newRig serves a handler on transports, of which the first is that of clients.
func newRig(t testing.TB, over ...alknet.Transport) *rig {
	r := &rig{t: t, h: &Handler{Gate: &forward.Gate{}}, over: over[0]}
	if r.over == 0 {
		return r
	}
	service := Service(r.h)
	for _, o := range over {
		service.Over |= o
	}
	r.Node = handlertest.NewNode(t)
	r.Serve(service)
	return r
}

// carriers runs f over Pipe, QUIC and Mux.
func carriers(t *testing.T, f func(t *testing.T, r *rig)) {
	for _, over := range []alknet.Transport{0, alknet.QUIC, alknet.Mux} {
		name := "pipe"
		if over != 0 {
			name = strings.ToLower(over.String())
		}
		t.Run(name, func(t *testing.T) { f(t, newRig(t, over)) })
	}
}

func (r *rig) policy(text string) {
	r.t.Helper()
	p, err := forward.ParsePolicy(text)
	require.NoError(r.t, err)
	r.h.Gate.SetPolicy(p)
}

// client connects as id.
func (r *rig) client(id alknet.Identity) *Client {
	r.t.Helper()
	if r.over == 0 {
		c, s := alknet.Pipe(ALPN, id, alknet.Identity{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = r.h.ServeConn(context.Background(), s)
			_ = s.Close()
		}()
		client := NewClient(c)
		r.t.Cleanup(func() { _ = client.Close(); <-done })
		return client
	}
	return r.dial(r.Peer(id), r.over)
}

// dial connects as a peer over one transport.
func (r *rig) dial(ep *alknet.Endpoint, over alknet.Transport) *Client {
	r.t.Helper()
	client, err := Dial(r.t.Context(), ep, r.Addr(over))
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = client.Close() })
	return client
}

// wantEcho writes, ends the direction, and reads the same.
func wantEcho(t *testing.T, c net.Conn) {
	t.Helper()
	data := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	go func() {
		_, _ = c.Write(data)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got), "%d bytes", len(got))
	require.NoError(t, c.Close())
}

func TestDialTCPAndUnix(t *testing.T) {
	carriers(t, func(t *testing.T, r *rig) {
		tcp, path := testenv.Echo(t, "tcp", "127.0.0.1:0"), filepath.Join(t.TempDir(), "s")
		testenv.Echo(t, "unix", path)
		r.policy("allow * dial tcp *:* in 127.0.0.0/8\nallow * dial unix " + path)
		c := r.client(bob)
		for range 3 {
			nc, err := c.DialContext(t.Context(), "tcp", tcp.String())
			require.NoError(t, err)
			wantEcho(t, nc)
		}
		nc, err := c.DialContext(t.Context(), "unix", path)
		require.NoError(t, err)
		wantEcho(t, nc)
		require.Eventually(t, func() bool { return r.h.Gate.Flows() == 0 }, 30*time.Second, time.Millisecond)
	})
}

func TestRefusalsHaveTheirCode(t *testing.T) {
	carriers(t, func(t *testing.T, r *rig) {
		closed, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, closed.Close())
		_, port, _ := net.SplitHostPort(closed.Addr().String())
		r.policy("allow * dial tcp *:" + port + " in 127.0.0.0/8")
		c := r.client(bob)
		for target, want := range map[string]forward.Code{
			"127.0.0.1:" + port: forward.CodeRefused, "127.0.0.1:1": forward.CodeDenied, "10.0.0.1:" + port: forward.CodeDenied,
			"127.0.0.1:0": forward.CodeAddress, "127.0.0.1:65536": forward.CodeAddress, "127.1:" + port: forward.CodeAddress,
			"x": forward.CodeAddress, "a\x00b:" + port: forward.CodeAddress,
		} {
			_, err := c.DialContext(t.Context(), "tcp", target)
			var fe *forward.Error
			require.ErrorAs(t, err, &fe, target)
			require.Equal(t, want, fe.Code, "%s: %v", target, err)
			require.NotContains(t, err.Error(), port)
		}
		_, err = c.DialContext(t.Context(), "name", "nobody")
		require.ErrorContains(t, err, "denied")
		_, err = c.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.ErrorContains(t, err, "denied")
		_, err = c.Publish(t.Context(), "x")
		require.ErrorContains(t, err, "denied")
		none := r.client(alknet.Identity{ID: "eve", Scopes: []string{forward.ScopeListen}})
		_, err = none.DialContext(t.Context(), "tcp", "127.0.0.1:"+port)
		require.ErrorContains(t, err, "needs scope")
	})
}

func TestListen(t *testing.T) {
	carriers(t, func(t *testing.T, r *rig) {
		r.policy("allow * listen tcp 127.0.0.1:1024-65535")
		c := r.client(bob)
		l, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
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
		address := l.Addr().String()
		for range 3 {
			nc, err := net.Dial("tcp", address)
			require.NoError(t, err)
			wantEcho(t, nc)
		}
		require.NoError(t, l.Close())
		require.Eventually(t, func() bool { // it is unbound
			nl, err := net.Listen("tcp", address)
			if err == nil {
				_ = nl.Close()
			}
			return err == nil
		}, 30*time.Second, time.Millisecond)
		_, err = c.Listen(t.Context(), "tcp", "0.0.0.0:0")
		require.ErrorContains(t, err, "denied")
	})
}

func TestListenersAreLimitedPerConnection(t *testing.T) {
	carriers(t, func(t *testing.T, r *rig) {
		r.h.MaxListeners = 3
		r.policy("allow * listen tcp *:*\nallow * publish name *")
		c := r.client(bob)
		for i := range 3 {
			_, err := c.Publish(t.Context(), fmt.Sprintf("n%d", i))
			require.NoError(t, err)
		}
		_, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.ErrorContains(t, err, "limit MaxListeners 3")
	})
}

// With the limit off the same listener is there, so that the test above means
// the limit.
func TestNoLimitOfListeners(t *testing.T) {
	carriers(t, func(t *testing.T, r *rig) {
		r.h.MaxListeners = -1
		r.policy("allow * publish name *")
		c := r.client(bob)
		for i := range defaultMaxListeners + 4 {
			_, err := c.Publish(t.Context(), fmt.Sprintf("n%d", i))
			require.NoError(t, err)
		}
	})
}

func TestPublishedNameIsDialledByOthers(t *testing.T) {
	carriers(t, func(t *testing.T, r *rig) {
		r.policy("allow peer:bob publish name grafana\nallow * dial name grafana")
		l, err := r.client(bob).Publish(t.Context(), "grafana")
		require.NoError(t, err)
		go func() {
			for {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					fmt.Fprintf(nc, "for %v:", nc.RemoteAddr())
					_, _ = io.Copy(nc, nc)
					_ = nc.Close()
				}()
			}
		}()
		alice := alknet.Identity{ID: "alice", Scopes: []string{forward.ScopeDial, forward.ScopeListen}}
		c := r.client(alice)
		nc, err := c.DialContext(t.Context(), "name", "grafana")
		require.NoError(t, err)
		greeting := make([]byte, len("for alice:"))
		_, err = io.ReadFull(nc, greeting)
		require.NoError(t, err)
		require.Equal(t, "for alice:", string(greeting))
		list := r.h.Published()
		require.Len(t, list, 1)
		require.Equal(t, "bob", list[0].Identity.ID)
		require.Equal(t, 1, list[0].Flows)
		wantEcho(t, nc)
		_, err = c.Publish(t.Context(), "grafana")
		require.Error(t, err, "a name that a rule does not give")
		local, err := r.h.DialName(t.Context(), &alice, "grafana")
		require.NoError(t, err)
		_, err = io.ReadFull(local, greeting)
		require.NoError(t, err)
		r.policy("allow peer:bob publish name grafana") // nobody may dial it any more
		_, err = io.ReadAll(local)
		require.Error(t, err)
		_ = local.Close()
		require.Eventually(t, func() bool { return r.h.Published()[0].Flows == 0 }, 30*time.Second, time.Millisecond)
		r.policy("")
		require.Eventually(t, func() bool { return len(r.h.Published()) == 0 }, 30*time.Second, time.Millisecond)
	})
}

func TestNameIsReservedAfterALostConnection(t *testing.T) {
	carriers(t, func(t *testing.T, r *rig) {
		r.policy("allow * publish name *")
		first := r.client(bob)
		_, err := first.Publish(t.Context(), "n")
		require.NoError(t, err)
		require.NoError(t, first.Close())
		require.Eventually(t, func() bool { return len(r.h.Published()) == 0 }, 30*time.Second, time.Millisecond)
		eve := alknet.Identity{ID: "eve", Scopes: []string{forward.ScopeListen}}
		_, err = r.client(eve).Publish(t.Context(), "n")
		require.ErrorContains(t, err, "taken")
		l, err := r.client(bob).Publish(t.Context(), "n")
		require.NoError(t, err)
		require.NoError(t, l.Close())
		require.Eventually(t, func() bool { // given back, it is free at once
			l, err := r.client(eve).Publish(t.Context(), "n")
			if err == nil {
				_ = l.Close()
			}
			return err == nil
		}, 30*time.Second, 10*time.Millisecond)
	})
}

func TestUDP(t *testing.T) {
	carriers(t, func(t *testing.T, r *rig) {
		target := testenv.Echo(t, "udp", "127.0.0.1:0")
		r.policy("allow * dial udp 127.0.0.1:*")
		nc, err := r.client(bob).DialContext(t.Context(), "udp", target.String())
		require.NoError(t, err)
		buf := make([]byte, 70000)
		for _, size := range []int{0, 1, 1200, 9000, 60000} {
			msg := bytes.Repeat([]byte{byte(size)}, size)
			_, err := nc.Write(msg)
			require.NoError(t, err)
			n, err := nc.Read(buf)
			require.NoError(t, err)
			require.True(t, bytes.Equal(msg, buf[:n]), "%d bytes", size)
		}
		require.NoError(t, nc.Close())
		require.Eventually(t, func() bool { return r.h.Gate.Flows() == 0 }, 30*time.Second, time.Millisecond)
	})
}

func TestPolicyCutsAFlowWithItsCode(t *testing.T) {
	carriers(t, func(t *testing.T, r *rig) {
		l := testenv.Echo(t, "tcp", "127.0.0.1:0")
		r.policy("allow * dial tcp 127.0.0.1:*")
		nc, err := r.client(bob).DialContext(t.Context(), "tcp", l.String())
		require.NoError(t, err)
		r.policy("allow * dial tcp 10.0.0.1:*")
		_, err = io.ReadAll(nc)
		var ae *alknet.Error
		require.ErrorAs(t, err, &ae)
		require.Equal(t, resetPolicy, ae.Code)
		_ = nc.Close()
	})
}

// A target that resets is a reset for the peer, and not an end.
func TestResetOfTheTargetIsPassedOn(t *testing.T) {
	carriers(t, func(t *testing.T, r *rig) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err == nil {
				_, _ = c.Read(make([]byte, 1))
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
		}()
		r.policy("allow * dial tcp 127.0.0.1:*")
		nc, err := r.client(bob).DialContext(t.Context(), "tcp", l.Addr().String())
		require.NoError(t, err)
		_, err = nc.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadAll(nc)
		var ae *alknet.Error
		require.ErrorAs(t, err, &ae)
		require.Equal(t, alknet.ErrorCode(1), ae.Code)
		_ = nc.Close()
	})
}
