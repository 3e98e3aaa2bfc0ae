package peer

import (
	"context"
	"iter"
	"net"
	"sync"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// A ledger counts what ran where.
type ledger struct {
	mu   sync.Mutex
	runs map[string][]string // what → worker ids, one for each execution
	hold chan struct{}       // closed: jobs that wait go on
	slow map[string]bool     // workers whose jobs wait for hold
}

func newLedger() *ledger {
	return &ledger{runs: make(map[string][]string), hold: make(chan struct{}), slow: make(map[string]bool)}
}

func (l *ledger) ran(what, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs[what] = append(l.runs[what], id)
}

func (l *ledger) of(what string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.runs[what]...)
}

func (l *ledger) isSlow(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slow[id]
}

func (l *ledger) setSlow(ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.slow)
	for _, id := range ids {
		l.slow[id] = true
	}
}

// wait is what a job does on a slow worker: it waits until it is let go, or its
// caller is gone.
func (l *ledger) wait(ctx context.Context, id string) error {
	if !l.isSlow(id) {
		return nil
	}
	select {
	case <-l.hold:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// jobs are the operations of a worker in the tests of faults.
func (l *ledger) jobs(id string) []call.Operation {
	run := func(kind string) func(context.Context, string) (string, error) {
		return func(ctx context.Context, what string) (string, error) {
			l.ran(kind+" "+what, id)
			return id, l.wait(ctx, id)
		}
	}
	ticks := func(ctx context.Context, n int) iter.Seq2[int, error] {
		r, _ := call.RequestFromContext(ctx)
		return func(yield func(int, error) bool) {
			l.ran("ticks", id)
			for i := int(r.After) + 1; i <= n; i++ {
				if !yield(i, nil) {
					return
				}
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
					return
				}
			}
		}
	}
	return []call.Operation{
		{Name: "job/query", Func: call.QueryFunc(run("query"))},
		{Name: "job/mutate", Func: call.MutationFunc(run("mutate"))},
		{Name: "job/put", Func: call.MutationFunc(run("put")), Idempotent: true},
		{Name: "job/ticks", Func: call.SubscriptionFunc(ticks), Resumable: true},
		{Name: "job/once", Func: call.SubscriptionFunc(ticks)},
	}
}

// A wire is a connection in memory that can fall silent.
type wire struct {
	mu    sync.Mutex
	gate  chan struct{} // closed: bytes pass
	ends  [2]net.Conn
	stuck bool
}

func newWire() *wire {
	w := &wire{gate: make(chan struct{})}
	close(w.gate)
	w.ends[0], w.ends[1] = net.Pipe()
	return w
}

// silence stops all bytes, until it is ended.
func (w *wire) silence(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stuck == on {
		return
	}
	w.stuck = on
	if on {
		w.gate = make(chan struct{})
	} else {
		close(w.gate)
	}
}

func (w *wire) open() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gate
}

// wireEnd is one end of it.
type wireEnd struct {
	net.Conn
	w    *wire
	once sync.Once
	done chan struct{}
}

func (w *wire) end(i int) *wireEnd { return &wireEnd{Conn: w.ends[i], w: w, done: make(chan struct{})} }

func (e *wireEnd) Write(b []byte) (int, error) {
	select {
	case <-e.w.open():
		return e.Conn.Write(b)
	case <-e.done:
		return 0, net.ErrClosed
	}
}

func (e *wireEnd) Close() error {
	e.once.Do(func() { close(e.done) })
	return e.Conn.Close()
}

// connectWire dials the head over a wire.
func (k *worker) connectWire() *wire {
	w := newWire()
	c := alknet.NewConn(w.end(0), call.ALPN, alknet.Identity{ID: "head"})
	s := alknet.NewConn(w.end(1), call.ALPN, alknet.Identity{ID: k.id})
	k.serve(c, s)
	return w
}
