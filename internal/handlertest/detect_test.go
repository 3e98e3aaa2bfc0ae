package handlertest

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

// A plant is a handler that breaks a promise.
type plant struct {
	name string
	// handler makes it. What it holds on to ends with free.
	handler func(free <-chan struct{}) alknet.ProtocolHandler
	by      func(*node) error // the check that must see it
	want    error             // what the check says
	notRaw  bool              // it takes more than one stream
}

var plants = []plant{
	{name: "ignores that the peer closes", handler: deaf, by: endsWithConn, want: errConnEnded},
	{name: "ignores its context", handler: deaf, by: endsWithContext, want: errCtxEnded},
	{name: "ignores all of Shutdown", handler: deaf, by: endsWhenDraining, want: errDraining},
	{name: "sees the connection but not its context", by: endsWithContext, want: errCtxEnded, handler: func(free <-chan struct{}) alknet.ProtocolHandler {
		return alknet.HandlerFunc(func(_ context.Context, c *alknet.Conn) error {
			select {
			case <-c.Done():
			case <-c.Draining():
			case <-free:
			}
			return nil
		})
	}},
	{name: "sees its context but not that it is draining", by: endsWhenDraining, want: errDraining, handler: func(<-chan struct{}) alknet.ProtocolHandler {
		return alknet.HandlerFunc(func(ctx context.Context, _ *alknet.Conn) error { <-ctx.Done(); return nil })
	}},
	{name: "leaks a goroutine for each connection", by: endsWithConn, want: errLeaks, handler: func(free <-chan struct{}) alknet.ProtocolHandler {
		return alknet.HandlerFunc(func(ctx context.Context, c *alknet.Conn) error {
			go func() { <-free }()
			return echo.ServeConn(ctx, c)
		})
	}},
	{name: "leaks a goroutine at garbage", by: survivesGarbage, want: errLeaks, handler: func(free <-chan struct{}) alknet.ProtocolHandler {
		return alknet.StreamFunc(func(_ context.Context, s *alknet.Stream) error {
			go func() { <-free }()
			_, err := io.ReadAll(s)
			return err
		})
	}},
	{name: "never ends a stream", notRaw: true, by: survivesEmptyStreams, want: errStreamsStay, handler: func(<-chan struct{}) alknet.ProtocolHandler {
		return alknet.HandlerFunc(func(ctx context.Context, c *alknet.Conn) error {
			for {
				if _, err := c.AcceptStream(ctx); err != nil {
					return err
				}
			}
		})
	}},
	{name: "panics at garbage", by: survivesGarbage, want: errPanicked, handler: func(<-chan struct{}) alknet.ProtocolHandler {
		return alknet.StreamFunc(func(_ context.Context, s *alknet.Stream) error {
			if b, err := io.ReadAll(s); err == nil && len(b) > 1 {
				panic("planted")
			}
			return nil
		})
	}},
	{name: "stays with a stream that was reset", by: survivesHalfClosed, want: errConnEnded, handler: func(free <-chan struct{}) alknet.ProtocolHandler {
		return alknet.StreamFunc(func(_ context.Context, s *alknet.Stream) error {
			if _, err := io.ReadAll(s); err != nil {
				<-free
			}
			return nil
		})
	}},
}

// deaf is a handler that nothing ends.
func deaf(free <-chan struct{}) alknet.ProtocolHandler {
	return alknet.HandlerFunc(func(context.Context, *alknet.Conn) error { <-free; return nil })
}

// impatient is a suite that does not wait long for what will not happen.
func impatient(over alknet.Transport, svc alknet.Service) *suite {
	svc.ALPN, svc.Over = testALPN, over
	return &suite{svc: svc, over: over, wait: 300 * time.Millisecond, flood: 1000}
}

func TestPlantedHandlersAreDetected(t *testing.T) {
	for _, p := range plants {
		for _, over := range []alknet.Transport{0, alknet.QUIC, alknet.Mux, alknet.Raw} {
			if p.notRaw && over == alknet.Raw {
				continue
			}
			t.Run(p.name+"/"+carrierName(over), func(t *testing.T) {
				free := make(chan struct{})
				defer close(free)
				s := impatient(over, alknet.Service{Handler: p.handler(free)})
				require.ErrorIs(t, s.check(p.by), p.want)
			})
		}
	}
}

// A Router that served strangers, or refused what it should serve, would be seen:
// here the check believes in other rules than those that are registered.
func TestWrongRulesAreDetected(t *testing.T) {
	rows := []struct {
		name     string
		service  alknet.Service
		believed alknet.Service
		want     error
	}{
		{"serves anonymous peers", alknet.Service{AllowAnonymous: true}, alknet.Service{}, errServed},
		{"serves peers without grants", alknet.Service{}, alknet.Service{Access: alknet.AccessControl{RequiredScopes: []string{"x"}}}, errServed},
		{"refuses anonymous peers", alknet.Service{}, alknet.Service{AllowAnonymous: true}, errNotCalled},
	}
	for _, row := range rows {
		for _, over := range []alknet.Transport{0, alknet.QUIC, alknet.Mux, alknet.Raw} {
			t.Run(row.name+"/"+carrierName(over), func(t *testing.T) {
				row.service.Handler = echo
				s := impatient(over, row.service)
				require.ErrorIs(t, s.check(func(n *node) error {
					n.svc.Access, n.svc.AllowAnonymous = row.believed.Access, row.believed.AllowAnonymous
					return refusesStrangers(n)
				}), row.want)
			})
		}
	}
}
