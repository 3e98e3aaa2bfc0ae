package ssh_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/user"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh/agent"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
)

func TestSystemAccountsAreThoseOfTheIdentity(t *testing.T) {
	u, err := user.Current()
	require.NoError(t, err)
	id := &alknet.Identity{ID: "bob", Resources: map[string][]string{"ssh:user": {u.Username, "no-such-user"}}}
	a, err := ssh.SystemAccounts(t.Context(), id, u.Username)
	require.NoError(t, err)
	require.Equal(t, u.Username, a.Name)
	require.NotEmpty(t, a.Shell)
	_, missing := ssh.SystemAccounts(t.Context(), id, "no-such-user")
	_, foreign := ssh.SystemAccounts(t.Context(), id, "nobody")
	_, empty := ssh.SystemAccounts(t.Context(), &alknet.Identity{ID: "eve"}, u.Username)
	require.Error(t, missing)
	require.Equal(t, missing, foreign, "what is missing and what is forbidden look the same")
	require.Equal(t, missing, empty)
}

// A process of another account is that account's in all that it has.
func TestProcessRunsAsItsAccount(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root runs processes of others")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip("there is no account nobody")
	}
	n := newNode(t, func(h *ssh.Handler) {
		h.AllowAgent = true
		h.Accounts = func(ctx context.Context, id *alknet.Identity, name string) (*ssh.Account, error) {
			withUser := *id
			withUser.Resources = map[string][]string{"ssh:user": {"nobody"}}
			a, err := ssh.SystemAccounts(ctx, &withUser, name)
			if err == nil {
				a.Shell = "/bin/sh" // its own is nologin
			}
			return a, err
		}
	})
	ring := agent.NewKeyring()
	require.NoError(t, ring.Add(agent.AddedKey{PrivateKey: newKey(t), Comment: "planted"}))
	dial := func() (net.Conn, error) {
		here, there := net.Pipe()
		go func() { _ = agent.ServeAgent(ring, there); _ = there.Close() }()
		return here, nil
	}
	key := newKey(t)
	n.admit(key, "bob", allScopes...)
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})
	require.NoError(t, err)
	defer ep.Close()
	c, err := ssh.Dial(within(t), ep, n.Addr(alknet.QUIC), &ssh.ClientConfig{User: "nobody", Agent: dial})
	require.NoError(t, err)
	defer c.Close()
	var out, errs bytes.Buffer
	require.NoError(t, c.Run(within(t), &ssh.Cmd{
		Line: "id -un; id -Gn; echo $USER $HOME; ssh-add -l", Stdout: &out, Stderr: &errs, Agent: true,
	}), "%s", errs.String())
	require.Contains(t, out.String(), "nobody\nnogroup\nnobody "+nobody.HomeDir+"\n")
	require.Contains(t, out.String(), "planted")
	out.Reset()
	require.NoError(t, c.Run(within(t), &ssh.Cmd{Line: "stat -c %U $(tty); test -w $(tty) && echo writable", Stdout: &out, PTY: &ssh.PTY{Term: "vt100"}}))
	require.Equal(t, "nobody\r\nwritable\r\n", out.String())
	other, err := ssh.Dial(within(t), ep, n.Addr(alknet.QUIC), &ssh.ClientConfig{User: "root"})
	require.NoError(t, err)
	defer other.Close()
	var exit *ssh.ExitError
	errs.Reset()
	require.ErrorAs(t, other.Run(within(t), &ssh.Cmd{Line: "id", Stderr: &errs}), &exit)
	require.Equal(t, 126, exit.Status)
	require.Contains(t, errs.String(), "no such account")
}
