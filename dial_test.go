package alknet_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

// deafUDP is a port on which UDP is open and nobody answers, and TCP is served.
func deafUDP(t *testing.T, router *alknet.Router) *alknet.Endpoint {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	udp, err := net.ListenPacket("udp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = udp.Close() })
	ep, err := alknet.NewEndpoint(nil, ln, nil)
	require.NoError(t, err)
	serveOn(t, router, ep)
	return ep
}

func TestDialPrefersQUIC(t *testing.T) {
	router := &alknet.Router{}
	router.Handle(testALPN, echo)
	c := dial(t, client(t, nil), serve(t, router, nil), 0)
	require.Equal(t, alknet.QUIC, c.Transport())
}

func TestDialFallsBackToTCPAndRemembers(t *testing.T) {
	router := &alknet.Router{}
	router.Handle(testALPN, echo)
	server, cl := deafUDP(t, router), client(t, &alknet.Config{DialFallback: 50 * time.Millisecond})
	start := time.Now()
	c := dial(t, cl, server, alknet.QUIC|alknet.Mux)
	first := time.Since(start)
	require.Equal(t, alknet.Mux, c.Transport())
	require.GreaterOrEqual(t, first, 50*time.Millisecond)
	echoOnce(t, open(t, c))

	cl = client(t, &alknet.Config{DialFallback: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := cl.Dial(ctx, addrOver(server, alknet.QUIC|alknet.Mux), testALPN)
	require.ErrorIs(t, err, context.DeadlineExceeded, "TCP waits for its time")

	cl = client(t, &alknet.Config{DialFallback: 10 * time.Millisecond})
	_ = dial(t, cl, server, alknet.QUIC|alknet.Mux)
	require.Equal(t, alknet.Mux, dial(t, cl, server, alknet.QUIC|alknet.Mux).Transport(), "at once: UDP is known to be dead")
}

// Where nothing listens on UDP the kernel says so on loopback, or not; where
// QUIC alone is served TCP says so. Either way the other transport is used.
func TestDialUsesTheTransportThatIsServed(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux} {
		t.Run(over.String(), func(t *testing.T) {
			router := &alknet.Router{}
			require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
			server := serve(t, router, nil)
			for _, fallback := range []time.Duration{time.Hour, -1, time.Nanosecond} {
				c := dial(t, client(t, &alknet.Config{DialFallback: fallback}), server, alknet.QUIC|alknet.Mux)
				require.Equal(t, over, c.Transport(), "fallback %v", fallback)
			}
		})
	}
}

func TestDialStopsWithItsContext(t *testing.T) {
	server := deafUDP(t, &alknet.Router{})
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux, alknet.Raw} {
		to := addrOver(server, over)
		if over != alknet.QUIC { // a listener that accepts and says nothing
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer ln.Close()
			to.HostPort = ln.Addr().String()
		}
		ctx, cancel := context.WithCancel(t.Context())
		stop := time.AfterFunc(50*time.Millisecond, cancel)
		defer stop.Stop()
		start := time.Now()
		_, err := client(t, nil).Dial(ctx, to, testALPN)
		require.ErrorIs(t, err, context.Canceled, over.String())
		require.Less(t, time.Since(start), 5*time.Second)
	}
}

func TestDialRefusesBadAddresses(t *testing.T) {
	cl := client(t, nil)
	for name, to := range map[string]alknet.Addr{
		"no port":     {HostPort: "localhost"},
		"bad port":    {HostPort: "localhost:99999"},
		"Mux and Raw": {HostPort: "localhost:1", Over: alknet.Mux | alknet.Raw},
		"nothing":     {},
	} {
		_, err := cl.Dial(t.Context(), to, testALPN)
		require.Error(t, err, name)
	}
	_, err := cl.Dial(t.Context(), alknet.Addr{HostPort: "localhost:1", Via: "relay"}, testALPN)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = cl.Dial(t.Context(), alknet.Addr{HostPort: "localhost:1"}, "")
	require.Error(t, err)
	require.NoError(t, cl.Close())
	_, err = cl.Dial(t.Context(), alknet.Addr{HostPort: "127.0.0.1:1"}, testALPN)
	require.ErrorIs(t, err, net.ErrClosed)
}

// namedServer is an endpoint with a certificate for a name of the web.
func namedServer(t *testing.T, router *alknet.Router, name string) (*alknet.Endpoint, *x509.CertPool) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	return serve(t, router, &alknet.Config{Certificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if h.ServerName == name {
			return cert, nil
		}
		return nil, nil
	}}), pool
}

func TestDialByNameUsesWebPKI(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		seen := make(chan alknet.Identity, 1)
		router := &alknet.Router{}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, AllowAnonymous: true,
			Handler: alknet.HandlerFunc(func(_ context.Context, c *alknet.Conn) error {
				seen <- c.Identity()
				<-c.Done()
				return nil
			})}))
		server, pool := namedServer(t, router, "node.example")
		to := alknet.Addr{HostPort: server.Addr().HostPort, ServerName: "node.example", Over: over}
		c, err := client(t, &alknet.Config{Roots: pool}).Dial(t.Context(), to, testALPN)
		require.NoError(t, err)
		require.Equal(t, alknet.Identity{ID: "node.example"}, c.Identity())
		require.Equal(t, alknet.Identity{}, <-seen, "by name no client certificate is shown")
		require.NoError(t, c.CloseWithError(alknet.CodeOK, ""))

		for name, bad := range map[string]struct {
			to    alknet.Addr
			roots *x509.CertPool
		}{
			"another name":    {alknet.Addr{HostPort: to.HostPort, ServerName: "other.example", Over: over}, pool},
			"unknown root":    {to, x509.NewCertPool()},
			"an IP, no proof": {alknet.Addr{HostPort: to.HostPort, Over: over}, pool},
		} {
			_, err := client(t, &alknet.Config{Roots: bad.roots}).Dial(t.Context(), bad.to, testALPN)
			var e *alknet.Error
			require.ErrorAs(t, err, &e, name)
			require.Equal(t, alknet.CodeUnauthenticated, e.Code, name)
		}
		// By key no name is sent, so the node's own certificate answers.
		by := addrOver(server, over)
		c, err = client(t, nil).Dial(t.Context(), by, testALPN)
		require.NoError(t, err)
		require.Equal(t, server.ID(), c.Identity().Peer)
		<-seen
		require.NoError(t, c.CloseWithError(alknet.CodeOK, ""))
	})
}

func TestEndpointCloseEndsDialledConnections(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux, alknet.Raw} {
		router := &alknet.Router{}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
		server := serve(t, router, nil)
		cl, err := alknet.NewEndpoint(nil, nil, nil)
		require.NoError(t, err)
		c := dial(t, cl, server, over)
		echoOnce(t, open(t, c))
		require.NoError(t, cl.Close())
		wantDone(t, c, "its endpoint was closed")
		require.NoError(t, cl.Close())
	}
}

// The socket that accepts also dials, so that both ends see one address.
func TestDialSharesTheListeningSocket(t *testing.T) {
	router := &alknet.Router{}
	router.Handle(testALPN, echo)
	a, b := serve(t, router, nil), serve(t, router, nil)
	c := dial(t, a, b, alknet.QUIC)
	require.Equal(t, a.Addr().HostPort, c.LocalAddr().String())
	echoOnce(t, open(t, c))
}

func TestKeepAliveOutlastsTheIdleTimeout(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux} {
		router := &alknet.Router{Limits: alknet.Limits{IdleTimeout: time.Second}}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
		cl := client(t, &alknet.Config{KeepAlive: 100 * time.Millisecond})
		c := dial(t, cl, serve(t, router, nil), over)
		select {
		case <-c.Done():
			require.Fail(t, "an idle connection with keep-alive was closed", over.String())
		case <-time.After(2500 * time.Millisecond):
		}
		echoOnce(t, open(t, c))
	}
}
