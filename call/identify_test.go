package call_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// TestIdentifyDecidesForPeersThatWereDialled: a dial proves a key and no rights, so
// that what the other end might do depended on who had dialled.
func TestIdentifyDecidesForPeersThatWereDialled(t *testing.T) {
	var reg call.Registry
	require.NoError(t, reg.Register(call.Operation{
		Name: "box/open", Access: alknet.AccessControl{RequiredScopes: []string{"box:open"}},
		Func: call.QueryFunc(func(ctx context.Context, _ struct{}) (string, error) {
			r, _ := call.RequestFromContext(ctx)
			return r.Caller.ID, nil
		}),
	}))
	var who atomic.Pointer[alknet.Identity]
	h := &call.Handler{Registry: &reg, Identify: func(proven *alknet.Identity) *alknet.Identity {
		if id := who.Load(); id != nil {
			return id
		}
		return proven
	}}
	ours, theirs := alknet.Pipe(call.ALPN, alknet.Identity{ID: "worker"}, alknet.Identity{ID: "the text of a key"})
	other := make(chan *call.Client, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() {
		served <- (&call.Handler{OnConnect: func(_ context.Context, c *call.Client) error { other <- c; return nil }}).ServeConn(ctx, theirs)
	}()
	c := call.NewClient(ours, h)
	head := <-other

	open := func() (string, error) { return call.Call[string](t.Context(), head, "box/open", struct{}{}) }
	forbidden := func(err error) {
		var ce *call.Error
		require.ErrorAs(t, err, &ce)
		require.Equal(t, codes.Forbidden, ce.Code)
	}
	_, err := open()
	forbidden(err)
	who.Store(&alknet.Identity{ID: "head", Scopes: []string{"box:open"}})
	id, err := open()
	require.NoError(t, err)
	require.Equal(t, "head", id)
	who.Store(&alknet.Identity{ID: "head"})
	_, err = open()
	forbidden(err)

	require.NoError(t, c.Close())
	<-served
}
