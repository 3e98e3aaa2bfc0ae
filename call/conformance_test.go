package call_test

import (
	"context"
	"crypto/tls"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/calltest"
)

// carriers are what every table of this package runs over; Pipe is 0.
var carriers = []alknet.Transport{0, alknet.QUIC, alknet.Mux, alknet.Raw}

func carrierName(over alknet.Transport) string {
	if over == 0 {
		return "Pipe"
	}
	return over.String()
}

// eachCarrier runs f over all of them.
func eachCarrier(t *testing.T, f func(t *testing.T, connect calltest.Connect)) {
	for _, over := range carriers {
		t.Run(carrierName(over), func(t *testing.T) { f(t, connector(over)) })
	}
}

// connector makes connections over one carrier.
func connector(over alknet.Transport) calltest.Connect {
	if over == 0 {
		return connectPipe
	}
	return func(t testing.TB, h alknet.ProtocolHandler, client alknet.Identity) *alknet.Conn {
		return connectNet(t, over, h, client)
	}
}

// connectPipe connects in memory, through a Router as on the other transports.
func connectPipe(t testing.TB, h alknet.ProtocolHandler, client alknet.Identity) *alknet.Conn {
	c, s := alknet.Pipe(call.ALPN, client, alknet.Identity{ID: "server"})
	var router alknet.Router
	require.NoError(t, router.Register(alknet.Service{ALPN: call.ALPN, Handler: h}))
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		_ = router.ServeConn(context.Background(), s) // the client sees how it ended
	}()
	t.Cleanup(func() {
		_ = c.CloseWithError(alknet.CodeOK, "")
		wg.Wait()
		require.NoError(t, router.Close())
	})
	return c
}

// connectNet connects over loopback sockets. The package's Service is for QUIC
// and Raw; the protocol itself runs on Mux as well.
func connectNet(t testing.TB, over alknet.Transport, h alknet.ProtocolHandler, client alknet.Identity) *alknet.Conn {
	router := &alknet.Router{Authenticate: func(context.Context, tls.ConnectionState, string) (alknet.Identity, error) {
		return client, nil
	}}
	require.NoError(t, router.Register(alknet.Service{ALPN: call.ALPN, Handler: h, Over: over}))
	ep, err := alknet.Listen(context.Background(), "127.0.0.1:0", nil)
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = router.Serve(ep) // until the test ends
	}()
	dialler, err := alknet.NewEndpoint(nil, nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, dialler.Close())
		require.NoError(t, router.Close())
		require.NoError(t, ep.Close())
		<-served
	})
	to := ep.Addr()
	to.Over = over
	c, err := dialler.Dial(context.Background(), to, call.ALPN)
	require.NoError(t, err)
	return c
}

// TestConformance runs the table of package calltest over every transport.
func TestConformance(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) { calltest.Run(t, connect) })
}
