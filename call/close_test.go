package call_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/testops"
)

// Who leaves a subscription and closes the connection has left it, also on Raw,
// which does not tell a connection that was closed from one that was lost.
func TestWhatIsSaidBeforeCloseIsHeard(t *testing.T) {
	h := newHandler(t, testops.Operations(testops.Options{})...)
	h.Limits.ResumeGrace = time.Hour
	dialler, addr := onLoopback(t, h)
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Raw} {
		to := addr
		to.Over = over
		for range 10 {
			c, err := call.Dial(t.Context(), dialler, to, nil)
			require.NoError(t, err)
			for range call.Subscribe[any](t.Context(), c, "test/stream", map[string]int{"n": 1 << 30}) {
				break
			}
			require.NoError(t, c.Close())
		}
		require.Eventually(t, func() bool { return h.Stats().Running == 0 }, 30*time.Second, time.Millisecond, over)
	}
}

// The accepting of streams may end before the connection says that it has: a
// goodbye is one then too, and nothing is kept for who does not come back.
func TestGoodbyeIsHeardBeforeTheConnectionHasEnded(t *testing.T) {
	h := newHandler(t, testops.Operations(testops.Options{})...)
	h.Limits.ResumeGrace = time.Hour
	dialler, addr := onLoopback(t, h)
	c, err := call.Dial(t.Context(), dialler, addr, nil)
	require.NoError(t, err)
	defer c.Close()
	s, err := c.Open(t.Context(), "test/stream", call.Options{Type: call.Subscription})
	require.NoError(t, err)
	require.NoError(t, s.Send([]byte(`{"n":1073741824}`), false))
	_, _, err = s.Recv()
	require.NoError(t, err)
	call.EndLinks(h, fmt.Errorf("accept stream: %w", &alknet.Error{Code: alknet.CodeOK, Remote: true}))
	require.Eventually(t, func() bool { return h.Stats().Running == 0 }, 30*time.Second, time.Millisecond)
}

// Who has begun a frame when the connection ends may start a flusher: what
// serves the connection waits for both.
func TestEndWaitsForWhoWrites(t *testing.T) {
	dialler, addr := onLoopback(t, newHandler(t))
	c, err := call.Dial(t.Context(), dialler, addr, nil)
	require.NoError(t, err)
	release, err := call.HoldWriter(c)
	require.NoError(t, err)
	go call.Fail(c) // it hangs in the writer
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		call.Runner(c)
	}()
	<-c.Done()
	_ = c.Conn().Close() // who reads returns
	select {
	case <-ended:
		require.Fail(t, "nothing serves the connection, and a frame is being written")
	case <-time.After(50 * time.Millisecond): // what could go wrong has had its time
	}
	release()
	<-ended
}
