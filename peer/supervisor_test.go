package peer

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// A remote is a head that a supervised peer dials, which may be away.
type remote struct {
	mu    sync.Mutex
	h     *call.Handler
	away  error
	dials []time.Time
	live  []*alknet.Conn
	wg    sync.WaitGroup
}

func newRemote(t *testing.T, ops ...call.Operation) *remote {
	r := &remote{h: &call.Handler{Registry: &call.Registry{}}}
	require.NoError(t, r.h.Registry.Register(ops...))
	return r
}

func (r *remote) dial(context.Context) (*call.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dials = append(r.dials, time.Now())
	if r.away != nil {
		return nil, r.away
	}
	c, s := alknet.Pipe(call.ALPN, alknet.Identity{ID: "worker"}, alknet.Identity{ID: "head"})
	r.live = append(r.live, s)
	r.wg.Go(func() { _ = r.h.ServeConn(context.Background(), s); _ = s.Close() })
	return call.NewClient(c, nil), nil
}

// cut ends its connections with a code; away is what dials hear from now on.
func (r *remote) cut(code alknet.ErrorCode, away error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
	for _, s := range r.live {
		_ = s.CloseWithError(code, "test")
	}
	r.live = nil
}

func (r *remote) dialed() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]time.Time(nil), r.dials...)
}

// supervise runs s until the test is over.
func supervise(t *testing.T, s *Supervisor, r *remote) {
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-ran, context.Canceled)
		end, stop := context.WithCancel(context.Background())
		stop()
		_ = r.h.Shutdown(end)
		r.wg.Wait()
	})
	synctest.Wait()
}

// TestSupervisorRedials: at once after a good life, with full jitter that grows to
// a bound after failures, and seldom where repeating does not help.
func TestSupervisorRedials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(t)
		var ups, downs atomic.Int32
		s := &Supervisor{Dial: r.dial, OnState: func(up bool, _ error) {
			if up {
				ups.Add(1)
			} else {
				downs.Add(1)
			}
		}}
		supervise(t, s, r)
		require.Equal(t, int32(1), ups.Load())
		require.Zero(t, downs.Load())
		time.Sleep(time.Minute)
		r.cut(alknet.CodeInternal, nil)
		time.Sleep(firstJitter + time.Millisecond)
		require.Len(t, r.dialed(), 2, "after a good life at once")

		down := errors.New("no route")
		time.Sleep(time.Minute)
		r.cut(alknet.CodeInternal, down)
		begun := time.Now()
		time.Sleep(30 * time.Minute)
		dials := r.dialed()[2:]
		require.Less(t, dials[0].Sub(begun), firstJitter)
		for i := 1; i < len(dials); i++ {
			gap := dials[i].Sub(dials[i-1])
			require.LessOrEqual(t, gap, min(time.Second<<min(i-1, 10), time.Minute), "dial %d", i)
		}
		require.Greater(t, len(dials), 30, "at most a minute apart")
		require.Equal(t, int32(2), ups.Load())
		require.Greater(t, downs.Load(), int32(30))

		r.cut(alknet.CodeInternal, &alknet.Error{Code: alknet.CodeRevoked, Remote: true})
		time.Sleep(2 * time.Minute)
		n := len(r.dialed())
		time.Sleep(30 * time.Minute)
		require.LessOrEqual(t, len(r.dialed())-n, 13, "revoked: 2.5 to 5 minutes apart")
		require.GreaterOrEqual(t, len(r.dialed())-n, 5)
	})
}

// TestSupervisorFollowsADrain: the next connection stands before the one that
// drains has ended.
func TestSupervisorFollowsADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(t)
		old := r.h
		s := &Supervisor{Dial: r.dial}
		supervise(t, s, r)
		r.mu.Lock()
		r.h = &call.Handler{Registry: old.Registry}
		r.mu.Unlock()
		require.NoError(t, old.Shutdown(t.Context()))
		time.Sleep(firstJitter + time.Millisecond)
		require.Len(t, r.dialed(), 2)
		require.True(t, s.any())
	})
}

// TestSupervisorCaller waits for a connection and resumes streams over reconnects.
func TestSupervisorCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		r := newRemote(t, l.jobs("head")...)
		r.away = errors.New("not yet")
		s := &Supervisor{Dial: r.dial, MinBackoff: 100 * time.Millisecond, MaxBackoff: 100 * time.Millisecond}
		supervise(t, s, r)
		c := s.Caller()
		done := make(chan string, 1)
		go func() {
			out, err := call.Call[string](context.Background(), c, "job/query", "1")
			if err != nil {
				t.Error(err)
			}
			done <- out
		}()
		time.Sleep(5 * time.Second)
		require.Empty(t, done)
		r.mu.Lock()
		r.away = nil
		r.mu.Unlock()
		require.Equal(t, "head", <-done)

		n := 0
		for v, err := range call.Subscribe[int](context.Background(), c, "job/ticks", 30) {
			require.NoError(t, err)
			n++
			require.Equal(t, n, v)
			if n%10 == 0 {
				r.cut(alknet.CodeInternal, nil)
			}
		}
		require.Equal(t, 30, n)
		_, err := call.Call[string](context.Background(), c, "job/nothing", "1")
		require.Error(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r.cut(alknet.CodeInternal, errors.New("gone"))
		_, err = call.Call[string](ctx, c, "job/query", "2")
		require.Error(t, err)
	})
}

// TestSupervisorCallerOfARestartedPeer: a head that was restarted does not serve
// yet what its workers do; one that never did is believed at once.
func TestSupervisorCallerOfARestartedPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		r := newRemote(t, l.jobs("head")...)
		s := &Supervisor{Dial: r.dial, MinBackoff: 100 * time.Millisecond, MaxBackoff: 100 * time.Millisecond}
		supervise(t, s, r)
		c := s.Caller()
		_, err := call.Call[string](t.Context(), c, "job/query", "1")
		require.NoError(t, err)
		begun := time.Now()
		_, err = call.Call[string](t.Context(), c, "job/nothing", "1")
		requireCode(t, err, codes.NotFound, false)
		require.Zero(t, time.Since(begun), "nobody has ever served it")

		require.NoError(t, r.h.Registry.Register(echo("job/nothing")))
		_, err = call.Call[string](t.Context(), c, "job/nothing", "1")
		require.NoError(t, err, "it is served now")
		require.True(t, s.graph.route("job/nothing").cands.Load().byID[0].spec.op.Idempotent, "as what it is: a query")

		restart := func() *call.Registry {
			r.mu.Lock()
			r.h = &call.Handler{Registry: &call.Registry{}}
			r.mu.Unlock()
			r.cut(alknet.CodeInternal, nil)
			return r.h.Registry
		}
		reg := restart()
		time.AfterFunc(3*time.Second, func() { _ = reg.Register(l.jobs("again")...) })
		out, err := call.Call[string](t.Context(), c, "job/mutate", "2")
		require.NoError(t, err)
		require.Equal(t, "again", out)

		restart()
		begun = time.Now()
		_, err = call.Call[string](t.Context(), c, "job/query", "3")
		requireCode(t, err, codes.NotFound, false)
		require.Less(t, time.Since(begun), settleTime+time.Second, "it does not serve it any more")
	})
}

// TestSupervisorEndsAtOnce: with its context; there is nothing to ask a connection
// that we end ourselves.
func TestSupervisorEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(t, whoami("head"))
		up := make(chan bool, 1)
		s := &Supervisor{Dial: r.dial, OnState: func(isUp bool, _ error) { up <- isUp }}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- s.Run(ctx) }()
		require.True(t, <-up)
		begun := time.Now()
		cancel()
		require.ErrorIs(t, <-ran, context.Canceled)
		require.Zero(t, time.Since(begun))
		r.wg.Wait()
	})
}
