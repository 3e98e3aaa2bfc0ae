package calltest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// shortRun reports whether volumes are to be small.
func shortRun() bool { return testing.Short() }

// abort: every way to leave a call stops its handler.
func abort(e *env) {
	h := e.handler()
	running := func() int {
		return h.Stats().Operations["test/sleep"].Running + h.Stats().Operations["test/stream"].Running
	}
	started := func(n int) { e.Helper(); e.eventually(func() bool { return running() == n }, "it runs") }
	stopped := func(why string) { e.Helper(); e.eventually(func() bool { return running() == 0 }, why) }
	sleep := map[string]int{"ms": 60000}
	c := e.settled(h, alice, nil)

	ctx, cancel := context.WithCancel(e.ctx())
	e.background(func() { _, _ = call.Call[any](ctx, c, "test/sleep", sleep) })
	started(1)
	cancel()
	stopped("the caller's context ended")

	ctx, cancel = context.WithTimeout(e.ctx(), 100*time.Millisecond)
	_, err := call.Call[any](ctx, c, "test/sleep", sleep)
	cancel()
	ce := e.code(codes.Timeout, err)
	e.true(ce.Retryable && ce.MayHaveRun, "TIMEOUT is retryable and may have run")
	stopped("the deadline passed")

	for range call.Subscribe[any](e.ctx(), c, "test/stream", map[string]int{"n": 1 << 30, "gap_ms": 1}) {
		break
	}
	stopped("the loop was left")

	s, err := c.Open(e.ctx(), "test/sleep", call.Options{})
	e.ok(err)
	e.ok(s.Send([]byte(`{"ms":60000}`), false))
	started(1)
	s.Cancel(nil)
	stopped("Cancel")
	_, _, err = s.Recv()
	e.code(codes.Cancelled, err)

	other := e.settled(h, alice, nil)
	e.background(func() { _, _ = call.Call[any](context.Background(), other, "test/sleep", sleep) })
	started(1)
	e.ok(other.Close())
	stopped("the connection was closed")

	w := e.wire(h, alice)
	if !w.single() {
		s := w.open()
		w.write(s, `{"type":"call.requested","id":"r","payload":{"operationId":"/test/sleep","input":{"ms":60000}}}`)
		started(1)
		s.Reset(alknet.CodeOK)
		stopped("the stream was reset")
	}
	st := w.open()
	w.write(st, `{"type":"call.requested","id":"a","payload":{"operationId":"/test/sleep","input":{"ms":60000}}}`)
	started(1)
	w.write(st, `{"type":"call.aborted","id":"a","payload":{}}`, `{"type":"call.aborted","id":"a","payload":{}}`)
	stopped("call.aborted on the same stream")
	w.done(st)
	sum, err := call.Call[any](e.ctx(), c, "test/echo", "sibling")
	e.ok(err)
	e.same("sibling", sum, "siblings are untouched")
}

// abortTree: an abort reaches every call below the one that was aborted.
func abortTree(e *env) {
	h := e.handler()
	running := func() int { return h.Stats().Operations["test/fanout"].Running }
	c := e.settled(h, alice, nil)
	const tree = 1 + 3 + 9 + 27
	ctx, cancel := context.WithCancel(e.ctx())
	defer cancel()
	e.background(func() {
		_, _ = call.Call[int](ctx, c, "test/fanout", map[string]int{"depth": 3, "width": 3, "ms": 60000})
	})
	e.eventually(func() bool { return running() == tree }, fmt.Sprintf("%d calls run", tree))
	begun := time.Now()
	cancel()
	e.eventually(func() bool { return running() == 0 }, "all have stopped")
	e.true(time.Since(begun) < patience/2, "they stopped late")
	n, err := call.Call[int](e.ctx(), c, "test/fanout", map[string]int{"depth": 3, "width": 3})
	e.ok(err)
	e.same(tree, n, "a whole tree")
	// With ContinueRunning the children that have begun go on.
	ctx, cancel = context.WithCancel(e.ctx())
	defer cancel()
	e.background(func() {
		_, _ = call.Call[int](ctx, c, "test/fanout", map[string]any{"depth": 1, "width": 3, "ms": 300, "continue": true})
	})
	e.eventually(func() bool { return running() == 4 }, "they run")
	cancel()
	e.eventually(func() bool { return h.Stats().Operations["test/fanout"].Codes[""] >= tree+3 }, "the children ended well")
}

// deadline: on time, whatever the handler does.
func deadline(e *env) {
	var left atomic.Int64
	nested := call.Operation{
		Name: "n/outer", Authority: &alknet.Identity{ID: "n"}, MayCall: []string{"n/inner"},
		Func: call.QueryFunc(func(ctx context.Context, _ struct{}) (int, error) {
			r, _ := call.RequestFromContext(ctx)
			pause(ctx, 50*time.Millisecond)
			return call.Call[int](ctx, r.Env, "n/inner", struct{}{})
		}),
	}
	inner := call.Operation{Name: "n/inner", Func: call.QueryFunc(func(ctx context.Context, _ struct{}) (int, error) {
		until, ok := ctx.Deadline()
		if !ok {
			return 0, errors.New("no deadline")
		}
		left.Store(int64(time.Until(until)))
		return 1, nil
	})}
	slow := call.Operation{Name: "n/own", Timeout: 50 * time.Millisecond, Func: call.QueryFunc(func(ctx context.Context, _ struct{}) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	})}
	h := e.handler(nested, inner, slow)
	c := e.settled(h, alice, nil)
	w := e.wire(h, alice)
	s := w.open()
	w.write(s, `{"type":"call.requested","id":"d","payload":{"operationId":"/test/sleep","deadline_ms":50,"input":{"ms":700,"ignore":true}}}`)
	begun := time.Now()
	w.errorOf(s, "d", codes.Timeout)
	e.true(time.Since(begun) < 650*time.Millisecond, "TIMEOUT waited for a handler that ignores its context")
	e.eventually(func() bool { return h.Stats().Running == 0 && h.Stats().Overrunning == 0 }, "the place is free when the handler has returned")
	w.done(s)
	ctx, cancel := context.WithTimeout(e.ctx(), 10*time.Second)
	defer cancel()
	_, err := call.Call[int](ctx, c, "n/outer", struct{}{})
	e.ok(err)
	e.true(time.Duration(left.Load()) < 10*time.Second-50*time.Millisecond, "the nested call gets the rest")
	_, err = call.Call[int](e.ctx(), c, "n/own", struct{}{})
	e.code(codes.Timeout, err)
}

// panics: they cost one call.
func panics(e *env) {
	items := call.SubscriptionFunc(func(context.Context, struct{}) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) { yield(1, nil); panic("iterator") }
	})
	h := e.handler(call.Operation{Name: "p/items", Func: items})
	c := e.settled(h, alice, nil)
	for _, where := range []string{"handler", "iterator", "goroutine", "marshal"} {
		for _, kind := range []string{"", "index", "exit"} {
			if where == "marshal" && kind != "" {
				continue
			}
			begun := time.Now()
			_, err := call.Call[any](e.ctx(), c, "test/panic", map[string]string{"where": where, "kind": kind})
			ce := e.code(codes.Internal, err)
			e.same("internal error", ce.Message, "no text leaves the node")
			e.true(time.Since(begun) < patience/4, where+" "+kind+": late")
		}
	}
	list, err := collect(call.Subscribe[int](e.ctx(), c, "p/items", struct{}{}))
	e.code(codes.Internal, err)
	e.same([]int{1}, list, "items before the panic")
	n := 1000
	if shortRun() {
		n = 100
	}
	for range n {
		_, _ = call.Call[any](e.ctx(), c, "test/panic", map[string]string{"where": "handler"})
	}
	_, err = call.Call[any](e.ctx(), c, "test/echo", 1)
	e.ok(err)
	e.true(h.Stats().Panics >= int64(n), "panics are counted")
}

// drain: every call completes or is refused before it ran.
func drain(e *env) {
	var mu sync.Mutex
	done := make(map[int]bool)
	ledger := call.Operation{Name: "led/ger", Func: call.MutationFunc(func(ctx context.Context, i int) (int, error) {
		pause(ctx, 2*time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		done[i] = true
		return i, ctx.Err()
	})}
	h := e.handler(ledger)
	c := e.settled(h, alice, nil)
	var next atomic.Int64
	var completed, refused atomic.Int64
	var stop atomic.Bool
	for range 16 {
		e.background(func() {
			for !stop.Load() {
				i := int(next.Add(1))
				_, err := call.Call[int](context.Background(), c, "led/ger", i)
				mu.Lock()
				ran := done[i]
				mu.Unlock()
				ce, failed := errors.AsType[*call.Error](err)
				switch {
				case err == nil && ran:
					completed.Add(1)
				case failed && ce.Code == codes.Unavailable && !ce.MayHaveRun && !ran:
					refused.Add(1)
					stop.Store(true)
				default:
					e.Errorf("call %d: ran %v, %v", i, ran, err)
					return
				}
			}
		})
	}
	e.eventually(func() bool { return completed.Load() > 50 }, "calls go through")
	e.ok(h.Shutdown(e.ctx()))
	e.eventually(func() bool { return refused.Load() > 0 }, "then they are refused")
	stop.Store(true)
	e.wait(c.Draining(), "the client hears of it")
	_, _, err := c.Ping(e.ctx())
	if err != nil {
		e.code(codes.Unavailable, err)
	}
}

// flow: a slow consumer slows the producer, and nothing is lost.
func flow(e *env) {
	var produced atomic.Int64
	h := e.handler(append(math(), call.Operation{Name: "f/fast", Func: call.SubscriptionFunc(func(ctx context.Context, n int) iter.Seq2[[]byte, error] {
		return func(yield func([]byte, error) bool) {
			b := make([]byte, 1000)
			for range n {
				produced.Add(1)
				if !yield(b, nil) {
					return
				}
			}
		}
	})})...)
	c := e.settled(h, alice, nil)
	n := 20_000
	s, err := c.Open(e.ctx(), "f/fast", call.Options{Type: call.Subscription})
	e.ok(err)
	e.ok(s.Send([]byte(fmt.Sprint(n)), false))
	e.eventually(func() bool { return produced.Load() > 100 }, "it produces")
	settledAt := int64(-1)
	e.eventually(func() bool {
		now := produced.Load()
		same := now == settledAt
		settledAt = now
		pause(e.ctx(), 20*time.Millisecond)
		return same
	}, "the producer waits")
	e.true(produced.Load() <= 256<<10/1000+2, fmt.Sprintf("%d items were made for a window of 256 KiB", produced.Load()))
	sum, err := call.Call[int](e.ctx(), c, "math/add", pair{1, 2})
	e.ok(err)
	e.same(3, sum, "calls pass a stalled stream")
	for i := range n {
		data, raw, err := s.Recv()
		e.ok(err)
		seq, _ := s.Last()
		if len(data) != 1000 || !raw || seq != uint64(i+1) {
			e.Fatalf("item %d: %d bytes, raw %v, seq %d", i, len(data), raw, seq)
		}
	}
	_, _, err = s.Recv()
	e.true(errors.Is(err, io.EOF), "the end")
	// The same for what a caller sends.
	var sent atomic.Int64
	slow := make(chan struct{})
	e.ok(h.Registry.Register(call.Operation{Name: "f/slow", Func: call.UploadFunc(func(ctx context.Context, in iter.Seq2[[]byte, error]) (int, error) {
		<-slow
		n := 0
		for _, err := range in {
			if err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	})}))
	result := make(chan error, 1)
	e.background(func() {
		got, err := call.Upload[int](e.ctx(), c, "f/slow", exchange(n, func(int) []byte { sent.Add(1); return make([]byte, 1000) }))
		if err == nil && got != n {
			err = fmt.Errorf("%d items of %d", got, n)
		}
		result <- err
	})
	e.eventually(func() bool { return sent.Load() > 100 }, "it sends")
	pause(e.ctx(), 50*time.Millisecond)
	e.true(sent.Load() <= 256<<10/1000+3, fmt.Sprintf("%d items were sent for a window of 256 KiB", sent.Load()))
	close(slow)
	e.ok(<-result)
	e.exchanged(c)
}

// exchanged: both ways at once, and an end from either side.
func (e *env) exchanged(c *call.Client) {
	e.Helper()
	n := 0
	for b, err := range call.Exchange[[]byte](e.ctx(), c, "test/exchange", exchange(1000, func(i int) []byte { return []byte(strings.Repeat("x", i%50)) })) {
		e.ok(err)
		e.same(n%50, len(b), "an echo")
		n++
	}
	e.same(1000, n, "echoes")
	for range call.Exchange[[]byte](e.ctx(), c, "test/exchange", exchange(1<<30, func(int) []byte { return []byte("x") })) {
		break
	}
}
