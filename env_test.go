package alknet_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testALPN = "example.com/test/1"

// A transportCase is one row of every table that runs on all transports.
type transportCase struct {
	name string
	over alknet.Transport // 0: Pipe
}

var transports = []transportCase{{"QUIC", alknet.QUIC}, {"Mux", alknet.Mux}, {"Raw", alknet.Raw}, {"Pipe", 0}}

// eachTransport runs f on every transport of the mask; Pipe where 0 is meant
// is always included unless network is asked for.
func eachTransport(t *testing.T, f func(t *testing.T, tc transportCase)) {
	for _, tc := range transports {
		t.Run(tc.name, func(t *testing.T) { f(t, tc) })
	}
}

// eachNetwork is eachTransport without Pipe, which has no handshake.
func eachNetwork(t *testing.T, f func(t *testing.T, over alknet.Transport)) {
	for _, tc := range transports[:3] {
		t.Run(tc.name, func(t *testing.T) { f(t, tc.over) })
	}
}

func newKey(t testing.TB) crypto.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return key
}

func keyID(key crypto.Signer) alknet.PeerID { return alknet.PeerID(key.Public().(ed25519.PublicKey)) }

// serve runs router on a new loopback endpoint until the test ends.
func serve(t testing.TB, router *alknet.Router, cfg *alknet.Config) *alknet.Endpoint {
	ep, err := alknet.Listen(t.Context(), "127.0.0.1:0", cfg)
	require.NoError(t, err)
	serveOn(t, router, ep)
	return ep
}

func serveOn(t testing.TB, router *alknet.Router, ep *alknet.Endpoint) {
	done := make(chan error, 1)
	go func() { done <- router.Serve(ep) }()
	t.Cleanup(func() {
		require.NoError(t, router.Close())
		require.NoError(t, ep.Close())
		err := <-done
		require.True(t, errors.Is(err, alknet.ErrRouterClosed) || errors.Is(err, net.ErrClosed), "%v", err)
	})
}

// client is an endpoint that only dials.
func client(t testing.TB, cfg *alknet.Config) *alknet.Endpoint {
	ep, err := alknet.NewEndpoint(nil, nil, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ep.Close()) })
	return ep
}

func addrOver(ep *alknet.Endpoint, over alknet.Transport) alknet.Addr {
	a := ep.Addr()
	a.Over = over
	return a
}

func dial(t testing.TB, from, to *alknet.Endpoint, over alknet.Transport) *alknet.Conn {
	c, err := from.Dial(t.Context(), addrOver(to, over), testALPN)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.CloseWithError(alknet.CodeOK, "") })
	return c
}

// connect returns a connection to a service with handler h on a transport.
func connect(t testing.TB, tc transportCase, h alknet.ProtocolHandler) *alknet.Conn {
	c, _ := connectRouter(t, tc, &alknet.Router{}, alknet.Service{Handler: h})
	return c
}

func connectRouter(t testing.TB, tc transportCase, router *alknet.Router, svc alknet.Service) (*alknet.Conn, *alknet.Router) {
	svc.ALPN, svc.Over = testALPN, tc.over
	require.NoError(t, router.Register(svc))
	if tc.over != 0 {
		return dial(t, client(t, nil), serve(t, router, nil), tc.over), router
	}
	return pipeTo(t, router, alknet.Identity{ID: "client"}), router
}

// pipeTo connects to router in memory as peer.
func pipeTo(t testing.TB, router *alknet.Router, peer alknet.Identity) *alknet.Conn {
	c, s := alknet.Pipe(testALPN, peer, alknet.Identity{ID: "server"})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = router.ServeConn(context.Background(), s)
	}()
	t.Cleanup(func() {
		_ = c.Close()
		_ = router.Close()
		<-done
	})
	return c
}

// open opens a stream on c that ends with the test.
func open(t testing.TB, c *alknet.Conn) *alknet.Stream {
	s, err := c.OpenStream(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.SetDeadline(time.Now().Add(20*time.Second)))
	return s
}

// wantDone waits for the end of a connection.
func wantDone(t testing.TB, c *alknet.Conn, why string) {
	select {
	case <-c.Done():
	case <-time.After(15 * time.Second):
		require.Fail(t, "the connection was not closed", why)
	}
}

// wantRefused checks that a connection that was dialled is refused with code,
// or on Raw, where no code arrives, just refused.
func wantRefused(t testing.TB, c *alknet.Conn, code alknet.ErrorCode, why string) {
	s, err := c.OpenStream(t.Context())
	if err == nil {
		_ = s.SetDeadline(time.Now().Add(15 * time.Second))
		_, _ = s.Write([]byte("x"))
		_, err = s.Read(make([]byte, 1))
	}
	require.Error(t, err, why)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, why)
	if c.Transport() == alknet.Raw {
		return
	}
	var e *alknet.Error
	require.ErrorAs(t, err, &e, why)
	require.Equal(t, code, e.Code, "%s: %v", why, err)
	require.True(t, e.Remote, why)
}

// logs collects what a Router logs.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// echo answers each stream with what it sends.
var echo = alknet.StreamFunc(func(_ context.Context, s *alknet.Stream) error {
	_, err := copyAll(s, s)
	return err
})
