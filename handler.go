package alknet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/alkdev/alknet/internal/safe"
)

// A ProtocolHandler serves the connections of one ALPN.
type ProtocolHandler interface {
	// ServeConn blocks until it is done with conn and returns; the Router then
	// closes conn with the code of the error: nil is CodeOK, an error that wraps
	// *Error is its code and reason, any other is CodeInternal and no text. It
	// must have ended every goroutine that uses conn. It returns soon after ctx
	// ends or conn is closed, and finishes what it began once conn is Draining.
	// A panic is recovered and costs that connection only.
	ServeConn(ctx context.Context, conn *Conn) error
}

// HandlerFunc is a function as a ProtocolHandler.
type HandlerFunc func(context.Context, *Conn) error

// ServeConn calls f.
func (f HandlerFunc) ServeConn(ctx context.Context, conn *Conn) error { return f(ctx, conn) }

// A Shutdowner is a ProtocolHandler that is told when its ALPN is drained.
type Shutdowner interface {
	// Shutdown stops taking on work, finishes what runs, and returns, at the
	// latest when ctx ends. Connections are Draining when it is called.
	Shutdown(ctx context.Context) error
}

// Middleware wraps a handler. It runs after the peer was identified and
// admitted, and may refuse it with an error.
type Middleware func(next ProtocolHandler) ProtocolHandler

// StreamFunc serves each stream that the peer opens in a goroutine of its own,
// as many at once as Limits.MaxStreams says. Its ctx carries the connection
// ([ConnFromContext]) and also ends when the peer resets the stream or stops
// reading it. The stream is closed when f returns nil and reset with the
// error's code otherwise; a panic costs that stream only.
type StreamFunc func(context.Context, *Stream) error

// ServeConn serves conn until it ends or, once it is Draining, until the
// running streams have ended. It closes conn when ctx ends first.
func (f StreamFunc) ServeConn(ctx context.Context, conn *Conn) error {
	var wg sync.WaitGroup
	defer func() { // what reads or writes does not see ctx
		if ctx.Err() != nil {
			conn.cut()
		} else {
			defer context.AfterFunc(ctx, conn.cut)()
		}
		wg.Wait()
	}()
	accept, stop := context.WithCancel(ctx)
	defer stop()
	conn.whenDrained(stop)
	slots := make(chan struct{}, conn.maxStreams)
	for {
		select {
		case slots <- struct{}{}: // a slot is free only when its handler returned
		case <-accept.Done():
			return acceptEnd(ctx, conn)
		}
		s, err := conn.AcceptStream(accept)
		if err != nil {
			if accept.Err() != nil {
				err = acceptEnd(ctx, conn)
			}
			return streamEnd(err)
		}
		fail := func(err error) { conn.logFailure(ctx, "stream handler panicked", err); s.Reset(CodeInternal) }
		safe.Go(&wg, fail, func() {
			defer func() { <-slots }()
			f.serve(ctx, s)
		})
	}
}

// cut closes the connection for want of a context, if it did not end by itself.
func (c *Conn) cut() {
	if c.s.Err() == nil {
		_ = c.CloseWithError(CodeShutdown, "") // the peer may be gone
	}
}

// acceptEnd is why no more streams are accepted: draining is no error.
func acceptEnd(ctx context.Context, conn *Conn) error {
	if conn.isDraining() && ctx.Err() == nil {
		return nil
	}
	return ctx.Err()
}

// streamEnd makes the ordinary ends of a connection a nil error.
func streamEnd(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && (e.Remote || e.Code == CodeOK) {
		return nil
	}
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// serve runs f for one stream.
func (f StreamFunc) serve(ctx context.Context, s *Stream) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := s.st.OnAbort(cancel)
	defer stop()
	err := f(ctx, s)
	if err == nil {
		_ = s.Close() // the peer may be gone
		return
	}
	if streamEnd(err) != nil {
		s.conn.logFailure(ctx, "stream handler failed", err)
	}
	code, _ := closeCode(err)
	s.Reset(code)
}

type connKey struct{}

// ConnFromContext returns the connection that a handler's context belongs to.
func ConnFromContext(ctx context.Context) (*Conn, bool) {
	c, ok := ctx.Value(connKey{}).(*Conn)
	return c, ok
}

// A Service is an ALPN with its handler and its rules.
type Service struct {
	// ALPN is the name that the handshake negotiates: IANA's where there is
	// one, "alknet/x" for ours, a name that you own for yours. 1 to 255 bytes.
	ALPN string
	// Handler serves its connections.
	Handler ProtocolHandler
	// Middleware wraps Handler; the first in the list runs first, after the
	// Router's own.
	Middleware []Middleware
	// Over are the transports it is offered on. 0: QUIC|Mux. Mux and Raw
	// exclude each other: the ALPN does not tell them apart.
	Over Transport
	// Access is checked before the handler, on every transport.
	Access AccessControl
	// KeepAlive is the interval at which we keep the service's connections
	// alive. 0: not at all; who dials does. On Raw it does nothing; on QUIC,
	// where a connection is set up before its ALPN is known, the shortest
	// KeepAlive of all services counts.
	KeepAlive time.Duration
	// AllowAnonymous admits peers without an Identity.ID: no key, or a key that
	// Router.Authenticate does not know.
	AllowAnonymous bool
}

// check refuses a Service that cannot be served.
func (s Service) check() error {
	switch {
	case s.ALPN == "" || len(s.ALPN) > 255:
		return fmt.Errorf("alknet: register %q: an ALPN has 1 to 255 bytes", s.ALPN)
	case s.Handler == nil:
		return fmt.Errorf("alknet: register %q: no handler", s.ALPN)
	}
	if err := s.over().check(); err != nil {
		return fmt.Errorf("alknet: register %q: %w", s.ALPN, err)
	}
	return nil
}

func (s Service) over() Transport {
	if s.Over == 0 {
		return QUIC | Mux
	}
	return s.Over
}

// chain wraps h so that the first middleware runs first.
func chain(h ProtocolHandler, mw []Middleware) ProtocolHandler {
	for i := len(mw) - 1; i >= 0; i-- {
		h = mw[i](h)
	}
	return h
}

var (
	_ ProtocolHandler = HandlerFunc(nil)
	_ ProtocolHandler = StreamFunc(nil)
)
