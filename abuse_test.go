package alknet_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

// honest dials and echoes once with a fresh node.
func honest(t testing.TB, server *alknet.Endpoint, over alknet.Transport) {
	c := dial(t, client(t, nil), server, over)
	echoOnce(t, open(t, c))
	require.NoError(t, c.CloseWithError(alknet.CodeOK, ""))
}

// from dials TCP from one of the many addresses of loopback.
func from(t testing.TB, i int, to string) net.Conn {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, byte(1+i>>16), byte(i>>8), byte(i))}}
	c, err := d.Dial("tcp", to)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A flood of connections that say nothing is held to the caps, ends at the
// deadline, and an honest dialler is served all the while.
func TestSilentFloodLeavesRoomForOthers(t *testing.T) {
	router := &alknet.Router{Limits: alknet.Limits{HandshakeTimeout: time.Second, MaxHandshakes: 64}}
	router.Handle(testALPN, echo)
	server := serve(t, router, nil)
	const sources = 200
	conns := make([]net.Conn, sources)
	for i := range conns {
		conns[i] = from(t, i, server.Addr().HostPort)
	}
	require.Eventually(t, func() bool { return router.Stats().Refused["limit"] >= sources-64 }, 10*time.Second, time.Millisecond)
	require.LessOrEqual(t, router.Stats().Handshaking, 64)
	require.LessOrEqual(t, router.Stats().UnauthenticatedBytes, int64(64<<20))
	start := time.Now()
	for _, nc := range conns {
		require.NoError(t, nc.SetReadDeadline(start.Add(10*time.Second)))
		_, err := io.Copy(io.Discard, nc)
		require.False(t, isTimeout(err), "a silent connection outlived the deadline")
	}
	require.Eventually(t, func() bool { return router.Stats().Handshaking == 0 }, 10*time.Second, time.Millisecond)
	for range 20 {
		honest(t, server, alknet.QUIC)
		honest(t, server, alknet.Mux)
	}
}

// One address has its share and no more; another one is served meanwhile.
func TestFloodFromOneAddressHurtsOnlyIt(t *testing.T) {
	router := &alknet.Router{}
	router.Handle(testALPN, echo)
	server := serve(t, router, nil)
	for range 30 {
		_ = from(t, 77, server.Addr().HostPort)
	}
	require.Eventually(t, func() bool { return router.Stats().Refused["limit"] == 14 }, 10*time.Second, time.Millisecond)
	honest(t, server, alknet.Mux)
	honest(t, server, alknet.QUIC)
}

// A ClientHello that comes in single bytes is a handshake if it is quick enough
// and is cut at the deadline if not: the deadline does not start again.
func TestDrippedHandshake(t *testing.T) {
	router := &alknet.Router{Limits: alknet.Limits{HandshakeTimeout: 2 * time.Second}}
	require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: alknet.Raw, AllowAnonymous: true, Handler: echo}))
	server := serve(t, router, nil)
	for name, pause := range map[string]time.Duration{"quick": 0, "slow": 20 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			nc, err := net.Dial("tcp", server.Addr().HostPort)
			require.NoError(t, err)
			defer nc.Close()
			start := time.Now()
			tc := tls.Client(&dripper{Conn: nc, pause: pause}, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{testALPN}})
			err = tc.Handshake()
			if pause == 0 {
				require.NoError(t, err)
				return
			}
			require.Error(t, err)
			require.Less(t, time.Since(start), 10*time.Second)
		})
	}
}

// A dripper writes a byte at a time.
type dripper struct {
	net.Conn
	pause time.Duration
}

func (d *dripper) Write(b []byte) (int, error) {
	for i := range b {
		if d.pause > 0 {
			<-time.After(d.pause)
		}
		if _, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// An address that has not answered yet gets at most three times what it sent
// (RFC 9000, section 8.1).
func TestQUICDoesNotAmplify(t *testing.T) {
	router := &alknet.Router{}
	router.Handle(testALPN, echo)
	server := serve(t, router, nil)
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer sink.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	to := addrOver(server, alknet.QUIC)
	to.HostPort = sink.LocalAddr().String()
	cl := client(t, nil)
	dialled := make(chan struct{})
	go func() {
		defer close(dialled)
		_, _ = cl.Dial(ctx, to, testALPN)
	}()
	buf := make([]byte, 4096)
	n, _, err := sink.ReadFrom(buf)
	require.NoError(t, err)
	spoofed, err := net.Dial("udp", server.Addr().HostPort)
	require.NoError(t, err)
	defer spoofed.Close()
	_, err = spoofed.Write(buf[:n])
	require.NoError(t, err)
	got := 0
	require.NoError(t, spoofed.SetReadDeadline(time.Now().Add(2*time.Second)))
	for {
		k, err := spoofed.Read(buf)
		if err != nil {
			break
		}
		got += k
	}
	cancel()
	<-dialled
	require.Positive(t, got, "the server answered")
	require.LessOrEqual(t, got, 3*n)
}

// Random and mutated datagrams, connection ids and paths by the thousand: the
// server goes on.
func TestGarbageDatagrams(t *testing.T) {
	router := &alknet.Router{}
	router.Handle(testALPN, echo)
	server := serve(t, router, nil)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := mrand.New(mrand.NewPCG(seed, 0))
	uc, err := net.Dial("udp", server.Addr().HostPort)
	require.NoError(t, err)
	defer uc.Close()
	c := dial(t, client(t, nil), server, alknet.QUIC)
	for range 5000 {
		b := make([]byte, 1+rnd.IntN(1452))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		if rnd.IntN(2) == 0 { // a long header of version 1, an Initial
			b[0] = 0xc0 | b[0]&0x3f
			if len(b) > 5 {
				binary.BigEndian.PutUint32(b[1:5], 1)
				b[5] %= 21
			}
		}
		_, _ = uc.Write(b)
	}
	echoOnce(t, open(t, c))
	honest(t, server, alknet.QUIC)
}

// Ten thousand empty streams, and as many that are reset at once: no more
// handlers than the limit, and none left over.
func TestEmptyAndResetStreams(t *testing.T) {
	n := 10000
	if testing.Short() || raceEnabled {
		n = 1000
	}
	for _, tc := range []transportCase{transports[0], transports[1], transports[3]} {
		t.Run(tc.name, func(t *testing.T) {
			var mu sync.Mutex
			running, most := 0, 0
			router := &alknet.Router{Limits: alknet.Limits{MaxStreams: 50}}
			c, _ := connectRouter(t, tc, router, alknet.Service{Handler: alknet.StreamFunc(func(ctx context.Context, s *alknet.Stream) error {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				defer func() {
					mu.Lock()
					defer mu.Unlock()
					running--
				}()
				_, err := io.Copy(s, s)
				return err
			})})
			for i := range n {
				s, err := c.OpenStream(t.Context())
				require.NoError(t, err)
				if i%2 == 0 {
					_, err := s.Write([]byte("x")) // so that it exists on QUIC
					require.NoError(t, err)
					s.Reset(alknet.ErrorCode(i))
				} else {
					require.NoError(t, s.Close())
				}
			}
			echoOnce(t, open(t, c))
			require.Eventually(t, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return running <= 1
			}, 10*time.Second, time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			require.LessOrEqual(t, most, 50, "slots are free only when handlers returned")
		})
	}
}

// A handler that blocks for ever costs its connection, not the others.
func TestBlockedHandlerBlocksNobodyElse(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		router := &alknet.Router{Limits: alknet.Limits{MaxConnsPerPeer: -1}}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
		require.NoError(t, router.Register(alknet.Service{ALPN: "stuck", Over: over,
			Handler: alknet.HandlerFunc(func(context.Context, *alknet.Conn) error { <-release; return nil })}))
		server, cl := serve(t, router, nil), client(t, nil)
		for range 20 {
			c, err := cl.Dial(t.Context(), addrOver(server, over), "stuck")
			require.NoError(t, err)
			s, err := c.OpenStream(t.Context())
			require.NoError(t, err)
			_, err = s.Write([]byte("x"))
			require.NoError(t, err)
		}
		honest(t, server, over)
	})
}

// Text that a peer chose reaches no log raw, however it is sent.
func TestAttackerTextIsQuotedInLogs(t *testing.T) {
	evil := "\x1b[31m\r\nlevel=ERROR msg=forged\u202e" + strings.Repeat("A", 200)
	var log logs
	router := &alknet.Router{Logger: log.logger()}
	require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: alknet.QUIC | alknet.Mux, Handler: alknet.HandlerFunc(
		func(ctx context.Context, c *alknet.Conn) error {
			s, err := c.AcceptStream(ctx)
			if err != nil {
				return err
			}
			b, err := io.ReadAll(s)
			if err != nil {
				return err
			}
			return fmt.Errorf("bad name %s", b) // a careless handler
		})}))
	server, cl := serve(t, router, nil), client(t, nil)
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux} {
		_, err := cl.Dial(t.Context(), addrOver(server, over), evil[:40]) // as an ALPN
		require.ErrorIs(t, err, alknet.ErrNoService)
		require.NotContains(t, err.Error(), "\x1b")
		c := dial(t, cl, server, over)
		s := open(t, c)
		_, err = s.Write([]byte(evil))
		require.NoError(t, err)
		require.NoError(t, s.CloseWrite())
		wantDone(t, c, "the handler failed")
		c = dial(t, cl, server, over)
		echoless := open(t, c)
		_, err = echoless.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, c.CloseWithError(7, evil)) // as a reason
	}
	require.Eventually(t, func() bool { return router.Stats().Connections == 0 }, 10*time.Second, time.Millisecond)
	text := log.String()
	require.Contains(t, text, "forged", "it is logged")
	for _, raw := range []string{"\x1b", "\r", "\u202e", "\nlevel=ERROR msg=forged", strings.Repeat("A", 150)} {
		require.NotContains(t, text, raw)
	}
}

// A million refusals are not a million lines.
func TestRepeatedRefusalsAreCountedNotLogged(t *testing.T) {
	var log logs
	router := &alknet.Router{Logger: log.logger(), Limits: alknet.Limits{MaxConns: 1}}
	router.Handle(testALPN, echo)
	server := serve(t, router, nil)
	_ = from(t, 1, server.Addr().HostPort)
	for i := range 200 {
		_ = from(t, i, server.Addr().HostPort).Close()
	}
	require.Eventually(t, func() bool { return router.Stats().Refused["limit"] >= 199 }, 10*time.Second, time.Millisecond)
	require.Less(t, strings.Count(log.String(), "\n"), 60)
}

// Cut sessions leak nothing.
func TestNothingIsLeftOfCutConnections(t *testing.T) {
	router := &alknet.Router{Limits: alknet.Limits{MaxConnsPerPeer: -1}}
	require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: alknet.QUIC | alknet.Mux, Handler: echo}))
	server := serve(t, router, nil)
	n := 200
	if testing.Short() {
		n = 40
	}
	honest(t, server, alknet.QUIC) // its goroutines run
	honest(t, server, alknet.Mux)
	require.Eventually(t, func() bool { return router.Stats().Connections == 0 }, 10*time.Second, time.Millisecond)
	goroutines, fds := runtime.NumGoroutine(), openFiles(t)
	for i := range n {
		cl, err := alknet.NewEndpoint(nil, nil, nil)
		require.NoError(t, err)
		c, err := cl.Dial(t.Context(), addrOver(server, []alknet.Transport{alknet.QUIC, alknet.Mux}[i%2]), testALPN)
		require.NoError(t, err)
		s, err := c.OpenStream(t.Context())
		require.NoError(t, err)
		_, err = s.Write(make([]byte, i))
		require.NoError(t, err)
		require.NoError(t, cl.Close())
	}
	left := func() string {
		st := router.Stats()
		return fmt.Sprintf("%d connections, %d bytes, %d goroutines of %d, %d descriptors of %d",
			st.Connections, st.ReservedBytes, runtime.NumGoroutine(), goroutines, openFiles(t), fds)
	}
	ok := assertEventually(20*time.Second, func() bool {
		st := router.Stats()
		return st.Connections == 0 && st.ReservedBytes == 0 && runtime.NumGoroutine() <= goroutines+2 && openFiles(t) <= fds
	})
	require.True(t, ok, left())
}

// assertEventually waits until cond holds, for d at most.
func assertEventually(d time.Duration, cond func() bool) bool {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if cond() {
			return true
		}
		<-time.After(10 * time.Millisecond)
	}
	return cond()
}

func openFiles(t testing.TB) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("counting descriptors needs /proc")
	}
	return len(list)
}

// With no file descriptor left, clients are refused, not left waiting, and the
// server recovers.
func TestOutOfFileDescriptors(t *testing.T) {
	if os.Getenv("ALKNET_TEST_FDS") == "" {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", `ulimit -n 40; exec "$0" -test.run='^TestOutOfFileDescriptors$' -test.v`, os.Args[0])
		cmd.Env = append(os.Environ(), "ALKNET_TEST_FDS=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	var log logs
	router := &alknet.Router{Logger: log.logger(), Limits: alknet.Limits{MaxHandshakesPerAddr: -1, HandshakeTimeout: 2 * time.Second}}
	require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: alknet.Mux, Handler: echo}))
	server := serve(t, router, nil)
	cl := client(t, nil)
	var held []net.Conn
	for {
		nc, err := net.Dial("tcp", server.Addr().HostPort)
		if err != nil {
			break // this process, client and server at once, is out of them
		}
		held = append(held, nc)
	}
	require.Eventually(t, func() bool {
		return strings.Contains(log.String(), "ulimit") || strings.Contains(log.String(), "too many open files")
	},
		10*time.Second, time.Millisecond)
	for _, nc := range held {
		require.NoError(t, nc.Close())
	}
	require.Eventually(t, func() bool { return router.Stats().Handshaking == 0 }, 10*time.Second, time.Millisecond)
	c, err := cl.Dial(t.Context(), addrOver(server, alknet.Mux), testALPN)
	require.NoError(t, err)
	echoOnce(t, open(t, c))
	require.NoError(t, c.Close())
}
