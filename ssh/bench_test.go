package ssh_test

import (
	"crypto"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet/ssh"
)

// A login on a listener, both ends in this process.
func BenchmarkLogin(b *testing.B) {
	x := newHost(b, nil)
	key := newKey(b)
	x.allow(line(b, "", key, "bob"))
	cfg := &xssh.ClientConfig{
		User: "bob", Auth: []xssh.AuthMethod{xssh.PublicKeys(signerOf(b, key))}, HostKeyCallback: xssh.InsecureIgnoreHostKey(),
	}
	b.ReportAllocs()
	for b.Loop() {
		c, err := xssh.Dial("tcp", x.addr, cfg)
		require.NoError(b, err)
		_ = c.Close()
	}
}

// The same without our code: what the library costs.
func BenchmarkLoginBare(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	key, host := newKey(b), newKey(b)
	cfg := &xssh.ServerConfig{PublicKeyCallback: func(xssh.ConnMetadata, xssh.PublicKey) (*xssh.Permissions, error) { return nil, nil }}
	cfg.AddHostKey(signerOf(b, host))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, chans, reqs, err := xssh.NewServerConn(nc, cfg)
				if err != nil {
					return
				}
				go xssh.DiscardRequests(reqs)
				for ch := range chans {
					_ = ch.Reject(xssh.Prohibited, "")
				}
			}()
		}
	}()
	defer func() { _ = l.Close(); <-done }()
	client := &xssh.ClientConfig{
		User: "bob", Auth: []xssh.AuthMethod{xssh.PublicKeys(signerOf(b, key))}, HostKeyCallback: xssh.InsecureIgnoreHostKey(),
	}
	b.ReportAllocs()
	for b.Loop() {
		c, err := xssh.Dial("tcp", l.Addr().String(), client)
		require.NoError(b, err)
		_ = c.Close()
	}
}

// Bytes of a command, over TCP, both ends in this process.
func BenchmarkCat(b *testing.B) {
	x := newHost(b, func(h *ssh.Handler) { h.HostKeys = []crypto.Signer{newKey(b)} })
	key := newKey(b)
	x.allow(line(b, "", key, "bob"))
	c, err := xssh.Dial("tcp", x.addr, &xssh.ClientConfig{
		User: "bob", Auth: []xssh.AuthMethod{xssh.PublicKeys(signerOf(b, key))}, HostKeyCallback: xssh.InsecureIgnoreHostKey(),
	})
	require.NoError(b, err)
	defer c.Close()
	const size = 64 << 20
	b.SetBytes(size)
	for b.Loop() {
		s, err := c.NewSession()
		require.NoError(b, err)
		out, err := s.StdoutPipe()
		require.NoError(b, err)
		require.NoError(b, s.Start("head -c 67108864 /dev/zero"))
		n, err := io.Copy(io.Discard, out)
		require.NoError(b, err)
		require.EqualValues(b, size, n)
		require.NoError(b, s.Wait())
	}
}
