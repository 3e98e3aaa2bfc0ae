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
	"golang.org/x/net/ipv4"
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

// A merged batch is split into the datagrams that were sent, an empty one and
// several senders among them.
func TestMergedDatagramsAreSplit(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer pc.Close()
	conn, ok := receiveGRO(pc)
	if !ok {
		t.Skip("this kernel does not merge datagrams: TestReceivePathsAgree has the other path")
	}
	batch := conn.(interface {
		ReadBatch([]ipv4.Message, int) (int, error)
	})
	var senders []net.Conn
	for range 2 {
		uc, err := net.Dial("udp", pc.LocalAddr().String())
		require.NoError(t, err)
		defer uc.Close()
		senders = append(senders, uc)
	}
	sizes := []int{1200, 1200, 1200, 0, 700, 1200, 1}
	for i, n := range sizes {
		_, err := senders[i%2].Write(make([]byte, n))
		require.NoError(t, err)
	}
	require.NoError(t, pc.SetReadDeadline(time.Now().Add(10*time.Second)))
	var got []int
	ms := make([]ipv4.Message, 8)
	for i := range ms {
		ms[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 1500)}, OOB: make([]byte, 128)}
	}
	for len(got) < len(sizes)-1 {
		n, err := batch.ReadBatch(ms, 0)
		require.NoError(t, err)
		require.Positive(t, n, "the library takes no empty batch")
		for _, m := range ms[:n] {
			got = append(got, m.N)
			require.NotNil(t, m.Addr)
		}
	}
	require.Equal(t, []int{1200, 1200, 1200, 700, 1200, 1}, got)
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
