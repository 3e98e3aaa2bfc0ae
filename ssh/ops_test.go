package ssh_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/ssh"
)

// operations serves those of h; admin may call them.
func operations(t *testing.T, h *ssh.Handler) (served *call.Handler, admin call.Caller) {
	t.Helper()
	var reg call.Registry
	require.NoError(t, reg.Register(ssh.Operations(h)...))
	served = &call.Handler{Registry: &reg}
	return served, served.As(alknet.Identity{ID: "root", Scopes: []string{"node:admin"}})
}

// An operator sees what runs, and ends one program and nothing else.
func TestOperationsOnSessions(t *testing.T) {
	n := newNode(t, nil)
	h, admin := operations(t, n.h)
	type info struct {
		ID       uint64 `json:"id"`
		Identity string `json:"identity"`
		Kind     string `json:"kind"`
		Terminal bool   `json:"terminal"`
	}
	type in struct {
		ID uint64 `json:"id"`
	}
	list := func() []info {
		list, err := call.Call[[]info](t.Context(), admin, "ssh/session/list", struct{}{})
		require.NoError(t, err)
		return list
	}
	require.Empty(t, list())
	c := n.client(alknet.QUIC, ssh.ScopeShell)
	var pids [2]int
	var ran [2]chan error
	for i, cmd := range []*ssh.Cmd{{Line: "echo $$; exec sleep 1000"}, {Line: "echo $$; exec sleep 1000", PTY: &ssh.PTY{Term: "xterm"}}} {
		out, stdout := io.Pipe()
		cmd.Stdout, ran[i] = stdout, make(chan error, 1)
		go func() {
			err := c.Run(context.Background(), cmd)
			_ = stdout.Close()
			ran[i] <- err
		}()
		_, err := fmt.Fscan(out, &pids[i])
		require.NoError(t, err)
		go func() { _, _ = io.Copy(io.Discard, out) }()
	}
	got := list()
	require.Len(t, got, 2)
	require.Equal(t, info{got[0].ID, "bob", "exec", false}, got[0])
	require.Equal(t, info{got[1].ID, "bob", "exec", true}, got[1])
	_, err := call.Call[struct{}](t.Context(), h.As(alknet.Identity{ID: "bob", Scopes: allScopes}), "ssh/session/kill", in{got[0].ID})
	require.Error(t, err, "without node:admin")
	_, err = call.Call[struct{}](t.Context(), admin, "ssh/session/kill", in{got[0].ID})
	require.NoError(t, err)
	require.Error(t, <-ran[0])
	waitGone(t, pids[0])
	require.Eventually(t, func() bool { l := list(); return len(l) == 1 && l[0].ID == got[1].ID }, patience, tick)
	_, err = call.Call[struct{}](t.Context(), admin, "ssh/session/kill", in{got[0].ID})
	require.Error(t, err, "it has ended")
	require.NoError(t, c.Run(within(t), &ssh.Cmd{Line: "true"}), "the connection goes on")
	_, err = call.Call[struct{}](t.Context(), admin, "ssh/session/kill", in{got[1].ID})
	require.NoError(t, err)
	require.Error(t, <-ran[1])
	waitGone(t, pids[1])
}

func TestOperations(t *testing.T) {
	n := newNode(t, nil)
	h, admin := operations(t, n.h)
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
