package call_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// TestLostCallSaysHowThePeerEndedIt: whoever noticed the end of the connection
// first decided what its calls heard of it, and one of the two knew only that it
// was closed: a revoked peer was told that the connection was lost.
func TestLostCallSaysHowThePeerEndedIt(t *testing.T) {
	for range 200 {
		lostCall(t)
	}
}

func lostCall(t *testing.T) {
	begun := make(chan struct{})
	var reg call.Registry
	require.NoError(t, reg.Register(call.Operation{Name: "slow/wait", AllowAnonymous: true, Func: call.QueryFunc(func(ctx context.Context, _ struct{}) (string, error) {
		close(begun)
		<-ctx.Done()
		return "", ctx.Err()
	})}))
	ours, theirs := alknet.Pipe(call.ALPN, alknet.Identity{ID: "bob"}, alknet.Identity{ID: "head"})
	served := make(chan error, 1)
	go func() { served <- (&call.Handler{Registry: &reg}).ServeConn(t.Context(), theirs) }()
	c := call.NewClient(ours, nil)
	defer c.Close()
	answered := make(chan error, 1)
	go func() {
		_, err := call.Call[string](t.Context(), c, "slow/wait", struct{}{})
		answered <- err
	}()
	<-begun
	require.NoError(t, theirs.CloseWithError(alknet.CodeRevoked, "disabled"))

	wantRevoked := func(err error) {
		var ce *call.Error
		require.ErrorAs(t, err, &ce)
		require.Equal(t, codes.Unavailable, ce.Code)
		var ae *alknet.Error
		require.ErrorAs(t, err, &ae, "%v", err)
		require.True(t, ae.Remote)
		require.Equal(t, alknet.CodeRevoked, ae.Code)
		require.Equal(t, "disabled", ae.Reason)
	}
	wantRevoked(<-answered)
	<-c.Done()
	_, err := call.Call[string](t.Context(), c, "slow/wait", struct{}{})
	wantRevoked(err)
	<-served
}
