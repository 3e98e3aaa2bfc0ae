package alknet_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/session"
)

// A thief has somebody's certificate and not the key: it lets the owner sign
// the certificate, and then signs handshakes with a key of its own.
type thief struct {
	owner, own crypto.Signer
	signed     atomic.Int32
}

func (k *thief) Public() crypto.PublicKey { return k.owner.Public() }

func (k *thief) Sign(r io.Reader, msg []byte, o crypto.SignerOpts) ([]byte, error) {
	if k.signed.Add(1) == 1 {
		return k.owner.Sign(r, msg, o)
	}
	return k.own.Sign(r, msg, o)
}

// The first negative test of the package: a certificate proves nothing without its key.
func TestCertificateWithoutItsKeyIsRefused(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		var served atomic.Int32
		router := &alknet.Router{}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, AllowAnonymous: true,
			Handler: alknet.HandlerFunc(func(_ context.Context, c *alknet.Conn) error { served.Add(1); return nil })}))
		server := serve(t, router, nil)
		victim := newKey(t)
		stranger := client(t, &alknet.Config{Key: &thief{owner: victim, own: newKey(t)}})
		require.Equal(t, keyID(victim), stranger.ID())
		c, err := stranger.Dial(t.Context(), addrOver(server, over), testALPN)
		if err == nil { // in TLS 1.3 the client is done first
			wantFails(t, c)
		}
		require.Zero(t, served.Load())
		require.Zero(t, router.Stats().Services[testALPN].Handshakes)
		// The owner of the key is served: the test can tell the two apart.
		c = dial(t, client(t, &alknet.Config{Key: victim}), server, over)
		wantFails(t, c) // the handler returned
		require.EqualValues(t, 1, served.Load())
	})
}

// wantFails checks that nothing comes of a connection.
func wantFails(t testing.TB, c *alknet.Conn) {
	s, err := c.OpenStream(t.Context())
	if err == nil {
		_ = s.SetDeadline(time.Now().Add(15 * time.Second))
		_, _ = s.Write([]byte("x"))
		_, err = s.Read(make([]byte, 1))
	}
	require.Error(t, err)
	require.False(t, isTimeout(err), "%v", err)
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestServerWithoutItsKeyIsRefused(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		router := &alknet.Router{}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
		k := &thief{owner: newKey(t), own: newKey(t)}
		ep, err := alknet.Listen(t.Context(), "127.0.0.1:0", &alknet.Config{Key: k})
		require.NoError(t, err)
		k.signed.Store(1)
		serveOn(t, router, ep)
		_, err = client(t, nil).Dial(t.Context(), addrOver(ep, over), testALPN)
		require.Error(t, err)
	})
}

func TestWrongKeyAtTheAddressIsTyped(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		router := &alknet.Router{}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
		to := addrOver(serve(t, router, nil), over)
		to.Peer = keyID(newKey(t))
		_, err := client(t, nil).Dial(t.Context(), to, testALPN)
		var e *alknet.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, alknet.CodeUnauthenticated, e.Code)
		require.False(t, e.Remote)
	})
}

func TestBothEndsSeeTheProvenKey(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		seen := make(chan alknet.Identity, 1)
		router := &alknet.Router{Authenticate: func(_ context.Context, cs tls.ConnectionState, alpn string) (alknet.Identity, error) {
			return alknet.Identity{ID: "alice", Peer: alknet.PeerID{1}, Scopes: []string{"a"}}, nil // the key is a lie
		}}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over,
			Handler: alknet.HandlerFunc(func(ctx context.Context, c *alknet.Conn) error {
				got, ok := alknet.ConnFromContext(ctx)
				if ok && got == c {
					seen <- c.Identity()
				}
				return nil
			})}))
		server, cl := serve(t, router, nil), client(t, nil)
		c := dial(t, cl, server, over)
		require.Equal(t, alknet.Identity{ID: "alice", Peer: cl.ID(), Scopes: []string{"a"}}, <-seen)
		require.Equal(t, server.ID(), c.Identity().Peer)
		require.Equal(t, testALPN, c.ALPN())
		require.Equal(t, over, c.Transport())
	})
}

// peers is a list of known keys that changes.
type peers struct {
	mu    sync.Mutex
	known map[alknet.PeerID]string
}

func (p *peers) set(id alknet.PeerID, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = make(map[alknet.PeerID]string)
	}
	p.known[id] = name
}

func (p *peers) authenticate(_ context.Context, cs tls.ConnectionState, _ string) (alknet.Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return alknet.Identity{}, nil
	}
	id := alknet.PeerID(cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey))
	p.mu.Lock()
	defer p.mu.Unlock()
	if name, ok := p.known[id]; ok && name == "" {
		return alknet.Identity{}, &alknet.Error{Code: alknet.CodeRevoked, Reason: "no longer"}
	}
	return alknet.Identity{ID: p.known[id]}, nil
}

func TestRevokedPeerIsCutWithinASecond(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		var list peers
		router := &alknet.Router{Authenticate: list.authenticate}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
		server, bad, good := serve(t, router, nil), client(t, nil), client(t, nil)
		list.set(bad.ID(), "mallory")
		list.set(good.ID(), "alice")
		cut, kept := dial(t, bad, server, over), dial(t, good, server, over)
		var streams []*alknet.Stream
		for _, c := range []*alknet.Conn{cut, kept} {
			s := open(t, c)
			echoOnce(t, s)
			streams = append(streams, s)
		}
		list.set(bad.ID(), "")
		start := time.Now()
		require.NoError(t, router.Reauthenticate(t.Context()))
		_, err := streams[0].Read(make([]byte, 1))
		require.Less(t, time.Since(start), time.Second)
		require.Error(t, err)
		if over != alknet.Raw {
			var e *alknet.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, alknet.CodeRevoked, e.Code)
		}
		echoOnce(t, streams[1])
		require.EqualValues(t, 1, router.Stats().Refused["revoked"])
	})
}

// Who watches a connection hears of each new identity, and of the end of all
// rights of a peer that is no longer welcome.
func TestOnIdentityHearsOfChanges(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		scopes, welcome := atomic.Pointer[[]string]{}, atomic.Bool{}
		scopes.Store(&[]string{"a", "b"})
		welcome.Store(true)
		router := &alknet.Router{Authenticate: func(context.Context, tls.ConnectionState, string) (alknet.Identity, error) {
			if !welcome.Load() {
				return alknet.Identity{}, &alknet.Error{Code: alknet.CodeRevoked}
			}
			return alknet.Identity{ID: "alice", Scopes: *scopes.Load()}, nil
		}}
		served := make(chan *alknet.Conn, 1)
		ended := make(chan struct{})
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: alknet.HandlerFunc(func(ctx context.Context, c *alknet.Conn) error {
			served <- c
			<-ctx.Done()
			close(ended)
			return nil
		})}))
		_ = dial(t, client(t, nil), serve(t, router, nil), over)
		c := <-served
		var heard [][]string
		stop := c.OnIdentity(func() { heard = append(heard, c.SharedIdentity().Scopes) })
		withdrawn := c.OnIdentity(func() { t.Error("it was withdrawn") })
		withdrawn()
		scopes.Store(&[]string{"a"})
		require.NoError(t, router.Reauthenticate(t.Context()))
		require.Equal(t, [][]string{{"a"}}, heard, "before Reauthenticate returns")
		welcome.Store(false)
		require.NoError(t, router.Reauthenticate(t.Context()))
		require.Equal(t, [][]string{{"a"}, nil}, heard)
		require.Equal(t, "alice", c.Identity().ID, "for the log")
		<-ended
		stop()
	})
}

// An answer that comes after the time for it gives nothing back.
func TestLateAuthenticateRestoresNothing(t *testing.T) {
	var asked atomic.Int32
	answer := make(chan struct{})
	router := &alknet.Router{Authenticate: func(context.Context, tls.ConnectionState, string) (alknet.Identity, error) {
		if asked.Add(1) > 1 {
			<-answer // deaf to its context
		}
		return alknet.Identity{ID: "alice", Scopes: []string{"a"}}, nil
	}}
	served := make(chan *alknet.Conn, 1)
	require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Handler: alknet.HandlerFunc(func(ctx context.Context, c *alknet.Conn) error {
		served <- c
		<-ctx.Done()
		return nil
	})}))
	_ = dial(t, client(t, nil), serve(t, router, nil), alknet.QUIC)
	c := <-served
	var heard atomic.Int32
	defer c.OnIdentity(func() { heard.Add(1) })()
	require.NoError(t, router.Reauthenticate(t.Context()))
	require.Empty(t, c.Identity().Scopes)
	close(answer)
	require.NoError(t, router.Shutdown(t.Context())) // waits for who was asked
	require.Empty(t, c.Identity().Scopes)
	require.EqualValues(t, 1, heard.Load())
}

func echoOnce(t testing.TB, s *alknet.Stream) {
	_, err := s.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(s, make([]byte, 1))
	require.NoError(t, err)
}

// An Authenticate that hangs keeps nobody in: who is not judged in time is cut.
func TestReauthenticateDoesNotWaitForAHangingCheck(t *testing.T) {
	var hang atomic.Bool
	router := &alknet.Router{Authenticate: func(ctx context.Context, _ tls.ConnectionState, _ string) (alknet.Identity, error) {
		if hang.Load() {
			<-ctx.Done()
		}
		return alknet.Identity{ID: "alice"}, nil
	}}
	require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Handler: echo}))
	c := dial(t, client(t, nil), serve(t, router, nil), alknet.QUIC)
	echoOnce(t, open(t, c))
	hang.Store(true)
	start := time.Now()
	require.NoError(t, router.Reauthenticate(t.Context()))
	require.Less(t, time.Since(start), 2*time.Second)
	wantDone(t, c, "it was not judged in time")
}

func TestResumptionAfterRevocationIsRefused(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		var list peers
		router := &alknet.Router{Authenticate: list.authenticate}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
		server, cl := serve(t, router, nil), client(t, nil)
		list.set(cl.ID(), "mallory")
		resumed := func() bool {
			c := dial(t, cl, server, over)
			echoOnce(t, open(t, c))
			defer c.Close()
			return c.TLS().DidResume
		}
		require.False(t, resumed(), "the first connection")
		require.Eventually(t, resumed, 10*time.Second, time.Millisecond, "tickets are on")
		list.set(cl.ID(), "")
		// Even with the ticket keys unchanged, a ticket admits nobody.
		wantRefused(t, dial(t, cl, server, over), alknet.CodeRevoked, "a ticket from before the revocation")
		list.set(cl.ID(), "mallory")
		require.NoError(t, router.Reauthenticate(t.Context()))
		require.False(t, resumed(), "tickets from before Reauthenticate are void")
	})
}

// A client that offers two names gets one service under that service's rules.
func TestTwoNamesOfferedReachOneService(t *testing.T) {
	reached := make(chan string, 2)
	handler := func(name string) alknet.HandlerFunc {
		return func(context.Context, *alknet.Conn) error { reached <- name; return nil }
	}
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Raw} {
		for name, order := range map[string][]string{"strict first": {"strict", "open"}, "open first": {"open", "strict"}} {
			t.Run(over.String()+" "+name, func(t *testing.T) {
				router := &alknet.Router{}
				for _, alpn := range order {
					require.NoError(t, router.Register(alknet.Service{ALPN: alpn, Over: over, Handler: handler(alpn), AllowAnonymous: alpn == "open"}))
				}
				server := serve(t, router, nil)
				for _, offer := range [][]string{{"strict", "open"}, {"open", "strict"}} {
					state := foreignDial(t, server, over, offer)
					require.Equal(t, order[0], state.NegotiatedProtocol, "the server's order decides")
					if order[0] == "open" {
						require.Equal(t, "open", <-reached)
					}
				}
				require.Eventually(t, func() bool { return router.Stats().Connections == 0 }, 10*time.Second, time.Millisecond)
				require.Empty(t, reached, "an anonymous client reached the strict service")
			})
		}
	}
}

// foreignDial is a client without a certificate that offers any names.
func foreignDial(t testing.TB, to *alknet.Endpoint, over alknet.Transport, offer []string) tls.ConnectionState {
	conf := session.ClientTLS{Verify: anyServer}.Config()
	conf.NextProtos, conf.VerifyConnection = offer, nil
	if over == alknet.QUIC {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		udp := session.NewUDP(pc, [32]byte{})
		t.Cleanup(func() { _ = udp.Close() })
		addr, err := net.ResolveUDPAddr("udp", to.Addr().HostPort)
		require.NoError(t, err)
		s, err := udp.Dial(t.Context(), addr, conf, session.Params{HandshakeTimeout: 10 * time.Second})
		require.NoError(t, err)
		return s.TLS()
	}
	c, err := tls.Dial("tcp", to.Addr().HostPort, conf)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c.ConnectionState()
}
