package call_test

import (
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
	router := new(alknet.Router)
	require.NoError(t, router.Register(call.Service(h)))
	ep, err := alknet.Listen(t.Context(), "127.0.0.1:0", nil)
	require.NoError(t, err)
	served := make(chan struct{})
	go func() { defer close(served); _ = router.Serve(ep) }() // until the test ends
	dialler, err := alknet.NewEndpoint(nil, nil, nil)
	require.NoError(t, err)
	defer func() {
		require.NoError(t, dialler.Close())
		require.NoError(t, router.Close())
		require.NoError(t, ep.Close())
		<-served
	}()
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Raw} {
		to := ep.Addr()
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
