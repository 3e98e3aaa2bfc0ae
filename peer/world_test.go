package peer

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// A world is a head and its workers in one process, joined by pipes: handlers,
// streams and resets are the product's.
type world struct {
	t     testing.TB
	graph *Graph
	head  *call.Handler
	reg   call.Registry

	mu     sync.Mutex
	events []Event
}

// newWorld makes a head that takes everything that is not reserved.
func newWorld(t testing.TB) *world {
	w := &world{t: t}
	w.graph = &Graph{
		Imports: func(Info) call.Import { return call.Import{Allow: []string{"*"}, Export: true} },
		OnEvent: func(e Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
	}
	w.head = &call.Handler{Registry: &w.reg, Sources: []call.Source{w.graph}, OnConnect: w.graph.Attach}
	t.Cleanup(func() { require.NoError(t, w.graph.Close()) })
	return w
}

// kinds are the kinds of the events of one peer so far.
func (w *world) kinds(peer string) (kinds []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Peer == peer {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

// waitFor waits until a peer has had so many events of a kind.
func (w *world) waitFor(peer, kind string, n int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		have := 0
		for _, k := range w.kinds(peer) {
			if k == kind {
				have++
			}
		}
		return have >= n
	}, 30*time.Second, 2*time.Millisecond, "%s: %s", peer, kind)
}

// A worker is one process of a peer: it may be killed and connect many times.
type worker struct {
	w    *world
	id   string
	h    *call.Handler
	reg  *call.Registry
	mu   sync.Mutex
	pair [][2]*alknet.Conn
	own  []*call.Client
	old  []*call.Client
	wg   sync.WaitGroup
}

// worker starts a worker with some operations and connects it.
func (w *world) worker(id string, ops ...call.Operation) *worker {
	w.t.Helper()
	k := w.idle(id, ops...)
	n := len(w.kinds(id))
	k.connect()
	require.Eventually(w.t, func() bool { return len(w.kinds(id)) > n+1 }, 10*time.Second, time.Millisecond)
	return k
}

// idle starts a worker that does not connect yet.
func (w *world) idle(id string, ops ...call.Operation) *worker {
	k := &worker{w: w, id: id, reg: &call.Registry{}}
	require.NoError(w.t, k.reg.Register(ops...))
	k.h = &call.Handler{Registry: k.reg}
	w.t.Cleanup(k.kill)
	return k
}

// connect dials the head once more.
func (k *worker) connect() *alknet.Conn {
	c, s := alknet.Pipe(call.ALPN, alknet.Identity{ID: k.id}, alknet.Identity{ID: "head"})
	k.serve(c, s)
	return c
}

// serve joins the two ends of a connection to the worker and the head.
func (k *worker) serve(c, s *alknet.Conn) {
	k.wg.Add(1)
	go func() {
		defer k.wg.Done()
		_ = k.w.head.ServeConn(context.Background(), s)
		_ = s.Close()
	}()
	cl := call.NewClient(c, k.h)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pair = append(k.pair, [2]*alknet.Conn{c, s})
	k.own = append(k.own, cl)
}

// cut ends the connections, and the process lives on.
func (k *worker) cut() {
	k.mu.Lock()
	pair, own := k.pair, append(k.own, k.old...)
	k.pair, k.own, k.old = nil, nil, nil
	k.mu.Unlock()
	for _, p := range pair {
		_ = p[0].CloseWithError(alknet.CodeInternal, "cut")
		_ = p[1].CloseWithError(alknet.CodeInternal, "cut")
	}
	for _, c := range own {
		_ = c.Close()
	}
	k.wg.Wait()
}

// cutAsync is cut that does not wait for what runs there.
func (k *worker) cutAsync() {
	k.mu.Lock()
	pair, own := k.pair, k.own
	k.pair, k.own = nil, nil
	k.mu.Unlock()
	for _, p := range pair {
		_ = p[0].CloseWithError(alknet.CodeInternal, "cut")
		_ = p[1].CloseWithError(alknet.CodeInternal, "cut")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.old = append(k.old, own...)
}

// shutdown drains the worker; what it says comes over the channel.
func (k *worker) shutdown(grace time.Duration) <-chan error {
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		done <- k.h.Shutdown(ctx)
	}()
	return done
}

// kill ends the process, and what ran in it. The next connection is that of a
// new one.
func (k *worker) kill() {
	k.cut()
	dead := k.h
	k.h = &call.Handler{Registry: k.reg}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = dead.Shutdown(ctx)
}

// as is a caller at the head, through its gate.
func (w *world) as(id string, scopes ...string) call.Caller {
	return w.head.As(alknet.Identity{ID: id, Scopes: scopes})
}

// client is somebody who has connected to the head.
func (w *world) client(id string) *call.Client {
	w.t.Helper()
	c, s := alknet.Pipe(call.ALPN, alknet.Identity{ID: id}, alknet.Identity{ID: "head"})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.head.ServeConn(context.Background(), s)
		_ = s.Close()
	}()
	cl := call.NewClient(c, nil)
	w.t.Cleanup(func() {
		_ = cl.Close()
		<-done
	})
	require.NoError(w.t, cl.Settled(w.t.Context()))
	return cl
}

// whoami answers with an id.
func whoami(id string) call.Operation {
	return call.Operation{Name: "sys/whoami", Func: call.QueryFunc(func(context.Context, struct{}) (string, error) { return id, nil })}
}
