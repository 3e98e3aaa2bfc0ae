package session

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// A stream that is reset when its connection has ended ends at the peer as the
// connection did.
func TestResetAfterTheEndOfAPipe(t *testing.T) {
	a, b := NewPipe()
	opened, err := a.Open(t.Context())
	require.NoError(t, err)
	_, err = opened.Write([]byte("x"))
	require.NoError(t, err)
	accepted, err := b.Accept(t.Context())
	require.NoError(t, err)
	_, err = accepted.Read(make([]byte, 1))
	require.NoError(t, err)

	s := a.(*pipeSession)
	require.True(t, s.end(&Error{Code: 7}))
	require.True(t, s.peer.end(&Error{Code: 7, Remote: true}))
	opened.Reset(0)
	s.p.stop(net.ErrClosed) // the last of what Close does
	_, err = accepted.Read(make([]byte, 1))
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, Error{Code: 7, Remote: true}, *e)
}
