//go:build soak

package ssh_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
)

var slowScripts = []string{"exit-status", "stderr-data", "yes-head", "dynamic-forward", "cert-userkey"}

// A group that ignores SIGHUP is killed after a while, all of it.
func TestStubbornProcessGroupIsKilled(t *testing.T) {
	c := newNode(t, nil).client(alknet.QUIC, ssh.ScopeShell)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- c.Run(ctx, &ssh.Cmd{Line: "trap '' HUP; sleep 1000 & echo $! $$; while :; do sleep 1; done", Stdout: w})
	}()
	var child, leader int
	_, err := fmt.Fscan(r, &child, &leader)
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	waitGone(t, leader)
	waitGone(t, child)
}
