package call_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/call/testops"
)

// TestNothingIsLeft: many calls, aborts and reconnects leave no goroutine and no
// memory behind, and no descriptor.
func TestNothingIsLeft(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Raw} {
		t.Run(over.String(), func(t *testing.T) { testNothingIsLeft(t, over) })
	}
}

func testNothingIsLeft(t *testing.T, over alknet.Transport) {
	calls, aborts, connects := 10_000, 200, 50
	switch {
	case call.Soak:
		calls, aborts, connects = 1_000_000, 2_000, 2_000
	case testing.Short():
		calls, aborts, connects = 2_000, 50, 10
	}
	h := newHandler(t, append(testops.Operations(testops.Options{}), mathOps()...)...)
	h.Limits.ResumeGrace = -1 // on Raw a client that closes looks like one that was lost
	dialler, to := onLoopback(t, h)
	to.Over = over
	round := func() {
		c, err := call.Dial(t.Context(), dialler, to, nil)
		require.NoError(t, err)
		require.NoError(t, c.Settled(t.Context()))
		for i := range calls / connects {
			got, err := call.Call[int](context.Background(), c, "math/add", sum{i, 1})
			require.NoError(t, err)
			require.Equal(t, i+1, got)
		}
		for range aborts / connects {
			ctx, cancel := context.WithCancel(t.Context())
			stop := time.AfterFunc(time.Millisecond, cancel)
			_, err := call.Call[any](ctx, c, "test/sleep", map[string]int{"ms": 60000})
			requireCode(t, codes.Cancelled, err)
			stop.Stop()
			for range call.Subscribe[any](t.Context(), c, "test/stream", map[string]int{"n": 1 << 30}) {
				break
			}
		}
		require.NoError(t, c.Close())
	}
	measure := func() (goroutines, fds int, heap uint64) {
		require.Eventually(t, func() bool { return h.Stats().Connections == 0 && h.Stats().Running == 0 }, patience, tick, "%v",
			lateText(func() string { return fmt.Sprintf("%+v", h.Stats()) }))
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		open, _ := os.ReadDir("/proc/self/fd") // none where there is no such folder
		return runtime.NumGoroutine(), len(open), m.HeapAlloc
	}
	round()
	g0, f0, h0 := measure()
	for range connects {
		round()
	}
	var g1, f1 int
	require.Eventually(t, func() bool { g1, f1, _ = measure(); return g1 <= g0+2 && f1 <= f0 }, patience, tick, "goroutines and descriptors: %v", lateText(func() string {
		b := make([]byte, 1<<20)
		return fmt.Sprint(g1, g0, f1, f0, string(b[:runtime.Stack(b, true)]))
	}))
	_, _, h1 := measure()
	require.LessOrEqual(t, int64(h1)-int64(h0), int64(8<<20), "heap")
	require.Zero(t, h.Stats().BufferedBytes)
}

// lateText is a text that is made when it is printed.
type lateText func() string

func (f lateText) String() string { return f() }
