package peer

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// carriers is how many goroutines carry a routed call.
func carriers() int {
	buf := make([]byte, 16<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "peer.(*unary).Recv(")
}

// TestHandedOnCallsHaveNoGoroutine: a head that only hands calls on has none for
// each of them, unless something has to be asked that may wait.
func TestHandedOnCallsHaveNoGoroutine(t *testing.T) {
	for _, audited := range []bool{false, true} {
		t.Run(fmt.Sprint("audit ", audited), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newTestbed(t)
				if audited {
					x.head.Audit = func(context.Context, call.Record) error { return nil }
				}
				x.a = x.world.worker("worker-a", x.jobs("worker-a")...)
				x.callAs("client")
				_, err := call.Call[string](t.Context(), x.to, "job/query", "first") // opens the stream
				require.NoError(t, err)
				x.setSlow("worker-a")
				var answers []<-chan answer
				for i := range 50 {
					answers = append(answers, x.start(t.Context(), "job/query", fmt.Sprint(i)))
				}
				if audited {
					require.Equal(t, 50, carriers())
				} else {
					require.Zero(t, carriers())
				}
				close(x.hold)
				for _, a := range answers {
					require.NoError(t, (<-a).err)
				}
			})
		})
	}
}

// TestHandedOnCallEndsWithItsCaller: an abort, a deadline and a lost connection
// reach the worker.
func TestHandedOnCallEndsWithItsCaller(t *testing.T) {
	for name, end := range map[string]func(c *call.Client, cancel func()){
		"abort":    func(_ *call.Client, cancel func()) { cancel() },
		"deadline": func(*call.Client, func()) { <-time.After(2 * time.Second) },
		"lost":     func(c *call.Client, _ func()) { _ = c.Conn().CloseWithError(alknet.CodeInternal, "lost") },
	} {
		t.Run(name, func(t *testing.T) {
			eachCaller(t, func(t *testing.T, x *testbed) {
				c := x.world.client("somebody")
				x.to = c
				_, err := call.Call[string](t.Context(), c, "job/query", "first")
				require.NoError(t, err)
				x.setSlow("worker-a")
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				done := x.start(ctx, "job/query", "1")
				require.EqualValues(t, 1, x.graph.node("worker-a").running.Load())
				end(c, cancel)
				got := <-done
				require.Error(t, got.err)
				if name == "deadline" {
					requireCode(t, got.err, codes.Timeout, true)
				}
				x.pass(100 * time.Millisecond)
				require.Zero(t, x.graph.node("worker-a").running.Load())
				require.Equal(t, 1, x.a.h.Stats().Running, "only the subscription to its changes")
				require.Zero(t, x.head.Stats().Running-x.runningElse(), "nothing is counted any more")
			})
		})
	}
}

// runningElse are the handlers at the head that are not of a call of a test's.
func (x *testbed) runningElse() int { return x.head.Stats().Subscriptions }

// echo answers with what it gets.
func echo(name string) call.Operation {
	return call.Operation{Name: name, Func: call.QueryFunc(func(_ context.Context, in string) (string, error) { return in, nil })}
}

// TestCallerWhoReadsNothingHoldsNobodyUp: its answers wait, and those of others of
// the same worker do not.
func TestCallerWhoReadsNothingHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.worker("worker-a", echo("big/echo"))
		deaf, s := alknet.Pipe(call.ALPN, alknet.Identity{ID: "deaf"}, alknet.Identity{ID: "head"})
		var wg sync.WaitGroup
		wg.Go(func() { _ = w.head.ServeConn(context.Background(), s) })
		st, err := deaf.OpenStream(t.Context())
		require.NoError(t, err)
		text := strings.Repeat("x", 8<<10)
		for i := range 200 { // 1.6 MB of answers, six times what the pipe holds
			frame := fmt.Appendf(make([]byte, 4), `{"type":"call.requested","id":"q%d","payload":{"operationId":"/big/echo","input":"%s"}}`, i, text)
			binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
			_, err := st.Write(frame)
			require.NoError(t, err)
		}
		synctest.Wait()
		c := w.client("other")
		for range 100 {
			begun := time.Now()
			out, err := call.Call[string](t.Context(), c, "big/echo", text)
			require.NoError(t, err)
			require.Equal(t, text, out)
			require.Zero(t, time.Since(begun))
		}
		_ = deaf.CloseWithError(alknet.CodeInternal, "enough")
		wg.Wait()
		require.Zero(t, w.graph.node("worker-a").running.Load())
	})
}

// TestWorkerThatReadsNothingHoldsNobodyUp: calls to it wait, and those of the same
// caller to another do not; an abort is heard.
func TestWorkerThatReadsNothingHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.idle("worker-a", echo("big/echo"))
		wire := a.connectWire()
		defer wire.silence(false)
		w.waitFor("worker-a", "up", 1)
		w.worker("worker-b", echo("big/echo"))
		c := w.client("somebody")
		text := strings.Repeat("x", 8<<10)
		one := func(ctx context.Context, to string) error {
			_, err := call.Call[string](ctx, c, "big/echo@"+to, text)
			return err
		}
		require.NoError(t, one(t.Context(), "worker-a"))
		wire.silence(true)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() { require.Error(t, one(ctx, "worker-a")) })
		}
		synctest.Wait()
		begun := time.Now()
		for range 100 {
			require.NoError(t, one(t.Context(), "worker-b"))
		}
		cancel()
		wg.Wait()
		synctest.Wait()
		require.Zero(t, time.Since(begun), "nobody waits for it")
		time.Sleep(5 * time.Second) // it is cut, and lets go of who waited to write to it
		require.Zero(t, w.graph.node("worker-a").running.Load())
	})
}
