package alknet_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"runtime"
	"testing"

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
