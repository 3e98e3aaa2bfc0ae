package call_test

import (
	"context"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

type sum struct {
	A int `json:"a"`
	B int `json:"b"`
}

func add(_ context.Context, in sum) (int, error) { return in.A + in.B, nil }

func count(_ context.Context, n int) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		for i := range n {
			if !yield(i, nil) {
				return
			}
		}
	}
}

func TestSmoke(t *testing.T) {
	var reg call.Registry
	require.NoError(t, reg.Register(
		call.Operation{Name: "math/add", Func: call.QueryFunc(add)},
		call.Operation{Name: "math/count", Func: call.SubscriptionFunc(count)},
	))
	for _, over := range []alknet.Transport{0, alknet.QUIC, alknet.Raw} {
		t.Run(over.String(), func(t *testing.T) {
			h := &call.Handler{Registry: &reg}
			var conn *alknet.Conn
			if over == 0 {
				c, s := alknet.Pipe(call.ALPN, alknet.Identity{ID: "c"}, alknet.Identity{ID: "s"})
				conn = c
				done := make(chan error, 1)
				go func() { err := h.ServeConn(context.Background(), s); _ = s.Close(); done <- err }()
				defer func() { require.NoError(t, <-done) }()
			} else {
				var r alknet.Router
				require.NoError(t, r.Register(call.Service(h)))
				ep, err := alknet.Listen(t.Context(), "127.0.0.1:0", nil)
				require.NoError(t, err)
				go r.Serve(ep)
				defer ep.Close()
				defer r.Close()
				cl, err := alknet.NewEndpoint(nil, nil, nil)
				require.NoError(t, err)
				defer cl.Close()
				a := ep.Addr()
				a.Over = over
				conn, err = cl.Dial(t.Context(), a, call.ALPN)
				require.NoError(t, err)
			}
			c := call.NewClient(conn, nil)
			defer c.Close()
			for range 100 {
				got, err := call.Call[int](t.Context(), c, "math/add", sum{2, 3})
				require.NoError(t, err)
				require.Equal(t, 5, got)
			}
			n := 0
			for v, err := range call.Subscribe[int](t.Context(), c, "math/count", 100000) {
				require.NoError(t, err)
				require.Equal(t, n, v)
				n++
			}
			require.Equal(t, 100000, n)
			_, err := call.Call[int](t.Context(), c, "math/add", map[string]any{"a": 1})
			require.Error(t, err)
			t.Log(err)
		})
	}
}
