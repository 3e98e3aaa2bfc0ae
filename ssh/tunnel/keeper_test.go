package tunnel

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/socks"
)

// The forwards are back within 2 s of the return of a server that was killed.
func TestKeeperSurvivesKills(t *testing.T) {
	target := testenv.Echo(t, "tcp", "127.0.0.1:0")
	s := newRig(t, alknet.QUIC)
	s.policy("allow * dial tcp 127.0.0.1:*\nallow * listen tcp 127.0.0.1:1024-65535")
	client, to := s.Peer(bob), s.Addr(alknet.QUIC)
	local, remote := freePort(t), freePort(t)
	k := &forward.Keeper{
		Connect: func(ctx context.Context) (forward.Link, error) {
			return Dial(ctx, client, to)
		},
		Forwards: []forward.Forward{
			{Network: "tcp", Listen: "127.0.0.1:" + local, TargetNetwork: "tcp", Target: target.String()},
			{Remote: true, Network: "tcp", Listen: "127.0.0.1:" + remote, TargetNetwork: "tcp", Target: target.String()},
		},
		MaxBackoff: time.Second,
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	works := func() bool {
		for _, port := range []string{local, remote} {
			nc, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				return false
			}
			_ = nc.SetDeadline(time.Now().Add(3 * time.Second))
			_, _ = io.WriteString(nc, "x")
			_, err = io.ReadFull(nc, make([]byte, 1))
			_ = nc.Close()
			if err != nil {
				return false
			}
		}
		return true
	}
	require.Eventually(t, works, 30*time.Second, 5*time.Millisecond)
	for i := range kills {
		s.Kill()
		s.Start()
		require.Eventually(t, works, 30*time.Second, 5*time.Millisecond, "kill %d", i) // a time of 2 s is not asserted here
	}
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// SOCKS at one node leaves at another, where names are resolved and judged.
func TestSOCKSThroughTwoNodes(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))
	defer web.Close()
	_, port, _ := net.SplitHostPort(web.Listener.Addr().String())
	s := newRig(t, alknet.QUIC, alknet.Mux)
	s.policy("allow * dial tcp 127.0.0.1:" + port)
	client := s.Peer(bob)
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux} {
		t.Run(strings.ToLower(over.String()), func(t *testing.T) {
			c := s.dial(client, over)
			front := &socks.Server{Dial: func(ctx context.Context, _, network, address string) (net.Conn, error) {
				return c.DialContext(ctx, network, address)
			}}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			done := make(chan error, 1)
			go func() { done <- front.Serve(l) }()
			curl := func(host string) string {
				out, _ := testenv.Command(t, "curl", "-sS", "--max-time", "10", "--socks5-hostname", l.Addr().String(), "http://"+host+":"+port).CombinedOutput()
				return string(out)
			}
			require.Equal(t, "hello", curl("127.0.0.1"))
			require.Equal(t, "hello", curl("localhost"), "resolved at the other node")
			require.Contains(t, curl("127.0.0.2"), "(2)", "denied by its rules")
			require.Contains(t, curl("169.254.169.254"), "(2)")
			require.NoError(t, c.Close())
			require.Contains(t, curl("127.0.0.1"), "(3)", "a link that is down is no direct connection")
			require.NoError(t, front.Shutdown(t.Context()))
			<-done
		})
	}
}
