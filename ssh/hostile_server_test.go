package ssh_test

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet/ssh"
)

// escape is what a server would like a terminal to read.
const escape = "\x1b[31mred\u202e"

// wantPlain wants an error that says something and shows nothing of escape as it is.
func wantPlain(t *testing.T, err error) {
	t.Helper()
	require.ErrorContains(t, err, "red")
	require.NotContains(t, err.Error(), "\x1b")
	require.NotContains(t, err.Error(), "\u202e")
}

// hostile is a client of ours and the server's end of it.
func hostile(t *testing.T, cfg *ssh.ClientConfig) (*ssh.Client, *xssh.ServerConn, <-chan xssh.NewChannel) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	host := newKey(t)
	type server struct {
		conn  *xssh.ServerConn
		chans <-chan xssh.NewChannel
	}
	served := make(chan server, 1)
	go func() {
		defer close(served)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		sc := &xssh.ServerConfig{NoClientAuth: true}
		sc.AddHostKey(certifyHost(t, host))
		conn, chans, reqs, err := xssh.NewServerConn(nc, sc)
		if err != nil {
			return
		}
		go xssh.DiscardRequests(reqs)
		served <- server{conn, chans}
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	cfg.Peer = peerOf(host)
	c, err := ssh.NewClient(within(t), nc, cfg)
	require.NoError(t, err)
	s := <-served
	require.NotNil(t, s.conn)
	t.Cleanup(func() {
		_ = c.Close()
		_ = s.conn.Close()
		for ch := range s.chans {
			_ = ch.Reject(xssh.Prohibited, "")
		}
	})
	return c, s.conn, s.chans
}

// S7: what a server says reaches no terminal by an error.
func TestTextOfTheServerIsQuoted(t *testing.T) {
	c, _, chans := hostile(t, &ssh.ClientConfig{})
	go func() { // refuses a forward, refuses a command, and ends one
		for i := 0; ; i++ {
			nch, ok := <-chans
			if !ok {
				return
			}
			if nch.ChannelType() != "session" {
				_ = nch.Reject(xssh.ConnectionFailed, escape)
				continue
			}
			ch, reqs, err := nch.Accept()
			if err != nil {
				return
			}
			go func() {
				defer ch.Close()
				req, ok := <-reqs
				if !ok {
					return
				}
				if i == 1 {
					_, _ = io.WriteString(ch.Stderr(), escape)
					_ = req.Reply(false, nil)
					return
				}
				_ = req.Reply(true, nil)
				_, _ = ch.SendRequest("exit-signal", false, xssh.Marshal(struct {
					Name    string
					Core    bool
					Message string
					Lang    string
				}{escape, false, escape, ""}))
			}()
		}
	}()
	_, err := c.DialContext(within(t), "tcp", "x.test:1")
	wantPlain(t, err)
	for range 2 {
		wantPlain(t, c.Run(within(t), &ssh.Cmd{Line: "x"}))
	}
}

// A status comes before the end of the output: without that end, what was printed
// is a part.
func TestOutputThatIsCutHasNoStatus(t *testing.T) {
	for _, cut := range []bool{true, false} {
		c, server, chans := hostile(t, &ssh.ClientConfig{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			ch, reqs, err := (<-chans).Accept()
			if err != nil {
				return
			}
			_ = (<-reqs).Reply(true, nil)
			go xssh.DiscardRequests(reqs)
			_, _ = io.WriteString(ch, "the first half")
			_, _ = ch.SendRequest("exit-status", false, make([]byte, 4))
			if cut {
				_ = server.Close()
				return
			}
			_ = ch.CloseWrite()
			_ = ch.Close()
		}()
		err := c.Run(within(t), &ssh.Cmd{Line: "x"})
		<-done
		if cut {
			require.ErrorIs(t, err, net.ErrClosed)
		} else {
			require.NoError(t, err)
		}
	}
}

// dialServer connects to a server that is serve, which has returned when the test
// ends.
func dialServer(t *testing.T, serve func(nc net.Conn)) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		<-done
	})
	go func() {
		defer close(done)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		serve(nc)
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() }) // the client may have
	return nc
}

// A goodbye is text of the server too.
func TestTextOfAGoodbyeIsQuoted(t *testing.T) {
	nc := dialServer(t, func(nc net.Conn) {
		payload := append([]byte{1}, xssh.Marshal(struct { // SSH_MSG_DISCONNECT
			Reason        uint32
			Message, Lang string
		}{2, escape, ""})...)
		padding := 16 - (5+len(payload))%8
		packet := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+padding))
		packet = append(append(append(packet, byte(padding)), payload...), make([]byte, padding)...)
		_, _ = io.WriteString(nc, "SSH-2.0-x\r\n")
		_, _ = nc.Write(packet)
		_, _ = io.Copy(io.Discard, nc)
	})
	_, err := ssh.NewClient(within(t), nc, &ssh.ClientConfig{Peer: peerOf(newKey(t))})
	wantPlain(t, err)
}

// S7: a client opens nothing for a server that it has not asked for it.
func TestClientRefusesWhatItHasNotAskedFor(t *testing.T) {
	_, server, _ := hostile(t, &ssh.ClientConfig{})
	tcp := xssh.Marshal(struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}{"127.0.0.1", 22, "127.0.0.1", 1})
	for kind, payload := range map[string][]byte{
		"auth-agent@openssh.com": nil, "forwarded-tcpip": tcp, "forwarded-streamlocal@openssh.com": xssh.Marshal(struct{ A, B string }{"/x", ""}),
		"x11": xssh.Marshal(struct {
			Host string
			Port uint32
		}{"127.0.0.1", 1}), "session": nil, "direct-tcpip": tcp,
	} {
		_, _, err := server.OpenChannel(kind, payload)
		var refused *xssh.OpenChannelError
		require.ErrorAs(t, err, &refused, kind)
		require.Equal(t, xssh.Prohibited, refused.Reason, kind)
	}
}

// S7: a host certificate that names nobody is for nobody, whoever has signed it.
func TestClientRefusesACertificateOfNobody(t *testing.T) {
	node := newKey(t)
	host := newKey(t)
	cert := &xssh.Certificate{Key: signerOf(t, host).PublicKey(), CertType: xssh.HostCert, ValidBefore: xssh.CertTimeInfinity}
	require.NoError(t, cert.SignCert(rand.Reader, signerOf(t, node)))
	signer, err := xssh.NewCertSigner(cert, signerOf(t, host))
	require.NoError(t, err)
	nc := dialServer(t, func(nc net.Conn) {
		cfg := &xssh.ServerConfig{NoClientAuth: true}
		cfg.AddHostKey(signer)
		if _, _, _, err := xssh.NewServerConn(nc, cfg); err == nil {
			t.Error("the client has logged in")
		}
	})
	_, err = ssh.NewClient(within(t), nc, &ssh.ClientConfig{Peer: peerOf(node)})
	require.ErrorContains(t, err, "names nobody")
}
