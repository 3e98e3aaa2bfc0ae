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
	"pgregory.net/rapid"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// TestGenerations: links attach and end, processes restart and drain, in any
// order: a peer is routable exactly while it has a live link of its newest
// process, and every "joined" has its "left".
func TestGenerations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			w := newWorld(t)
			const id = "worker-a"
			type process struct {
				*worker
				conns    []*alknet.Conn
				draining bool
			}
			procs := []*process{{worker: w.idle(id, whoami("0"))}}
			live := func(p *process) int {
				p.conns = slices.DeleteFunc(p.conns, func(c *alknet.Conn) bool {
					select {
					case <-c.Done():
						return true
					default:
						return false
					}
				})
				return len(p.conns)
			}
			newest := 0 // who attached last
			for range rapid.IntRange(1, 25).Draw(rt, "steps") {
				p := procs[len(procs)-1]
				switch rapid.IntRange(0, 4).Draw(rt, "step") {
				case 0, 1:
					if !p.draining && len(p.conns) < 6 {
						p.conns = append(p.conns, p.connect())
						newest = len(procs) - 1
					}
				case 2: // some link of some process ends
					q := procs[rapid.IntRange(0, len(procs)-1).Draw(rt, "process")]
					if n := live(q); n > 0 {
						_ = q.conns[rapid.IntRange(0, n-1).Draw(rt, "link")].CloseWithError(alknet.CodeInternal, "cut")
					}
				case 3:
					procs = append(procs, &process{worker: w.idle(id, whoami(fmt.Sprint(len(procs))))})
				case 4:
					if live(p) > 0 && !p.draining && rapid.Bool().Draw(rt, "drain") {
						p.draining = true
						<-p.shutdown(time.Second)
					}
				}
				synctest.Wait()
				q := procs[newest]
				want := live(q) > 0 && !q.draining
				got, err := call.Call[string](t.Context(), w.graph.To(Ref{Wait: -1}), "sys/whoami", struct{}{})
				require.Equal(rt, want, err == nil, "%v", err)
				if want {
					require.Equal(rt, fmt.Sprint(newest), got, "the newest process")
				}
			}
			for _, p := range procs {
				p.kill()
			}
			synctest.Wait()
			joined, left := 0, 0
			for _, k := range w.kinds(id) {
				switch k {
				case "joined":
					joined++
				case "left":
					left++
				}
			}
			require.Equal(rt, joined, left)
			require.NoError(rt, w.graph.Close())
		})
	})
}

// synthetic makes a graph of peers without connections: what a choice looks at.
func synthetic(g *Graph, rt *rapid.T, name string) []*offer {
	g.init()
	var list []*offer
	n := rapid.IntRange(1, 6).Draw(rt, "peers")
	for i := range n {
		nd := &node{id: fmt.Sprintf("w%d", i), order: uint64(rapid.Permutation([]int{1, 2, 3, 4, 5, 6}).Draw(rt, "order")[0]*10 + i)}
		nd.drained.Store(rapid.IntRange(0, 9).Draw(rt, "drained") == 0)
		nd.load.Store(int64(rapid.IntRange(0, 1000).Draw(rt, "load")))
		if rapid.Bool().Draw(rt, "labelled") {
			nd.known.Store(&Peer{Labels: map[string]string{"gpu": rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "gpu")}})
		}
		var links []*link
		for range rapid.IntRange(0, 2).Draw(rt, "links") {
			g.gen++
			l := &link{g: g, n: nd, gen: g.gen, key: alknet.PeerID{byte(i + 1)}}
			l.state.Store(rapid.SampledFrom([]int32{up, up, up, suspect, draining}).Draw(rt, "state"))
			l.running.Store(int64(rapid.IntRange(0, 3).Draw(rt, "running")))
			links = append(links, l)
		}
		nd.links.Store(&links)
		nd.running.Store(int64(rapid.IntRange(0, 5).Draw(rt, "outstanding")))
		typ := rapid.SampledFrom([]call.OpType{call.Query, call.Query, call.Query, call.Mutation, call.Subscription}).Draw(rt, "type")
		sp := &spec{op: call.Operation{Name: name, Func: call.Func{Type: typ}}}
		of := &offer{n: nd, name: name, remote: name, spec: sp}
		if rapid.Bool().Draw(rt, "measured") {
			of.lat.add(time.Duration(rapid.IntRange(1, 1000).Draw(rt, "latency")), time.Now())
		}
		list = append(list, of)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, of := range list {
		g.offerLocked(of, nil)
	}
	return list
}

// oracle says who may get a call, as the design has it, the slow way.
func oracle(list []*offer, ref Ref, path []alknet.PeerID) (able []string) {
	byOrder := slices.Clone(list)
	slices.SortFunc(byOrder, func(a, b *offer) int { return int(a.n.order) - int(b.n.order) })
	var typ call.OpType // that of the first attached which answers once
	for _, of := range byOrder {
		if of.spec.op.Func.Type != call.Subscription {
			typ = of.spec.op.Func.Type
			break
		}
	}
	for _, state := range []int32{up, suspect} {
		for _, of := range list {
			ok := of.spec.op.Func.Type == typ && !of.n.drained.Load() && (ref.Peer == "" || ref.Peer == of.n.id)
			if ref.Peer != "" {
				ok = ref.Peer == of.n.id && of.spec.op.Func.Type != call.Subscription && !of.n.drained.Load()
			}
			for k, v := range ref.Labels {
				p := of.n.known.Load()
				ok = ok && p != nil && p.Labels[k] == v
			}
			has := false
			for _, l := range of.n.linksNow() {
				has = has || l.state.Load() == state
				ok = ok && !slices.Contains(path, l.key)
			}
			if ok && has {
				able = append(able, of.n.id)
			}
		}
		if len(able) > 0 {
			return able
		}
	}
	return nil
}

// TestChoiceAgainstTheOracle: who is chosen is one of those that may be, and the
// one that the policy names; Explain says the same.
func TestChoiceAgainstTheOracle(t *testing.T) {
	rapid.Check(bubbled{t}, func(rt *rapid.T) {
		g := &Graph{}
		list := synthetic(g, rt, "x/op")
		ref := Ref{Policy: Policy(rapid.IntRange(0, 3).Draw(rt, "policy")), Key: rapid.StringN(0, 4, 8).Draw(rt, "key")}
		if rapid.IntRange(0, 3).Draw(rt, "label") == 0 {
			ref.Labels = map[string]string{"gpu": "a"}
		}
		if rapid.IntRange(0, 3).Draw(rt, "pin") == 0 {
			ref.Peer = "w0"
		}
		sel := selection{g: g, ref: &ref, name: "x/op", peer: ref.Peer}
		if rapid.IntRange(0, 3).Draw(rt, "path") == 0 {
			sel.path = []alknet.PeerID{{1}}
		}
		able := oracle(list, ref, sel.path)
		for range 5 {
			of, l, ch := sel.choose()
			require.Equal(rt, len(able) > 0, ch == ready)
			if ch != ready {
				break
			}
			require.Contains(rt, able, of.n.id)
			require.Same(rt, of.n, l.n)
			if sel.path != nil || ref.Peer != "" {
				continue
			}
			ex := g.Explain("x/op", ref)
			if list[0].spec.op.Func.Type == call.Subscription || slices.ContainsFunc(list, func(o *offer) bool { return o.spec.op.Func.Type == call.Subscription }) {
				continue // it explains a call of the kind of the first attached
			}
			var ok []string
			for _, c := range ex.Candidates {
				if c.OK {
					ok = append(ok, c.Peer)
				}
			}
			require.ElementsMatch(rt, able, ok)
			switch ref.Policy {
			case First, Affinity:
				require.Equal(rt, ex.Winner, of.n.id)
			case LeastLoaded:
				if len(able) <= 2 { // both are drawn
					score := func(id string) float64 {
						return ex.Candidates[slices.IndexFunc(ex.Candidates, func(c Candidate) bool { return c.Peer == id })].Score
					}
					require.LessOrEqual(rt, score(of.n.id), score(ex.Winner))
				}
			}
		}
	})
}

// TestRetriesAgainstTheLedger: links are cut and processes killed at random times
// under calls: no mutation runs twice under one call, and no query fails while a
// peer is up.
func TestRetriesAgainstTheLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			x := &testbed{world: newWorld(t), ledger: newLedger()}
			workers := map[string]*worker{}
			for _, id := range []string{"worker-a", "worker-b", "worker-c"} {
				workers[id] = x.world.worker(id, x.slowJobs(id)...)
			}
			to := x.graph.To(Ref{MaxAttempts: 10})
			var wg sync.WaitGroup
			for i := range rapid.IntRange(1, 20).Draw(rt, "calls") {
				what := fmt.Sprint(i)
				after := time.Duration(rapid.IntRange(0, 300).Draw(rt, "at")) * time.Millisecond
				mutation := rapid.Bool().Draw(rt, "mutation")
				wg.Go(func() {
					time.Sleep(after)
					if mutation {
						_, _ = call.Call[string](context.Background(), to, "job/mutate", what)
						return
					}
					if _, err := call.Call[string](context.Background(), to, "job/query", what); err != nil {
						t.Errorf("query %s: %v", what, err)
					}
				})
			}
			for range rapid.IntRange(0, 6).Draw(rt, "faults") {
				time.Sleep(time.Duration(rapid.IntRange(1, 80).Draw(rt, "gap")) * time.Millisecond)
				k := workers[rapid.SampledFrom([]string{"worker-a", "worker-b"}).Draw(rt, "victim")] // c stays
				if rapid.Bool().Draw(rt, "kill") {
					k.kill()
				} else {
					k.cutAsync()
				}
				time.Sleep(time.Duration(rapid.IntRange(0, 30).Draw(rt, "away")) * time.Millisecond)
				k.connect()
			}
			wg.Wait()
			for what, ids := range x.runs {
				if what[:3] == "mut" {
					require.LessOrEqual(rt, len(ids), 1, "%s ran at %v", what, ids)
				}
			}
			for _, k := range workers {
				k.kill()
			}
			require.NoError(rt, x.graph.Close())
		})
	})
}

// slowJobs are jobs that take some time, and are counted once they are done.
func (l *ledger) slowJobs(id string) []call.Operation {
	run := func(kind string) func(context.Context, string) (string, error) {
		return func(ctx context.Context, what string) (string, error) {
			l.ran(kind+" "+what, id)
			select {
			case <-time.After(25 * time.Millisecond):
				return id, nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
	}
	return []call.Operation{
		{Name: "job/query", Func: call.QueryFunc(run("query"))},
		{Name: "job/mutate", Func: call.MutationFunc(run("mutate"))},
	}
}

// TestResumeIsExact: a stream whose connection is cut and whose worker dies at
// random items is the uninterrupted sequence.
func TestResumeIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			x := &testbed{world: newWorld(t), ledger: newLedger()}
			workers := []*worker{x.world.worker("worker-a", x.jobs("worker-a")...), x.world.worker("worker-b", x.jobs("worker-b")...)}
			faults := map[int]int{}
			for range rapid.IntRange(0, 4).Draw(rt, "faults") {
				faults[rapid.IntRange(0, 28).Draw(rt, "item")] = rapid.IntRange(0, 2).Draw(rt, "fault")
			}
			n := 0
			for v, err := range call.Subscribe[int](context.Background(), x.graph.To(Ref{}), "job/ticks", 30) {
				require.NoError(rt, err)
				n++
				require.Equal(rt, n, v)
				kind, ok := faults[n]
				if !ok {
					continue
				}
				for _, k := range workers {
					switch kind {
					case 0:
						k.cutAsync()
						k.connect()
					case 1:
						k.kill()
						k.connect()
					case 2:
						k.cutAsync()
						time.Sleep(300 * time.Millisecond)
						k.connect()
					}
				}
			}
			require.Equal(rt, 30, n)
			for _, k := range workers {
				k.kill()
			}
			require.NoError(rt, x.graph.Close())
		})
	})
}

// bubbled is a test in a bubble for rapid, which asks a *testing.T for a deadline
// that it has not there.
type bubbled struct{ testing.TB }
