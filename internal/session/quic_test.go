package session

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/require"
)

func serverTLS(t testing.TB) *tls.Config {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
	require.NoError(t, err)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"t"}}
}

// quicPair is a connection over two sockets; wrap may hide what they can do.
func quicPair(t testing.TB, wrap func(net.PacketConn) net.PacketConn) (client, server Session) {
	var udps [2]*UDP
	for i := range udps {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		udps[i] = NewUDP(wrap(pc), [32]byte{byte(i)})
		t.Cleanup(func() { _ = udps[i].Close() })
	}
	p := Params{HandshakeTimeout: 10 * time.Second, MaxStreams: 10, UniStreams: 10}
	ln, err := udps[0].Listen(ListenConfig{
		TLS: serverTLS(t), Params: func() Params { return p }, Retry: func(net.Addr) bool { return true },
		Admit: func(ctx context.Context, _ net.Addr) (context.Context, error) { return ctx, nil },
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	conf := ClientTLS{ALPN: "t", Verify: func(*x509.Certificate) error { return nil }}.Config()
	client, err = udps[1].Dial(t.Context(), udps[0].LocalAddr().(*net.UDPAddr), conf, p)
	require.NoError(t, err)
	server, _, err = ln.Accept(t.Context())
	require.NoError(t, err)
	return client, server
}

func plain(pc net.PacketConn) net.PacketConn { return pc }

// only hides everything of a socket but net.PacketConn.
type only struct{ net.PacketConn }

func hidden(pc net.PacketConn) net.PacketConn { return only{pc} }

func TestUnidirectionalStreamsAreRefused(t *testing.T) {
	c, s := quicPair(t, plain)
	done := make(chan struct{})
	go func() {
		defer close(done)
		RefuseUniStreams(s, 42)
	}()
	qc := c.Underlying().(*quic.Conn)
	for range 30 { // more than the limit: each refusal frees a place
		st, err := qc.OpenUniStreamSync(t.Context())
		require.NoError(t, err)
		_, err = st.Write([]byte("x"))
		for err == nil {
			_, err = st.Write([]byte("x"))
		}
		var se *quic.StreamError
		require.ErrorAs(t, err, &se)
		require.EqualValues(t, 42, se.ErrorCode)
		require.True(t, se.Remote)
	}
	require.NoError(t, c.Close(0, ""))
	<-done
	RefuseUniStreams(&muxSession{}, 0) // nothing to do on others
}

// With UDP_GRO and without it the same bytes arrive.
func TestReceivePathsAgree(t *testing.T) {
	for name, wrap := range map[string]func(net.PacketConn) net.PacketConn{"merged where the kernel can": plain, "one by one": hidden} {
		t.Run(name, func(t *testing.T) {
			c, s := quicPair(t, wrap)
			go func() {
				st, err := s.Accept(context.Background())
				if err != nil {
					return
				}
				_, _ = io.Copy(st, st)
				_ = st.CloseWrite()
			}()
			st, err := c.Open(t.Context())
			require.NoError(t, err)
			want := make([]byte, 4<<20)
			_, _ = rand.Read(want)
			go func() {
				_, _ = st.Write(want)
				_ = st.CloseWrite()
			}()
			got, err := io.ReadAll(st)
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.NoError(t, c.Close(0, ""))
		})
	}
}

func TestListenerRefusesWhomAdmitRefuses(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	udp := NewUDP(pc, [32]byte{})
	defer udp.Close()
	ln, err := udp.Listen(ListenConfig{
		TLS: serverTLS(t), Params: func() Params { return Params{} }, Retry: func(net.Addr) bool { return false },
		Admit: func(context.Context, net.Addr) (context.Context, error) { return nil, io.ErrShortBuffer },
	})
	require.NoError(t, err)
	defer ln.Close()
	conf := ClientTLS{ALPN: "t", Verify: func(*x509.Certificate) error { return nil }}.Config()
	_, err = udp.Dial(t.Context(), pc.LocalAddr().(*net.UDPAddr), conf, Params{HandshakeTimeout: time.Second})
	require.ErrorIs(t, err, ErrRefused)
}
