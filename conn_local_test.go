package alknet_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

// TestConnKnowsItsOwnKey: what one end calls itself is what the other end has proven.
func TestConnKnowsItsOwnKey(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		local := make(chan alknet.PeerID, 1)
		c := connect(t, tc, alknet.HandlerFunc(func(_ context.Context, conn *alknet.Conn) error {
			local <- conn.LocalID()
			if id := conn.Identity(); tc.over != 0 && id.Peer.IsZero() {
				t.Error("the client proved no key")
			}
			require.Equal(t, conn.Identity(), *conn.SharedIdentity())
			<-conn.Done()
			return nil
		}))
		require.Equal(t, c.Identity().Peer, <-local)
	})
}

// TestStreamOnAbort: a stream says when its peer has reset it, to all who asked.
func TestStreamOnAbort(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		asked, aborted := make(chan struct{}), make(chan struct{})
		c := connect(t, tc, alknet.HandlerFunc(func(ctx context.Context, conn *alknet.Conn) error {
			s, err := conn.AcceptStream(ctx)
			if err != nil {
				return err
			}
			again := make(chan struct{})
			s.OnAbort(func() { close(again) })
			s.OnAbort(func() { <-again; close(aborted) })
			s.OnAbort(func() { t.Error("this one was withdrawn") })()
			close(asked)
			<-conn.Done()
			return nil
		}))
		s := open(t, c)
		_, err := s.Write([]byte("x"))
		require.NoError(t, err)
		<-asked
		s.Reset(alknet.CodeRefused)
		if tc.over == alknet.Raw {
			require.NoError(t, c.Close()) // nobody reads there, so nobody sees the reset
			return
		}
		<-aborted
	})
}
