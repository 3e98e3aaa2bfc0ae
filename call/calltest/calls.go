package calltest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// pending: how calls resolve.
func pending(e *env) {
	h := e.handler(math()...)
	c := e.settled(h, alice, nil)
	sum, err := call.Call[int](e.ctx(), c, "/math/add", pair{2, 3})
	e.ok(err)
	e.same(5, sum, "sum")
	list, err := collect(call.Subscribe[int](e.ctx(), c, "math/count", 1000))
	e.ok(err)
	e.same(1000, len(list), "items")
	e.same(1000, list[999], "in order")
	_, err = call.Call[int](e.ctx(), c, "math/count", 3)
	e.code(codes.InvalidOperationType, err)
	_, err = collect(call.Subscribe[int](e.ctx(), c, "math/add", pair{1, 1}))
	e.code(codes.InvalidOperationType, err)
	_, err = collect(call.Subscribe[int](e.ctx(), c, "math/none", 3))
	e.code(codes.NotFound, err)
	s, err := c.Open(e.ctx(), "test/stream", call.Options{Type: call.Subscription})
	e.ok(err)
	e.ok(s.Send([]byte(`{"n":5,"fail_at":4}`), false))
	n, err := drainStream(s)
	e.same(3, n, "items before the error")
	e.code("TEST_FAILED", err)
	e.true(errIs(s), "after the end the error stays")
	// The end of the connection fails all at once.
	started := make(chan error, 8)
	for range cap(started) {
		e.background(func() {
			_, err := call.Call[any](context.Background(), c, "test/sleep", map[string]int{"ms": 60000})
			started <- err
		})
	}
	e.eventually(func() bool { return h.Stats().Operations["test/sleep"].Running == cap(started) }, "they run")
	e.ok(c.Close())
	for range cap(started) {
		ce := e.code(codes.Unavailable, <-started)
		e.true(ce.Retryable && ce.MayHaveRun, "lost calls may have run")
	}
	e.eventually(func() bool { return h.Stats().Running == 0 }, "the handlers stop")
	_, err = call.Call[int](e.ctx(), c, "math/add", pair{})
	ce := e.code(codes.Unavailable, err)
	e.true(!ce.MayHaveRun, "it was not sent")
}

// errIs reports whether a stream that failed goes on failing.
func errIs(s *call.Stream) bool {
	_, _, err := s.Recv()
	return err != nil && !errors.Is(err, io.EOF)
}

// spec: access in all its forms.
func spec(e *env) {
	type who = alknet.Identity
	echo := call.QueryFunc(func(_ context.Context, in map[string]string) (string, error) { return "ran", nil })
	op := func(name string, ac alknet.AccessControl) call.Operation {
		return call.Operation{Name: name, Func: echo, Access: ac}
	}
	open := op("a/open", alknet.AccessControl{})
	open.AllowAnonymous = true
	owned := op("a/owned", alknet.AccessControl{ResourceType: "box", ResourceAction: "start"})
	owned.ResourceID = "/id"
	h := e.handler(open, owned, op("a/b/c/any-identity", alknet.AccessControl{}),
		op("a/all", alknet.AccessControl{RequiredScopes: []string{"x", "y"}}),
		op("a/any", alknet.AccessControl{RequiredScopesAny: []string{"x", "y"}}),
		op("a/type", alknet.AccessControl{ResourceType: "box"}),
		op("a/action", alknet.AccessControl{ResourceAction: "stop"}),
		op("a/both", alknet.AccessControl{RequiredScopes: []string{"x"}, ResourceType: "box", ResourceAction: "start"}))
	h.Owns = func(_ context.Context, id *alknet.Identity, kind, resource, _ string) bool {
		return kind == "box" && resource == "mine" && id.ID == "owner"
	}
	x, y := who{ID: "x", Scopes: []string{"x"}}, who{ID: "xy", Scopes: []string{"x", "y"}}
	boxes := who{ID: "boxes", Scopes: []string{"x"}, Resources: map[string][]string{"box": {"start", "stop"}}}
	owner, stranger, nobody := who{ID: "owner"}, who{ID: "stranger"}, who{}
	in := map[string]string{"id": "mine"}
	tests := []struct {
		as   who
		op   string
		want string // the message of FORBIDDEN; "": it runs
	}{
		{stranger, "a/open", ""}, {nobody, "a/open", ""}, {stranger, "/a/open", ""},
		{nobody, "a/b/c/any-identity", "authentication required"}, {stranger, "a/b/c/any-identity", ""},
		{nobody, "a/all", "authentication required"}, {x, "a/all", "missing required scope: y"}, {y, "a/all", ""},
		{stranger, "a/any", "missing required scope (any of: x, y)"}, {x, "a/any", ""},
		{x, "a/type", "no owned resources of type: box"}, {boxes, "a/type", ""},
		{x, "a/action", "missing resource action: stop"}, {boxes, "a/action", ""},
		{x, "a/both", "no owned resources of type: box"}, {boxes, "a/both", ""}, {stranger, "a/both", "missing required scope: x"},
		{owner, "a/owned", ""}, {boxes, "a/owned", ""}, {stranger, "a/owned", "not owner of resource: box/mine"},
	}
	for _, tt := range tests {
		if tt.as.ID == "" { // the Service admits no anonymous peer: the gate is asked directly
			_, err := call.Call[string](e.ctx(), h.As(tt.as), tt.op, in)
			e.verdict(tt.op+" as nobody", tt.want, err)
			continue
		}
		c := e.client(h, tt.as, nil)
		_, err := call.Call[string](e.ctx(), c, tt.op, in)
		e.verdict(tt.op+" as "+tt.as.ID, tt.want, err)
		_, err = call.Call[string](e.ctx(), h.As(tt.as), tt.op, in)
		e.verdict(tt.op+" in this process as "+tt.as.ID, tt.want, err)
	}
	_, err := call.Call[string](e.ctx(), h.As(owner), "a/owned", map[string]string{})
	e.code(codes.InvalidInput, err)
}

// verdict compares how a call ended with the text of its refusal.
func (e *env) verdict(about, want string, err error) {
	e.Helper()
	if want == "" {
		if err != nil {
			e.Fatalf("%s: %v", about, err)
		}
		return
	}
	if ce := e.code(codes.Forbidden, err); ce.Message != want || ce.MayHaveRun {
		e.Fatalf("%s: got %q (may have run: %v), want %q", about, ce.Message, ce.MayHaveRun, want)
	}
}

// registry: names, and changes while calls run.
func registry(e *env) {
	h := e.handler(math()...)
	reg := h.Registry
	internal := call.Operation{Name: "in/ner", Internal: true, Func: call.QueryFunc(func(context.Context, struct{}) (int, error) { return 7, nil })}
	outer := call.Operation{
		Name: "out/er", Authority: &alknet.Identity{ID: "out"}, MayCall: []string{"in/*"},
		Func: call.QueryFunc(func(ctx context.Context, _ struct{}) (int, error) {
			r, _ := call.RequestFromContext(ctx)
			return call.Call[int](ctx, r.Env, "in/ner", struct{}{})
		}),
	}
	e.ok(reg.Register(internal, outer))
	c := e.settled(h, alice, nil)
	_, hidden := call.Call[int](e.ctx(), c, "in/ner", struct{}{})
	_, absent := call.Call[int](e.ctx(), c, "no/ner", struct{}{})
	hid, abs := e.code(codes.NotFound, hidden), e.code(codes.NotFound, absent)
	e.same(abs.MayHaveRun, hid.MayHaveRun, "internal and absent look the same")
	e.same("operation not found: in/ner", hid.Message, "text")
	n, err := call.Call[int](e.ctx(), c, "out/er", struct{}{})
	e.ok(err)
	e.same(7, n, "composition reaches it")
	for _, bad := range []call.Operation{
		{Name: "math/add", Func: internal.Func}, {Name: "Math/Add", Func: internal.Func}, {Name: "/x", Func: internal.Func},
		{Name: "a//b", Func: internal.Func}, {Name: "a/-b", Func: internal.Func}, {Name: "a@b", Func: internal.Func},
		{Name: "x/nofunc"}, {Name: "x/type", Func: call.Func{Type: "other", Serve: internal.Func.Serve}},
		{Name: "x/up", Func: call.Func{Type: call.Query, InputStream: true, Serve: internal.Func.Serve}},
		{Name: "x/res", Resumable: true, Func: internal.Func}, {Name: "x/ptr", ResourceID: "id", Func: internal.Func},
	} {
		e.true(reg.Register(bad) != nil, "registered: "+bad.Name)
	}
	e.true(errors.Is(reg.Register(internal), call.ErrDuplicate), "ErrDuplicate")
	// Replace and Remove under load: a call finds the old or the new one, or neither.
	var stop atomic.Bool
	version := func(v int) call.Operation {
		return call.Operation{Name: "v/now", Func: call.QueryFunc(func(context.Context, struct{}) (int, error) { return v, nil })}
	}
	e.ok(reg.Register(version(1)))
	e.background(func() {
		for i := 2; !stop.Load(); i++ {
			if reg.Remove(context.Background(), "v/now") != nil || reg.Replace(version(i)) != nil {
				return
			}
		}
	})
	last := 0
	for range 200 {
		v, err := call.Call[int](e.ctx(), c, "v/now", struct{}{})
		if err != nil {
			e.code(codes.NotFound, err)
			continue
		}
		e.true(v >= last, "an old version came back")
		last = v
	}
	stop.Store(true)
}

// environment: what an operation may call on.
func environment(e *env) {
	secret := call.NewSecret([]byte("hers"))
	var seen atomic.Pointer[call.Request]
	child := call.Operation{
		Name: "box/start", Access: alknet.AccessControl{RequiredScopes: []string{"box"}}, Capabilities: map[string]call.Secret{"token": secret},
		Func: call.QueryFunc(func(ctx context.Context, _ struct{}) (string, error) {
			r, _ := call.RequestFromContext(ctx)
			seen.Store(r)
			s, _ := r.Capability("token")
			_, stolen := r.Capability("parents")
			until, _ := ctx.Deadline()
			return fmt.Sprintf("%s %s %v %v", r.Caller.ID, s.Bytes(), stolen, time.Until(until) < 10*time.Second), nil
		}),
	}
	parent := func(name string, authority *alknet.Identity, may ...string) call.Operation {
		return call.Operation{
			Name: name, Authority: authority, MayCall: may, Capabilities: map[string]call.Secret{"parents": secret},
			Func: call.QueryFunc(func(ctx context.Context, op string) (string, error) {
				r, _ := call.RequestFromContext(ctx)
				return call.Call[string](ctx, r.Env, op, struct{}{})
			}),
		}
	}
	boss := &alknet.Identity{ID: "boss", Scopes: []string{"box"}}
	h := e.handler(child, parent("p/exact", boss, "box/start"), parent("p/glob", boss, "box/*"), parent("p/pin", boss, "box/start@w1"),
		parent("p/none", boss), parent("p/nobody", nil, "box/start"), parent("p/weak", &alknet.Identity{ID: "weak"}, "*"))
	c := e.settled(h, alice, nil)
	ctx, cancel := context.WithTimeout(e.ctx(), 5*time.Second)
	defer cancel()
	trace := "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
	for op, want := range map[string]string{"p/exact": "box/start", "p/glob": "box/start"} {
		got, err := call.Call[string](ctx, call.With(c, call.Options{Trace: trace}), op, want)
		e.ok(err)
		e.same("boss hers false true", got, op)
		r := seen.Load()
		e.same(trace, r.Trace, "the trace goes on")
		e.true(r.Originator == nil && r.Claimed == nil && r.ID != "", "claims are not inherited")
	}
	for op, call1 := range map[string]string{
		"p/none": "box/start", "p/nobody": "box/start", "p/pin": "box/start", "p/exact": "box/start@w1", "p/glob": "box/start@w1", "p/weak": "box/gone",
	} {
		_, err := call.Call[string](ctx, c, op, call1)
		e.code(codes.NotFound, err)
	}
	_, err := call.Call[string](ctx, c, "p/weak", "box/start")
	e.code(codes.Forbidden, err) // the child judges the Authority, not the caller
}

// dispatch: who runs what, as whom.
func dispatch(e *env) {
	var ran atomic.Int64
	secret := call.Operation{
		Name: "d/secret", Access: alknet.AccessControl{RequiredScopes: []string{"deep"}},
		Func: call.MutationFunc(func(context.Context, struct{}) (int64, error) { return ran.Add(1), nil }),
	}
	h := e.handler(secret)
	h.Authenticate = func(_ context.Context, _ alknet.Identity, token string) (alknet.Identity, error) {
		if token == "good" {
			return alknet.Identity{ID: "bob", Scopes: []string{"deep"}}, nil
		}
		return alknet.Identity{}, errors.New("no")
	}
	c := e.settled(h, alice, nil)
	_, err := call.Call[int](e.ctx(), c, "d/secret", struct{}{})
	e.code(codes.Forbidden, err)
	_, err = call.Call[int](e.ctx(), call.With(c, call.Options{Token: "bad"}), "test/whoami", struct{}{})
	e.code(codes.Unauthenticated, err)
	e.same(int64(0), ran.Load(), "forbidden never runs")
	n, err := call.Call[int64](e.ctx(), call.With(c, call.Options{Token: "good"}), "d/secret", struct{}{})
	e.ok(err)
	e.same(int64(1), n, "the token replaces the identity")
	me := e.whoami(call.With(c, call.Options{Token: "good"}))
	e.same("bob", me.Caller, "gate and handler see the token's identity")
	e.same(alice.ID, me.Connection, "the connection stays alice's")
	e.same(alice.ID, e.whoami(c).Caller, "without a token")
	var body json.RawMessage
	body, err = call.Call[json.RawMessage](e.ctx(), c, "test/echo", json.RawMessage(`{"a":[1,"ü",null]}`))
	e.ok(err)
	e.same(`{"a":[1,"ü",null]}`, string(body), "echo")
	_, err = call.Call[any](e.ctx(), c, "test/fail", map[string]any{"code": "TEST_FAILED", "details": map[string]int{"x": 1}})
	e.same(`{"x":1}`, string(e.code("TEST_FAILED", err).Details), "details of a declared error")
	_, err = call.Call[any](e.ctx(), c, "test/fail", map[string]any{"code": "NOT_DECLARED"})
	ce := e.code(codes.Internal, err)
	e.true(ce.Details == nil && ce.MayHaveRun, "an undeclared code is INTERNAL")
}

// whoami is the output of test/whoami.
type whoami struct {
	Caller, Originator, Claimed, Connection string
	Scopes, Path                            []string
}

func (e *env) whoami(c call.Caller) whoami {
	e.Helper()
	raw, err := call.Call[json.RawMessage](e.ctx(), c, "test/whoami", struct{}{})
	e.ok(err)
	var w whoami
	e.ok(json.Unmarshal(raw, &w)) // our own output
	return w
}

// bothWays: the server calls the client on the connection that the client dialled.
func bothWays(e *env) {
	clients := make(chan *call.Client, 1)
	h := e.handler(math()...)
	h.OnConnect = func(_ context.Context, c *call.Client) error { clients <- c; return nil }
	back := e.handler(call.Operation{Name: "back/double", Func: call.QueryFunc(func(_ context.Context, n int) (int, error) { return 2 * n, nil })},
		call.Operation{Name: "back/count", Func: math()[1].Func})
	c := e.settled(h, alice, back)
	s := <-clients
	e.ok(s.Settled(e.ctx()))
	e.all(100, func(i int) error {
		a, err := call.Call[int](e.ctx(), c, "math/add", pair{i, 1})
		if err == nil && a != i+1 {
			err = errors.New("wrong sum " + strconv.Itoa(a))
		}
		b, err2 := call.Call[int](e.ctx(), s, "back/double", i)
		if err2 == nil && b != 2*i {
			err2 = errors.New("wrong double " + strconv.Itoa(b))
		}
		return errors.Join(err, err2)
	})
	list, err := collect(call.Subscribe[int](e.ctx(), s, "back/count", 100))
	e.ok(err)
	e.same(100, len(list), "a subscription back")
	e.true(c.Instance() != "" && s.Instance() != "" && c.Instance() != s.Instance(), "both know the other's instance")
}

// volume: many calls, one after the other and at once.
func volume(e *env) {
	h := e.handler(math()...)
	h.Limits.MaxRunningPerConn = 1024
	c := e.settled(h, alice, nil)
	sequential := 10_000
	if shortRun() {
		sequential = 1_000
	}
	for i := range sequential {
		got, err := call.Call[int](context.Background(), c, "math/add", pair{i, 1})
		if err != nil || got != i+1 {
			e.Fatalf("call %d: %d, %v", i, got, err)
		}
	}
	e.all(500, func(i int) error {
		got, err := call.Call[int](e.ctx(), c, "math/add", pair{i, 1})
		if err == nil && got != i+1 {
			err = errors.New("wrong answer")
		}
		return err
	})
	// 100 streams left open, then a call.
	var streams []*call.Stream
	open := 100
	if c.Conn().Transport() == alknet.Mux {
		open = 30 // each takes 256 KiB of the connection's memory there
	}
	for range open {
		s, err := c.Open(e.ctx(), "test/stream", call.Options{Type: call.Subscription})
		e.ok(err)
		e.ok(s.Send([]byte(`{"n":1000000,"bytes":100}`), false))
		_, _, err = s.Recv()
		e.ok(err)
		streams = append(streams, s)
	}
	_, err := call.Call[int](e.ctx(), c, "math/add", pair{1, 1})
	e.ok(err)
	for _, s := range streams {
		s.Cancel(nil)
	}
	e.eventually(func() bool { return h.Stats().Running == 0 }, "cancelled streams stop")
}

// exchange is a stream both ways.
func exchange[T any](n int, f func(i int) T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for i := range n {
			if !yield(f(i), nil) {
				return
			}
		}
	}
}
