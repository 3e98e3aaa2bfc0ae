package tunnel

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

func TestOperations(t *testing.T) {
	carriers(t, func(t *testing.T, r *rig) {
		r.policy("allow * publish name *\nallow * listen tcp *:*")
		c := r.client(bob)
		_, err := c.Publish(t.Context(), "grafana")
		require.NoError(t, err)
		_, err = c.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		var reg call.Registry
		require.NoError(t, reg.Register(Operations(r.h)...))
		h := &call.Handler{Registry: &reg}
		admin := h.As(alknet.Identity{ID: "root", Scopes: []string{"node:admin"}})
		names, err := call.Call[[]publishedOut](t.Context(), admin, "tunnel/published", struct{}{})
		require.NoError(t, err)
		require.Len(t, names, 1)
		require.Equal(t, "grafana", names[0].Name)
		require.Equal(t, "bob", names[0].Identity)
		listeners, err := call.Call[listenersOut](t.Context(), admin, "tunnel/listeners", struct{}{})
		require.NoError(t, err)
		require.Equal(t, listenersOut{map[string]int{"bob": 2}}, listeners)
		_, err = call.Call[[]publishedOut](t.Context(), h.As(bob), "tunnel/published", struct{}{})
		require.Error(t, err, "without node:admin")
	})
}
