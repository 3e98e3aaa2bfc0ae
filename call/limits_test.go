package call_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/calltest"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/call/testops"
)

// TestLimits has a row for each limit on what runs: with the limit the call is
// refused, and says why; without it goes through.
func TestLimits(t *testing.T) {
	busy := func(n int) func(t *testing.T, h *call.Handler, c call.Caller) error {
		return func(t *testing.T, h *call.Handler, c call.Caller) error { // n sleep, one more asks
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for range n {
				go func() { _, _ = call.Call[any](ctx, c, "test/sleep", map[string]int{"ms": 60000}) }()
			}
			require.Eventually(t, func() bool { return h.Stats().Operations["test/sleep"].Running == n }, 10*time.Second, time.Millisecond)
			_, err := call.Call[any](t.Context(), c, "test/echo", 1)
			cancel()
			require.Eventually(t, func() bool { return h.Stats().Running == 0 }, 10*time.Second, time.Millisecond)
			return err
		}
	}
	tests := []struct {
		limit string
		set   func(*call.Limits)
		try   func(t *testing.T, h *call.Handler, c call.Caller) error
	}{
		{"max_running_per_conn", func(l *call.Limits) { l.MaxRunningPerConn = 3 }, busy(3)},
		{"max_running_per_identity", func(l *call.Limits) { l.MaxRunningPerIdentity = 3 }, busy(3)},
		{"max_running", func(l *call.Limits) { l.MaxRunning = 3 }, busy(3)},
		{"rate", func(l *call.Limits) { l.Rate, l.Burst = 1, 5 }, func(t *testing.T, _ *call.Handler, c call.Caller) (err error) {
			for range 20 {
				if _, err = call.Call[any](t.Context(), c, "test/echo", 1); err != nil {
					break
				}
			}
			return err
		}},
		{"max_subscriptions", func(l *call.Limits) { l.MaxSubscriptions = 2 }, func(t *testing.T, h *call.Handler, c call.Caller) error {
			for range 2 {
				s, err := c.Open(t.Context(), "test/stream", call.Options{Type: call.Subscription})
				require.NoError(t, err)
				require.NoError(t, s.Send([]byte(`{"n":100000000}`), false))
				_, _, err = s.Recv()
				require.NoError(t, err)
				defer s.Cancel(nil)
			}
			s, err := c.Open(t.Context(), "test/stream", call.Options{Type: call.Subscription})
			require.NoError(t, err)
			require.NoError(t, s.Send([]byte(`{"n":1}`), false))
			_, _, err = s.Recv()
			return err
		}},
		{"max_idempotency_keys", func(l *call.Limits) { l.MaxIdempotencyKeys = 2 }, func(t *testing.T, _ *call.Handler, c call.Caller) (err error) {
			for i := range 3 { // none of them is old enough to be forgotten
				_, err = call.Call[any](t.Context(), call.With(c, call.Options{IdempotencyKey: fmt.Sprint(i)}), "test/count", map[string]string{"key": "k"})
			}
			return err
		}},
		{"max_output_bytes", func(l *call.Limits) { l.MaxFrameBytes = 10 << 10 }, func(t *testing.T, _ *call.Handler, c call.Caller) error {
			for _, err := range call.Subscribe[any](t.Context(), c, "test/stream", map[string]int{"n": 1, "bytes": 20 << 10}) {
				return err
			}
			return nil
		}},
	}
	for _, tt := range tests {
		t.Run(tt.limit, func(t *testing.T) {
			for _, limited := range []bool{true, false} {
				h := newHandler(t, testops.Operations(testops.Options{})...)
				if limited {
					tt.set(&h.Limits)
				}
				err := tt.try(t, h, dial(t, connectPipe, h))
				if !limited {
					require.NoError(t, err)
					continue
				}
				e := requireCode(t, codes.ResourceExhausted, err)
				require.JSONEq(t, `{"limit":"`+tt.limit+`"}`, string(e.Details))
				require.True(t, e.Retryable)
			}
		})
	}
}

// TestTooManyAborts: who does nothing but abort is shown out.
func TestTooManyAborts(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		h := newHandler(t, testops.Operations(testops.Options{})...)
		h.Limits.MaxAborts = 50
		c := dial(t, connect, h)
		for range 200 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, _ = call.Call[any](ctx, c, "test/sleep", map[string]int{"ms": 60000})
			cancel()
			select {
			case <-c.Done():
				return
			default:
			}
		}
		within(t, c.Done(), "the connection ends")
	})
}

// TestStalledReader: a reader that stops for a minute of virtual time costs the
// window, and misses nothing.
func TestStalledReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &call.Handler{Registry: new(call.Registry)}
		require.NoError(t, h.Registry.Register(testops.Operations(testops.Options{})...))
		conn, server := alknet.Pipe(call.ALPN, alice, alknet.Identity{ID: "server"})
		served := make(chan error, 1)
		go func() { served <- h.ServeConn(t.Context(), server) }()
		c := call.NewClient(conn, nil)
		require.NoError(t, c.Settled(t.Context()))
		s, err := c.Open(context.Background(), "test/stream", call.Options{Type: call.Subscription})
		require.NoError(t, err)
		const n = 60_000
		require.NoError(t, s.Send(fmt.Appendf(nil, `{"n":%d,"gap_ms":1,"bytes":100}`, n), false))
		_, _, err = s.Recv()
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Less(t, h.Stats().BufferedBytes, int64(512<<10), "what is not yet acknowledged")
		for i := 1; i < n; i++ {
			data, _, err := s.Recv()
			require.NoError(t, err)
			require.Contains(t, string(data), fmt.Sprintf(`{"i":%d,`, i+1))
		}
		require.NoError(t, c.Close())
		require.NoError(t, <-served)
		require.NoError(t, h.Shutdown(t.Context()))
	})
}

// TestSecret: nothing that prints or encodes shows the bytes.
func TestSecret(t *testing.T) {
	const canary = "canary-bytes"
	b := []byte(canary)
	s := call.NewSecret(b)
	clear(b)
	require.Equal(t, canary, string(s.Bytes()))
	type holder struct {
		S call.Secret
		p call.Secret
		M map[string]call.Secret
	}
	h := holder{s, s, map[string]call.Secret{"k": s}}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "h", h, "p", &h)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "h", h)
	js, err := json.Marshal(h)
	require.NoError(t, err)
	out := log.String() + string(js)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%T"} {
		out += fmt.Sprintf(verb, s) + fmt.Sprintf(verb, h) + fmt.Sprintf(verb, &h) + fmt.Sprintf(verb, errors.Join(fmt.Errorf("%v", s)))
	}
	for _, shown := range []string{canary, "63616e617279", "Y2FuYXJ5", "[99 97 110"} {
		require.NotContains(t, strings.ToLower(out), strings.ToLower(shown))
	}
	require.Contains(t, out, "[redacted]")
	require.Error(t, gob.NewEncoder(new(bytes.Buffer)).Encode(s))
	again := s
	s.Destroy()
	require.Nil(t, again.Bytes(), "copies share the bytes")
	require.Nil(t, call.Secret{}.Bytes())
}

// TestPeerThatStopsReading: a caller whose context has no end gets out after 30
// seconds, although it was writing when the peer stopped reading.
func TestPeerThatStopsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, server := alknet.Pipe(call.ALPN, alice, alknet.Identity{ID: "server"})
		c := call.NewClient(conn, nil)
		begun := time.Now()
		_, err := call.Call[any](context.Background(), c, "x/y", strings.Repeat("x", 900<<10)) // more than a pipe holds
		requireCode(t, codes.Timeout, err)
		require.Equal(t, 30*time.Second, time.Since(begun))
		require.NoError(t, c.Close())
		_ = server.Close()
	})
}

// TestStreamWithoutAFrame: a stream on which nothing comes is ended in time, and
// one whose first frame came is not.
func TestStreamWithoutAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &call.Handler{Registry: new(call.Registry)}
		conn, server := alknet.Pipe(call.ALPN, alice, alknet.Identity{ID: "server"})
		served := make(chan error, 1)
		go func() { served <- h.ServeConn(t.Context(), server) }()
		begun := time.Now()
		s, err := conn.OpenStream(t.Context())
		require.NoError(t, err)
		_, err = s.Read(make([]byte, 1))
		require.Error(t, err)
		require.Equal(t, 10*time.Second, time.Since(begun).Round(100*time.Millisecond))
		c := call.NewClient(conn, nil) // its shared stream stays
		_, _, err = c.Ping(t.Context())
		require.NoError(t, err)
		time.Sleep(time.Minute)
		_, _, err = c.Ping(t.Context())
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NoError(t, <-served)
	})
}

// TestNoMemoryForALargeFrame: the caller hears it for its own call, and others go on.
func TestNoMemoryForALargeFrame(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		h := newHandler(t, testops.Operations(testops.Options{})...)
		h.Limits.MaxConnBufferedBytes = 256 << 10
		c := dial(t, connect, h)
		_, err := call.Call[any](t.Context(), c, "test/echo", strings.Repeat("x", 600<<10))
		e := requireCode(t, codes.ResourceExhausted, err)
		require.False(t, e.MayHaveRun)
		_, err = call.Call[any](t.Context(), c, "test/echo", strings.Repeat("x", 60<<10))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return h.Stats().BufferedBytes == 0 }, 5*time.Second, time.Millisecond)
	})
}
