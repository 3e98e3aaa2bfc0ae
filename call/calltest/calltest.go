// Package calltest is the conformance suite of package call: what a connection
// must carry, whatever it is made of.
//
//	func TestConformance(t *testing.T) {
//		calltest.Run(t, func(t testing.TB, h alknet.ProtocolHandler, client alknet.Identity) *alknet.Conn { … })
//	}
//
// Rows whose name begins with F are driven by raw bytes, as a foreign client or
// server would.
package calltest

import (
	"context"
	"errors"
	"io"
	"iter"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/testops"
	"github.com/alkdev/alknet/internal/safe"
)

// Connect returns the dialling end of a connection of [call.ALPN] whose other
// end is served by h, in most rows a [call.Handler], and knows its peer as
// client. It ends with the test. Several connections to one handler must be
// possible.
type Connect func(t testing.TB, h alknet.ProtocolHandler, client alknet.Identity) *alknet.Conn

// A row is one promise.
type row struct {
	id  string
	run func(e *env)
}

// rows are the conformance table.
var rows = []row{
	{"F1 framing", framing}, {"F1 golden frames", golden}, {"F2 foreign client", foreignClient}, {"F3 foreign server", foreignServer},
	{"P1 pending", pending}, {"A1 abort", abort}, {"A1 tree", abortTree}, {"S1 spec", spec}, {"R1 registry", registry},
	{"X1 env", environment}, {"D1 dispatch", dispatch}, {"L1 discovery", discovery}, {"I1 import", importing},
	{"C1 both ways", bothWays}, {"C1 volume", volume}, {"W1 flow", flow}, {"W1 nobody reads", nobodyReads}, {"U1 resume", resume}, {"K1 keys", keys},
	{"E1 deadline", deadline}, {"E1 panic", panics}, {"H1 loop", loop}, {"V1 drain", drain},
	{"C1 length bombs", lengthBombs}, {"C2 ambiguity", ambiguity}, {"C3 concurrency", concurrency}, {"C5 ids", ids}, {"C6 tokens", tokens},
	{"C10 secrets", secrets},
}

// Run checks every row over connect.
func Run(t *testing.T, connect Connect) {
	t.Helper()
	for _, r := range rows {
		t.Run(r.id, func(t *testing.T) { r.run(&env{T: t, connect: connect}) })
	}
}

// An env is one test with what it needs again and again.
type env struct {
	*testing.T
	connect Connect
}

// alice is whom most tests call as.
var alice = alknet.Identity{ID: "alice", Scopes: []string{"math", "clock:read"}, Resources: map[string][]string{"box": {"start"}}}

// patience bounds every wait.
const patience = 20 * time.Second

// handler makes a Handler of operations, those of testops included.
func (e *env) handler(ops ...call.Operation) *call.Handler {
	e.Helper()
	var reg call.Registry
	e.ok(reg.Register(testops.Operations(testops.Options{})...))
	e.ok(reg.Register(ops...))
	h := &call.Handler{Registry: &reg}
	e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		e.ok(h.Shutdown(ctx)) // nothing runs or waits any more
	})
	return h
}

// client connects to h as id. back serves what h calls back.
func (e *env) client(h *call.Handler, id alknet.Identity, back *call.Handler) *call.Client {
	e.Helper()
	c := call.NewClient(e.connect(e.T, h, id), back)
	e.Cleanup(func() { _ = c.Close() })
	return c
}

// settled is client, once both sides know each other.
func (e *env) settled(h *call.Handler, id alknet.Identity, back *call.Handler) *call.Client {
	e.Helper()
	c := e.client(h, id, back)
	e.ok(c.Settled(e.ctx()))
	return c
}

// ctx bounds a test.
func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	e.Cleanup(cancel)
	return ctx
}

// ok fails the test on an error.
func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatalf("unexpected error: %v", err)
	}
}

// same fails the test unless got is want.
func (e *env) same(want, got any, about string) {
	e.Helper()
	if !reflect.DeepEqual(want, got) {
		e.Fatalf("%s: got %v (%T), want %v (%T)", about, got, got, want, want)
	}
}

// true fails the test unless it holds.
func (e *env) true(holds bool, about string) {
	e.Helper()
	if !holds {
		e.Fatal(about)
	}
}

// code fails the test unless err is an Error of a code, which it returns.
func (e *env) code(want string, err error) *call.Error {
	e.Helper()
	ce, ok := errors.AsType[*call.Error](err)
	if !ok {
		e.Fatalf("got %v, want an error with code %s", err, want)
	}
	if ce.Code != want {
		e.Fatalf("got %v, want code %s", err, want)
	}
	return ce
}

// eventually waits until something holds.
func (e *env) eventually(holds func() bool, about string) {
	e.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			e.Fatalf("not in time: %s", about)
		}
		pause(e.ctx(), time.Millisecond)
	}
}

// pause waits.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// wait waits for c.
func (e *env) wait(c <-chan struct{}, about string) {
	e.Helper()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-c:
	case <-t.C:
		e.Fatalf("not in time: %s", about)
	}
}

// all runs f n times at once and waits. Failures go through errs.
func (e *env) all(n int, f func(i int) error) {
	e.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for i := range n {
		safe.Go(&wg, func(err error) { errs <- err }, func() {
			if err := f(i); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		e.Fatalf("one of %d at once: %v", n, err)
	}
}

// background runs f, which ends before the test does.
func (e *env) background(f func()) {
	var wg sync.WaitGroup
	safe.Go(&wg, func(err error) { e.Errorf("background: %v", err) }, f)
	e.Cleanup(wg.Wait)
}

// collect gathers what a stream yields, and how it ended.
func collect[T any](items iter.Seq2[T, error]) (list []T, err error) {
	for v, err := range items {
		if err != nil {
			return list, err
		}
		list = append(list, v)
	}
	return list, nil
}

// drainStream receives to the end.
func drainStream(s *call.Stream) (n int, err error) {
	for {
		if _, _, err := s.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return n, err
		}
		n++
	}
}

// pair is the input of math/add.
type pair struct {
	A int `json:"a"`
	B int `json:"b"`
}

// math are the operations of the examples in docs/protocol.md.
func math() []call.Operation {
	return []call.Operation{
		{Name: "math/add", Func: call.QueryFunc(func(_ context.Context, in pair) (int, error) { return in.A + in.B, nil })},
		{Name: "math/count", Func: call.SubscriptionFunc(func(_ context.Context, n int) iter.Seq2[int, error] {
			return func(yield func(int, error) bool) {
				for i := range n {
					if !yield(i+1, nil) {
						return
					}
				}
			}
		})},
	}
}
