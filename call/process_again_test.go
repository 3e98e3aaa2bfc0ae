package call_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/impair"
)

// How long a test waits for what must come, whoever has the processors meanwhile,
// and how often it looks.
const (
	patience = 3 * time.Minute
	tick     = 5 * time.Millisecond
)

// TestProcessIsResumed: a subscription to another process, over a network that
// loses, delays and reorders, goes on exactly where its connection was cut, as
// often as that happens, also while the process stands still.
func TestProcessIsResumed(t *testing.T) {
	for _, profile := range impair.Profiles() {
		if profile.Corrupt > 0.1 || profile.Loss > 0.1 || profile.Up > 0 || profile.Down > 0 {
			continue // these take long, or end connections
		}
		for _, over := range []alknet.Transport{alknet.QUIC, alknet.Raw} {
			if over == alknet.Raw && profile.Corrupt > 0 {
				continue // TLS ends such a connection
			}
			t.Run(profile.Name+" "+over.String(), func(t *testing.T) {
				t.Parallel()
				resumeProcess(t, profile, over)
			})
		}
	}
}

func resumeProcess(t *testing.T, profile impair.Profile, over alknet.Transport) {
	p := startProcess(t, t.TempDir())
	ep, err := alknet.NewEndpoint(nil, nil, nil) // one identity for all connections
	require.NoError(t, err)
	t.Cleanup(func() { _ = ep.Close() })
	const n = 1000
	got := 0
	var before *call.Stream
	for _, until := range []int{1, 2, 300, 301, 999, n} {
		c, lose := impairedClient(t, ep, p.addr, profile, over)
		s, err := c.Open(t.Context(), "test/stream", call.Options{Type: call.Subscription, Resume: before})
		require.NoError(t, err)
		require.NoError(t, s.Send([]byte(`{"n":1000,"bytes":200}`), false))
		for got < until {
			data, _, err := s.Recv()
			require.NoError(t, err)
			got++
			require.Equal(t, got, itemNumber(t, data))
		}
		if until == n {
			_, _, err = s.Recv()
			require.ErrorIs(t, err, io.EOF)
			require.NoError(t, c.Close())
			return
		}
		if until == 300 {
			require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
		}
		lose()
		if until == 300 {
			require.NoError(t, p.cmd.Process.Signal(syscall.SIGCONT))
		}
		before = s
	}
}

// impairedClient dials through a relay; lose ends the connection without a goodbye.
func impairedClient(t *testing.T, ep *alknet.Endpoint, to alknet.Addr, profile impair.Profile, over alknet.Transport) (c *call.Client, lose func()) {
	to.Over = over
	relay := impair.UDP
	if over == alknet.Raw {
		relay = impair.TCP
	}
	r := relay(t, to.HostPort, profile)
	to.HostPort = r.Addr()
	c, err := call.Dial(t.Context(), ep, to, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.Settled(t.Context()))
	return c, func() {
		if over == alknet.Raw {
			r.Cut()
		}
		_ = c.Conn().CloseWithError(alknet.CodeInternal, "cut")
		<-c.Done()
	}
}

func itemNumber(t *testing.T, data []byte) int {
	t.Helper()
	var v struct {
		I int `json:"i"`
	}
	require.NoError(t, json.Unmarshal(data, &v))
	return v.I
}

// TestProcessDrains: each call of many either is answered or was refused and has
// not run, while the process that serves them stands still, drains and ends. Of a
// call that meets the end of the connection nobody can tell, and its error says so.
func TestProcessDrains(t *testing.T) {
	eachService(t, func(t *testing.T, over alknet.Transport) {
		dir := t.TempDir()
		p := startProcess(t, dir)
		c := p.dial(t, over)
		var answered atomic.Int64
		refused := make(chan error, 8)
		var wg sync.WaitGroup
		for range cap(refused) {
			wg.Go(func() {
				for {
					_, err := call.Call[int](context.Background(), c, "x/once", "answer")
					if err != nil {
						refused <- err
						return
					}
					answered.Add(1)
				}
			})
		}
		require.Eventually(t, func() bool { return answered.Load() > 20 }, patience, tick)
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
		_, err := io.WriteString(p.in, "drain\n")
		require.NoError(t, err)
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGCONT))
		wg.Wait()
		unknown := int64(0)
		for range cap(refused) {
			var e *call.Error
			require.ErrorAs(t, <-refused, &e)
			require.Equal(t, codes.Unavailable, e.Code)
			if e.MayHaveRun {
				unknown++
			}
		}
		require.NoError(t, p.cmd.Wait())
		text, err := os.ReadFile(dir + "/ran")
		require.NoError(t, err)
		ran := int64(strings.Count(string(text), "\n"))
		require.GreaterOrEqual(t, ran, answered.Load())
		require.LessOrEqual(t, ran, answered.Load()+unknown, "a call ran whose error says that it did not")
	})
}
