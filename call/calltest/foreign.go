package calltest

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"iter"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/safe"
)

const (
	addRequest = `{"type":"call.requested","id":"q1","payload":{"operationId":"/math/add","input":{"a":2,"b":3}}}`
	addAnswer  = `{"type":"call.responded","id":"q1","payload":{"output":5}}`
)

// framing: any cut of the bytes, and every illegal length.
func framing(e *env) {
	w := e.wire(e.handler(math()...), alice)
	s := w.open()
	for _, b := range frame(addRequest) { // one byte a write
		_, err := s.Write([]byte{b})
		e.ok(err)
	}
	e.same(addAnswer, w.read(s), "one byte a write")
	s = w.next1(s)
	big := strings.Repeat("x", 64<<10)
	w.write(s, `{"type":"call.requested","id":"big","payload":{"operationId":"test/echo","input":"`+big+`"}}`)
	e.same(`{"type":"call.responded","id":"big","payload":{"output":"`+big+`"}}`, w.read(s), "64 KiB")
	s = w.next1(s)
	w.write(s, addRequest, addRequest2, addRequest3)
	got := map[string]bool{w.read(s): true, w.read(s): true, w.read(s): true}
	for _, id := range []string{"q1", "q2", "q3"} {
		e.true(got[strings.Replace(addAnswer, "q1", id, 1)], "pipelined "+id)
	}
	w.done(s)
	for _, body := range []string{ // legal frames that are no envelope
		`{"type":"call.requested","id":"x1"}`, `{"type":"call.requested","id":"x1","payload":null}`,
		`{"id":"x1","payload":{}}`, `{"type":"call.requested","id":"x1","payload":{"input":1}}`,
	} {
		s := w.open()
		w.write(s, body)
		w.errorOf(s, "x1", codes.InvalidRequest)
		w.done(s)
	}
	w.alive()
}

var (
	addRequest2 = strings.Replace(addRequest, "q1", "q2", 1)
	addRequest3 = strings.Replace(addRequest, "q1", "q3", 1)
)

// next1 is a stream for the next request; the old one is done with.
func (w *wire) next1(s *alknet.Stream) *alknet.Stream {
	w.done(s)
	return w.open()
}

// golden: the frames of docs/protocol.md, byte for byte, in both directions.
func golden(e *env) {
	w := e.wire(e.handler(math()...), alice)
	s := w.open()
	w.write(s, addRequest)
	e.same(addAnswer, w.read(s), "call.responded")
	s = w.next1(s)
	w.write(s, `{"type":"call.requested","id":"q1","payload":{"operationId":"/math/sub","input":{"a":2,"b":3}}}`)
	e.same(`{"type":"call.error","id":"q1","payload":{"code":"NOT_FOUND","message":"operation not found: math/sub","retryable":false}}`, w.read(s), "call.error")
	s = w.next1(s)
	w.write(s, `{"type":"call.requested","id":"s1","payload":{"operationId":"/math/count","input":2}}`)
	e.same(`{"type":"call.responded","id":"s1","payload":{"output":1}}`, w.read(s), "an item")
	e.same(`{"type":"call.responded","id":"s1","payload":{"output":2}}`, w.read(s), "an item")
	e.same(`{"type":"call.completed","id":"s1","payload":{}}`, w.read(s), "call.completed")
	w.done(s)
}

// foreignClient: a client that knows the base frames only, and writes them its
// own way.
func foreignClient(e *env) {
	h := e.handler(math()...)
	w := e.wire(h, alice)
	for _, body := range []string{
		`{"type":"call.requested","id":"q1","payload":{"operationId":"math/add","input":{"a":2,"b":3}}}`,
		`{"payload":{"input":{"b":3,"a":2},"operationId":"/math/add"},"id":"q1","type":"call.requested"}`,
		` { "type" : "call.requested" , "id" : "q1", "extra":[{}], "payload" : { "operationId" : "/math/add", "x":1, "input": {"a":2,"b":3}} } `,
		`{"\u0074ype":"call.requested","id":"\u00711","payload":{"operationId":"\/math\/add","input":{"a":2,"b":3}}}`,
	} {
		s := w.open()
		w.write(s, body)
		e.same(addAnswer, w.read(s), body)
		w.done(s)
	}
	s := w.open()
	id := "0198f0c2-7d9b-7d3f-a5be-cc10a1b2c3d4"
	w.write(s, `{"type":"call.wondering","id":"`+id+`","payload":{}}`, `{"type":"call.aborted","id":"nobody","payload":{}}`,
		`{"type":"call.credit","id":"nobody","payload":{"bytes":1,"seq":0}}`, `{"type":"call.responded","id":"nobody","payload":{"output":1}}`,
		strings.Replace(addRequest, "q1", id, 1))
	e.same(strings.Replace(addAnswer, "q1", id, 1), w.read(s), "what is not known is ignored")
	w.done(s)
	if !w.single() { // half-close after sending, answered and ended on that stream
		s := w.open()
		w.write(s, addRequest)
		e.ok(s.CloseWrite())
		e.same(addAnswer, w.read(s), "half-closed")
		_, err := readFrame(s)
		e.true(errors.Is(err, io.EOF), "the callee ends the stream after its answer")
	}
	s = w.open()
	w.write(s, `{"type":"call.requested","id":"sl","payload":{"operationId":"/test/sleep","input":{"ms":60000}}}`)
	e.eventually(func() bool { return h.Stats().Operations["test/sleep"].Running == 1 }, "it runs")
	other := w.open()
	w.write(other, `{"type":"call.aborted","id":"sl","payload":{}}`)
	e.eventually(func() bool { return h.Stats().Operations["test/sleep"].Running == 0 }, "abort on another stream")
	w.done(other)
	w.done(s)
	w.bytesAsText()
}

// bytesAsText: []byte is base64 to who does not announce raw frames.
func (w *wire) bytesAsText() {
	s := w.open()
	data := base64.StdEncoding.EncodeToString([]byte("one"))
	w.write(s, `{"type":"call.requested","id":"u","payload":{"operationId":"/test/upload","input":"`+data+`"}}`)
	w.same(`{"type":"call.responded","id":"u","payload":{"output":{"items":1,"bytes":3}}}`, w.read(s), "an upload of one")
	w.done(s)
}

// A baseServer is a server that knows the base frames only.
type baseServer struct {
	*env
	hello string // the code with which it answers a hello
}

// ServeConn answers each request on its stream.
func (b *baseServer) ServeConn(ctx context.Context, conn *alknet.Conn) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		s, err := conn.AcceptStream(ctx)
		if err != nil {
			return nil
		}
		safe.Go(&wg, func(err error) { b.Errorf("base server: %v", err) }, func() {
			for b.serve(s) && conn.Transport() == alknet.Raw {
				continue
			}
			if conn.Transport() != alknet.Raw {
				_ = s.CloseWrite()
			}
		})
	}
}

// serve answers one request; false: there is none.
func (b *baseServer) serve(s *alknet.Stream) bool {
	body, err := readFrame(s)
	if err != nil {
		return false
	}
	id := between(body, `"id":"`, `"`)
	answer := func(bodies ...string) {
		for _, body := range bodies {
			if _, err := s.Write(frame(body)); err != nil {
				return
			}
		}
	}
	switch {
	case strings.Contains(body, "/services/hello"):
		answer(`{"payload":{"message":"","retryable":false,"code":"` + b.hello + `"},"type":"call.error","id":"` + id + `"}`)
	case strings.Contains(body, "/count"):
		for i := range 3 {
			answer(`{"type":"call.responded","id":"` + id + `","payload":{"output":` + strconv.Itoa(i+1) + `}}`)
		}
		answer(`{"type":"call.completed","id":"` + id + `","payload":{}}`)
	case strings.Contains(body, "call.requested"):
		answer(`{"id":"` + id + `","payload":{"output":` + strings.TrimSuffix(body[strings.Index(body, `"input":`)+8:], "}}") + `},"type":"call.responded"}`)
	}
	return true
}

func between(s, before, after string) string {
	_, rest, _ := strings.Cut(s, before)
	text, _, _ := strings.Cut(rest, after)
	return text
}

// foreignServer: our Client with a server that has no extension.
func foreignServer(e *env) {
	for _, hello := range []string{codes.NotFound, codes.Forbidden} {
		e.Run("hello "+hello, func(t *testing.T) {
			e := &env{T: t, connect: e.connect}
			c := call.NewClient(e.connect(t, &baseServer{env: e, hello: hello}, alice), nil)
			defer func() { e.ok(c.Close()) }()
			got, err := call.Call[string](e.ctx(), c, "x/echo", "hi")
			e.ok(err)
			e.same("hi", got, "query")
			raw, err := call.Call[[]byte](e.ctx(), c, "x/echo", []byte("bytes"))
			e.ok(err)
			e.same("bytes", string(raw), "bytes are base64")
			list, err := collect(call.Subscribe[int](e.ctx(), c, "x/count", 3))
			e.ok(err)
			e.same([]int{1, 2, 3}, list, "subscription")
			up, err := call.Upload[string](e.ctx(), c, "x/upload", one("only"))
			e.ok(err)
			e.same("only", up, "a stream of one")
			e.same("", c.Instance(), "a base peer")
			for range call.Subscribe[int](e.ctx(), c, "x/count", 3) {
				break // an abort goes where the server can read it
			}
			got, err = call.Call[string](e.ctx(), c, "x/echo", "still")
			e.ok(err)
			e.same("still", got, "after an abort")
		})
	}
}

// one yields one value.
func one[T any](v T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) { yield(v, nil) }
}
