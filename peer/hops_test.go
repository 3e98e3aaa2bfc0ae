package peer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// A headNode is a head on a real socket: loops are found by the keys of the path.
type headNode struct {
	ep    *alknet.Endpoint
	reg   *call.Registry
	graph *Graph
	h     *call.Handler
}

func newHeads(t *testing.T, book *Book, ids ...string) map[string]*headNode {
	t.Helper()
	heads := map[string]*headNode{}
	for _, id := range ids {
		ep, err := alknet.Listen(t.Context(), "127.0.0.1:0", nil)
		require.NoError(t, err)
		n := &headNode{ep: ep, reg: new(call.Registry), graph: &Graph{Imports: book.Imports, Known: book.Known}}
		n.h = &call.Handler{Registry: n.reg, Sources: []call.Source{n.graph}, OnConnect: n.graph.Attach}
		router := &alknet.Router{Authenticate: book.Authenticate}
		require.NoError(t, router.Register(call.Service(n.h)))
		served := make(chan error, 1)
		go func() { served <- router.Serve(ep) }()
		t.Cleanup(func() {
			_ = router.Close()
			<-served
			_ = ep.Close()
			require.NoError(t, n.graph.Close())
		})
		require.NoError(t, book.Update(put(Peer{ID: id, Keys: []Key{{ID: ep.ID()}}, Import: []string{"*"}, Export: true})))
		heads[id] = n
	}
	return heads
}

// join has one head dial another and attach it.
func (n *headNode) join(t *testing.T, to *headNode) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	sup := &Supervisor{Dial: DialPeer(n.ep, Static{to.ep.ID(): {to.ep.Addr()}}, to.ep.ID(), n.h), Graph: n.graph}
	ran := make(chan error, 1)
	go func() { ran <- sup.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ran })
}

func (n *headNode) serves(t *testing.T, peer, op string) {
	t.Helper()
	require.Eventually(t, func() bool { return n.graph.offerOf(peer, op) != nil }, 10*time.Second, 2*time.Millisecond, "%s of %s", op, peer)
}

// TestNamesOfTwoHops: "op@worker@head" asks the head for the worker's operation,
// with the path of the call behind it.
func TestNamesOfTwoHops(t *testing.T) {
	book := openBook(t, "")
	heads := newHeads(t, book, "head-a", "head-b", "head-c")
	a, b, c := heads["head-a"], heads["head-b"], heads["head-c"]
	paths := make(chan []alknet.PeerID, 10)
	require.NoError(t, c.reg.Register(call.Operation{Name: "x/where", Func: call.QueryFunc(func(ctx context.Context, _ struct{}) (string, error) {
		r, _ := call.RequestFromContext(ctx)
		paths <- r.Path
		return "c", nil
	})}))
	c.join(t, b) // c hangs on b as a worker
	b.serves(t, "head-c", "x/where")
	b.join(t, a)
	a.serves(t, "head-b", "x/where")
	alice := a.h.As(alknet.Identity{ID: "alice"})
	for _, name := range []string{"x/where", "x/where@head-b", "x/where@head-c@head-b"} {
		require.Equal(t, "c", whoIs(t, alice, name))
		path := <-paths
		require.Equal(t, b.ep.ID(), path[len(path)-1], name)
	}
	_, err := call.Call[string](t.Context(), alice, "x/where@head-a@head-b", struct{}{})
	require.Error(t, err)
}

// TestRingOfHeadsEnds: three heads that take everything from each other, and an
// operation that nobody has any more: a call ends soon, and nothing runs.
func TestRingOfHeadsEnds(t *testing.T) {
	book := openBook(t, "")
	heads := newHeads(t, book, "head-a", "head-b", "head-c")
	a, b, c := heads["head-a"], heads["head-b"], heads["head-c"]
	require.NoError(t, a.reg.Register(whoami("a")))
	b.join(t, a)
	b.serves(t, "head-a", "sys/whoami")
	c.join(t, b)
	c.serves(t, "head-b", "sys/whoami")
	a.join(t, c)
	a.serves(t, "head-c", "sys/whoami") // its own operation, over two heads
	require.Equal(t, "a", whoIs(t, c.h.As(alknet.Identity{ID: "alice"}), "sys/whoami"))
	require.NoError(t, a.reg.Remove(t.Context(), "sys/whoami"))
	begun := time.Now()
	for _, n := range heads {
		_, err := call.Call[string](t.Context(), n.h.As(alknet.Identity{ID: "alice"}), "sys/whoami", struct{}{})
		e, ok := errors.AsType[*call.Error](err)
		require.True(t, ok, "%v", err)
		require.Contains(t, []string{codes.LoopDetected, codes.NotFound, codes.Unavailable}, e.Code)
		require.False(t, e.MayHaveRun, "%v", err)
	}
	require.Less(t, time.Since(begun), 20*time.Second)
}

// TestCallThatComesBackEnds: a head refuses what it has itself sent out, long before
// the hops are too many, also if it serves it.
func TestCallThatComesBackEnds(t *testing.T) {
	book := openBook(t, "")
	heads := newHeads(t, book, "head-a", "head-b")
	a, b := heads["head-a"], heads["head-b"]
	ran := make(chan struct{}, 1)
	require.NoError(t, a.reg.Register(call.Operation{Name: "own/op", Func: call.QueryFunc(func(context.Context, struct{}) (string, error) {
		ran <- struct{}{}
		return "a", nil
	})}))
	b.join(t, a)
	b.serves(t, "head-a", "own/op")
	a.serves(t, "head-b", "own/op")
	require.Equal(t, "a", whoIs(t, b.h.As(alknet.Identity{ID: "alice"}), "own/op@head-a"))
	<-ran
	_, err := call.Call[string](t.Context(), a.h.As(alknet.Identity{ID: "alice"}), "own/op@head-a@head-b", struct{}{})
	requireCode(t, err, codes.LoopDetected, false)
	require.Empty(t, ran, "it is refused before it runs")
}

// TestChainOfHeadsEnds: of heads that all know other keys, the eighth after the first
// refuses, and nothing runs.
func TestChainOfHeadsEnds(t *testing.T) {
	book := openBook(t, "")
	ids := []string{"head-0", "head-1", "head-2", "head-3", "head-4", "head-5", "head-6", "head-7", "head-8"}
	heads := newHeads(t, book, ids...)
	ran := make(chan struct{}, 1)
	require.NoError(t, heads["head-8"].reg.Register(call.Operation{Name: "far/op", Func: call.QueryFunc(func(context.Context, struct{}) (string, error) {
		ran <- struct{}{}
		return "far", nil
	})}))
	for i, id := range ids { // each takes from the next only: there is one way
		heads[id].graph.Imports = func(p Info) call.Import {
			if i+1 < len(ids) && p.ID == ids[i+1] {
				return book.Imports(p)
			}
			return call.Import{}
		}
	}
	for i := len(ids) - 1; i > 0; i-- {
		heads[ids[i]].join(t, heads[ids[i-1]])
		heads[ids[i-1]].serves(t, ids[i], "far/op")
	}
	alice := alknet.Identity{ID: "alice"}
	require.Equal(t, "far", whoIs(t, heads["head-1"].h.As(alice), "far/op"), "seven hops")
	<-ran
	_, err := call.Call[string](t.Context(), heads["head-0"].h.As(alice), "far/op", struct{}{})
	requireCode(t, err, codes.LoopDetected, false)
	require.Empty(t, ran, "eight hops")
}
