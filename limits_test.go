package alknet_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

// A limitCase tries to go beyond one limit of a Router that serves testALPN
// and says whether it was stopped.
type limitCase struct {
	limit, none alknet.Limits
	over        []alknet.Transport // nil: all of the network
	handler     alknet.ProtocolHandler
	exceeds     func(t *testing.T, w limitWorld) (stopped bool)
}

type limitWorld struct {
	router *alknet.Router
	server *alknet.Endpoint
	client *alknet.Endpoint
	over   alknet.Transport
	log    *logs
	// patience is how long to wait for the limit: it is event-driven and long
	// where there is one, and what the test takes where there is none.
	patience time.Duration
}

// dialOne dials and proves that the connection is served.
func (w limitWorld) dialOne(t *testing.T, from *alknet.Endpoint) (*alknet.Conn, error) {
	c, err := from.Dial(t.Context(), addrOver(w.server, w.over), testALPN)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = c.CloseWithError(alknet.CodeOK, "") })
	s, err := c.OpenStream(t.Context())
	if err != nil {
		return nil, err
	}
	_ = s.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := s.Write([]byte("x")); err != nil {
		return nil, err
	}
	_, err = io.ReadFull(s, make([]byte, 1))
	return c, err
}

// refusedAt dials n connections and reports whether the last was refused for a limit.
func (w limitWorld) refusedAt(t *testing.T, n int, name string) bool {
	for i := range n - 1 {
		_, err := w.dialOne(t, w.client)
		require.NoError(t, err, "connection %d is within the limit", i)
	}
	_, err := w.dialOne(t, w.client)
	if err == nil {
		return false
	}
	if w.over == alknet.QUIC {
		var e *alknet.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, alknet.CodeLimit, e.Code)
	}
	require.Contains(t, w.log.String(), "limits."+name)
	return true
}

var limitCases = map[string]limitCase{
	"MaxConns": {
		limit: alknet.Limits{MaxConns: 2}, none: alknet.Limits{MaxConns: -1}, handler: echo,
		exceeds: func(t *testing.T, w limitWorld) bool { return w.refusedAt(t, 3, "max_conns") },
	},
	"MaxConnsPerPeer": {
		limit: alknet.Limits{MaxConnsPerPeer: 2}, none: alknet.Limits{MaxConnsPerPeer: -1}, handler: echo,
		exceeds: func(t *testing.T, w limitWorld) bool {
			stopped := w.refusedAt(t, 3, "max_conns_per_peer")
			_, err := w.dialOne(t, client(t, nil))
			require.NoError(t, err, "another peer has its own count")
			return stopped
		},
	},
	"MaxHandshakes": {
		limit: alknet.Limits{MaxHandshakes: 2, MaxHandshakesPerAddr: -1}, none: alknet.Limits{MaxHandshakes: -1, MaxHandshakesPerAddr: -1},
		handler: echo, exceeds: hangingHandshakes("max_handshakes"),
	},
	"MaxHandshakesPerAddr": {
		limit: alknet.Limits{MaxHandshakesPerAddr: 2}, none: alknet.Limits{MaxHandshakesPerAddr: -1},
		handler: echo, exceeds: hangingHandshakes("max_handshakes_per_addr"),
	},
	"UnauthenticatedBytes": {
		limit: alknet.Limits{UnauthenticatedBytes: 130 << 10, MaxHandshakesPerAddr: -1}, none: alknet.Limits{UnauthenticatedBytes: -1, MaxHandshakesPerAddr: -1},
		handler: echo, exceeds: hangingHandshakes("unauthenticated_bytes"),
	},
	"TotalBytes": {
		limit: alknet.Limits{TotalBytes: 200 << 10}, none: alknet.Limits{TotalBytes: -1}, handler: echo,
		over: []alknet.Transport{alknet.QUIC, alknet.Raw},
		exceeds: func(t *testing.T, w limitWorld) bool {
			n := 3 // 64 KiB each, and the fourth is in its handshake
			if w.over == alknet.Raw {
				n = 6
			}
			return w.refusedAt(t, n+1, "total_bytes")
		},
	},
	"MaxStreams": {
		limit: alknet.Limits{MaxStreams: 3}, none: alknet.Limits{MaxStreams: -1},
		over: []alknet.Transport{alknet.QUIC, alknet.Mux}, handler: blockingStreams,
		exceeds: func(t *testing.T, w limitWorld) bool {
			c := dial(t, w.client, w.server, w.over)
			for range 3 {
				_, err := open(t, c).Write([]byte("x"))
				require.NoError(t, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			s, err := c.OpenStream(ctx)
			if err == nil {
				_, err = s.Write([]byte("x"))
				require.NoError(t, err)
				return false
			}
			require.ErrorIs(t, err, context.DeadlineExceeded, "it waits")
			return true
		},
	},
	"ConnBytes": {
		limit: alknet.Limits{ConnBytes: 512 << 10}, none: alknet.Limits{ConnBytes: -1},
		over: []alknet.Transport{alknet.QUIC, alknet.Mux}, handler: blockingStreams,
		exceeds: func(t *testing.T, w limitWorld) bool {
			c := dial(t, w.client, w.server, w.over)
			sent := 0
			for range 16 { // nothing is read: each stream fills what it may
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				s, err := c.OpenStream(ctx)
				cancel()
				if err != nil {
					break
				}
				_ = s.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				for err == nil {
					var n int
					n, err = s.Write(make([]byte, 16<<10))
					sent += n
				}
			}
			if w.over == alknet.QUIC { // without a limit it starts at 512 KiB too and grows as it is read
				require.LessOrEqual(t, sent, 640<<10)
				return w.log != nil && quicWindowBounded(t, w)
			}
			return sent <= 640<<10
		},
	},
	"HandshakeTimeout": {
		limit: alknet.Limits{HandshakeTimeout: 500 * time.Millisecond}, none: alknet.Limits{HandshakeTimeout: -1}, handler: echo,
		exceeds: func(t *testing.T, w limitWorld) bool {
			if w.over == alknet.QUIC {
				return quicHandshakeEnds(t, w)
			}
			nc, err := net.Dial("tcp", w.server.Addr().HostPort)
			require.NoError(t, err)
			defer nc.Close()
			_, err = nc.Write([]byte{22, 3, 1}) // the beginning of a ClientHello, and no more
			require.NoError(t, err)
			require.NoError(t, nc.SetReadDeadline(time.Now().Add(w.patience)))
			_, err = nc.Read(make([]byte, 1))
			return !errors.Is(err, os.ErrDeadlineExceeded)
		},
	},
	"IdleTimeout": {
		limit: alknet.Limits{IdleTimeout: 300 * time.Millisecond}, none: alknet.Limits{IdleTimeout: -1}, handler: echo,
		exceeds: func(t *testing.T, w limitWorld) bool {
			quiet := client(t, &alknet.Config{KeepAlive: -1})
			c, err := w.dialOne(t, quiet)
			require.NoError(t, err)
			defer c.CloseWithError(alknet.CodeOK, "")
			gone := func() bool { return w.router.Stats().Connections == 0 }
			for end := time.Now().Add(w.patience); time.Now().Before(end) && !gone(); {
				<-time.After(10 * time.Millisecond)
			}
			return gone()
		},
	},
}

// hangingHandshakes holds two handshakes open in Authenticate and tries a third.
func hangingHandshakes(name string) func(*testing.T, limitWorld) bool {
	return func(t *testing.T, w limitWorld) bool {
		n := 2
		if name == "unauthenticated_bytes" && w.over != alknet.QUIC {
			n = 4 // 32 KiB each
		}
		hang := make(chan struct{})
		holding.Store(&hang)
		defer close(hang)
		for range n {
			c := dial(t, client(t, nil), w.server, w.over)
			s, err := c.OpenStream(t.Context())
			require.NoError(t, err)
			_, _ = s.Write([]byte("x")) // on Raw and Mux this sends the client's certificate
		}
		require.Eventually(t, func() bool { return int(held.Load()) == n }, 10*time.Second, time.Millisecond)
		none := make(chan struct{})
		close(none)
		holding.Store(&none)
		_, err := w.dialOne(t, w.client)
		if err == nil {
			return false
		}
		require.Contains(t, w.log.String(), "limits."+name)
		return true
	}
}

// holding makes Authenticate of the limit tests wait.
var holding atomic.Pointer[chan struct{}]

// held is how many it has let in and not out.
var held atomic.Int32

func holdingAuthenticate(ctx context.Context, cs tls.ConnectionState, _ string) (alknet.Identity, error) {
	if c := holding.Load(); c != nil {
		held.Add(1)
		defer held.Add(-1)
		select {
		case <-*c:
		case <-ctx.Done():
		}
	}
	return alknet.Identity{ID: fmt.Sprintf("%x", cs.PeerCertificates[0].RawSubjectPublicKeyInfo)}, nil
}

// blockingStreams accepts streams and reads nothing.
var blockingStreams = alknet.StreamFunc(func(ctx context.Context, s *alknet.Stream) error {
	<-ctx.Done()
	return nil
})

// quicWindowBounded sends 4 MiB that the server reads, which lets the window
// grow where it may, then fills it.
func quicWindowBounded(t *testing.T, w limitWorld) bool {
	router := &alknet.Router{Limits: w.router.Limits}
	require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: alknet.QUIC, Handler: alknet.StreamFunc(
		func(ctx context.Context, s *alknet.Stream) error {
			_, err := io.CopyN(io.Discard, s, 64<<20)
			<-ctx.Done()
			return err
		})}))
	c := dial(t, client(t, nil), serve(t, router, nil), alknet.QUIC)
	s := open(t, c)
	require.NoError(t, s.SetDeadline(time.Now().Add(2*time.Minute))) // a busy machine, with the race detector
	_, err := io.CopyN(s, zeros{}, 64<<20)
	require.NoError(t, err)
	_ = s.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	n, _ := io.Copy(s, zeros{})
	return n <= 640<<10
}

// quicHandshakeEnds starts a QUIC handshake that cannot finish, because the
// server's answers do not arrive, and waits for the server to give it up.
func quicHandshakeEnds(t *testing.T, w limitWorld) bool {
	relay, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer relay.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	to := addrOver(w.server, alknet.QUIC)
	to.HostPort = relay.LocalAddr().String()
	dialled := make(chan struct{})
	go func() {
		defer close(dialled)
		if c, err := w.client.Dial(ctx, to, testALPN); err == nil {
			_ = c.Close()
		}
	}()
	buf := make([]byte, 2048)
	n, _, err := relay.ReadFrom(buf)
	require.NoError(t, err)
	out, err := net.Dial("udp", w.server.Addr().HostPort)
	require.NoError(t, err)
	defer out.Close()
	_, err = out.Write(buf[:n])
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.router.Stats().Handshaking == 1 }, 30*time.Second, time.Millisecond)
	gone := func() bool { return w.router.Stats().Handshaking == 0 }
	for end := time.Now().Add(w.patience); time.Now().Before(end) && !gone(); {
		<-time.After(10 * time.Millisecond)
	}
	cancel()
	<-dialled
	return gone()
}

// Each limit stops what goes beyond it, and nothing does without it: a test
// that passes because something else stopped it is worth nothing.
func TestLimits(t *testing.T) {
	for name, lc := range limitCases {
		t.Run(name, func(t *testing.T) {
			eachNetwork(t, func(t *testing.T, over alknet.Transport) {
				if lc.over != nil && !contains(lc.over, over) {
					t.Skip("the limit does not apply to this transport")
				}
				require.True(t, tryLimit(t, lc, lc.limit, over), "with the limit")
				require.False(t, tryLimit(t, lc, lc.none, over), "without it")
			})
		})
	}
}

func tryLimit(t *testing.T, lc limitCase, l alknet.Limits, over alknet.Transport) bool {
	var stopped bool
	t.Run(fmt.Sprintf("%+v", l), func(t *testing.T) {
		holding.Store(nil)
		w := limitWorld{log: &logs{}, over: over, patience: 30 * time.Second}
		if l == lc.none {
			w.patience = 2 * time.Second
		}
		w.router = &alknet.Router{Limits: l, Authenticate: holdingAuthenticate, Logger: w.log.logger()}
		require.NoError(t, w.router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: lc.handler}))
		w.server, w.client = serve(t, w.router, nil), client(t, nil)
		stopped = lc.exceeds(t, w)
	})
	return stopped
}

func contains(list []alknet.Transport, t alknet.Transport) bool {
	for _, o := range list {
		if o == t {
			return true
		}
	}
	return false
}
