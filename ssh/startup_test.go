package ssh_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
)

// logged waits for a line of the log.
func (x *host) logged(text string) {
	x.t.Helper()
	require.Eventually(x.t, func() bool { return strings.Contains(x.log.String(), text) }, 30*time.Second, time.Millisecond, text)
}

// Who takes too long to log in is shut out as who fails is.
func TestUnfinishedLoginsArePunished(t *testing.T) {
	x := newHost(t, func(h *ssh.Handler) { h.Limits = ssh.Limits{VersionTimeout: 10 * time.Millisecond} })
	for range 2 { // 20 s of which 15 are forgiven
		require.True(t, closes(x.from("127.0.0.7"), 30*time.Second))
	}
	require.Eventually(t, func() bool { return strings.Count(x.log.String(), "result=unfinished") == 2 }, 30*time.Second, time.Millisecond)
	require.Eventually(t, func() bool {
		require.True(t, closes(x.from("127.0.0.7"), 30*time.Second))
		return strings.Contains(x.log.String(), "limit MaxPenalty")
	}, 30*time.Second, 10*time.Millisecond)
}

// Who makes the server panic before a login is shut out at once.
func TestCrashIsPunished(t *testing.T) {
	x := newHost(t, func(h *ssh.Handler) {
		h.Limits = ssh.Limits{}
		h.Users.AuthorizedKeys = func() ([]byte, error) { panic("planted") }
	})
	_, err := x.login(newKey(t))
	require.Error(t, err)
	x.logged("ssh panic")
	require.True(t, closes(x.from("127.0.0.1"), 30*time.Second))
	x.logged("limit MaxPenalty")
	require.False(t, closes(x.from("127.0.0.9"), 300*time.Millisecond), "another source is served")
}

// Shutdown does not wait for who has not logged in.
func TestShutdownEndsStartups(t *testing.T) {
	x := newHost(t, func(h *ssh.Handler) {
		h.Limits = ssh.Limits{VersionTimeout: -1, LoginTimeout: -1}
	})
	nc := x.from("127.0.0.1")
	_, err := io.ReadFull(nc, make([]byte, len("SSH-2.0-alknet\r\n")))
	require.NoError(t, err)
	require.NoError(t, x.h.Shutdown(within(t)))
	require.True(t, closes(nc, 30*time.Second))
}

// A login that is under way while Users changes is judged by what Users is then,
// wherever it was.
func TestReauthenticateFindsLoginsUnderWay(t *testing.T) {
	key := newKey(t)
	judged, goOn := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	x := newHost(t, func(h *ssh.Handler) {
		h.Users.Identity = func(_ context.Context, name string) (alknet.Identity, error) {
			if calls.Add(1) == 2 { // the key was offered, and now it is proven
				close(judged)
				<-goOn
			}
			return alknet.Identity{ID: name, Scopes: allScopes}, nil
		}
	})
	x.allow(line(t, "", key, "bob"))
	ended := make(chan error, 1)
	go func() {
		c, err := x.login(key)
		if err == nil {
			err = c.Wait()
		}
		ended <- err
	}()
	<-judged
	x.allow()
	require.NoError(t, x.h.Reauthenticate(within(t)))
	close(goOn)
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("a login that was judged before the change stays")
	}
}

// S3: a host key is offered with SHA-2 only.
func TestHostKeyHasNoSHA1(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	user := newKey(t)
	x := newHost(t, func(h *ssh.Handler) { h.HostKeys = []crypto.Signer{key} })
	x.allow(line(t, "", user, "bob"))
	for algorithm, ok := range map[string]bool{xssh.KeyAlgoRSASHA512: true, xssh.KeyAlgoRSASHA256: true, xssh.KeyAlgoRSA: false} {
		conn, _, _, err := xssh.NewClientConn(x.from("127.0.0.1"), x.addr, &xssh.ClientConfig{
			User: "bob", Auth: []xssh.AuthMethod{xssh.PublicKeys(signerOf(t, user))}, HostKeyAlgorithms: []string{algorithm},
			HostKeyCallback: xssh.InsecureIgnoreHostKey(),
		})
		require.Equal(t, ok, err == nil, "%s: %v", algorithm, err)
		if err == nil {
			_ = conn.Close()
		}
	}
}

// The hybrid key exchange is what a client of ours asks for first.
func TestClientPrefersPostQuantum(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	host := newKey(t)
	got := make(chan string, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		cfg := &xssh.ServerConfig{NoClientAuth: true}
		cfg.KeyExchanges = []string{xssh.KeyExchangeCurve25519, xssh.KeyExchangeMLKEM768X25519}
		cfg.AddHostKey(certifyHost(t, host))
		sc, chans, reqs, err := xssh.NewServerConn(nc, cfg)
		if err != nil {
			got <- err.Error()
			return
		}
		go xssh.DiscardRequests(reqs)
		got <- sc.Conn.(xssh.AlgorithmsConnMetadata).Algorithms().KeyExchange
		for range chans {
		}
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	c, err := ssh.NewClient(within(t), nc, &ssh.ClientConfig{Peer: peerOf(host)})
	require.NoError(t, err)
	require.Equal(t, xssh.KeyExchangeMLKEM768X25519, <-got)
	require.NoError(t, c.Close())
}

// A right that is lost between a request and its program is not had: who is asked
// for the account may take long.
func TestRightLostBeforeTheProgramBegins(t *testing.T) {
	var n *node
	var peer atomic.Pointer[alknet.PeerID]
	n = newNode(t, func(h *ssh.Handler) {
		h.Accounts = func(ctx context.Context, id *alknet.Identity, user string) (*ssh.Account, error) {
			n.Admit(*peer.Load(), alknet.Identity{ID: "bob"})
			if err := n.Router.Reauthenticate(ctx); err != nil {
				return nil, err
			}
			return testAccount(ctx, id, user)
		}
	})
	c, id := n.clientOf(alknet.QUIC, nil, ssh.ScopeShell)
	peer.Store(&id)
	var exit *ssh.ExitError
	require.ErrorAs(t, c.Run(within(t), &ssh.Cmd{Line: "sleep 1000"}), &exit)
	require.Equal(t, 126, exit.Status)
}

// A program ends when its peer would get another account.
func TestProgramEndsWithItsAccount(t *testing.T) {
	var changed atomic.Bool
	n := newNode(t, func(h *ssh.Handler) {
		h.Accounts = func(ctx context.Context, id *alknet.Identity, user string) (*ssh.Account, error) {
			a, err := testAccount(ctx, id, user)
			if err == nil && changed.Load() {
				a.Home = "/"
			}
			return a, err
		}
	})
	c := n.client(alknet.QUIC, ssh.ScopeShell)
	out, stdout := io.Pipe()
	ran := make(chan error, 1)
	go func() { ran <- c.Run(within(t), &ssh.Cmd{Line: "echo $$; exec sleep 1000", Stdout: stdout}) }()
	var pid int
	_, err := fmt.Fscan(out, &pid)
	require.NoError(t, err)
	require.NoError(t, n.Router.Reauthenticate(within(t)))
	require.NoError(t, c.Run(within(t), &ssh.Cmd{Line: "true"}), "nothing has changed")
	select {
	case err := <-ran:
		t.Fatalf("it was cut: %v", err)
	default:
	}
	changed.Store(true)
	require.NoError(t, n.h.Reauthenticate(within(t)))
	require.Error(t, <-ran)
	waitGone(t, pid)
}
