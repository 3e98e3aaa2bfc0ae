package alknet

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a QUIC connection holds is given back when the context that the library
// makes of ours is cancelled, where that is done, and not when one made of that is.
func TestClaimIsClosedWithItsContext(t *testing.T) {
	l := newLedger(Limits{})
	c, err := l.begin(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, quicCost)
	require.NoError(t, err)
	conn, cancel := context.WithCancelCause(claimContext{c})
	require.Same(t, c, claimFrom(conn))
	require.Nil(t, claimFrom(t.Context()))

	stream, end := context.WithCancel(conn)
	end()
	<-stream.Done()
	require.NoError(t, conn.Err())
	require.Equal(t, 1, l.conns, "a stream's end is not the connection's")

	cancel(io.ErrUnexpectedEOF)
	require.Zero(t, l.conns)
	require.Zero(t, l.handshakes)
	require.Zero(t, l.total.Used())
	require.Equal(t, io.ErrUnexpectedEOF, context.Cause(conn))
	require.False(t, c.grow(1), "it holds nothing any more")
	cancel(nil)
	require.Zero(t, l.conns, "once")
}
