package vault

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGateClosesAfterTheLastUse: with uses that come and go on all sides, no
// close returns under a use that was let in, and every close returns.
func TestGateClosesAfterTheLastUse(t *testing.T) {
	rounds := 2000
	if testing.Short() {
		rounds = 300
	}
	refused := 0
	for range rounds {
		var g gate
		var inside, late atomic.Int32
		var closed atomic.Bool
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for g.enter() {
					inside.Add(1)
					if closed.Load() {
						late.Add(1)
					}
					inside.Add(-1)
					g.leave()
				}
			})
		}
		for range 2 {
			wg.Go(func() {
				g.close()
				closed.Store(true)
				late.Add(inside.Load())
			})
		}
		wg.Wait()
		require.Zero(t, late.Load())
		if g.enter() {
			require.Fail(t, "it is open after close")
		}
		closing, busy := g.state()
		require.True(t, closing)
		require.False(t, busy)
		if g.wait.Load() != nil {
			refused++
		}
	}
	t.Logf("%d of %d closes waited", refused, rounds)
}
