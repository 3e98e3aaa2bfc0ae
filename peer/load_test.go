package peer

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/call"
)

// A load is calls at a steady rate, and how they ended.
type load struct {
	mu     sync.Mutex
	failed []string
	took   []time.Duration
	wg     sync.WaitGroup
}

// run makes calls for a while: a query each gap, and a mutation in the place of
// every tenth.
func (l *load) run(to call.Caller, gap, d time.Duration, mutations bool) {
	stop := make(chan struct{})
	time.AfterFunc(d, func() { close(stop) })
	l.runUntil(to, gap, stop, mutations)
}

// runUntil makes calls until stop is closed, and waits for their ends.
func (l *load) runUntil(to call.Caller, gap time.Duration, stop <-chan struct{}, mutations bool) {
	tick := time.NewTicker(gap)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-stop:
			l.wg.Wait()
			return
		}
		l.wg.Go(func() {
			begun := time.Now()
			op := "job/query"
			if mutations && n%10 == 0 {
				op = "job/mutate"
			}
			_, err := call.Call[string](context.Background(), to, op, fmt.Sprint(n))
			l.mu.Lock()
			defer l.mu.Unlock()
			if op == "job/query" {
				l.took = append(l.took, time.Since(begun))
				if err != nil {
					l.failed = append(l.failed, fmt.Sprintf("query %d: %v", n, err))
				}
			}
		})
	}
}

// answered is how many queries have ended so far.
func (l *load) answered() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.took)
}

func (l *load) p99() time.Duration {
	slices.Sort(l.took)
	return l.took[len(l.took)*99/100]
}

// requireOnce: no mutation ran twice.
func requireOnce(t *testing.T, x *ledger) {
	t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	for what, ids := range x.runs {
		if what[:6] == "mutate" {
			require.LessOrEqual(t, len(ids), 1, "%s ran at %v", what, ids)
		}
	}
}

// TestKillsUnderLoad: three workers, 100 deaths of all kinds at 200 calls a
// second: every query is answered, and no mutation runs twice.
func TestKillsUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &testbed{world: newWorld(t), ledger: newLedger()}
		ids := []string{"worker-a", "worker-b", "worker-c"}
		workers := map[string]*worker{}
		wires := map[string]*wire{}
		for _, id := range ids {
			workers[id] = x.world.idle(id, x.slowJobs(id)...)
			wires[id] = workers[id].connectWire()
		}
		x.waitFor("worker-c", "up", 1)
		var l load
		done := make(chan struct{})
		go func() { defer close(done); l.run(x.graph.To(Ref{}), 5*time.Millisecond, 160*time.Second, true) }()
		for i := range 100 {
			id := ids[i%3]
			time.Sleep(700 * time.Millisecond)
			switch i % 4 {
			case 0, 1: // SIGKILL
				workers[id].kill()
				time.Sleep(200 * time.Millisecond)
			case 2: // the connection breaks
				workers[id].cutAsync()
			case 3: // SIGSTOP: silence until the head gives up
				wires[id].silence(true)
				time.Sleep(3500 * time.Millisecond)
				wires[id].silence(false)
				workers[id].kill()
			}
			wires[id] = workers[id].connectWire()
		}
		<-done
		require.Empty(t, l.failed)
		t.Logf("p99 %v of %d queries", l.p99(), len(l.took))
		require.LessOrEqual(t, l.p99(), 3500*time.Millisecond) // virtual time
		requireOnce(t, x.ledger)
	})
}

// TestRollingRestart: each worker drains and comes back as a new process, at 1,000
// queries a second: nothing fails.
func TestRollingRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &testbed{world: newWorld(t), ledger: newLedger()}
		ids := []string{"worker-a", "worker-b", "worker-c"}
		workers := map[string]*worker{}
		for _, id := range ids {
			workers[id] = x.world.worker(id, x.slowJobs(id)...)
		}
		var l load
		done := make(chan struct{})
		go func() { defer close(done); l.run(x.graph.To(Ref{}), time.Millisecond, 10*time.Second, false) }()
		for i := range 9 {
			id := ids[i%3]
			time.Sleep(500 * time.Millisecond)
			require.NoError(t, <-workers[id].shutdown(5*time.Second))
			workers[id].kill()
			time.Sleep(200 * time.Millisecond)
			workers[id].connect()
		}
		<-done
		require.Empty(t, l.failed)
		require.Less(t, l.p99(), 100*time.Millisecond) // virtual time
	})
}

// TestFlaps: a worker that comes and goes a thousand times is routable whenever it
// has settled.
func TestFlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &testbed{world: newWorld(t), ledger: newLedger()}
		k := x.world.worker("worker-a", x.slowJobs("worker-a")...)
		for i := range 1000 {
			k.cutAsync()
			k.connect()
			if i%3 == 0 {
				k.connect() // before the old ones are known to be gone
			}
			if i%10 == 0 {
				synctest.Wait()
				_, err := call.Call[string](t.Context(), x.graph.To(Ref{Wait: -1}), "job/query", "x")
				require.NoError(t, err, "flap %d", i)
			}
		}
		synctest.Wait()
		_, err := call.Call[string](t.Context(), x.graph.To(Ref{Wait: -1}), "job/mutate", "x")
		require.NoError(t, err)
	})
}
