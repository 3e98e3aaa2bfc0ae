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
	"github.com/alkdev/alknet/internal/session"
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
//
// A connection may be idle for days and a node may have many of them: what runs
// meanwhile fits the smallest stack, so it is cut into functions with few
// variables, and whatever needs more runs before or after.
func (f StreamFunc) ServeConn(ctx context.Context, conn *Conn) error {
	a := &streamAcceptor{serve: f, ctx: ctx, conn: conn, slots: make(chan struct{}, conn.maxStreams)}
	if ctx != conn.ctx {
		a.withdraw = context.AfterFunc(ctx, conn.cut) // what reads or writes does not see ctx
	}
	defer a.end()
	return a.run()
}

// A streamAcceptor starts the handlers of a connection's streams.
type streamAcceptor struct {
	serve    StreamFunc
	ctx      context.Context
	conn     *Conn
	withdraw func() bool   // of what ctx's end does; nil: it is the connection's end
	slots    chan struct{} // a slot is free only when its handler returned
	wg       sync.WaitGroup
}

// run accepts streams until there are no more.
func (a *streamAcceptor) run() error {
	for a.takeSlot() {
		st, err := a.conn.s.Accept(untilDrained{a})
		if err != nil {
			return a.acceptError(err)
		}
		a.start(st)
	}
	return acceptEnd(a.ctx, a.conn)
}

// takeSlot waits until one more handler may run; false: no more streams are
// to be accepted.
func (a *streamAcceptor) takeSlot() bool {
	if a.conn.isDraining() { // also while streams come without a pause
		return false
	}
	select {
	case a.slots <- struct{}{}:
		return true
	default: // what ends the wait is asked for only if there is one
	}
	select {
	case a.slots <- struct{}{}:
		return true
	case <-a.conn.drainc:
		return false
	case <-a.ctx.Done():
		return false
	}
}

// An untilDrained is the context of waiting for a stream: it ends when the
// connection is Draining. The end of ctx ends the connection.
type untilDrained struct{ a *streamAcceptor }

// Deadline is part of [context.Context].
func (untilDrained) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done is part of [context.Context].
func (u untilDrained) Done() <-chan struct{} { return u.a.conn.drainc }

// Err is part of [context.Context].
func (u untilDrained) Err() error {
	if u.a.conn.isDraining() {
		return context.Canceled
	}
	return nil
}

// Value is part of [context.Context].
func (u untilDrained) Value(key any) any { return u.a.ctx.Value(key) }

// acceptError is what the handler returns when Accept failed.
func (a *streamAcceptor) acceptError(err error) error {
	if a.ctx.Err() != nil || a.conn.isDraining() {
		return streamEnd(acceptEnd(a.ctx, a.conn))
	}
	return streamEnd(opError{"accept stream", wrapError(err)})
}

// start serves a stream in a goroutine of its own.
func (a *streamAcceptor) start(st session.Stream) {
	s := a.conn.stream(st)
	ctx := &streamContext{Context: a.ctx, s: s}
	safe.Go(&a.wg, func(err error) { a.panicked(ctx, err) }, func() {
		err := a.serve(ctx, s)
		a.served(ctx, err)
	})
}

// served ends a stream whose handler returned err.
func (a *streamAcceptor) served(ctx *streamContext, err error) {
	ctx.end()
	s := ctx.s
	if err == nil {
		_ = s.Close() // the peer may be gone
	} else {
		if streamEnd(err) != nil {
			s.conn.logFailure(a.ctx, "stream handler failed", err)
		}
		code, _ := closeCode(err)
		s.Reset(code)
	}
	<-a.slots
}

// panicked ends a stream whose handler did not return.
func (a *streamAcceptor) panicked(ctx *streamContext, err error) {
	ctx.end()
	a.conn.logFailure(a.ctx, "stream handler panicked", err)
	ctx.s.Reset(CodeInternal)
	<-a.slots
}

// end waits for the running handlers.
func (a *streamAcceptor) end() {
	if a.ctx.Err() != nil {
		a.conn.cut() // at once, not when the AfterFunc has its turn
	}
	a.wg.Wait()
	if a.withdraw != nil {
		a.withdraw()
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
