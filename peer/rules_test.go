package peer

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

func whoIs(t *testing.T, c call.Caller, op string) string {
	t.Helper()
	got, err := call.Call[string](t.Context(), c, op, struct{}{})
	require.NoError(t, err)
	return got
}

// TestSpecificNeverFallsThrough: a call for one peer is answered by it or by
// nobody.
func TestSpecificNeverFallsThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		require.NoError(t, w.reg.Register(whoami("local")))
		a := w.worker("worker-a", whoami("a"))
		w.worker("worker-b", whoami("b"))
		require.Equal(t, "a", whoIs(t, w.graph.To(Ref{Peer: "worker-a"}), "sys/whoami"))
		require.Equal(t, "a", whoIs(t, w.as("alice"), "sys/whoami@worker-a"))
		a.kill()
		synctest.Wait()
		for _, c := range []call.Caller{w.graph.To(Ref{Peer: "worker-a"}), w.as("alice")} {
			_, err := call.Call[string](t.Context(), c, "sys/whoami@worker-a", struct{}{})
			requireCode(t, err, codes.Unavailable, false)
		}
		_, err := call.Call[string](t.Context(), w.graph.To(Ref{}), "sys/whoami@worker-c", struct{}{})
		requireCode(t, err, codes.NotFound, false)
		_, err = call.Call[string](t.Context(), w.graph.To(Ref{Peer: "worker-b"}), "sys/whoami@worker-a", struct{}{})
		requireCode(t, err, codes.NotFound, false)
		time.Sleep(overlayTime + 2*time.Second)
		_, err = call.Call[string](t.Context(), w.as("alice"), "sys/whoami@worker-a", struct{}{})
		requireCode(t, err, codes.NotFound, false)
	})
}

// TestAnyNeverPrefersAPeerToALocalOperation: what a name means here cannot be
// taken by a peer; "@any" asks for peers.
func TestAnyNeverPrefersAPeerToALocalOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.worker("worker-a", whoami("a"))
		require.Equal(t, "a", whoIs(t, w.as("alice"), "sys/whoami"))
		require.NoError(t, w.reg.Register(whoami("local")))
		require.Equal(t, "local", whoIs(t, w.as("alice"), "sys/whoami"))
		require.Equal(t, "a", whoIs(t, w.as("alice"), "sys/whoami@any"))
	})
}

// TestPinsAdmitExactlyTheirPeer: a pin in MayCall is one route on a real overlay,
// and a name without one is any route but pins.
func TestPinsAdmitExactlyTheirPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.graph.Imports = func(Info) call.Import { return call.Import{Allow: []string{"sys/*"}} } // Internal
		w.worker("worker-a", whoami("a"))
		w.worker("worker-b", whoami("b"))
		ask := func(name string, may ...string) {
			require.NoError(t, w.reg.Register(call.Operation{
				Name: name, MayCall: may, Authority: &alknet.Identity{ID: "svc"},
				Func: call.QueryFunc(func(ctx context.Context, op string) (string, error) {
					r, _ := call.RequestFromContext(ctx)
					return call.Call[string](ctx, r.Env, op, struct{}{})
				}),
			}))
		}
		ask("ask/pinned", "sys/whoami@worker-a")
		ask("ask/plain", "sys/whoami")
		ask("ask/any", "sys/whoami@any")
		for _, tt := range []struct {
			asker, op string
			ok        bool
		}{
			{"ask/pinned", "sys/whoami@worker-a", true},
			{"ask/pinned", "sys/whoami@worker-b", false},
			{"ask/pinned", "sys/whoami@any", false},
			{"ask/pinned", "sys/whoami", false},
			{"ask/plain", "sys/whoami", true},
			{"ask/plain", "sys/whoami@worker-a", false},
			{"ask/plain", "sys/whoami@any", false},
			{"ask/any", "sys/whoami@any", true},
			{"ask/any", "sys/whoami", false},
		} {
			_, err := call.Call[string](t.Context(), w.as("alice"), tt.asker, tt.op)
			if tt.ok {
				require.NoError(t, err, "%s %s", tt.asker, tt.op)
			} else {
				require.Error(t, err, "%s %s", tt.asker, tt.op)
			}
		}
		_, err := call.Call[string](t.Context(), w.as("alice"), "sys/whoami", struct{}{})
		requireCode(t, err, codes.NotFound, false)
		_, err = call.Call[string](t.Context(), w.as("alice"), "sys/whoami@worker-a", struct{}{})
		requireCode(t, err, codes.NotFound, false)
	})
}

// TestAccessIsTheOnlyPeerPolicy: who may use an exported operation is said by
// Import.Access here and by the peer's own Access there, and by nothing else.
func TestAccessIsTheOnlyPeerPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.graph.Imports = func(p Info) call.Import {
			im := call.Import{Allow: []string{"sys/*"}, Export: true}
			if p.ID == "worker-a" {
				im.Access.RequiredScopes = []string{"use:a"}
			}
			return im
		}
		strict := whoami("b")
		strict.Access.RequiredScopes = []string{"nobody:has-it"}
		w.worker("worker-a", whoami("a"))
		w.worker("worker-b", strict)
		// worker-b's own rules refuse the head, for whomever it asks; it is not even seen.
		require.Nil(t, w.graph.offerOf("worker-b", "sys/whoami"))
		require.Equal(t, "a", whoIs(t, w.as("alice", "use:a"), "sys/whoami"))
		_, err := call.Call[string](t.Context(), w.as("bob"), "sys/whoami", struct{}{})
		requireCode(t, err, codes.Forbidden, false)
		_, err = call.Call[string](t.Context(), w.as("bob"), "sys/whoami@worker-a", struct{}{})
		requireCode(t, err, codes.Forbidden, false)
	})
}

// TestRoutesDoNotMixAccess: who was let in for one peer's operation does not
// reach another's that is under other rules.
func TestRoutesDoNotMixAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.graph.Imports = func(p Info) call.Import {
			im := call.Import{Allow: []string{"sys/*"}, Export: p.ID != "worker-c"}
			if p.ID == "worker-b" {
				im.Access.RequiredScopes = []string{"use:b"}
			}
			return im
		}
		for _, id := range []string{"a", "b", "c"} {
			w.worker("worker-"+id, whoami(id))
		}
		for range 30 {
			require.Equal(t, "a", whoIs(t, w.as("alice"), "sys/whoami"))
			require.Equal(t, "a", whoIs(t, w.as("alice", "use:b"), "sys/whoami@any"))
		}
		require.Equal(t, "b", whoIs(t, w.as("alice", "use:b"), "sys/whoami@worker-b"))
		ex := w.graph.Explain("sys/whoami@worker-b", Ref{})
		require.Equal(t, "worker-b", ex.Winner)
	})
}

// TestDisconnectDropsTheOverlay, at the latest half a minute after the last link.
func TestDisconnectDropsTheOverlay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		changed := w.graph.Changed()
		a := w.worker("worker-a", whoami("a"))
		<-changed
		require.Len(t, w.graph.Peers(), 1)
		a.kill()
		synctest.Wait()
		require.Equal(t, "left", w.graph.Peers()[0].State)
		time.Sleep(overlayTime + 2*time.Second)
		_, ok := w.graph.Lookup("sys/whoami")
		require.False(t, ok)
		require.Empty(t, w.graph.Peers())
		for range w.graph.All() {
			t.Fatal("nothing is left")
		}
		require.Empty(t, w.graph.specs)
		require.Equal(t, []string{"joined", "up", "left"}, w.kinds("worker-a"))
	})
}

// TestSameNameOnTwoPeersIsNoCollision, and twice on one peer is an error that
// costs nothing else.
func TestSameNameOnTwoPeersIsNoCollision(t *testing.T) {
	w := newWorld(t)
	w.worker("worker-a", whoami("a"))
	w.worker("worker-b", whoami("b"))
	require.Len(t, w.graph.route("sys/whoami").cands.Load().byID, 2)
	var reg call.Registry
	require.NoError(t, reg.Register(whoami("a")))
	require.ErrorIs(t, reg.Register(whoami("a")), call.ErrDuplicate)
}

// TestImportsAreDeniedByDefault: without a word nothing is taken, and what is
// taken is not to be reached from outside.
func TestImportsAreDeniedByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.graph.Imports = nil
		w.worker("worker-a", whoami("a"))
		_, ok := w.graph.Lookup("sys/whoami")
		require.False(t, ok)
		_, err := call.Call[string](t.Context(), w.graph.To(Ref{Peer: "worker-a"}), "sys/whoami", struct{}{})
		requireCode(t, err, codes.NotFound, false)
	})
}

// TestImportFollowsThePolicy: what is taken changes within a second of the policy.
func TestImportFollowsThePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		book, err := OpenBook("")
		require.NoError(t, err)
		defer book.Close()
		set := func(p Peer) {
			require.NoError(t, book.Update(func(m map[string]Peer) error { m[p.ID] = p; return nil }))
			time.Sleep(1500 * time.Millisecond)
		}
		w.graph.Imports, w.graph.Known = book.Imports, book.Known
		w.worker("worker-a", whoami("a"))
		require.Nil(t, w.graph.route("sys/whoami"))
		set(Peer{ID: "worker-a", Import: []string{"sys/*"}, Labels: map[string]string{"gpu": "a100"}})
		require.Equal(t, "a", whoIs(t, w.graph.To(Ref{Labels: map[string]string{"gpu": "a100"}}), "sys/whoami"))
		_, err = call.Call[string](t.Context(), w.graph.To(Ref{Labels: map[string]string{"gpu": "h100"}}), "sys/whoami", struct{}{})
		requireCode(t, err, codes.Unavailable, false)
		set(Peer{ID: "worker-a", Import: []string{"sys/*"}, Export: true})
		require.Equal(t, "a", whoIs(t, w.as("alice"), "sys/whoami"))
		set(Peer{ID: "worker-a"})
		require.Nil(t, w.graph.route("sys/whoami"))
	})
}

// TestPolicies: First keeps places over a return, RoundRobin takes turns, Affinity
// keeps its peer and moves only the keys of one that left.
func TestPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.worker("worker-c", whoami("c"))
		w.worker("worker-a", whoami("a"))
		w.worker("worker-b", whoami("b"))
		first := w.graph.To(Ref{Policy: First})
		require.Equal(t, "c", whoIs(t, first, "sys/whoami"), "it was attached first")

		turns := w.graph.To(Ref{Policy: RoundRobin})
		var seen []string
		for range 6 {
			seen = append(seen, whoIs(t, turns, "sys/whoami"))
		}
		require.Equal(t, []string{"a", "b", "c", "a", "b", "c"}, seen)

		before := map[string]string{}
		for _, key := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
			before[key] = whoIs(t, w.graph.To(Ref{Policy: Affinity, Key: key}), "sys/whoami")
		}
		a.kill()
		synctest.Wait()
		require.Equal(t, "a", whoIs(t, first, "sys/whoami"))
		moved := 0
		for key, was := range before {
			now := whoIs(t, w.graph.To(Ref{Policy: Affinity, Key: key}), "sys/whoami")
			if was == "c" {
				moved++
			} else {
				require.Equal(t, was, now, "key %s", key)
			}
		}
		require.NotZero(t, moved)
		a.connect()
		synctest.Wait()
		require.Equal(t, "c", whoIs(t, first, "sys/whoami"), "it keeps its place")
		time.Sleep(time.Minute)
		a.kill()
		time.Sleep(time.Minute)
		a.connect()
		synctest.Wait()
		require.Equal(t, "c", whoIs(t, first, "sys/whoami"), "also after it was forgotten")
	})
}

// TestSeveralLinksOfOnePeer: they add up; a late end of an old one takes nothing
// away; the links of a process that was replaced get nothing more.
func TestSeveralLinksOfOnePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.worker("worker-a", whoami("a"))
		old := a.connect()
		synctest.Wait()
		a.connect()
		synctest.Wait()
		require.Len(t, w.graph.Peers()[0].Links, 3)
		_ = old.Close()
		synctest.Wait()
		require.Len(t, w.graph.Peers()[0].Links, 2)
		require.Equal(t, "a", whoIs(t, w.graph.To(Ref{}), "sys/whoami"))
		a2 := w.idle("worker-a", whoami("a2"))
		a2.connect()
		synctest.Wait()
		require.Equal(t, "a2", whoIs(t, w.graph.To(Ref{}), "sys/whoami"), "the process was restarted")
		a.kill() // the old one's end comes late
		synctest.Wait()
		require.Equal(t, "a2", whoIs(t, w.graph.To(Ref{}), "sys/whoami"))
		require.Equal(t, []string{"joined", "up", "up", "up", "draining", "draining", "up"}, w.kinds("worker-a"))
		for range 20 {
			a2.connect()
		}
		synctest.Wait()
		require.Len(t, w.graph.Peers()[0].Links, 8, "max_links_per_peer")
	})
}

// TestReattachKeepsTheOverlay: an unchanged etag costs one question, no import.
func TestReattachKeepsTheOverlay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.worker("worker-a", whoami("a"))
		before := w.graph.offerOf("worker-a", "sys/whoami")
		lists := func() int64 { return operationCount(a.h, "services/list") }
		n := lists()
		a.cut()
		synctest.Wait()
		a.connect()
		synctest.Wait()
		require.Equal(t, n, lists(), "it was not asked again")
		require.Same(t, before, w.graph.offerOf("worker-a", "sys/whoami"))
		require.Equal(t, "a", whoIs(t, w.graph.To(Ref{}), "sys/whoami"))
	})
}

func operationCount(h *call.Handler, op string) (n int64) {
	s, ok := h.Stats().Operations[op]
	if !ok {
		return 0
	}
	for _, c := range s.Codes {
		n += c
	}
	return n
}

// TestGraphDrain: a peer gets no new calls, what can move moves, and Drain returns
// when it is idle.
func TestGraphDrain(t *testing.T) {
	inBubble(t, func(t *testing.T, x *testbed) {
		x.setSlow("worker-a")
		done := x.start(t.Context(), "job/mutate", "1")
		items := make(chan int, 100)
		go func() {
			defer close(items)
			for v, err := range call.Subscribe[int](t.Context(), x.to, "job/ticks", 30) {
				if err != nil {
					t.Error(err)
				}
				items <- v
			}
		}()
		x.pass(450 * time.Millisecond)
		drained := make(chan error, 1)
		go func() { drained <- x.graph.Drain(t.Context(), "worker-a") }()
		x.pass(time.Second)
		require.Equal(t, []string{"worker-a", "worker-b"}, x.of("ticks"), "the stream has moved")
		out, err := call.Call[string](t.Context(), x.to, "job/query", "2")
		require.NoError(t, err)
		require.Equal(t, "worker-b", out)
		require.Empty(t, drained)
		close(x.hold)
		require.NoError(t, <-drained)
		require.Equal(t, "worker-a", (<-done).out)
		n := 0
		for v := range items {
			n++
			require.Equal(t, n, v)
		}
		require.Equal(t, 30, n)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.NoError(t, x.graph.Drain(ctx, "nobody"))
	})
}

// TestOutputsAreTheCallersOwn: two callers with the same idempotency key do not
// get each other's answers through a head.
func TestKeysOfTwoCallersAreApart(t *testing.T) {
	inBubble(t, func(t *testing.T, x *testbed) {
		x.graph.Default = Ref{Policy: First}
		for _, who := range []string{"alice", "bob", "alice"} {
			c := call.With(x.as(who), call.Options{IdempotencyKey: "1"})
			_, err := call.Call[string](t.Context(), c, "job/mutate", "of "+who)
			require.NoError(t, err)
		}
		require.Len(t, x.of("mutate of alice"), 1, "repeated under its key it runs once")
		require.Len(t, x.of("mutate of bob"), 1)
	})
}

// TestAllYieldsPartialResults: everybody once, those who leave yield their error.
func TestAllYieldsPartialResults(t *testing.T) {
	inBubble(t, func(t *testing.T, x *testbed) {
		x.setSlow("worker-a")
		got := map[string]error{}
		for r := range All[string](t.Context(), x.graph, Ref{}, "job/mutate", "1") {
			got[r.Peer] = r.Err
			if r.Peer == "worker-b" {
				synctest.Wait() // the other one runs
				x.a.kill()
			}
		}
		require.Len(t, got, 2)
		require.NoError(t, got["worker-b"])
		requireCode(t, got["worker-a"], codes.Unavailable, true)
		require.Len(t, x.of("mutate 1"), 2)

		x.setSlow("worker-b")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for r := range All[string](ctx, x.graph, Ref{}, "job/query", "2") {
			e, ok := errors.AsType[*call.Error](r.Err)
			require.True(t, ok)
			require.Equal(t, codes.Timeout, e.Code)
		}
	})
}
