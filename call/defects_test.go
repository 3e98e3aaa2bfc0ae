package call_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/calltest"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/handlertest"
)

// The tests of this file are named after what earlier implementations of the
// protocol got wrong.

var alice = alknet.Identity{ID: "alice"}

// newHandler is a Handler of operations that ends with the test.
func newHandler(t testing.TB, ops ...call.Operation) *call.Handler {
	var reg call.Registry
	require.NoError(t, reg.Register(ops...))
	h := &call.Handler{Registry: &reg}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, h.Shutdown(ctx))
	})
	return h
}

// dial is a Client of h that ends with the test.
func dial(t testing.TB, connect calltest.Connect, h *call.Handler) *call.Client {
	c := call.NewClient(connect(t, h, alice), nil)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.Settled(context.Background()))
	return c
}

// blocker is an operation that runs until its context ends.
func blocker(started chan<- struct{}, stopped chan<- error) call.Operation {
	return call.Operation{Name: "x/block", Func: call.QueryFunc(func(ctx context.Context, _ struct{}) (int, error) {
		started <- struct{}{}
		<-ctx.Done()
		stopped <- ctx.Err()
		return 0, ctx.Err()
	})}
}

func within[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("not in time: %s", what)
		panic("unreachable")
	}
}

func TestDefectAbortThatStopsNothing(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		started, stopped := make(chan struct{}, 1), make(chan error, 1)
		c := dial(t, connect, newHandler(t, blocker(started, stopped)))
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() { _, err := call.Call[int](ctx, c, "x/block", struct{}{}); failed <- err }()
		within(t, started, "it runs")
		begun := time.Now()
		cancel()
		require.ErrorIs(t, within(t, stopped, "the handler stops"), context.Canceled)
		require.Less(t, time.Since(begun), 5*time.Second)
		requireCode(t, codes.Cancelled, within(t, failed, "the caller hears"))
	})
}

func TestDefectSilentTruncationAtASlowSubscriber(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		const n = 5000
		c := dial(t, connect, newHandler(t, call.Operation{Name: "x/items", Func: call.SubscriptionFunc(
			func(context.Context, struct{}) iter.Seq2[[]int, error] {
				return func(yield func([]int, error) bool) {
					for i := range n {
						if !yield(make([]int, 100+i%2), nil) {
							return
						}
					}
				}
			})}))
		got := 0
		for v, err := range call.Subscribe[[]int](t.Context(), c, "x/items", struct{}{}) {
			require.NoError(t, err)
			require.Len(t, v, 100+got%2)
			if got++; got == 10 {
				<-time.After(50 * time.Millisecond) // far behind the producer
			}
		}
		require.Equal(t, n, got)
	})
}

func TestDefectDecorativeDeadline(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		started, stopped := make(chan struct{}, 1), make(chan error, 1)
		c := dial(t, connect, newHandler(t, blocker(started, stopped)))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := call.Call[int](ctx, c, "x/block", struct{}{})
		requireCode(t, codes.Timeout, err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Error(t, within(t, stopped, "the handler stops too"))
	})
}

// hangUp ends each stream in the middle of an answer; on Raw the connection, once
// the call has come.
func hangUp(ctx context.Context, conn *alknet.Conn) error {
	raw := conn.Transport() == alknet.Raw
	for {
		s, err := conn.AcceptStream(ctx)
		if err != nil {
			return nil
		}
		frame, err := readFrame(s)
		for err == nil && raw && !bytes.Contains(frame, []byte(`"/x/y"`)) { // hello comes before
			frame, err = readFrame(s)
		}
		if err != nil {
			return nil
		}
		_, _ = s.Write([]byte{0, 0, 0, 50, '{'}) // the test sees how it ends
		if raw {
			return nil
		}
		_ = s.Close()
	}
}

// readFrame reads what a frame holds.
func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(r, body)
	return body, err
}

func TestDefectHangingOnAClosedStream(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		c := call.NewClient(connect(t, alknet.HandlerFunc(hangUp), alice), nil)
		defer c.Close()
		begun := time.Now()
		_, err := call.Call[int](t.Context(), c, "x/y", 1)
		e := requireCode(t, codes.Unavailable, err)
		require.True(t, e.MayHaveRun && e.Retryable)
		require.Less(t, time.Since(begun), 4*time.Second, "at once, not at a deadline")
	})
}

func TestDefectHijackedLocalNames(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		far := newHandler(t, call.Operation{Name: "bank/pay", Func: call.QueryFunc(func(context.Context, struct{}) (string, error) { return "thief", nil })},
			call.Operation{Name: "x/new", Func: call.QueryFunc(func(context.Context, struct{}) (string, error) { return "far", nil })})
		up := dial(t, connect, far)
		ops, err := up.Import(t.Context(), call.Import{Allow: []string{"*"}, Export: true})
		require.NoError(t, err)
		var source call.Registry // a peer's operations, as a Source
		require.NoError(t, source.Register(ops...))
		h := newHandler(t, call.Operation{Name: "bank/pay", Func: call.QueryFunc(func(context.Context, struct{}) (string, error) { return "bank", nil })})
		h.Sources = []call.Source{&source}
		c := dial(t, connect, h)
		got, err := call.Call[string](t.Context(), c, "bank/pay", struct{}{})
		require.NoError(t, err)
		require.Equal(t, "bank", got)
		got, err = call.Call[string](t.Context(), c, "x/new", struct{}{})
		require.NoError(t, err)
		require.Equal(t, "far", got, "a name that we lack comes from the source")
		list, err := call.Call[struct {
			Operations []struct{ Name string } `json:"operations"`
		}](t.Context(), c, "services/list", struct{}{})
		require.NoError(t, err)
		seen := 0
		for _, op := range list.Operations {
			if op.Name == "bank/pay" {
				seen++
			}
		}
		require.LessOrEqual(t, seen, 1)
	})
}

func TestDefectLeakedSchemas(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		hidden := call.Operation{Name: "hid/den", Description: "canary", Func: call.QueryFunc(add), Access: alknet.AccessControl{RequiredScopes: []string{"boss"}}}
		c := dial(t, connect, newHandler(t, hidden))
		for _, name := range []string{"hid/den", "not/there"} {
			_, err := c.Describe(t.Context(), name)
			e := requireCode(t, codes.NotFound, err)
			require.Equal(t, "operation not found: "+name, e.Message)
		}
		ops, err := c.Import(t.Context(), call.Import{Allow: []string{"*"}})
		require.NoError(t, err)
		require.Empty(t, ops)
	})
}

func TestDefectThe101stCallHangs(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		started, stopped := make(chan struct{}, 300), make(chan error, 300)
		h := newHandler(t, append(mathOps(), blocker(started, stopped))...)
		h.Limits.MaxRunningPerConn = 200
		c := dial(t, connect, h)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 200 {
			go func() { _, _ = call.Call[int](ctx, c, "x/block", struct{}{}) }()
		}
		for range 200 {
			within(t, started, "200 calls run")
		}
		_, err := call.Call[int](t.Context(), c, "math/add", sum{1, 2}) // over the limit: an answer, at once
		requireCode(t, codes.ResourceExhausted, err)
		cancel()
		for range 200 {
			within(t, stopped, "they stop")
		}
	})
}

func TestDefect64MiBOnAFourBytePrefix(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		h := newHandler(t, mathOps()...)
		h.Limits.MaxFrameBytes = 64 << 20
		conn := connect(t, h, alice)
		s, err := conn.OpenStream(t.Context())
		require.NoError(t, err)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		_, err = s.Write(binary.BigEndian.AppendUint32(nil, 64<<20))
		require.NoError(t, err)
		_, err = s.Write([]byte(`{"type":"call.requested"`))
		require.NoError(t, err)
		<-time.After(100 * time.Millisecond)
		runtime.ReadMemStats(&after)
		require.Less(t, int64(after.TotalAlloc)-int64(before.TotalAlloc), int64(4<<20))
		require.Less(t, h.Stats().BufferedBytes, int64(1<<20))
	})
}

func TestDefectBadTokenIsIgnored(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		var asked atomic.Int64
		h := newHandler(t, mathOps()...)
		c := dial(t, connect, h)
		_, err := call.Call[int](t.Context(), call.With(c, call.Options{Token: "x"}), "math/add", sum{1, 2})
		requireCode(t, codes.Unauthenticated, err)
		strict := newHandler(t, mathOps()...)
		strict.Authenticate = func(context.Context, alknet.Identity, string) (alknet.Identity, error) {
			asked.Add(1)
			return alknet.Identity{}, errors.New("revoked")
		}
		c = dial(t, connect, strict)
		_, err = call.Call[int](t.Context(), call.With(c, call.Options{Token: "x"}), "math/add", sum{1, 2})
		e := requireCode(t, codes.Unauthenticated, err)
		require.False(t, e.MayHaveRun)
		require.EqualValues(t, 1, asked.Load())
	})
}

// TestService is the conformance suite of all services.
func TestService(t *testing.T) {
	handlertest.Run(t, call.Service(&call.Handler{}))
}

// TestJSONTestSuiteThroughTheEnvelope: what is JSON comes back as it was, what is
// not is refused, and nothing else happens.
func TestJSONTestSuiteThroughTheEnvelope(t *testing.T) {
	files, err := filepath.Glob("../internal/strictjson/testdata/jsontestsuite/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	echo := call.QueryFunc(func(_ context.Context, in any) (bool, error) { return true, nil })
	raw := call.Func{Type: call.Query, Serve: func(_ context.Context, s *call.Stream) error {
		data, isRaw, err := s.Recv()
		if err != nil {
			return err
		}
		return s.Send(data, isRaw)
	}}
	conn := connectPipe(t, newHandler(t, call.Operation{Name: "x/any", Func: echo}, call.Operation{Name: "x/raw", Func: raw}), alice)
	ask := func(op string, input []byte) string {
		s, err := conn.OpenStream(t.Context())
		require.NoError(t, err)
		defer s.Close()
		body := append([]byte(`{"type":"call.requested","id":"j","payload":{"operationId":"`+op+`","input":`), input...)
		body = append(body, "}}"...)
		_, err = s.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
		require.NoError(t, err)
		answer, err := readFrame(s)
		require.NoError(t, err)
		return string(answer)
	}
	for _, name := range files {
		input, err := os.ReadFile(name)
		require.NoError(t, err)
		base := filepath.Base(name)
		answer := ask("x/raw", input)
		switch {
		case base[:2] == "n_":
			require.Contains(t, answer, codes.InvalidRequest, base)
		case base[:2] == "y_" && base != "y_object_duplicated_key.json" && base != "y_object_duplicated_key_and_value.json":
			require.Contains(t, answer, `"type":"call.responded"`, base)
		}
		if typed := ask("x/any", input); base[:2] == "n_" {
			require.Contains(t, typed, codes.InvalidRequest, base)
		}
	}
}

// TestLocalCallsEndWithTheirContext: calls in this process are aborted and late as
// others are, also where the context has ended before they begin.
func TestLocalCallsEndWithTheirContext(t *testing.T) {
	started, stopped := make(chan struct{}, 1), make(chan error, 1)
	h := newHandler(t, blocker(started, stopped))
	as := h.As(alice)
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
		_, err := call.Call[int](ctx, as, "x/block", struct{}{})
		cancel()
		requireCode(t, codes.Timeout, err)
		select { // it may have begun
		case <-started:
			within(t, stopped, "it stops")
		default:
		}
	}
	for len(started) > 0 {
		<-started
		within(t, stopped, "it stops")
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { _, err := call.Call[int](ctx, as, "x/block", struct{}{}); failed <- err }()
	within(t, started, "it runs")
	cancel()
	requireCode(t, codes.Cancelled, within(t, failed, "the caller hears"))
	within(t, stopped, "it stops")
}
