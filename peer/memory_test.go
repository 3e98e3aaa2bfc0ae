package peer

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/call"
)

// heapNow is what is in use.
func heapNow() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// manyOps are operations as one peer announces them, in memory of their own.
func manyOps(n int) (ops []call.Operation) {
	for i := range n {
		op := whoami("x")
		op.Name = fmt.Sprintf("box/operation-%d", i)
		op.Description = strings.Repeat("d", 200)
		op.Func.Input = []byte(`{"type":"object","description":"` + strings.Repeat("s", 1000) + `"}`)
		ops = append(ops, op)
	}
	return ops
}

// TestMemoryOfAThousandPeers: 1,000 peers with 100 operations each take at most 64
// MiB beside their connections, and nothing once they are forgotten.
func TestMemoryOfAThousandPeers(t *testing.T) {
	g := &Graph{}
	g.init()
	defer g.Close()
	before := heapNow()
	for i := range 1000 {
		n := &node{id: fmt.Sprintf("worker-%04d", i), order: uint64(i + 1)}
		ops := manyOps(100)
		g.mu.Lock()
		g.nodes.Store(n.id, n)
		g.count++
		g.overlayLocked(n, &upkeep{l: &link{g: g, n: n}, ops: ops})
		g.mu.Unlock()
	}
	grown := heapNow() - before
	t.Logf("%.1f MiB", float64(grown)/(1<<20))
	require.Less(t, grown, int64(64<<20))
	require.Len(t, g.specs, 100)
	g.mu.Lock()
	for _, v := range g.nodes.Range {
		g.forgetLocked(v.(*node))
	}
	g.mu.Unlock()
	require.Zero(t, g.count)
	require.Empty(t, g.specs)
	require.Less(t, heapNow()-before, int64(2<<20))
}

// TestTenThousandAttachments leave nothing: heap and goroutines after 10,000 are
// those after 2,000.
func TestTenThousandAttachments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var workers []*worker
		for i := range 20 {
			workers = append(workers, w.idle(fmt.Sprintf("worker-%d", i), whoami("x")))
		}
		measure := func() (heap int64, goroutines int) {
			time.Sleep(overlayTime + 3*time.Second)
			w.mu.Lock()
			w.events = nil
			w.mu.Unlock()
			return heapNow(), runtime.NumGoroutine()
		}
		var heap int64
		var goroutines int
		for i := range 10_000 {
			k := workers[i%len(workers)]
			k.connect()
			if i%3 == 0 {
				synctest.Wait() // it is attached
			}
			k.cut()
			if i == 2_000 {
				heap, goroutines = measure()
			}
		}
		after, left := measure()
		require.LessOrEqual(t, left, goroutines)
		require.Less(t, after-heap, int64(2<<20))
		w.graph.mu.Lock()
		defer w.graph.mu.Unlock()
		require.Zero(t, w.graph.count)
	})
}
