package alknet_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

func anyServer(*x509.Certificate) error { return nil }

func TestAccessControl(t *testing.T) {
	id := &alknet.Identity{ID: "bob", Scopes: []string{"a", "b"}, Resources: map[string][]string{"git": {"site", "read"}, "empty": nil}}
	for name, tt := range map[string]struct {
		ac   alknet.AccessControl
		id   *alknet.Identity
		want string // "": passes
	}{
		"no rule, nobody":        {alknet.AccessControl{}, nil, ""},
		"no rule, anonymous":     {alknet.AccessControl{}, &alknet.Identity{}, ""},
		"nobody":                 {alknet.AccessControl{RequiredScopes: []string{"a"}}, nil, "authentication required"},
		"anonymous with scopes":  {alknet.AccessControl{RequiredScopes: []string{"a"}}, &alknet.Identity{Scopes: []string{"a"}}, "authentication required"},
		"all scopes":             {alknet.AccessControl{RequiredScopes: []string{"a", "b"}}, id, ""},
		"one of all is missing":  {alknet.AccessControl{RequiredScopes: []string{"a", "c"}}, id, "missing required scope: c"},
		"any":                    {alknet.AccessControl{RequiredScopesAny: []string{"c", "b"}}, id, ""},
		"none of any":            {alknet.AccessControl{RequiredScopesAny: []string{"c", "d"}}, id, "missing required scope (any of: c, d)"},
		"all and any":            {alknet.AccessControl{RequiredScopes: []string{"a"}, RequiredScopesAny: []string{"c"}}, id, "missing required scope (any of: c)"},
		"type":                   {alknet.AccessControl{ResourceType: "git"}, id, ""},
		"type missing":           {alknet.AccessControl{ResourceType: "ssh"}, id, "missing resource: ssh"},
		"type without entries":   {alknet.AccessControl{ResourceType: "empty"}, id, "missing resource: empty"},
		"type and action":        {alknet.AccessControl{ResourceType: "git", ResourceAction: "read"}, id, ""},
		"action of another type": {alknet.AccessControl{ResourceType: "git", ResourceAction: "write"}, id, "missing resource: git/write"},
		"action alone":           {alknet.AccessControl{ResourceAction: "site"}, id, ""},
		"action alone, missing":  {alknet.AccessControl{ResourceAction: "write"}, id, "missing resource action: write"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.ac.Check(tt.id)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			var ae *alknet.AccessError
			require.ErrorAs(t, err, &ae)
			require.Equal(t, tt.want, ae.Error())
		})
	}
}

// The rules of a service hold on every transport: one table, generated from
// the list of transports.
func TestServiceRulesHoldOnEveryTransport(t *testing.T) {
	strict := alknet.AccessControl{RequiredScopes: []string{"x"}}
	for name, tt := range map[string]struct {
		id   alknet.Identity
		svc  alknet.Service
		code alknet.ErrorCode // 0: served
	}{
		"known":                     {alknet.Identity{ID: "bob"}, alknet.Service{}, 0},
		"anonymous":                 {alknet.Identity{}, alknet.Service{}, alknet.CodeUnauthenticated},
		"anonymous, allowed":        {alknet.Identity{}, alknet.Service{AllowAnonymous: true}, 0},
		"anonymous, scope":          {alknet.Identity{}, alknet.Service{AllowAnonymous: true, Access: strict}, alknet.CodeUnauthenticated},
		"known, scope":              {alknet.Identity{ID: "bob"}, alknet.Service{Access: strict}, alknet.CodeRefused},
		"known, scope, with it":     {alknet.Identity{ID: "bob", Scopes: []string{"x"}}, alknet.Service{Access: strict}, 0},
		"middleware refuses anyone": {alknet.Identity{ID: "bob"}, alknet.Service{Middleware: []alknet.Middleware{refuseAll}}, 99},
	} {
		t.Run(name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, tc transportCase) {
				router := &alknet.Router{Authenticate: func(context.Context, tls.ConnectionState, string) (alknet.Identity, error) {
					return tt.id, nil
				}}
				tt.svc.Handler = echo
				var c *alknet.Conn
				if tc.over == 0 {
					tt.svc.ALPN, tt.svc.Over = testALPN, 0
					require.NoError(t, router.Register(tt.svc))
					c = pipeTo(t, router, tt.id)
				} else {
					c, _ = connectRouter(t, tc, router, tt.svc)
				}
				if tt.code != 0 {
					wantRefused(t, c, tt.code, name)
					return
				}
				echoOnce(t, open(t, c))
			})
		})
	}
}

func refuseAll(alknet.ProtocolHandler) alknet.ProtocolHandler {
	return alknet.HandlerFunc(func(context.Context, *alknet.Conn) error { return &alknet.Error{Code: 99, Reason: "no"} })
}

func TestMiddlewareRunsFirstToLast(t *testing.T) {
	var order []string
	mw := func(name string) alknet.Middleware {
		return func(next alknet.ProtocolHandler) alknet.ProtocolHandler {
			return alknet.HandlerFunc(func(ctx context.Context, c *alknet.Conn) error {
				order = append(order, name)
				return next.ServeConn(ctx, c)
			})
		}
	}
	router := &alknet.Router{Middleware: []alknet.Middleware{mw("r1"), mw("r2")}}
	c, _ := connectRouter(t, transports[3], router, alknet.Service{Middleware: []alknet.Middleware{mw("s1"), mw("s2")},
		Handler: alknet.HandlerFunc(func(context.Context, *alknet.Conn) error { order = append(order, "h"); return nil })})
	wantDone(t, c, "the handler returned")
	require.Equal(t, []string{"r1", "r2", "s1", "s2", "h"}, order)
}

func TestAnonymousEndpointShowsNoKey(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		router := &alknet.Router{}
		require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
		server := serve(t, router, nil)
		anon := client(t, &alknet.Config{Anonymous: true})
		wantRefused(t, dial(t, anon, server, over), alknet.CodeUnauthenticated, "no key was shown")
		require.Error(t, router.Serve(anon), "it has no sockets")
	})
}

// A client on TCP that names no protocol is served only where HTTP/1.1 is.
func TestEmptyALPN(t *testing.T) {
	for name, served := range map[string]bool{"h2": false, "http/1.1": true} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 1)
			router := &alknet.Router{}
			require.NoError(t, router.Register(alknet.Service{ALPN: name, Over: alknet.Raw, AllowAnonymous: true,
				Handler: alknet.HandlerFunc(func(_ context.Context, c *alknet.Conn) error { got <- c.ALPN(); return nil })}))
			server := serve(t, router, nil)
			for _, offer := range [][]string{nil, {"http/1.1"}} {
				conf := &tls.Config{InsecureSkipVerify: true, NextProtos: offer}
				nc, err := tls.Dial("tcp", server.Addr().HostPort, conf)
				if served {
					require.NoError(t, err)
					require.Equal(t, "http/1.1", <-got)
					require.NoError(t, nc.Close())
					continue
				}
				// crypto/tls lets such clients through where a server has h2.
				require.Error(t, err)
			}
			require.Empty(t, got)
			refused := int64(2)
			if served {
				refused = 0
			}
			require.Equal(t, refused, router.Stats().Refused["no_service"])
		})
	}
}

func TestUnknownALPNIsErrNoService(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		router := &alknet.Router{}
		for i, other := range []alknet.Transport{alknet.QUIC, alknet.Mux, alknet.Raw} {
			if other != over {
				require.NoError(t, router.Register(alknet.Service{ALPN: testALPN + string(rune('a'+i)), Over: other, Handler: echo}))
			}
		}
		server := serve(t, router, nil)
		_, err := client(t, nil).Dial(t.Context(), addrOver(server, over), testALPN)
		require.ErrorIs(t, err, alknet.ErrNoService)
		require.ErrorContains(t, err, testALPN)
	})
}

// first are the first bytes of protocols that a confused or hostile client may
// send to a service that is not theirs.
var first = map[string][]byte{
	"HTTP/1.1": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
	"HTTP/2":   []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
	"SSH":      []byte("SSH-2.0-OpenSSH_9.2\r\n"),
	"TLS":      {22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3},
	"DNS":      []byte("\x00\x1d\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01"),
	"call":     []byte("\x00\x00\x00\x30{\"type\":\"call.requested\",\"id\":\"1\",\"payload\":{}}"),
	"yamux":    {0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0},
	"QUIC":     {0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0},
	"zeros":    make([]byte, 64),
}

// Bytes of one protocol never reach the handler of another, whatever they are
// (ALPACA): in the clear they are no handshake, inside TLS they are no frames.
func TestForeignFirstBytesReachNoHandler(t *testing.T) {
	var log logs
	served := make(chan struct{}, 100)
	router := &alknet.Router{Logger: log.logger()}
	require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: alknet.QUIC | alknet.Mux, AllowAnonymous: true,
		Handler: alknet.StreamFunc(func(context.Context, *alknet.Stream) error { served <- struct{}{}; return nil })}))
	server := serve(t, router, nil)
	for name, bytes := range first {
		t.Run("clear "+name, func(t *testing.T) {
			nc, err := net.Dial("tcp", server.Addr().HostPort)
			require.NoError(t, err)
			sendAndDrain(t, nc, bytes)
			uc, err := net.Dial("udp", server.Addr().HostPort)
			require.NoError(t, err)
			_, err = uc.Write(bytes)
			require.NoError(t, err)
			require.NoError(t, uc.Close())
		})
		if name == "yamux" {
			continue // that is what is spoken inside TLS
		}
		t.Run("in TLS "+name, func(t *testing.T) {
			nc, err := tls.Dial("tcp", server.Addr().HostPort, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{testALPN}})
			require.NoError(t, err)
			sendAndDrain(t, nc, bytes)
		})
	}
	roundTripAny(t, dial(t, client(t, nil), server, alknet.QUIC))
	<-served
	require.Empty(t, served, "foreign bytes reached the handler")
}

// sendAndDrain sends bytes and waits until the other end closes.
func sendAndDrain(t testing.TB, nc net.Conn, bytes []byte) {
	require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
	_, _ = nc.Write(bytes)
	if cw, ok := nc.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite()
	}
	var err error
	for buf := make([]byte, 4096); err == nil; {
		_, err = nc.Read(buf)
	}
	require.False(t, isTimeout(err), "the connection was left open")
	_ = nc.Close()
}

// roundTripAny opens a stream and waits for its end.
func roundTripAny(t testing.TB, c *alknet.Conn) {
	s := open(t, c)
	_, err := s.Write([]byte("x"))
	require.NoError(t, err)
	_, _ = s.Read(make([]byte, 1))
}
