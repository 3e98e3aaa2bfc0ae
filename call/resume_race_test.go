package call

import (
	"context"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

// TestSubscriptionThatEndsWhileItIsResumed: between the two halves of its end, the
// first of which forgot its id where it was at home, it comes to another connection:
// the id must not stay live there, which would never be idle.
func TestSubscriptionThatEndsWhileItIsResumed(t *testing.T) {
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	var reg Registry
	require.NoError(t, reg.Register(Operation{Name: "x/one", Func: SubscriptionFunc(func(context.Context, struct{}) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			yield(1, nil)
			<-hold
		}
	})}))
	h := &Handler{Registry: &reg}
	connect := func() *Client {
		ours, theirs := alknet.Pipe(ALPN, alknet.Identity{ID: "bob"}, alknet.Identity{ID: "head"})
		served := make(chan error, 1)
		go func() { served <- h.ServeConn(context.Background(), theirs) }()
		c := NewClient(ours, nil)
		t.Cleanup(func() { release(); _ = c.Close(); <-served })
		require.NoError(t, c.Settled(t.Context()))
		return c
	}
	first := connect()
	s, err := first.Open(t.Context(), "x/one", Options{Type: Subscription})
	require.NoError(t, err)
	require.NoError(t, s.Send([]byte("{}"), false))
	_, _, err = s.Recv()
	require.NoError(t, err)
	require.NoError(t, first.Conn().CloseWithError(alknet.CodeInternal, "cut"))
	var old *inCall
	require.Eventually(t, func() bool {
		st := h.state()
		st.retained.mu.Lock()
		defer st.retained.mu.Unlock()
		for _, r := range st.retained.byID {
			old = r.c
		}
		return old != nil
	}, time.Minute, time.Millisecond)

	old.drop() // as its end begins, when it has no connection
	again := connect()
	s, err = again.Open(t.Context(), "x/one", Options{Type: Subscription, Resume: s})
	require.NoError(t, err)
	require.NoError(t, s.Send([]byte("{}"), false))
	require.Eventually(t, func() bool { l, _ := old.home(); return l != nil }, time.Minute, time.Millisecond)
	require.True(t, old.done.CompareAndSwap(false, true))
	old.conclude(nil)
	_, _, err = s.Recv()
	require.ErrorContains(t, err, "EOF")

	l, _ := old.home()
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.in) == 0
	}, 30*time.Second, time.Millisecond, "its id is live")
}
