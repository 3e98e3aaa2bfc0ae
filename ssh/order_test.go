package ssh_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
)

// What a session runs begins after the global requests that came before it: a
// client that asks for a remote forward and then runs a program, as ssh -R does,
// finds the one listening when the other runs.
func TestProgramsWaitForEarlierRequests(t *testing.T) {
	judging, ran := make(chan struct{}), make(chan struct{})
	early := false
	gate := &forward.Gate{Audit: func(context.Context, *alknet.Identity, forward.Decision) {
		close(judging)
		select {
		case <-ran:
			early = true
		case <-time.After(300 * time.Millisecond): // what could go wrong has had its time
		}
	}}
	policy, err := forward.ParsePolicy("allow * listen tcp 127.0.0.1:*")
	require.NoError(t, err)
	gate.SetPolicy(policy)
	conn, _, _ := pair(t, func(h *ssh.Handler) {
		h.Gate = gate
		h.Session = func(context.Context, *ssh.Session) int { close(ran); return 0 }
	}, allScopes...)
	bound := make(chan bool, 1)
	go func() {
		ok, _, _ := conn.SendRequest("tcpip-forward", true, xssh.Marshal(struct {
			Host string
			Port uint32
		}{"127.0.0.1", 0}))
		bound <- ok
	}()
	<-judging
	ch, reqs, err := conn.OpenChannel("session", nil)
	require.NoError(t, err)
	go xssh.DiscardRequests(reqs)
	ok, err := ch.SendRequest("shell", true, nil)
	require.NoError(t, err)
	require.True(t, ok)
	_, err = io.ReadAll(ch)
	require.NoError(t, err)
	<-ran
	require.True(t, <-bound)
	require.False(t, early, "the program ran while the forward was judged")
}
