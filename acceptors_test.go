package alknet_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

// However long somebody takes to say who a peer is, and however that ends, the
// connections behind it are served.
func TestSlowAndBrokenAuthenticateHoldUpNobody(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		const slow = 10
		asked, answer := make(chan struct{}, slow), make(chan struct{})
		held, panics, exits := newKey(t), newKey(t), newKey(t)
		router := &alknet.Router{Authenticate: func(ctx context.Context, cs tls.ConnectionState, _ string) (alknet.Identity, error) {
			switch alknet.PeerID(cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)) {
			case keyID(held):
				asked <- struct{}{}
				select {
				case <-answer:
				case <-ctx.Done():
					return alknet.Identity{}, ctx.Err()
				}
				return alknet.Identity{ID: "held"}, nil
			case keyID(panics):
				panic("made for a test")
			case keyID(exits):
				runtime.Goexit()
			}
			return alknet.Identity{ID: "quick"}, nil
		}}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
		server := serve(t, router, nil)

		patient := client(t, &alknet.Config{Key: held})
		conns := make([]*alknet.Conn, slow)
		for i := range conns {
			conns[i] = dial(t, patient, server, over)
		}
		for range slow {
			<-asked
		}
		for range 3 {
			for _, key := range []crypto.Signer{panics, exits} {
				if c, err := client(t, &alknet.Config{Key: key}).Dial(t.Context(), addrOver(server, over), testALPN); err == nil {
					wantFails(t, c)
				}
			}
			roundTrip(t, dial(t, client(t, nil), server, over), "quick")
		}
		close(answer)
		for _, c := range conns {
			roundTrip(t, c, "x")
		}
	})
}

// Without sessions the same dial is a full handshake each time.
func TestSessionsCanBeTurnedOff(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		router := &alknet.Router{}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
		server := serve(t, router, nil)
		for sessions, want := range map[int]bool{0: true, -1: false} {
			ep := client(t, &alknet.Config{Sessions: sessions})
			resumed := false
			for range 3 { // a ticket comes after the handshake
				c := dial(t, ep, server, over)
				roundTrip(t, c, "x")
				resumed = resumed || c.TLS().DidResume
				require.NoError(t, c.Close())
			}
			require.Equal(t, want, resumed, "Sessions: %d", sessions)
		}
	})
}

// A panic while a connection is decided about is in Stats like that of a handler:
// with the service where that is known.
func TestPanicsOfDecisionsAreCounted(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		var broken atomic.Pointer[string]
		breaks := func(what string) {
			if b := broken.Load(); b != nil && *b == what {
				panic("made for a test")
			}
		}
		router := &alknet.Router{
			Authenticate: func(context.Context, tls.ConnectionState, string) (alknet.Identity, error) {
				breaks("authenticate")
				return alknet.Identity{ID: "somebody"}, nil
			},
			Middleware: []alknet.Middleware{func(next alknet.ProtocolHandler) alknet.ProtocolHandler {
				breaks("middleware")
				return next
			}},
		}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
		server := serve(t, router, nil)
		live := dial(t, client(t, nil), server, over)
		echoOnce(t, open(t, live)) // which stays open: with its stream a Raw connection would end
		require.Zero(t, router.Stats().Panics)

		broken.Store(new("authenticate"))
		if c, err := client(t, nil).Dial(t.Context(), addrOver(server, over), testALPN); err == nil {
			wantFails(t, c)
		}
		panics := func() [2]int64 { st := router.Stats(); return [2]int64{st.Panics, st.Services[testALPN].Panics} }
		require.Eventually(t, func() bool { return panics() == [2]int64{1, 1} }, 30*time.Second, time.Millisecond, "when it is accepted")

		require.NoError(t, router.Reauthenticate(t.Context()))
		require.Equal(t, [2]int64{2, 2}, panics(), "when it is judged again")
		require.Eventually(t, func() bool { return router.Stats().Connections == 0 }, 30*time.Second, time.Millisecond, "who it is could not be said")

		broken.Store(new("middleware"))
		if c, err := client(t, nil).Dial(t.Context(), addrOver(server, over), testALPN); err == nil {
			wantFails(t, c)
		}
		require.Eventually(t, func() bool { return panics() == [2]int64{3, 2} }, 30*time.Second, time.Millisecond, "when its handler is put together")
	})
}

// What a Certificate function panics of is counted too.
func TestPanicOfCertificateIsCounted(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux} {
		router := &alknet.Router{}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Handler: echo}))
		server := serve(t, router, &alknet.Config{Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { panic("made for a test") }})
		to := addrOver(server, over)
		to.Peer, to.ServerName = alknet.PeerID{}, "name.example"
		_, err := client(t, nil).Dial(t.Context(), to, testALPN)
		require.Error(t, err)
		require.Eventually(t, func() bool { return router.Stats().Panics == 1 }, 30*time.Second, time.Millisecond, "%v", over)
	}
}
