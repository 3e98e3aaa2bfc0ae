package call_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// onLoopback serves h on real sockets until the test ends, and returns who dials
// it and where. Connections are to be closed before.
func onLoopback(t *testing.T, h *call.Handler) (dialler *alknet.Endpoint, to alknet.Addr) {
	t.Helper()
	router := new(alknet.Router)
	require.NoError(t, router.Register(call.Service(h)))
	ep, err := alknet.Listen(t.Context(), "127.0.0.1:0", nil)
	require.NoError(t, err)
	served := make(chan struct{})
	go func() { defer close(served); _ = router.Serve(ep) }() // until the test ends
	dialler, err = alknet.NewEndpoint(nil, nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, dialler.Close())
		require.NoError(t, router.Close())
		require.NoError(t, ep.Close())
		<-served
	})
	return dialler, ep.Addr()
}
