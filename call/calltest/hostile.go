package calltest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// lengthBombs: a prefix allocates nothing, and an illegal one ends the stream.
func lengthBombs(e *env) {
	h := e.handler(math()...)
	h.Limits.FrameTimeout = 300 * time.Millisecond
	for _, n := range []uint32{0, 64<<20 + 1, 0xffffffff} {
		w := e.wire(h, alice)
		s := w.open()
		_, err := s.Write(binary.BigEndian.AppendUint32(nil, n))
		e.ok(err)
		e.ended(s, fmt.Sprintf("an illegal length of %d", n))
		if !w.single() {
			w.alive()
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var wires []*wire
	for range 8 {
		w := e.wire(h, alice)
		wires = append(wires, w)
		for range 8 {
			s := w.open()
			_, err := s.Write(append(binary.BigEndian.AppendUint32(nil, 1<<20), `{"type":"call.requested","id":"b","payload":`...))
			e.ok(err)
			if w.single() {
				break
			}
		}
	}
	e.eventually(func() bool { return h.Stats().Connections >= 8 }, "they are connected")
	pause(e.ctx(), 50*time.Millisecond)
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapInuse) - int64(before.HeapInuse)
	e.true(grown < 24<<20, fmt.Sprintf("64 announcements of 1 MiB cost %d bytes", grown))
	for _, w := range wires {
		if !w.single() {
			w.alive()
		}
		_ = w.conn.CloseWithError(alknet.CodeOK, "")
	}
	w := e.wire(h, alice) // then silence: the frame's time ends
	s := w.open()
	_, err := s.Write(frame(addRequest)[:50])
	e.ok(err)
	e.ended(s, "a frame that never ends")
	w = e.wire(h, alice) // over the limit, for an operation that takes no more
	s = w.open()
	body := `{"type":"call.requested","id":"big","payload":{"operationId":"/test/echo","input":"` + strings.Repeat("x", 1<<20) + `"}}`
	_, _ = s.Write(frame(body)) // the peer may stop reading
	if w.single() {
		w.errorOf(s, "big", codes.ResourceExhausted)
		w.alive()
	} else {
		e.ended(s, "a frame over the limit on its own stream")
		w.alive()
	}
}

// ended waits for the end of a stream, of whatever kind.
func (e *env) ended(s *alknet.Stream, about string) {
	e.Helper()
	_ = s.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	for {
		if _, err := s.Read(b); err != nil {
			if ne, ok := errors.AsType[interface {
				error
				Timeout() bool
			}](err); ok && ne.Timeout() {
				e.Fatalf("%s: the stream did not end", about)
			}
			return
		}
	}
}

// ambiguity: what two readers could read differently is refused.
func ambiguity(e *env) {
	h := e.handler(math()...)
	w := e.wire(h, alice)
	envelopes := []string{
		`{"type":"call.requested","id":"a","id":"a","payload":{"operationId":"/math/add","input":{"a":1,"b":1}}}`,
		`{"type":"call.requested","id":"a","payload":{"operationId":"/math/add","operationId":"/test/echo","input":{"a":1,"b":1}}}`,
		`{"type":"call.requested","id":"a","payload":{"operationId":"/math/add","input":{"a":1,"a":2,"b":1}}}`,
		`{"type":"call.requested","id":"a","payload":{"operationId":"/math/add","input":{"a":1,"\u0061":2,"b":1}}}`,
		`{"type":"call.requested","id":"a","payload":{"operationId":"/math/add","input":{"x":{"y":[{"z":1,"z":2}]}}}}`,
		"{\"type\":\"call.requested\",\"id\":\"a\",\"payload\":{\"operationId\":\"/test/echo\",\"input\":\"\xff\"}}",
		`{"type":"call.requested","id":"a","payload":{"operationId":"/test/echo","input":"\ud800"}}`,
		`{"type":"call.requested","id":"a","payload":{"operationId":"/test/echo","input":1}} {}`,
		`{"type":"call.requested","id":"a","payload":{"operationId":"/test/echo","input":1},"id":"other"}}`,
		`{"type":"call.requested","id":"a","payload":{"operationId":"/test/echo","input":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}}`,
		`{"type":"call.requested","id":"a","payload":{"operationId":"/test/echo","input":01}}`,
		`{"type":"call.requested","id":"a","payload":{"operationId":"/test/echo","input":}}`,
		`{"type":"call.requested","id":"a","payload":{"operationId":"/test/echo","input":1}`,
	}
	for _, body := range envelopes {
		s := w.open()
		w.write(s, body)
		w.errorOf(s, "a", codes.InvalidRequest)
		w.done(s)
	}
	for body, path := range map[string]string{
		`{"a":1,"A":1,"b":1}`: "/A", `{"a":1,"b":1,"c":1}`: "/c", `{"a":"1","b":1}`: "/a", `{"a":1}`: "/b", `{"a":1,"b":null}`: "/b", `null`: "/a",
		`{"a":1e40,"b":1}`: "/a", `[1,2]`: "",
	} {
		s := w.open()
		w.write(s, `{"type":"call.requested","id":"a","payload":{"operationId":"/math/add","input":`+body+`}}`)
		ev := w.errorOf(s, "a", codes.InvalidInput)
		details, _ := ev.Payload["details"].(map[string]any)
		e.same(path, details["path"], "the JSON Pointer for "+body)
		w.done(s)
	}
	s := w.open()
	w.write(s, `{"TYPE":"call.requested","id":"a","payload":{}}`)
	w.errorOf(s, "a", codes.InvalidRequest)
	w.done(s)
	w.alive()
}

// concurrency: what runs is bounded, and what is left stops.
func concurrency(e *env) {
	h := e.handler()
	h.Limits.MaxRunningPerConn = 10
	h.Limits.MaxAborts = -1
	w := e.wire(h, alice)
	n := 1000
	if shortRun() {
		n = 300
	}
	most := 0
	for i := range n {
		s := w.open()
		id := fmt.Sprint("c", i)
		w.write(s, `{"type":"call.requested","id":"`+id+`","payload":{"operationId":"/test/sleep","input":{"ms":60000}}}`)
		if w.single() {
			w.write(s, `{"type":"call.aborted","id":"`+id+`","payload":{}}`)
		} else {
			s.Reset(alknet.CodeOK)
		}
		most = max(most, h.Stats().Running)
	}
	w.through() // on a single stream they may still be on their way, and run only now
	e.true(most <= 10, fmt.Sprintf("%d handlers ran, at most 10 may", most))
	e.eventually(func() bool { return h.Stats().Running == 0 }, "all stop")
	overTheLimit(e)
}

// overTheLimit: the call over the limit is refused at once, and says so. Nothing
// that another connection has left behind may run meanwhile, and be counted.
func overTheLimit(e *env) {
	h := e.handler()
	h.Limits.MaxRunningPerConn = 10
	c := e.settled(h, alice, nil)
	ctx, cancel := context.WithCancel(e.ctx())
	defer cancel()
	for range 10 {
		e.background(func() { _, _ = call.Call[any](ctx, c, "test/sleep", map[string]int{"ms": 60000}) })
	}
	e.eventually(func() bool { return h.Stats().Running == 10 }, "ten run")
	_, err := call.Call[any](e.ctx(), c, "test/echo", 1)
	ce := e.code(codes.ResourceExhausted, err)
	e.true(!ce.MayHaveRun && ce.Retryable && string(ce.Details) == `{"limit":"max_running_per_conn"}`, "the limit is named: "+string(ce.Details))
	other := e.settled(h, alknet.Identity{ID: "other"}, nil)
	_, err = call.Call[any](e.ctx(), other, "test/echo", 1)
	e.ok(err)
	cancel()
	e.eventually(func() bool { return h.Stats().Running == 0 }, "all stop")
}

// ids: a call belongs to its connection and its direction.
func ids(e *env) {
	h := e.handler()
	a, b := e.wire(h, alice), e.wire(h, alknet.Identity{ID: "eve"})
	sa, sb := a.open(), b.open()
	request := `{"type":"call.requested","id":"same","payload":{"operationId":"/test/sleep","input":{"ms":300}}}`
	a.write(sa, request)
	b.write(sb, request)
	e.eventually(func() bool { return h.Stats().Operations["test/sleep"].Running == 2 }, "both run under one id")
	other := b.open()
	b.write(other, `{"type":"call.aborted","id":"same","payload":{}}`)
	e.same("call.responded", a.next(sa).Type, "nobody else's abort touches it")
	again := a.open()
	a.write(again, strings.Replace(request, "300", "60000", 1))
	e.eventually(func() bool { return h.Stats().Operations["test/sleep"].Running >= 1 }, "it runs")
	third := again
	if !a.single() {
		third = a.open()
	}
	a.write(third, request)
	a.errorOf(third, "same", codes.InvalidRequest)
}

// tokens: a bad token is never the connection's identity, a claim never counts.
func tokens(e *env) {
	h := e.handler()
	w := e.wire(h, alice)
	for _, token := range []string{"x", "alkd1.x.y", strings.Repeat("t", 1000), "ü", "a b"} {
		for _, member := range []string{"auth_token", "delegation"} {
			s := w.open()
			w.write(s, `{"type":"call.requested","id":"t","payload":{"operationId":"/test/whoami","`+member+`":"`+token+`","input":{}}}`)
			w.errorOf(s, "t", codes.Unauthenticated)
			w.done(s)
		}
	}
	claim := `"forwarded_for":{"id":"root","scopes":["*"],"resources":{}}`
	s := w.open()
	w.write(s, `{"type":"call.requested","id":"t","payload":{"operationId":"/test/whoami",`+claim+`,"input":{}}}`)
	ev := w.next(s)
	out, _ := ev.Payload["output"].(map[string]any)
	e.same("alice", out["caller"], "a claim is not the caller")
	e.same(nil, out["claimed"], "a claim without call:forward is dropped")
	w.done(s)
	head := e.wire(h, alknet.Identity{ID: "head", Scopes: []string{"call:forward"}})
	s = head.open()
	head.write(s, `{"type":"call.requested","id":"t","payload":{"operationId":"/test/whoami",`+claim+`,"input":{}}}`)
	out, _ = head.next(s).Payload["output"].(map[string]any)
	e.same("head", out["caller"], "a claim never changes the caller")
	e.same("root", out["claimed"], "it is there for logs")
}

// secrets: what a failure holds does not leave the node.
func secrets(e *env) {
	const canary = "canary-7f3a"
	secret := call.NewSecret([]byte(canary))
	h := e.handler(
		call.Operation{Name: "s/error", Capabilities: map[string]call.Secret{"k": secret}, Func: call.QueryFunc(
			func(ctx context.Context, _ struct{}) (int, error) {
				r, _ := call.RequestFromContext(ctx)
				k, _ := r.Capability("k")
				return 0, fmt.Errorf("dial with %s and %v", k.Bytes(), k)
			})},
		call.Operation{Name: "s/panic", Func: call.QueryFunc(func(context.Context, struct{}) (int, error) { panic(canary) })},
		call.Operation{Name: "s/shown", Func: call.QueryFunc(func(context.Context, struct{}) (map[string]any, error) {
			return map[string]any{"secret": secret, "text": fmt.Sprintf("%v %+v %#v %s %q %x", secret, secret, secret, secret, secret, secret)}, nil
		})},
		call.Operation{Name: "s/cause", Func: call.QueryFunc(func(context.Context, struct{}) (int, error) {
			return 0, &call.Error{Code: codes.Unavailable, Message: "upstream", Reason: canary, Err: errors.New(canary)}
		})})
	w := e.wire(h, alice)
	for _, op := range []string{"s/error", "s/panic", "s/shown", "s/cause"} {
		s := w.open()
		w.write(s, `{"type":"call.requested","id":"s","payload":{"operationId":"`+op+`","input":{}}}`)
		body := w.read(s)
		e.true(!strings.Contains(body, canary), op+" shows it: "+body)
		w.done(s)
	}
	if b, err := json.Marshal(struct{ S call.Secret }{secret}); err != nil || strings.Contains(string(b), canary) {
		e.Fatalf("JSON shows it: %s, %v", b, err)
	}
}

// nobodyReads: a peer without credit that reads nothing fills what the transport
// holds and no more; its abort, and the deadline, still stop the handler.
func nobodyReads(e *env) {
	h := e.handler()
	running := func() int { return h.Stats().Operations["test/stream"].Running }
	for i, member := range []string{"", `"deadline_ms":500,`} {
		w := e.wire(h, alice)
		s := w.open()
		w.write(s, `{"type":"call.requested","id":"n","payload":{"operationId":"/test/stream",`+member+`"input":{"n":1000000000,"bytes":10000}}}`)
		e.eventually(func() bool { return running() == 1 }, "it runs")
		pause(e.ctx(), 100*time.Millisecond) // the buffers on the way fill up
		if i == 0 {
			w.write(w.open(), `{"type":"call.aborted","id":"n","payload":{}}`)
		}
		e.eventually(func() bool { return running() == 0 }, "a handler whose items nobody reads stops")
		e.true(h.Stats().BufferedBytes < 16<<20, "memory")
		_ = w.conn.CloseWithError(alknet.CodeOK, "")
	}
}
