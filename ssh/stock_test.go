package ssh_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
)

// The first contact of a stock client, with the printed configuration and
// StrictHostKeyChecking=yes.
func TestStockFirstContact(t *testing.T) {
	eachTransport(t, func(t *testing.T, over alknet.Transport) {
		s := newNode(t, nil).stock(over, ssh.ScopeShell)
		out, errs, status := run(t, s.ssh(t, "node", "echo ok; echo err >&2; exit 7"))
		require.Equal(t, "ok\n", out, errs)
		require.Equal(t, "err\n", errs)
		require.Equal(t, 7, status)
		for _, host := range []string{"node.alk", s.id + ".alk"} {
			out, errs, status = run(t, s.ssh(t, host, "cat"))
			require.Equal(t, 0, status, "%s: %s", host, errs)
		}
		cmd := s.ssh(t, "node", "cat")
		cmd.Stdin = strings.NewReader(strings.Repeat("x", 1<<20))
		out, errs, status = run(t, cmd)
		require.Equal(t, 0, status, errs)
		require.Len(t, out, 1<<20)
	})
}
