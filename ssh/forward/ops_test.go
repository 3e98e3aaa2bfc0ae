package forward

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

func TestOperations(t *testing.T) {
	g := &Gate{}
	g.SetPolicy(mustPolicy(t, "allow ssh:forward:db dial tcp 127.0.0.1:5432\nallow * dial name x"))
	var reg call.Registry
	require.NoError(t, reg.Register(Operations(g)...))
	h := &call.Handler{Registry: &reg}
	admin := h.As(alknet.Identity{ID: "root", Scopes: []string{"node:admin"}})
	ask := func(scope string) []explainOut {
		list, err := call.Call[[]explainOut](t.Context(), admin, "forward/explain", explainIn{
			Identity: "bob", Scopes: []string{ScopeDial, scope}, Op: "dial", Network: "tcp", Address: "127.0.0.1:5432",
		})
		require.NoError(t, err)
		return list
	}
	require.Equal(t, []explainOut{{"127.0.0.1:5432", true, 1, "ssh:forward:db"}}, ask("ssh:forward:db"))
	require.Equal(t, []explainOut{{"127.0.0.1:5432", false, 0, "no rule allows it"}}, ask("other"))
	for _, in := range []explainIn{{Op: "no", Network: "tcp", Address: "x:1"}, {Op: "dial", Network: "no", Address: "x:1"}, {Op: "dial", Network: "tcp", Address: "x"}} {
		in.Scopes = []string{}
		_, err := call.Call[[]explainOut](t.Context(), admin, "forward/explain", in)
		var ce *call.Error
		require.ErrorAs(t, err, &ce)
		require.Equal(t, "BAD_TARGET", ce.Code)
	}
	release, err := g.Admit(t.Context(), bob, OpDial, "x", func() {})
	require.NoError(t, err)
	flows, err := call.Call[flowsOut](t.Context(), admin, "forward/flows", struct{}{})
	require.NoError(t, err)
	require.Equal(t, flowsOut{1, map[string]int{"bob": 1}}, flows)
	release()
	_, err = call.Call[flowsOut](t.Context(), h.As(*bob), "forward/flows", struct{}{})
	require.Error(t, err, "without node:admin")
}
