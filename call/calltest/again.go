package calltest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// resume: a subscription goes on exactly where it was cut, or says that it
// cannot.
func resume(e *env) {
	var runs atomic.Int64
	count := func(ctx context.Context, n int) iter.Seq2[int, error] {
		r, _ := call.RequestFromContext(ctx)
		runs.Add(1)
		return func(yield func(int, error) bool) {
			for i := int(r.After) + 1; i <= n; i++ {
				pause(ctx, time.Millisecond)
				if !yield(i, nil) {
					return
				}
			}
		}
	}
	ops := []call.Operation{
		{Name: "r/kept", Func: call.SubscriptionFunc(count)},
		{Name: "r/again", Func: call.SubscriptionFunc(count), Resumable: true},
	}
	const n = 100
	h := e.handler(ops...)
	h.Limits.ResumeGrace = patience
	cuts := []int{1, 2, 49, 98, 99}
	for _, cut := range cuts {
		for _, op := range []string{"r/kept", "r/again"} {
			e.resumed(h, h, op, cut, n)
		}
	}
	// Another process has nothing: only what is Resumable goes on.
	runs.Store(0)
	fresh := e.handler(ops...)
	e.resumed(h, fresh, "r/again", 50, n)
	_, s := e.cut(h, alice, "r/kept", 50, n)
	c := e.settled(fresh, alice, nil)
	_, err := e.goOn(c, s, "r/kept", n)
	e.code(codes.NotResumable, err)
	// Another identity must not take it over.
	_, s = e.cut(h, alice, "r/kept", 50, n)
	eve := e.settled(h, alknet.Identity{ID: "eve"}, nil)
	_, err = e.goOn(eve, s, "r/kept", n)
	e.code(codes.NotResumable, err)
	mine := e.settled(h, alice, nil)
	rest, err := e.goOn(mine, s, "r/kept", n)
	e.ok(err)
	e.same(n-50, len(rest), "its owner still can")
	// After the grace it is gone, and so is its handler.
	short := e.handler(ops...)
	short.Limits.ResumeGrace = 50 * time.Millisecond
	_, s = e.cut(short, alice, "r/kept", 1, 1<<30)
	e.eventually(func() bool { return short.Stats().Running == 0 && short.Stats().Retained == 0 }, "the grace ends")
	_, err = e.goOn(e.settled(short, alice, nil), s, "r/kept", n)
	e.code(codes.NotResumable, err)
}

// cut receives some items and loses the connection.
func (e *env) cut(h *call.Handler, id alknet.Identity, op string, after, n int) (*call.Client, *call.Stream) {
	e.Helper()
	c := e.settled(h, id, nil)
	s, err := c.Open(e.ctx(), op, call.Options{Type: call.Subscription})
	e.ok(err)
	e.ok(s.Send([]byte(fmt.Sprint(n)), false))
	for i := range after {
		data, _, err := s.Recv()
		e.ok(err)
		e.same(fmt.Sprint(i+1), string(data), "before the cut")
	}
	_ = c.Conn().CloseWithError(alknet.CodeInternal, "cut")
	e.ok(c.Close())
	return c, s
}

// goOn resumes s on another connection and returns what came.
func (e *env) goOn(c *call.Client, s *call.Stream, op string, n int) (list []string, err error) {
	e.Helper()
	next, err := c.Open(e.ctx(), op, call.Options{Type: call.Subscription, Resume: s})
	e.ok(err)
	e.ok(next.Send([]byte(fmt.Sprint(n)), false))
	for {
		data, _, err := next.Recv()
		if err != nil {
			if ce, ok := errors.AsType[*call.Error](err); ok {
				return list, ce
			}
			return list, nil
		}
		list = append(list, string(data))
	}
}

// resumed cuts at one handler and goes on at another: never a gap or a repeat.
func (e *env) resumed(from, to *call.Handler, op string, cut, n int) {
	e.Helper()
	before := from.Stats().Connections
	_, s := e.cut(from, alice, op, cut, n)
	e.eventually(func() bool { return from.Stats().Connections == before }, "the loss is noticed")
	rest, err := e.goOn(e.settled(to, alice, nil), s, op, n)
	if err != nil {
		ce := e.code(codes.NotResumable, err)
		e.true(op == "r/kept" && len(rest) == 0 && cut > n-10, "NOT_RESUMABLE: "+ce.Message)
		return
	}
	e.same(n-cut, len(rest), fmt.Sprintf("%s cut after %d", op, cut))
	for i, v := range rest {
		e.same(fmt.Sprint(cut+1+i), v, "behind the cut")
	}
}

// keys: a key runs once.
func keys(e *env) {
	h := e.handler()
	c := e.settled(h, alice, nil)
	once := call.With(c, call.Options{IdempotencyKey: "k-1"})
	type count struct {
		Key string `json:"key"`
		N   int    `json:"n,omitzero"`
	}
	e.all(20, func(int) error {
		got, err := call.Call[count](e.ctx(), once, "test/count", count{Key: "a"})
		if err == nil && got.N != 1 {
			err = fmt.Errorf("it ran %d times", got.N)
		}
		return err
	})
	other := e.settled(h, alice, nil) // the memory is the identity's, not the connection's
	got, err := call.Call[count](e.ctx(), call.With(other, call.Options{IdempotencyKey: "k-1"}), "test/count", count{Key: "a"})
	e.ok(err)
	e.same(1, got.N, "replayed on another connection")
	_, err = call.Call[count](e.ctx(), once, "test/count", count{Key: "b"})
	e.code(codes.InvalidInput, err)
	bob := e.settled(h, alknet.Identity{ID: "bob"}, nil)
	got, err = call.Call[count](e.ctx(), call.With(bob, call.Options{IdempotencyKey: "k-1"}), "test/count", count{Key: "a"})
	e.ok(err)
	e.same(2, got.N, "another identity's key is another key")
	got, err = call.Call[count](e.ctx(), call.With(c, call.Options{IdempotencyKey: "k-2"}), "test/count", count{Key: "a"})
	e.ok(err)
	e.same(3, got.N, "another key")
	e.true(e.settled(e.handler(), alice, nil).Instance() != c.Instance(), "another process is another instance")
	_, err = call.Call[count](e.ctx(), call.With(c, call.Options{IdempotencyKey: "ü"}), "test/count", count{Key: "a"})
	e.code(codes.InvalidRequest, err)
}

// loop: a ring of calls ends.
func loop(e *env) {
	var clients [3]*call.Client
	var handlers [3]*call.Handler
	ids := [3]alknet.Identity{{ID: "n0"}, {ID: "n1"}, {ID: "n2"}}
	var hops atomic.Int64
	closed := make(chan struct{}) // the ring is: clients is not written any more
	for i := range handlers {
		handlers[i] = e.handler(call.Operation{Name: "ring/next", Func: call.Func{Type: call.Query, Serve: func(ctx context.Context, s *call.Stream) error {
			<-closed
			hops.Add(1)
			return s.Forward(ctx, clients[(i+1)%3], "ring/next", call.Options{})
		}}})
	}
	for i := range clients {
		clients[i] = e.settled(handlers[i], ids[(i+2)%3], nil)
	}
	close(closed)
	_, err := call.Call[int](e.ctx(), clients[0], "ring/next", struct{}{})
	e.code(codes.LoopDetected, err)
	e.true(hops.Load() <= 8, fmt.Sprintf("%d hops", hops.Load()))
	// A path that names us is a loop at once; claims need call:forward.
	w := e.wire(handlers[0], alice)
	s := w.open()
	w.write(s, `{"type":"call.requested","id":"h","payload":{"operationId":"/ring/next","hops":8,"input":1}}`)
	w.errorOf(s, "h", codes.LoopDetected)
	s = w.next1(s)
	w.write(s, `{"type":"call.requested","id":"h","payload":{"operationId":"/ring/next","path":["nonsense"],"input":1}}`)
	w.errorOf(s, "h", codes.InvalidRequest)
	w.done(s)
}
