package ssh_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
)

// S4: MaxChannels counts channels of every kind, and one that has ended no more.
func TestMaxChannels(t *testing.T) {
	for _, limit := range []int{3, -1} {
		conn, gate, _ := pair(t, func(h *ssh.Handler) { h.Limits = ssh.Limits{MaxSessions: -1, MaxChannels: limit} }, allScopes...)
		policy, err := forward.ParsePolicy("allow * dial tcp 127.0.0.1:*")
		require.NoError(t, err)
		gate.SetPolicy(policy)
		chans, reqs := make(chan xssh.NewChannel), make(chan *xssh.Request) // pair takes those of the connection
		close(chans)
		close(reqs)
		client := xssh.NewClient(conn, chans, reqs)
		echo := testenv.Echo(t, "tcp", "127.0.0.1:0").String()
		for range 2 {
			nc, err := client.Dial("tcp", echo)
			require.NoError(t, err)
			defer nc.Close()
		}
		s, err := client.NewSession()
		require.NoError(t, err)
		_, err = client.Dial("tcp", echo)
		_, err2 := client.NewSession()
		if limit < 0 {
			require.NoError(t, err)
			require.NoError(t, err2)
			continue
		}
		require.ErrorContains(t, err, "limit MaxChannels 3")
		require.ErrorContains(t, err2, "limit MaxChannels 3")
		require.NoError(t, s.Run("true"))
		require.Eventually(t, func() bool { _, err := client.NewSession(); return err == nil }, patience, tick)
	}
}

// S4: MaxListeners counts remote forwards that are there.
func TestMaxListeners(t *testing.T) {
	for _, limit := range []int{2, -1} {
		n := newNode(t, func(h *ssh.Handler) { h.Limits = ssh.Limits{MaxListeners: limit} })
		n.policy("allow * listen tcp 127.0.0.1:*")
		c := n.client(alknet.QUIC, allScopes...)
		for range 2 {
			_, err := c.Listen(within(t), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
		}
		l, err := c.Listen(within(t), "tcp", "127.0.0.1:0")
		require.Equal(t, limit < 0, err == nil, "%v", err)
		if err == nil {
			require.NoError(t, l.Close())
			continue
		}
		require.Equal(t, 2, n.gate.Flows())
	}
}

// A client sets so many variables and no more.
func TestNumberOfVariables(t *testing.T) {
	conn, _, _ := pair(t, nil, ssh.ScopeShell)
	ch, reqs, err := conn.OpenChannel("session", nil)
	require.NoError(t, err)
	go xssh.DiscardRequests(reqs)
	for i := range 70 {
		ok, err := ch.SendRequest("env", true, xssh.Marshal(struct{ Name, Value string }{"LC_X", "y"}))
		require.NoError(t, err)
		require.Equal(t, i < 64, ok, i)
	}
}

// S1: who may reach one host and port, or listen on one, may not use sockets.
func TestPermitIsNotForSockets(t *testing.T) {
	dir := t.TempDir()
	x := newHost(t, nil)
	policy, err := forward.ParsePolicy("allow * dial unix " + dir + "/*\nallow * listen unix " + dir + "/*")
	require.NoError(t, err)
	x.gate.SetPolicy(policy)
	echo := testenv.Echo(t, "unix", filepath.Join(dir, "echo")).String()
	key := newKey(t)
	for options, want := range map[string][2]bool{ // dial, listen
		"": {true, true}, `permitopen="localhost:1"`: {false, true}, `permitlisten="1"`: {true, false},
	} {
		x.allow(line(t, options, key, "bob"))
		c, err := x.login(key)
		require.NoError(t, err)
		_, err = c.Dial("unix", echo)
		require.Equal(t, want[0], err == nil, "%s: %v", options, err)
		l, err := c.ListenUnix(filepath.Join(dir, "l"))
		require.Equal(t, want[1], err == nil, "%s: %v", options, err)
		if err == nil {
			require.NoError(t, l.Close())
		}
		require.NoError(t, c.Close())
	}
}
