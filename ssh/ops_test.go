package ssh_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/ssh"
)

func TestOperations(t *testing.T) {
	n := newNode(t, nil)
	var reg call.Registry
	require.NoError(t, reg.Register(ssh.Operations(n.h)...))
	h := &call.Handler{Registry: &reg}
	admin := h.As(alknet.Identity{ID: "root", Scopes: []string{"node:admin"}})
	type info struct {
		Identity string    `json:"identity"`
		How      string    `json:"how"`
		Client   string    `json:"client"`
		Since    time.Time `json:"since"`
	}
	list, err := call.Call[[]info](t.Context(), admin, "ssh/connections", struct{}{})
	require.NoError(t, err)
	require.Empty(t, list)
	c := n.client(alknet.QUIC, ssh.ScopeShell)
	require.NoError(t, c.Run(within(t), &ssh.Cmd{Line: "true"}))
	list, err = call.Call[[]info](t.Context(), admin, "ssh/connections", struct{}{})
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "bob", list[0].Identity)
	require.Equal(t, "alknet", list[0].How)
	require.Equal(t, "SSH-2.0-alknet", list[0].Client)
	require.WithinDuration(t, time.Now(), list[0].Since, time.Minute)
	_, err = call.Call[[]info](t.Context(), h.As(alknet.Identity{ID: "bob", Scopes: allScopes}), "ssh/connections", struct{}{})
	require.Error(t, err, "without node:admin")
}
