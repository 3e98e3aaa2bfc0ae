package ssh_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
)

// bubble is a connection in memory whose client answers nothing by itself.
func bubble(t *testing.T, h *ssh.Handler) (xssh.Conn, <-chan *xssh.Request, func()) {
	c, s := alknet.Pipe(ssh.ALPN, alknet.Identity{ID: "bob", Scopes: []string{ssh.ScopeShell}}, alknet.Identity{})
	done := make(chan struct{})
	go func() { defer close(done); _ = h.ServeConn(context.Background(), s) }()
	st, err := c.OpenStream(t.Context())
	require.NoError(t, err)
	conn, chans, reqs, err := xssh.NewClientConn(st, "x", &xssh.ClientConfig{HostKeyCallback: xssh.InsecureIgnoreHostKey(), User: "x"})
	require.NoError(t, err)
	go func() {
		for range chans {
		}
	}()
	return conn, reqs, func() {
		_ = conn.Close()
		_ = c.Close()
		<-done
	}
}

func TestKeepAliveEndsASilentPeer(t *testing.T) { synctest.Test(t, testKeepAliveEndsASilentPeer) }
func testKeepAliveEndsASilentPeer(t *testing.T) {
	conn, _, stop := bubble(t, &ssh.Handler{})
	defer stop()
	begun := time.Now()
	_ = conn.Wait()
	require.Equal(t, 45*time.Second, time.Since(begun))
}

func TestKeepAliveOff(t *testing.T) { synctest.Test(t, testKeepAliveOff) }
func testKeepAliveOff(t *testing.T) {
	conn, _, stop := bubble(t, &ssh.Handler{Limits: ssh.Limits{KeepAlive: -1}})
	ended := make(chan struct{})
	go func() { defer close(ended); _ = conn.Wait() }()
	time.Sleep(time.Hour)
	select {
	case <-ended:
		t.Error("the connection has ended")
	default:
	}
	stop()
	<-ended
}

func TestKeepAliveLeavesALivePeer(t *testing.T) { synctest.Test(t, testKeepAliveLeavesALivePeer) }
func testKeepAliveLeavesALivePeer(t *testing.T) {
	conn, reqs, stop := bubble(t, &ssh.Handler{})
	var asked atomic.Int64
	go func() {
		for req := range reqs {
			asked.Add(1)
			_ = req.Reply(false, nil)
		}
	}()
	time.Sleep(10*time.Minute + time.Second)
	require.EqualValues(t, 40, asked.Load())
	_, _, err := conn.SendRequest("keepalive@openssh.com", true, nil)
	require.NoError(t, err)
	stop()
	synctest.Wait()
}

func TestChannelThatAsksForNothing(t *testing.T) { synctest.Test(t, testChannelThatAsksForNothing) }
func testChannelThatAsksForNothing(t *testing.T) {
	conn, reqs, stop := bubble(t, &ssh.Handler{})
	defer stop()
	go xssh.DiscardRequests(reqs)
	ch, chReqs, err := conn.OpenChannel("session", nil)
	require.NoError(t, err)
	go xssh.DiscardRequests(chReqs)
	begun := time.Now()
	_, err = ch.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, 10*time.Second, time.Since(begun))
}

// The end of its context ends Run, also when the server does not close.
func TestRunDoesNotWaitForADeafServer(t *testing.T) {
	synctest.Test(t, testRunDoesNotWaitForADeafServer)
}
func testRunDoesNotWaitForADeafServer(t *testing.T) {
	c, s := alknet.Pipe(ssh.ALPN, alknet.Identity{}, alknet.Identity{})
	host := newKey(t)
	served := make(chan struct{})
	go func() { // a server that takes a command and never closes its channel
		defer close(served)
		st, err := s.AcceptStream(context.Background())
		if err != nil {
			return
		}
		cfg := &xssh.ServerConfig{NoClientAuth: true}
		cfg.AddHostKey(certifyHost(t, host))
		deaf := &deafConn{Conn: st}
		conn, chans, reqs, err := xssh.NewServerConn(deaf, cfg)
		if err != nil {
			return
		}
		go xssh.DiscardRequests(reqs)
		for ch := range chans {
			_, chReqs, err := ch.Accept()
			if err != nil {
				return
			}
			go func() {
				for req := range chReqs {
					_ = req.Reply(true, nil)
					deaf.deaf.Store(true)
				}
			}()
		}
		_ = conn.Wait()
	}()
	st, err := c.OpenStream(t.Context())
	require.NoError(t, err)
	client, err := ssh.NewClient(t.Context(), st, &ssh.ClientConfig{Peer: peerOf(host), KeepAlive: -1})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begun := time.Now()
	require.ErrorIs(t, client.Run(ctx, &ssh.Cmd{Line: "x"}), context.DeadlineExceeded)
	require.Equal(t, time.Minute+10*time.Second, time.Since(begun))
	_ = client.Close()
	_ = c.Close()
	<-served
}

// A deafConn hears nothing once it is deaf.
type deafConn struct {
	net.Conn
	deaf atomic.Bool
}

func (c *deafConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.deaf.Load() {
			return n, err
		}
	}
}

// certifyHost is a host key that certifies itself, as a node without a key of
// its own for SSH could.
func certifyHost(t *testing.T, key ed25519.PrivateKey) xssh.Signer {
	id := peerOf(key).String()
	cert := &xssh.Certificate{
		Key: signerOf(t, key).PublicKey(), CertType: xssh.HostCert, ValidPrincipals: []string{id}, ValidBefore: xssh.CertTimeInfinity,
	}
	require.NoError(t, cert.SignCert(rand.Reader, signerOf(t, key)))
	s, err := xssh.NewCertSigner(cert, signerOf(t, key))
	require.NoError(t, err)
	return s
}

func TestSessionIdle(t *testing.T) { synctest.Test(t, testSessionIdle) }
func testSessionIdle(t *testing.T) {
	for _, idle := range []time.Duration{time.Minute, 0} {
		conn, reqs, stop := bubble(t, &ssh.Handler{
			Limits: ssh.Limits{SessionIdle: idle},
			Session: func(ctx context.Context, s *ssh.Session) int {
				_, _ = io.Copy(s, s)
				return 0
			},
		})
		go xssh.DiscardRequests(reqs)
		ch, chReqs, err := conn.OpenChannel("session", nil)
		require.NoError(t, err)
		go xssh.DiscardRequests(chReqs)
		ok, err := ch.SendRequest("shell", true, nil)
		require.NoError(t, err)
		require.True(t, ok)
		for range 3 {
			time.Sleep(40 * time.Second)
			_, err := ch.Write([]byte("x"))
			require.NoError(t, err)
			_, err = io.ReadFull(ch, make([]byte, 1))
			require.NoError(t, err)
		}
		begun := time.Now()
		if idle == 0 {
			time.AfterFunc(time.Hour, func() { _ = ch.CloseWrite() })
		}
		_, err = ch.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		if idle == 0 {
			require.Equal(t, time.Hour, time.Since(begun))
		} else {
			require.Equal(t, idle, time.Since(begun))
		}
		stop()
	}
}

// A stream that says nothing, or stops after its version, ends in its time.
func TestLoginDeadlines(t *testing.T) { synctest.Test(t, testLoginDeadlines) }
func testLoginDeadlines(t *testing.T) {
	for said, want := range map[string]time.Duration{"": 10 * time.Second, "SSH-2.0-x": 10 * time.Second, "SSH-2.0-x\r\n": 30 * time.Second} {
		c, s := alknet.Pipe(ssh.ALPN, alknet.Identity{ID: "bob"}, alknet.Identity{})
		done := make(chan struct{})
		go func() { defer close(done); _ = (&ssh.Handler{}).ServeConn(context.Background(), s) }()
		st, err := c.OpenStream(t.Context())
		require.NoError(t, err)
		begun := time.Now()
		_, err = io.WriteString(st, said)
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, st)
		require.Equal(t, want, time.Since(begun), "%q", said)
		_ = c.Close()
		<-done
	}
}

// An anonymous peer is refused without Users, and asked to log in with them.
func TestAnonymousPeer(t *testing.T) {
	key := newKey(t)
	for _, users := range []*ssh.Users{nil, {AuthorizedKeys: func() ([]byte, error) { return []byte(line(t, "", key, "bob")), nil }}} {
		c, s := alknet.Pipe(ssh.ALPN, alknet.Identity{}, alknet.Identity{})
		done := make(chan struct{})
		go func() { defer close(done); _ = (&ssh.Handler{Users: users}).ServeConn(context.Background(), s) }()
		for _, auth := range [][]xssh.AuthMethod{nil, {xssh.PublicKeys(signerOf(t, key))}} {
			st, err := c.OpenStream(t.Context())
			require.NoError(t, err)
			conn, _, _, err := xssh.NewClientConn(st, "x", &xssh.ClientConfig{HostKeyCallback: xssh.InsecureIgnoreHostKey(), User: "bob", Auth: auth})
			require.Equal(t, users != nil && auth != nil, err == nil, "%v", err)
			if err == nil {
				_ = conn.Close()
			}
		}
		_ = c.Close()
		<-done
	}
}

// No line of the log has what a peer asked for, also where it was refused.
func TestLogHasNoSecrets(t *testing.T) {
	n := newNode(t, nil)
	dir := t.TempDir() + "/planted-folder"
	n.policy("allow * dial tcp planted-host.test:443")
	c := n.client(alknet.QUIC, allScopes...)
	for _, l := range []string{"echo planted-command", "planted-command; exit 3"} {
		_ = c.Run(within(t), &ssh.Cmd{Line: l, Env: []string{"LC_X=planted-variable", "PATH=planted-variable"}})
	}
	for _, target := range [][2]string{{"tcp", "planted-host.test:80"}, {"tcp", "planted-host.test:443"}, {"tcp", "127.0.0.1:59999"}, {"unix", dir + "/s"}} {
		_, err := c.DialContext(within(t), target[0], target[1])
		require.Error(t, err)
		_, err = c.Listen(within(t), target[0], target[1])
		require.Error(t, err)
	}
	_, err := c.Subsystem(within(t), "planted-subsystem")
	require.Error(t, err)
	plain := n.client(alknet.QUIC)
	require.Error(t, plain.Run(within(t), &ssh.Cmd{Line: "planted-command"}))
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool { return strings.Contains(n.log.String(), "ssh logout") }, 30*time.Second, time.Millisecond)
	require.Contains(t, n.log.String(), "ssh refused")
	require.NotContains(t, n.log.String(), "planted")
	require.NotContains(t, n.log.String(), "59999")
}
