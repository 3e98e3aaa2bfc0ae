package alknet_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

// A stream handler that reads does not see the end of the context of a
// connection that a Router did not accept: StreamFunc waited for it for ever.
func TestStreamFuncEndsWithItsContext(t *testing.T) { synctest.Test(t, testStreamFuncContext) }
func testStreamFuncContext(t *testing.T) {
	c, s := alknet.Pipe(testALPN, alknet.Identity{ID: "client"}, alknet.Identity{})
	ctx, cancel := context.WithCancel(t.Context())
	router := &alknet.Router{}
	router.Handle(testALPN, echo)
	done := make(chan error, 1)
	go func() { done <- router.ServeConn(ctx, s) }()
	st, err := c.OpenStream(t.Context())
	require.NoError(t, err)
	_, err = st.Write([]byte("x"))
	require.NoError(t, err)
	_, err = st.Read(make([]byte, 1))
	require.NoError(t, err)
	cancel()
	<-done
	_, err = st.Read(make([]byte, 1))
	var e *alknet.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, alknet.CodeShutdown, e.Code)
	require.True(t, e.Remote)
}
