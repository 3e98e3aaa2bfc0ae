package session

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// A countingConn counts its writes, and fails them if it is told to.
type countingConn struct {
	net.Conn
	writes atomic.Int64
	fail   atomic.Pointer[error]
}

func (c *countingConn) Write(b []byte) (int, error) {
	if err := c.fail.Load(); err != nil {
		return 0, *err
	}
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// gathered is a TLS connection that gathers, what counts below it, and its peer.
func gathered(t *testing.T) (*gatheredTLS, *countingConn, *tls.Conn) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	here, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	there, err := l.Accept()
	require.NoError(t, err)
	counting := &countingConn{Conn: here}
	watch := Watch(counting)
	server := tls.Server(watch, &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, DynamicRecordSizingDisabled: true,
	})
	client := tls.Client(there, &tls.Config{InsecureSkipVerify: true})
	done := make(chan error, 1)
	go func() { done <- client.Handshake() }()
	require.NoError(t, server.Handshake())
	require.NoError(t, <-done)
	t.Cleanup(func() { _ = watch.Close(); _ = there.Close() })
	return &gatheredTLS{server, watch}, counting, client
}

func TestGatherWritesAFrameAtOnce(t *testing.T) {
	g, counting, peer := gathered(t)
	for _, size := range []int{1, recordBytes, recordBytes + 1, 64 << 10, 300 << 10} {
		data := make([]byte, size)
		_, _ = rand.Read(data)
		before := counting.writes.Load()
		got := make(chan []byte, 1)
		go func() {
			b := make([]byte, size)
			_, _ = io.ReadFull(peer, b)
			got <- b
		}()
		n, err := g.Write(data)
		require.NoError(t, err)
		require.Equal(t, size, n)
		require.True(t, bytes.Equal(data, <-got), "%d bytes", size)
		want := int64(1 + size/gatherBytes) // as many as there must be
		require.Equal(t, want, counting.writes.Load()-before, "%d bytes", size)
	}
}

func TestGatherReportsWhatFails(t *testing.T) {
	g, counting, _ := gathered(t)
	planted := errors.New("planted")
	counting.fail.Store(&planted)
	n, err := g.Write(make([]byte, 64<<10))
	require.ErrorIs(t, err, planted)
	require.Zero(t, n)
	require.Nil(t, g.watch.gather.buf, "nothing is held back")
}
