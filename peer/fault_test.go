package peer

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// A testbed is a head with workers a and b in a bubble: First sends to a.
type testbed struct {
	*world
	*ledger
	a, b *worker
	to   call.Caller
}

// inBubble runs f with virtual time. a is attached before b.
func inBubble(t *testing.T, f func(t *testing.T, x *testbed)) { inBubbleOf(t, callers[0], f) }

func inBubbleOf(t *testing.T, caller string, f func(t *testing.T, x *testbed)) {
	synctest.Test(t, func(t *testing.T) {
		x := newTestbed(t)
		x.a = x.world.worker("worker-a", x.jobs("worker-a")...)
		x.b = x.world.worker("worker-b", x.jobs("worker-b")...)
		x.callAs(caller)
		f(t, x)
	})
}

// eachCaller is inBubble with calls of the program itself, and with those of a
// client of the head's, which are handed on without a goroutine of their own.
func eachCaller(t *testing.T, f func(t *testing.T, x *testbed)) {
	for _, caller := range callers {
		t.Run(caller, func(t *testing.T) { inBubbleOf(t, caller, f) })
	}
}

// callers are who calls through a head.
var callers = []string{"program", "client"}

func newTestbed(t *testing.T) *testbed {
	x := &testbed{world: newWorld(t), ledger: newLedger()}
	x.graph.Default = Ref{Policy: First}
	return x
}

// callAs says who calls.
func (x *testbed) callAs(caller string) {
	x.to = x.graph.To(Ref{Policy: First})
	if caller == "client" {
		x.to = x.world.client("caller")
	}
}

// pass lets virtual time pass.
func (x *testbed) pass(d time.Duration) { <-time.After(d) }

// An answer is how a unary call ended.
type answer struct {
	out  string
	err  error
	took time.Duration
}

// start calls in the background.
func (x *testbed) start(ctx context.Context, op, what string) <-chan answer {
	done := make(chan answer, 1)
	begun := time.Now()
	go func() {
		out, err := call.Call[string](ctx, x.to, op, what)
		done <- answer{out, err, time.Since(begun)}
	}()
	synctest.Wait()
	return done
}

func requireCode(t *testing.T, err error, code string, mayHaveRun bool) {
	t.Helper()
	e, ok := errors.AsType[*call.Error](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, code, e.Code, "%v", err)
	require.Equal(t, mayHaveRun, e.MayHaveRun, "%v", err)
}

// unary are the operations of the first two columns of the fault table.
var unaryOps = []struct {
	name, op   string
	repeatable bool
}{
	{"query", "job/query", true},
	{"idempotent", "job/put", true},
	{"mutation", "job/mutate", false},
}

// TestFaultDiesBeforeWritten: the frame was not written: elsewhere, whatever it is.
func TestFaultDiesBeforeWritten(t *testing.T) {
	for _, u := range unaryOps {
		t.Run(u.name, func(t *testing.T) {
			eachCaller(t, func(t *testing.T, x *testbed) {
				x.a.cut() // the graph hears of it while we call
				out, err := call.Call[string](t.Context(), x.to, u.op, "1")
				require.NoError(t, err)
				require.Equal(t, "worker-b", out)
			})
		})
	}
	for _, op := range []string{"job/ticks", "job/once"} {
		t.Run(op, func(t *testing.T) {
			eachCaller(t, func(t *testing.T, x *testbed) {
				x.a.cut()
				require.Equal(t, []int{1, 2, 3}, collect(t, call.Subscribe[int](t.Context(), x.to, op, 3)))
				require.Equal(t, []string{"worker-b"}, x.of("ticks"))
			})
		})
	}
}

func collect(t *testing.T, seq func(func(int, error) bool)) (got []int) {
	t.Helper()
	for v, err := range seq {
		require.NoError(t, err)
		got = append(got, v)
	}
	return got
}

// TestFaultDiesAfter: it may have run: a query goes elsewhere, a mutation does not.
func TestFaultDiesAfter(t *testing.T) {
	for _, u := range unaryOps {
		t.Run(u.name, func(t *testing.T) {
			eachCaller(t, func(t *testing.T, x *testbed) {
				x.setSlow("worker-a")
				done := x.start(t.Context(), u.op, "1")
				x.a.kill()
				got := <-done
				if u.repeatable {
					require.NoError(t, got.err)
					require.Equal(t, "worker-b", got.out)
					return
				}
				requireCode(t, got.err, codes.Unavailable, true)
				require.Equal(t, []string{"worker-a"}, x.of("mutate 1"), "it ran once at most")
			})
		})
	}
	t.Run("resumable", func(t *testing.T) {
		eachCaller(t, func(t *testing.T, x *testbed) {
			var got []int
			for v, err := range call.Subscribe[int](t.Context(), x.to, "job/ticks", 20) {
				require.NoError(t, err)
				got = append(got, v)
				if v == 5 {
					x.a.kill()
				}
			}
			require.Equal(t, upTo(20), got)
			require.Equal(t, []string{"worker-a", "worker-b"}, x.of("ticks"))
			require.Contains(t, x.kinds("worker-b"), "rerouted")
		})
	})
	t.Run("not resumable", func(t *testing.T) {
		eachCaller(t, func(t *testing.T, x *testbed) {
			var last error
			n := 0
			for _, err := range call.Subscribe[int](t.Context(), x.to, "job/once", 20) {
				if last = err; err != nil {
					break
				}
				if n++; n == 5 {
					x.a.kill()
				}
			}
			requireCode(t, last, codes.Unavailable, true)
			require.Equal(t, 5, n)
		})
	})
}

func upTo(n int) (list []int) {
	for i := 1; i <= n; i++ {
		list = append(list, i)
	}
	return list
}

// TestFaultConnectionBreaks: the process lives and comes back with the same
// instance: a mutation runs once, a stream is the same run.
func TestFaultConnectionBreaks(t *testing.T) {
	t.Run("query", func(t *testing.T) {
		eachCaller(t, func(t *testing.T, x *testbed) {
			x.setSlow("worker-a")
			done := x.start(t.Context(), "job/query", "1")
			x.a.cut()
			require.Equal(t, "worker-b", (<-done).out)
		})
	})
	t.Run("mutation", func(t *testing.T) {
		eachCaller(t, func(t *testing.T, x *testbed) {
			x.setSlow("worker-a")
			done := x.start(t.Context(), "job/mutate", "1")
			x.a.cutAsync()
			x.pass(100 * time.Millisecond)
			x.a.connect()
			x.pass(100 * time.Millisecond)
			close(x.hold)
			got := <-done
			require.NoError(t, got.err)
			require.Equal(t, "worker-a", got.out)
			require.Equal(t, []string{"worker-a"}, x.of("mutate 1"), "one run")
		})
	})
	for _, op := range []string{"job/ticks", "job/once"} {
		t.Run(op, func(t *testing.T) {
			eachCaller(t, func(t *testing.T, x *testbed) {
				var got []int
				for v, err := range call.Subscribe[int](t.Context(), x.to, op, 20) {
					require.NoError(t, err)
					got = append(got, v)
					if v == 5 || v == 10 {
						x.a.cutAsync()
						x.pass(50 * time.Millisecond)
						x.a.connect()
					}
				}
				require.Equal(t, upTo(20), got)
				require.Equal(t, []string{"worker-a"}, x.of("ticks"), "one run")
			})
		})
	}
}

// TestFaultPeerDrains: what runs there finishes, what can go on elsewhere moves.
func TestFaultPeerDrains(t *testing.T) {
	for _, u := range unaryOps {
		t.Run(u.name, func(t *testing.T) {
			eachCaller(t, func(t *testing.T, x *testbed) {
				x.setSlow("worker-a")
				done := x.start(t.Context(), u.op, "1")
				gone := x.a.shutdown(10 * time.Second)
				x.pass(time.Second)
				out, err := call.Call[string](t.Context(), x.to, u.op, "2")
				require.NoError(t, err)
				require.Equal(t, "worker-b", out, "new calls go elsewhere")
				close(x.hold)
				got := <-done
				require.NoError(t, got.err)
				require.Equal(t, "worker-a", got.out, "it finishes there")
				require.NoError(t, <-gone)
			})
		})
	}
	t.Run("resumable", func(t *testing.T) {
		eachCaller(t, func(t *testing.T, x *testbed) {
			var gone <-chan error
			var got []int
			for v, err := range call.Subscribe[int](t.Context(), x.to, "job/ticks", 20) {
				require.NoError(t, err)
				got = append(got, v)
				if v == 5 {
					gone = x.a.shutdown(10 * time.Second)
				}
			}
			require.Equal(t, upTo(20), got)
			require.Equal(t, []string{"worker-a", "worker-b"}, x.of("ticks"))
			require.NoError(t, <-gone)
		})
	})
	t.Run("not resumable", func(t *testing.T) {
		eachCaller(t, func(t *testing.T, x *testbed) {
			var gone <-chan error
			var got []int
			for v, err := range call.Subscribe[int](t.Context(), x.to, "job/once", 20) {
				require.NoError(t, err)
				got = append(got, v)
				if v == 5 {
					gone = x.a.shutdown(10 * time.Second)
				}
			}
			require.Equal(t, upTo(20), got, "it runs on until the drain ends")
			require.Equal(t, []string{"worker-a"}, x.of("ticks"))
			require.NoError(t, <-gone)
		})
	})
}

// TestFaultWithdrawn: an operation that a peer serves no more.
func TestFaultWithdrawn(t *testing.T) {
	eachCaller(t, func(t *testing.T, x *testbed) {
		for _, u := range unaryOps {
			require.NoError(t, x.a.reg.Remove(t.Context(), u.op))
			out, err := call.Call[string](t.Context(), x.to, u.op, "1") // the graph may not know yet
			require.NoError(t, err)
			require.Equal(t, "worker-b", out)
			synctest.Wait()
			require.Nil(t, x.graph.offerOf("worker-a", u.op), "unroutable within a round trip")
		}
		for _, op := range []string{"job/ticks", "job/once"} {
			n := 0
			for _, err := range call.Subscribe[int](t.Context(), x.to, op, 5) {
				require.NoError(t, err)
				if n++; n == 2 {
					go func() { _ = x.a.reg.Remove(context.Background(), op) }()
					synctest.Wait()
				}
			}
			require.Equal(t, 5, n, "it runs on")
		}
		require.Equal(t, []string{"worker-a", "worker-a"}, x.of("ticks"))
	})
}

// TestFaultPeerSlow: a hedge, if it is asked for, and only for what may run twice.
func TestFaultPeerSlow(t *testing.T) {
	for _, u := range unaryOps {
		t.Run(u.name, func(t *testing.T) {
			eachCaller(t, func(t *testing.T, x *testbed) {
				x.setSlow("worker-a")
				x.to = x.graph.To(Ref{Policy: First, Hedge: 50 * time.Millisecond})
				done := x.start(t.Context(), u.op, "1")
				if !u.repeatable {
					x.pass(5 * time.Second)
					require.Empty(t, done, "it waits")
					close(x.hold)
					require.Equal(t, "worker-a", (<-done).out)
					require.Empty(t, intersect(x.runs, "worker-b"))
					return
				}
				got := <-done
				require.NoError(t, got.err)
				require.Equal(t, "worker-b", got.out)
				require.Equal(t, 50*time.Millisecond, got.took)
				x.pass(time.Second)
				require.Zero(t, x.graph.node("worker-a").running.Load(), "the loser is aborted")
				require.Equal(t, 1, x.a.h.Stats().Running, "the subscription to its changes")
			})
		})
	}
}

func intersect(runs map[string][]string, id string) (list []string) {
	for what, ids := range runs {
		for _, i := range ids {
			if i == id {
				list = append(list, what)
			}
		}
	}
	return list
}

// TestFaultAllGone: who calls waits for somebody to come back, and hears that
// nothing ran.
func TestFaultAllGone(t *testing.T) {
	for _, u := range unaryOps {
		t.Run(u.name, func(t *testing.T) {
			eachCaller(t, func(t *testing.T, x *testbed) {
				x.a.kill()
				x.b.kill()
				synctest.Wait()
				got := <-x.start(t.Context(), u.op, "1")
				requireCode(t, got.err, codes.Unavailable, false)
				require.Equal(t, 2*time.Second, got.took)

				done := x.start(t.Context(), u.op, "2")
				x.pass(time.Second)
				x.b.connect()
				require.Equal(t, "worker-b", (<-done).out)

				x.b.cut()
				x.pass(overlayTime + 2*time.Second)
				got = <-x.start(t.Context(), u.op, "3")
				requireCode(t, got.err, codes.NotFound, false)
				require.Zero(t, got.took, "nobody was there for half a minute")
			})
		})
	}
	for _, op := range []string{"job/ticks", "job/once"} {
		t.Run(op, func(t *testing.T) {
			eachCaller(t, func(t *testing.T, x *testbed) {
				x.a.kill()
				x.b.kill()
				synctest.Wait()
				begun := time.Now()
				for _, err := range call.Subscribe[int](t.Context(), x.to, op, 3) {
					requireCode(t, err, codes.Unavailable, false)
				}
				require.Equal(t, 10*time.Second, time.Since(begun))
			})
		})
	}
}

// TestFaultSilence: a peer that says nothing is suspect after 1.5 s and cut after
// 3 s: queries are tried elsewhere at once, mutations are reported.
func TestFaultSilence(t *testing.T) {
	for i, u := range slices.Concat(unaryOps, unaryOps) {
		caller := callers[i/len(unaryOps)]
		t.Run(caller+" "+u.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newTestbed(t)
				x.a = x.world.idle("worker-a", x.jobs("worker-a")...)
				wire := x.a.connectWire()
				defer wire.silence(false)
				x.waitFor("worker-a", "up", 1)
				x.b = x.world.worker("worker-b", x.jobs("worker-b")...)
				x.callAs(caller)
				time.Sleep(3 * time.Second)
				wire.silence(true)
				got := <-x.start(t.Context(), u.op, "1")
				if u.repeatable {
					require.NoError(t, got.err)
					require.Equal(t, "worker-b", got.out)
					require.LessOrEqual(t, got.took, 2*time.Second)
				} else {
					requireCode(t, got.err, codes.Unavailable, true)
					require.LessOrEqual(t, got.took, 3*time.Second+2*time.Second, "3 s, and the wait for it to come back")
				}
				time.Sleep(4 * time.Second)
				require.Equal(t, []string{"joined", "up", "suspect", "left"}, x.kinds("worker-a"))
			})
		})
	}
}

// TestSilenceThatEnds: a suspect peer that is heard again is up, and nothing else
// happens.
func TestSilenceThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &testbed{world: newWorld(t), ledger: newLedger()}
		x.a = x.world.idle("worker-a", x.jobs("worker-a")...)
		wire := x.a.connectWire()
		x.waitFor("worker-a", "up", 1)
		x.to = x.graph.To(Ref{})
		x.setSlow("worker-a")
		done := x.start(t.Context(), "job/mutate", "1")
		time.Sleep(5 * time.Second)
		wire.silence(true)
		time.Sleep(2500 * time.Millisecond)
		require.Contains(t, x.kinds("worker-a"), "suspect")
		wire.silence(false)
		time.Sleep(time.Second)
		close(x.hold)
		require.NoError(t, (<-done).err)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"joined", "up", "suspect", "up"}, x.kinds("worker-a"))
	})
}

// TestLinkOfADeadProcessIsCut: the link of a process that was followed by another
// is not kept until the idle heartbeat finds it silent.
func TestLinkOfADeadProcessIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTestbed(t)
		x.a = x.world.idle("worker-a", x.jobs("worker-a")...)
		wire := x.a.connectWire()
		x.waitFor("worker-a", "up", 1)
		wire.silence(true) // nobody says that it has died
		defer wire.silence(false)
		again := x.world.idle("worker-a", x.jobs("worker-a")...)
		again.connect()
		synctest.Wait()
		require.Len(t, x.graph.node("worker-a").linksNow(), 2)
		time.Sleep(4 * time.Second)
		require.Len(t, x.graph.node("worker-a").linksNow(), 1)
		require.Equal(t, "up", stateOf(x.graph, "worker-a"))
	})
}
