package alknet_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

// Requests in flight when a node drains are answered, or refused retryably
// before they began: the ledger of what ran equals the list of answers.
func TestDrainLosesNoWork(t *testing.T) {
	for _, tc := range []transportCase{transports[0], transports[1], transports[3]} {
		t.Run(tc.name, func(t *testing.T) {
			var mu sync.Mutex
			ran := make(map[uint64]bool)
			c, router := connectRouter(t, tc, &alknet.Router{}, alknet.Service{
				Handler: alknet.StreamFunc(func(_ context.Context, s *alknet.Stream) error {
					var id uint64
					if err := binary.Read(s, binary.BigEndian, &id); err != nil {
						return err
					}
					mu.Lock()
					ran[id] = true
					mu.Unlock()
					<-time.After(time.Duration(id%7) * time.Millisecond)
					return binary.Write(s, binary.BigEndian, id)
				})})
			answered := make(map[uint64]bool)
			var wg sync.WaitGroup
			for i := range uint64(1000) {
				wg.Go(func() {
					err := request(t, c, i)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						answered[i] = true
						return
					}
					var e *alknet.Error
					if !errors.As(err, &e) || e.Code != alknet.CodeShutdown || !e.Code.Retryable() {
						t.Errorf("request %d: %v", i, err)
					}
				})
			}
			require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(answered) > 100 }, 20*time.Second, time.Millisecond)
			require.NoError(t, router.Shutdown(t.Context()))
			wg.Wait()
			require.Equal(t, ran, answered, "what ran was answered, what was not answered did not run")
		})
	}
}

func request(t testing.TB, c *alknet.Conn, id uint64) error {
	s, err := c.OpenStream(t.Context())
	if err != nil {
		return err
	}
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(20 * time.Second))
	if err := binary.Write(s, binary.BigEndian, id); err != nil {
		return err
	}
	var got uint64
	if err := binary.Read(s, binary.BigEndian, &got); err != nil {
		return err
	}
	if got != id {
		return fmt.Errorf("got %d for %d", got, id)
	}
	return nil
}

// First packets under thousands of connection ids, as from forged addresses:
// from half of the cap on they get a Retry and hold nothing.
func TestConnectionIDFlood(t *testing.T) {
	router := &alknet.Router{Limits: alknet.Limits{MaxHandshakes: 64, MaxHandshakesPerAddr: -1}}
	router.Handle(testALPN, echo)
	server := serve(t, router, nil)
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer sink.Close()
	ctx, cancel := context.WithCancel(t.Context())
	to := addrOver(server, alknet.QUIC)
	to.HostPort = sink.LocalAddr().String()
	cl := client(t, nil)
	dialled := make(chan struct{})
	go func() {
		defer close(dialled)
		_, _ = cl.Dial(ctx, to, testALPN)
	}()
	initial := make([]byte, 2048)
	n, _, err := sink.ReadFrom(initial)
	require.NoError(t, err)
	cancel()
	<-dialled
	initial = initial[:n]
	out, err := net.Dial("udp", server.Addr().HostPort)
	require.NoError(t, err)
	defer out.Close()
	for i := range 3000 {
		binary.BigEndian.PutUint32(initial[6:], uint32(i)) // the destination connection id: flags, version, length, id
		_, _ = out.Write(initial)
		require.LessOrEqual(t, router.Stats().Handshaking, 64)
	}
	require.Eventually(t, func() bool { return router.Stats().Handshaking >= 32 }, 10*time.Second, time.Millisecond, "the flood arrives")
	require.LessOrEqual(t, router.Stats().Handshaking, 33, "unproven addresses hold at most half of the cap")
	for range 5 {
		honest(t, server, alknet.QUIC)
	}
}

// The libraries are at or above the versions that fixed what this package is
// exposed to.
func TestDependencyFloors(t *testing.T) {
	floors := map[string]string{
		"github.com/quic-go/quic-go": "v0.59.1", "golang.org/x/crypto": "v0.56.0", "golang.org/x/net": "v0.56.0", "filippo.io/age": "v1.2.1",
	}
	mod, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	seen := 0
	for _, m := range regexp.MustCompile(`(?m)^\s*(\S+) (v[0-9.]+)`).FindAllStringSubmatch(string(mod), -1) {
		floor, ok := floors[m[1]]
		if !ok {
			continue
		}
		seen++
		require.GreaterOrEqual(t, versionNumber(t, m[2]), versionNumber(t, floor), m[1])
	}
	require.GreaterOrEqual(t, seen, 2)
}

func versionNumber(t *testing.T, v string) (n int) {
	for _, part := range strings.Split(strings.TrimPrefix(v, "v"), ".") {
		i, err := strconv.Atoi(part)
		require.NoError(t, err)
		n = n*10000 + i
	}
	return n
}

// Half-open streams and streams that nobody reads to the end are not kept once
// their handler returned.
func TestForgottenStreams(t *testing.T) {
	for _, tc := range []transportCase{transports[0], transports[1], transports[3]} {
		t.Run(tc.name, func(t *testing.T) {
			c := connect(t, tc, alknet.StreamFunc(func(_ context.Context, s *alknet.Stream) error {
				_, err := io.ReadFull(s, make([]byte, 1))
				return err
			}))
			for range 1000 { // far more than may be open at once
				s, err := c.OpenStream(t.Context())
				require.NoError(t, err)
				_, err = s.Write([]byte("xyz"))
				require.NoError(t, err)
			}
			require.Less(t, c.Stats().Streams, 1001)
		})
	}
}
