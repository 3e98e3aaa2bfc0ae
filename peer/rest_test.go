package peer

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestIdleGraphRests: while no call runs and nobody was asked for a sign of life, the
// monitor looks about once a Heartbeat, when a Book of the process looks at its file.
func TestIdleGraphRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTestbed(t)
		x.a = x.world.worker("worker-a", x.jobs("worker-a")...)
		time.Sleep(3*time.Second + time.Millisecond)
		require.True(t, x.graph.resting.Load())
		link := x.graph.node("worker-a").linksNow()[0]
		next := func(begins func()) time.Duration {
			now := time.Now()
			m := &monitor{g: x.graph, beat: time.Second, busy: now.Add(-time.Minute), reread: now}
			begins()
			wait, more := m.look(now)
			require.True(t, more)
			return wait
		}
		wait := next(func() {})
		require.LessOrEqual(t, wait, time.Second)
		require.Greater(t, wait, time.Second-pollEvery)
		require.Equal(t, pollEvery, untilPoll(time.Now().Add(wait)))
		require.Equal(t, time.Second/beatsPerInterval, next(func() { link.running.Add(1) }))
		link.running.Add(-1)
		require.Equal(t, time.Second/beatsPerInterval, next(func() { link.beat.doubt(time.Now()) }))
		time.Sleep(time.Minute)
		require.Equal(t, []string{"joined", "up"}, x.kinds("worker-a"))
		require.True(t, x.graph.resting.Load())
	})
}

// TestRestEndsWithACall: at whatever moment of its rest a call begins, the monitor
// sees as soon as ever that the peer says nothing.
func TestRestEndsWithACall(t *testing.T) {
	for moment := time.Duration(0); moment < time.Second; moment += 110 * time.Millisecond {
		t.Run(moment.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newTestbed(t)
				x.a = x.world.idle("worker-a", x.jobs("worker-a")...)
				wire := x.a.connectWire()
				defer wire.silence(false)
				x.waitFor("worker-a", "up", 1)
				x.b = x.world.worker("worker-b", x.jobs("worker-b")...)
				x.callAs(callers[0])
				time.Sleep(4*time.Second + moment)
				require.True(t, x.graph.resting.Load())
				wire.silence(true)
				got := <-x.start(t.Context(), "job/query", "1")
				require.NoError(t, got.err)
				require.Equal(t, "worker-b", got.out)
				// A look at an eighth of a second, silence for half of one, another look.
				require.LessOrEqual(t, got.took, 800*time.Millisecond)
			})
		})
	}
}
