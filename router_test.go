package alknet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

func TestRegisterRefusesWhatCannotBeServed(t *testing.T) {
	router := &alknet.Router{}
	require.NoError(t, router.Register(alknet.Service{ALPN: "a", Handler: echo}))
	require.ErrorIs(t, router.Register(alknet.Service{ALPN: "a", Handler: echo}), alknet.ErrALPNInUse)
	for name, s := range map[string]alknet.Service{
		"no name":           {Handler: echo},
		"long name":         {ALPN: string(make([]byte, 256)), Handler: echo},
		"no handler":        {ALPN: "b"},
		"Mux and Raw":       {ALPN: "b", Handler: echo, Over: alknet.Mux | alknet.Raw},
		"unknown transport": {ALPN: "b", Handler: echo, Over: 64},
	} {
		require.Error(t, router.Register(s), name)
	}
	require.Panics(t, func() { router.Handle("a", echo) })
	require.Len(t, router.Services(), 1)
	require.NoError(t, router.Close())
	require.ErrorIs(t, router.Register(alknet.Service{ALPN: "b", Handler: echo}), alknet.ErrRouterClosed)
	require.ErrorIs(t, router.Remove(t.Context(), "b"), alknet.ErrNoService)
}

func TestRegisterAndRemoveAreHot(t *testing.T) {
	eachNetwork(t, func(t *testing.T, over alknet.Transport) {
		router := &alknet.Router{}
		require.NoError(t, router.Register(alknet.Service{ALPN: "other", Over: over, Handler: echo}))
		server, cl := serve(t, router, nil), client(t, nil)
		_, err := cl.Dial(t.Context(), addrOver(server, over), testALPN)
		require.ErrorIs(t, err, alknet.ErrNoService)
		other, err := cl.Dial(t.Context(), addrOver(server, over), "other")
		require.NoError(t, err)
		kept := open(t, other)
		echoOnce(t, kept)

		svc := alknet.Service{ALPN: testALPN, Over: over, Handler: echo}
		require.NoError(t, router.Register(svc))
		c := dial(t, cl, server, over)
		s := open(t, c)
		echoOnce(t, s)
		removed := make(chan error, 1)
		go func() { removed <- router.Remove(t.Context(), testALPN) }()
		require.Eventually(t, func() bool { return len(router.Services()) == 1 }, 10*time.Second, time.Millisecond)
		require.NoError(t, router.Register(svc), "the name is free at once")
		echoOnce(t, s) // what runs is finished
		require.NoError(t, s.CloseWrite())
		_, err = io.ReadAll(s)
		require.NoError(t, err)
		require.NoError(t, <-removed)
		wantDone2(t, c)
		echoOnce(t, kept) // the other service noticed nothing
		echoOnce(t, open(t, dial(t, cl, server, over)))
	})
}

// wantDone2 waits for the end of a connection by using it, as Raw needs.
func wantDone2(t testing.TB, c *alknet.Conn) {
	if c.Transport() != alknet.Raw {
		wantDone(t, c, "it was drained")
	}
}

func TestShutdownWaitsForHandlers(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		c, router := connectRouter(t, tc, &alknet.Router{}, alknet.Service{Handler: echo})
		s := open(t, c)
		echoOnce(t, s)
		done := make(chan error, 1)
		go func() { done <- router.Shutdown(t.Context()) }()
		echoOnce(t, s)
		select {
		case err := <-done:
			require.Fail(t, "Shutdown did not wait", "%v", err)
		default:
		}
		require.NoError(t, s.CloseWrite())
		_, err := io.ReadAll(s)
		require.NoError(t, err, "what was begun is answered to the end")
		require.NoError(t, <-done)
		if tc.over == alknet.Raw {
			return
		}
		_, err = c.AcceptStream(t.Context())
		var e *alknet.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, alknet.CodeShutdown, e.Code)
		require.True(t, e.Code.Retryable())
	})
}

func TestShutdownCutsAtItsDeadlineAndNamesWhoIsLeft(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		entered := make(chan struct{})
		c, router := connectRouter(t, tc, &alknet.Router{}, alknet.Service{
			Handler: alknet.HandlerFunc(func(ctx context.Context, conn *alknet.Conn) error {
				close(entered)
				<-ctx.Done() // it ignores Draining
				return ctx.Err()
			})})
		s := open(t, c)
		_, err := s.Write([]byte("x"))
		require.NoError(t, err)
		<-entered
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		start := time.Now()
		err = router.Shutdown(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, testALPN)
		require.Less(t, time.Since(start), 5*time.Second)
		_, err = s.Read(make([]byte, 1))
		require.Error(t, err)
		require.False(t, isTimeout(err))
	})
}

// A handler that never returns does not keep Shutdown from returning.
func TestShutdownLeavesAHandlerThatNeverReturns(t *testing.T) {
	release := make(chan struct{})
	entered := make(chan struct{})
	c, router := connectRouter(t, transports[0], &alknet.Router{}, alknet.Service{
		Handler: alknet.HandlerFunc(func(context.Context, *alknet.Conn) error { close(entered); <-release; return nil })})
	defer close(release)
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, router.Shutdown(ctx), testALPN)
	wantDone(t, c, "it was cut")
}

func TestNewConnectionsAreRefusedWhileDraining(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux} {
		t.Run(over.String(), func(t *testing.T) {
			router := &alknet.Router{}
			require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
			server, cl := serve(t, router, nil), client(t, nil)
			s := open(t, dial(t, cl, server, over))
			echoOnce(t, s)
			done := make(chan error, 1)
			go func() { done <- router.Shutdown(t.Context()) }()
			require.Eventually(t, func() bool {
				return errors.Is(router.Register(alknet.Service{ALPN: "x", Handler: echo}), alknet.ErrRouterClosed)
			},
				10*time.Second, time.Millisecond)
			wantRefused(t, dial(t, cl, server, over), alknet.CodeShutdown, "the node is draining")
			require.NoError(t, s.Close())
			require.NoError(t, <-done)
		})
	}
}

type shutdowner struct {
	alknet.StreamFunc
	told atomic.Int32
	err  error
}

func (s *shutdowner) Shutdown(context.Context) error { s.told.Add(1); return s.err }

func TestShutdownersAreToldOnce(t *testing.T) {
	h := &shutdowner{StreamFunc: echo, err: errors.New("disk full")}
	router := &alknet.Router{}
	router.Handle("a", h)
	router.Handle("b", h)
	require.ErrorIs(t, router.Shutdown(t.Context()), h.err)
	require.EqualValues(t, 1, h.told.Load())
	require.NoError(t, router.Shutdown(t.Context()), "a second time is nothing")
}

func TestPanicCostsOneConnection(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		var log logs
		router := &alknet.Router{Logger: log.logger()}
		c, _ := connectRouter(t, tc, router, alknet.Service{
			Handler: alknet.HandlerFunc(func(ctx context.Context, conn *alknet.Conn) error {
				s, err := conn.AcceptStream(ctx)
				if err != nil {
					return err
				}
				b := make([]byte, 1)
				if _, err := io.ReadFull(s, b); err != nil {
					return err
				}
				if b[0] == '!' {
					panic("boom \x1b[31m")
				}
				_, err = s.Write(b)
				<-conn.Done()
				return err
			})})
		_, err := open(t, c).Write([]byte("!"))
		require.NoError(t, err)
		if tc.over != alknet.Raw {
			_, err = c.AcceptStream(t.Context())
			var e *alknet.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, alknet.CodeInternal, e.Code)
			require.Empty(t, e.Reason)
		}
		require.Eventually(t, func() bool { return router.Stats().Panics == 1 && router.Stats().Connections == 0 }, 10*time.Second, time.Millisecond)
		require.Contains(t, log.String(), "router_test.go", "the log has the stack")
		require.NotContains(t, log.String(), "\x1b")
	})
}

func TestPanicInAStreamCostsThatStream(t *testing.T) {
	for _, tc := range []transportCase{transports[0], transports[1], transports[3]} {
		t.Run(tc.name, func(t *testing.T) {
			c := connect(t, tc, alknet.StreamFunc(func(_ context.Context, s *alknet.Stream) error {
				b := make([]byte, 1)
				if _, err := io.ReadFull(s, b); err == nil && b[0] == '!' {
					panic("boom")
				}
				_, err := s.Write(b)
				return err
			}))
			for range 100 {
				bad := open(t, c)
				_, err := bad.Write([]byte("!"))
				require.NoError(t, err)
				_, err = io.ReadAll(bad)
				var e *alknet.Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, alknet.CodeInternal, e.Code)
				echoOnce(t, open(t, c))
			}
		})
	}
}

func TestServeOnSeveralEndpoints(t *testing.T) {
	router := &alknet.Router{}
	router.Handle(testALPN, echo)
	a, b := serve(t, router, nil), serve(t, router, nil)
	for _, ep := range []*alknet.Endpoint{a, b} {
		echoOnce(t, open(t, dial(t, client(t, nil), ep, alknet.QUIC)))
	}
	require.Error(t, router.Serve(a), "it is served already")
	require.Equal(t, 2, router.Stats().Connections)
	n := 0
	for c := range router.Conns() {
		n++
		require.Equal(t, testALPN, c.ALPN())
		require.EqualValues(t, 1, c.Stats().BytesIn)
	}
	require.Equal(t, 2, n)
	require.NoError(t, a.Close())
	echoOnce(t, open(t, dial(t, client(t, nil), b, alknet.Mux)))
}

// Another router may take an endpoint over once the first is shut down.
func TestEndpointOutlivesItsRouter(t *testing.T) {
	ep, err := alknet.Listen(t.Context(), "127.0.0.1:0", nil)
	require.NoError(t, err)
	for range 2 {
		router := &alknet.Router{}
		router.Handle(testALPN, echo)
		done := make(chan error, 1)
		go func() { done <- router.Serve(ep) }()
		for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux} {
			echoOnce(t, open(t, dial(t, client(t, nil), ep, over)))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_ = router.Shutdown(ctx) // the streams are open: it cuts
		cancel()
		require.ErrorIs(t, <-done, alknet.ErrRouterClosed)
	}
	require.NoError(t, ep.Close())
}

func TestServeEndsWithItsEndpoint(t *testing.T) {
	router := &alknet.Router{}
	router.Handle(testALPN, echo)
	ep, err := alknet.Listen(t.Context(), "127.0.0.1:0", nil)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- router.Serve(ep) }()
	conns := []*alknet.Conn{dial(t, client(t, nil), ep, alknet.QUIC), dial(t, client(t, nil), ep, alknet.Mux)}
	for _, c := range conns {
		echoOnce(t, open(t, c))
	}
	require.NoError(t, ep.Close())
	require.ErrorIs(t, <-done, net.ErrClosed)
	for _, c := range conns {
		wantDone(t, c, "its endpoint was closed")
	}
	require.NoError(t, router.Shutdown(t.Context()))
}

func TestTLSInsideAStream(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.Mux, alknet.Raw} {
		t.Run(over.String(), func(t *testing.T) {
			router := &alknet.Router{}
			require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: echo}))
			inner, cl := client(t, nil), client(t, nil)
			// Any stream will do: here one of another connection in memory.
			outer, served := alknet.Pipe("tunnel", alknet.Identity{ID: "c"}, alknet.Identity{ID: "s"})
			a, err := outer.OpenStream(t.Context())
			require.NoError(t, err)
			b, err := served.AcceptStream(t.Context())
			require.NoError(t, err)
			done := make(chan error, 1)
			go func() { done <- router.ServeNet(t.Context(), inner, b) }()
			c, err := cl.DialConn(t.Context(), a, alknet.Addr{HostPort: "peer:0", Peer: inner.ID(), Over: over}, testALPN)
			require.NoError(t, err)
			s := open(t, c)
			echoOnce(t, s)
			require.Equal(t, 1, router.Stats().Connections)
			require.NoError(t, s.Close())
			require.NoError(t, c.Close())
			require.NoError(t, <-done)
			require.NoError(t, router.Close())

			_, err = cl.DialConn(t.Context(), a, alknet.Addr{Peer: inner.ID(), Over: alknet.QUIC}, testALPN)
			require.ErrorIs(t, err, errors.ErrUnsupported)
			_ = served.Close()
		})
	}
}

func TestUnixSocketListener(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	ep, err := alknet.NewEndpoint(nil, ln, nil)
	require.NoError(t, err)
	router := &alknet.Router{}
	router.Handle(testALPN, echo)
	serveOn(t, router, ep)
	nc, err := net.Dial("unix", ln.Addr().String())
	require.NoError(t, err)
	c, err := client(t, nil).DialConn(t.Context(), nc, alknet.Addr{Peer: ep.ID()}, testALPN)
	require.NoError(t, err)
	echoOnce(t, open(t, c))
	require.NoError(t, c.Close())
}

func TestNewConnServesOneStream(t *testing.T) {
	a, b := net.Pipe()
	conn := alknet.NewConn(b, testALPN, alknet.Identity{ID: "ws"})
	router := &alknet.Router{}
	require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: alknet.Raw, Handler: echo}))
	done := make(chan error, 1)
	go func() { done <- router.ServeConn(t.Context(), conn) }()
	_, err := a.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(a, make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, a.Close())
	require.NoError(t, <-done)
	wantDone(t, conn, "the router closes what it serves")
	require.NoError(t, router.Close())
}

// Everything above memory works on fake time.
func TestPipeInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := alknet.Pipe(testALPN, alknet.Identity{ID: "c"}, alknet.Identity{ID: "s"})
		router := &alknet.Router{}
		router.Handle(testALPN, alknet.StreamFunc(func(ctx context.Context, s *alknet.Stream) error {
			select {
			case <-time.After(time.Hour):
				_, err := s.Write([]byte("late"))
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}))
		done := make(chan error, 1)
		go func() { done <- router.ServeConn(t.Context(), s) }()
		st, err := c.OpenStream(t.Context())
		require.NoError(t, err)
		start := time.Now()
		require.NoError(t, st.SetReadDeadline(start.Add(time.Minute)))
		_, err = st.Read(make([]byte, 4))
		require.True(t, isTimeout(err))
		require.Equal(t, time.Minute, time.Since(start))
		require.NoError(t, st.SetReadDeadline(time.Time{}))
		got, err := io.ReadAll(st)
		require.NoError(t, err)
		require.Equal(t, "late", string(got))
		require.Equal(t, time.Hour, time.Since(start))
		require.NoError(t, c.Close())
		require.NoError(t, <-done)
		require.NoError(t, router.Close())
	})
}
