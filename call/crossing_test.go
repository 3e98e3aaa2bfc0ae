package call_test

import (
	"context"
	"encoding/binary"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/calltest"
	"github.com/alkdev/alknet/call/codes"
)

// readBody reads a frame.
func readBody(s io.Reader) (string, error) {
	var head [4]byte
	if _, err := io.ReadFull(s, head[:]); err != nil {
		return "", err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(s, body)
	return string(body), err
}

func writeBody(s io.Writer, body string) error {
	_, err := s.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// idOf is the id of a canonical frame.
func idOf(body string) string {
	_, rest, _ := strings.Cut(body, `"id":"`)
	id, _, _ := strings.Cut(rest, `"`)
	return id
}

// refuser is a peer that understands shared streams and resets each of them with
// a limit once so many requests have come on it.
func refuser(requests int) alknet.HandlerFunc {
	serve := func(s *alknet.Stream) {
		for n := 0; n < requests; {
			body, err := readBody(s)
			if err != nil {
				return
			}
			if strings.Contains(body, `"/services/hello"`) {
				_ = writeBody(s, `{"type":"call.responded","id":"`+idOf(body)+`","payload":{"output":{"v":1,"features":["mux"],"instance":"x"}}}`)
				continue
			}
			n++
		}
		s.Reset(alknet.CodeLimit)
	}
	return func(ctx context.Context, conn *alknet.Conn) error {
		for {
			s, err := conn.AcceptStream(ctx)
			if err != nil {
				return nil
			}
			go serve(s)
		}
	}
}

// streamCarriers runs f where calls can have streams of their own.
func streamCarriers(t *testing.T, f func(t *testing.T, connect calltest.Connect)) {
	for _, over := range carriers {
		if over != alknet.Raw {
			t.Run(carrierName(over), func(t *testing.T) { f(t, connector(over)) })
		}
	}
}

// TestOnlyACallThatWasRefusedAsAWholeHasNotRun: a stream of several calls that is
// reset at a limit says nothing of each of them.
func TestOnlyACallThatWasRefusedAsAWholeHasNotRun(t *testing.T) {
	streamCarriers(t, func(t *testing.T, connect calltest.Connect) {
		alone := call.NewClient(connect(t, refuser(1), alice), nil)
		defer alone.Close()
		require.NoError(t, alone.Settled(t.Context()))
		big := strings.Repeat("x", 40<<10) // too large for a shared stream
		_, err := call.Call[int](t.Context(), alone, "x/y", big)
		require.False(t, requireCode(t, codes.ResourceExhausted, err).MayHaveRun)
		_, err = call.Call[int](t.Context(), alone, "x/y", 1)
		require.True(t, requireCode(t, codes.Unavailable, err).MayHaveRun, "on a shared stream")

		shared := call.NewClient(connect(t, refuser(2), alice), nil)
		defer shared.Close()
		require.NoError(t, shared.Settled(t.Context()))
		failed := make(chan error, 2)
		for range 2 {
			go func() { _, err := call.Call[int](t.Context(), shared, "x/y", 1); failed <- err }()
		}
		for range 2 {
			e := requireCode(t, codes.Unavailable, within(t, failed, "both end"))
			require.True(t, e.MayHaveRun)
		}
	})
}

// TestEndOfAConnectionIsNoRefusal: our end of its streams must not look like a
// limit to the peer, which would take its running calls for refused.
func TestEndOfAConnectionIsNoRefusal(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		started, stopped := make(chan struct{}, 1), make(chan error, 1)
		h := newHandler(t, blocker(started, stopped))
		var conn atomic.Pointer[alknet.Conn]
		c := call.NewClient(connect(t, alknet.HandlerFunc(func(ctx context.Context, s *alknet.Conn) error {
			conn.Store(s)
			return h.ServeConn(ctx, s)
		}), alice), nil)
		defer c.Close()
		require.NoError(t, c.Settled(t.Context()))
		failed := make(chan error, 1)
		go func() {
			_, err := call.Call[int](t.Context(), c, "x/block", struct{}{})
			failed <- err
		}()
		within(t, started, "it runs")
		_ = conn.Load().CloseWithError(alknet.CodeOK, "")
		e := requireCode(t, codes.Unavailable, within(t, failed, "the caller hears"))
		require.True(t, e.MayHaveRun)
		require.Error(t, within(t, stopped, "the handler stops"))
	})
}

// TestARequestShowsWhatItsSenderUnderstands: who sends a window counts items,
// also when its hello has not come yet.
func TestARequestShowsWhatItsSenderUnderstands(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		h := newHandler(t, mathOps()...)
		s, err := connect(t, h, alice).OpenStream(t.Context())
		require.NoError(t, err)
		require.NoError(t, writeBody(s, `{"type":"call.requested","id":"w","payload":{"operationId":"/math/count","window":65536,"input":3}}`))
		for _, want := range []string{
			`{"type":"call.responded","id":"w","payload":{"seq":1,"output":1}}`, `{"type":"call.responded","id":"w","payload":{"seq":2,"output":2}}`,
			`{"type":"call.responded","id":"w","payload":{"seq":3,"output":3}}`, `{"type":"call.completed","id":"w","payload":{"last":3}}`,
		} {
			body, err := readBody(s)
			require.NoError(t, err)
			require.Equal(t, want, body)
		}
		_ = s.Close()
	})
}

// TestACallWithAKeyOutlivesItsConnection: it runs on, and whoever comes back with
// the key gets its answer.
func TestACallWithAKeyOutlivesItsConnection(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		var runs atomic.Int64
		started, release := make(chan struct{}, 2), make(chan struct{})
		h := newHandler(t, call.Operation{Name: "x/pay", Func: call.MutationFunc(func(ctx context.Context, _ struct{}) (int64, error) {
			started <- struct{}{}
			select {
			case <-release:
				return runs.Add(1), nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		})})
		key := call.Options{IdempotencyKey: "k"}
		conn := connect(t, h, alice)
		first := call.NewClient(conn, nil)
		defer first.Close()
		require.NoError(t, first.Settled(t.Context()))
		failed := make(chan error, 1)
		go func() {
			_, err := call.Call[int64](t.Context(), call.With(first, key), "x/pay", struct{}{})
			failed <- err
		}()
		within(t, started, "it runs")
		_ = conn.CloseWithError(alknet.CodeInternal, "cut")
		require.True(t, requireCode(t, codes.Unavailable, within(t, failed, "the caller hears")).MayHaveRun)
		require.Eventually(t, func() bool { return h.Stats().Connections == 0 }, 30*time.Second, time.Millisecond)
		require.Equal(t, 1, h.Stats().Running, "it runs on")
		second := dial(t, connect, h)
		answer := make(chan int64, 1)
		go func() {
			n, err := call.Call[int64](t.Context(), call.With(second, key), "x/pay", struct{}{})
			if err == nil {
				answer <- n
			} else {
				failed <- err
			}
		}()
		close(release)
		select {
		case n := <-answer:
			require.EqualValues(t, 1, n)
		case err := <-failed:
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, runs.Load(), "once")
		require.NoError(t, h.Shutdown(t.Context()))
	})
}
