package alknet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync/atomic"

	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/internal/session"
)

// An admission is a connection on its way from the handshake to its handler.
type admission struct {
	state  *tls.ConnectionState
	over   Transport
	claim  *claim
	remote net.Addr
	svc    *service
	id     Identity
	from   *Endpoint
	epoch  uint64 // of the peer list by which id was decided
}

// identify decides who the peer of a finished handshake is and whether it may
// use the service. cut is called if that takes longer than the handshake may.
func (l *listening) identify(ctx context.Context, a admission, cut func()) (admission, *Error) {
	r := l.r
	a.from = l.e
	if d := r.accounts().limits.HandshakeTimeout; d > 0 && r.Authenticate != nil { // nothing else takes long
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, a.claim.begun.Add(d))
		defer cancel()
		defer context.AfterFunc(ctx, cut)()
	}
	err := r.decide(ctx, &a)
	if ctx.Err() != nil && err == nil {
		err = limitError("handshake_timeout", int64(r.accounts().limits.HandshakeTimeout))
	}
	if err == nil {
		err = asError(a.claim.identified(a.id.ID))
	}
	if err != nil {
		r.refuse(ctx, &a, reasonFor(err.Code), a.remote, err)
		return a, err
	}
	return a, nil
}

// decide fills in the service and the identity.
func (r *Router) decide(ctx context.Context, a *admission) *Error {
	r.mu.Lock()
	state := r.state
	r.mu.Unlock()
	if state != serving {
		return &Error{Code: CodeShutdown}
	}
	a.svc = r.pick(offered(*a.state), a.over)
	// The name is checked again: it must be the one the handshake was told.
	if a.svc == nil || a.claim.getALPN() != a.svc.ALPN {
		return &Error{Code: CodeRefused, Reason: "no such service", Err: ErrNoService}
	}
	a.svc.handshakes.Add(1)
	a.epoch = r.epoch.Load()
	id, err := r.authenticate(ctx, a.state, a.svc)
	if err != nil {
		return err
	}
	a.id = id
	return a.svc.admit(&a.id)
}

// authenticate asks who a peer of svc is.
func (r *Router) authenticate(ctx context.Context, state *tls.ConnectionState, svc *service) (Identity, *Error) {
	peer := provenPeer(*state)
	if r.Authenticate == nil {
		id := Identity{Peer: peer}
		if !peer.IsZero() {
			id.ID = peer.String()
		}
		return id, nil
	}
	var id Identity
	err := protect(func() (err error) {
		id, err = r.Authenticate(ctx, *state, svc.ALPN)
		return err
	})
	if err != nil {
		r.notePanic(&svc.panics, err)
		if e, ok := errors.AsType[*Error](err); ok {
			return Identity{}, e
		}
		return Identity{}, &Error{Code: CodeUnauthenticated, Reason: "not authenticated", Err: err}
	}
	id = id.clone()
	id.Peer = peer
	return id, nil
}

// admit applies the service's rules.
func (s *service) admit(id *Identity) *Error {
	if id.ID == "" && !s.AllowAnonymous {
		return &Error{Code: CodeUnauthenticated, Reason: "authentication required"}
	}
	if err := s.Access.Check(id); err != nil {
		return refusal(err)
	}
	return nil
}

// register makes a Conn of an admitted session and counts it as live.
func (r *Router) register(ctx context.Context, s session.Session, a admission) (*Conn, *liveConn, *Error) {
	c := newConn(s, a.svc.ALPN, a.over, a.id)
	c.maxStreams = r.accounts().limits.maxStreams()
	c.log = r.log()
	if a.from != nil {
		c.local = a.from.id
	}
	lc, err := r.enlist(ctx, c, a)
	if err != nil {
		return nil, nil, err
	}
	// The peer list may have changed since it was asked.
	if r.epoch.Load() != a.epoch {
		if err := r.judge(ctx, c, lc); err != nil {
			r.forget(c)
			return nil, nil, err
		}
	}
	return c, lc, nil
}

// enlist counts c as live. Its handler's context ends with the connection and,
// for one that was not accepted here, with ctx.
func (r *Router) enlist(ctx context.Context, c *Conn, a admission) (*liveConn, *Error) {
	lc := &liveConn{svc: a.svc, handler: chain(a.svc.handler, r.Middleware), from: a.from, ours: a.state != nil}
	switch {
	case lc.ours && a.over == QUIC: // two contexts less on each of many idle connections:
		lc.ctx, lc.cancel = c.s.Context(), func(error) {} // whoever cancels also closes, which ends this at once
	case lc.ours:
		lc.ctx, lc.cancel = context.WithCancelCause(c.s.Context())
	default:
		lc.ctx, lc.cancel = context.WithCancelCause(ctx)
		c.s.OnDone(func() { lc.cancel(net.ErrClosed) })
	}
	lc.ctx = context.WithValue(lc.ctx, connKey{}, c)
	if lc.ours && a.over == QUIC {
		c.ctx = lc.ctx
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.state != serving:
		lc.cancel(ErrRouterClosed)
		return nil, &Error{Code: CodeShutdown}
	case a.svc.gone.Load():
		lc.cancel(ErrNoService)
		return nil, &Error{Code: CodeRefused, Reason: "no such service", Err: ErrNoService}
	}
	r.live[c] = lc
	return lc, nil
}

// forget ends what enlist began.
func (r *Router) forget(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	lc := r.live[c]
	if lc == nil {
		return
	}
	delete(r.live, c)
	lc.cancel(net.ErrClosed)
	lc.svc.bytesIn.Add(c.bytesIn.Load())
	lc.svc.bytesOut.Add(c.bytesOut.Load())
	for _, w := range r.waiters {
		w.left(lc.svc)
	}
}

// run calls the handler of a live connection and closes it with the result. A
// handler may run for days: what waits for it here holds little stack.
func (r *Router) run(c *Conn, lc *liveConn) (err error) {
	lc.svc.handlers.Add(1)
	defer r.finish(c, lc, &err)
	return lc.handler.ServeConn(lc.ctx, c)
}

// finish closes a connection whose handler has returned *err, or panicked, and
// forgets it.
func (r *Router) finish(c *Conn, lc *liveConn, err *error) {
	if v := recover(); v != nil {
		*err = &safe.PanicError{Value: v, Stack: debug.Stack()}
	}
	defer r.forget(c)
	lc.svc.handlers.Add(-1)
	r.logResult(c, lc, *err)
	code, reason := closeCode(*err)
	if *err == nil || streamEnd(*err) == nil {
		code, reason = CodeOK, ""
		if c.isDraining() {
			code = CodeShutdown
		}
		c.linger()
	}
	_ = c.CloseWithError(code, reason) // the peer may be gone
}

// logResult logs what a handler returned, if that is news.
func (r *Router) logResult(c *Conn, lc *liveConn, err error) {
	if pe, ok := errors.AsType[*safe.PanicError](err); ok {
		lc.svc.panics.Add(1)
		c.logFailure(lc.ctx, "handler panicked", pe)
	} else if streamEnd(err) != nil && c.s.Err() == nil {
		c.logFailure(lc.ctx, "handler failed", err)
	}
}

// ServeConn serves a connection that was accepted elsewhere, such as an end of
// a [Pipe] or a [NewConn]: a Router is a ProtocolHandler. The connection's own
// identity counts, Authenticate is not asked. It closes conn before it returns.
func (r *Router) ServeConn(ctx context.Context, conn *Conn) error {
	r.init()
	over := conn.over
	if over == 0 {
		over = QUIC | Mux | Raw // a Pipe stands for any of them
	}
	svc := r.find(conn.alpn, over)
	err := &Error{Code: CodeRefused, Reason: "no such service", Err: ErrNoService}
	var lc *liveConn
	if svc != nil {
		id := conn.Identity()
		if err = svc.admit(&id); err == nil {
			conn.maxStreams = r.accounts().limits.maxStreams()
			conn.log = r.log()
			lc, err = r.enlist(ctx, conn, admission{svc: svc})
		}
	}
	if err != nil {
		r.refuse(ctx, &admission{svc: svc, id: conn.Identity()}, reasonFor(err.Code), conn.RemoteAddr(), err)
		_ = conn.CloseWithError(err.Code, err.Reason) // the peer may be gone
		return err
	}
	svc.handshakes.Add(1)
	return r.run(conn, lc)
}

// ServeNet is the accepting side of [Endpoint.DialConn]: it runs TLS in nc,
// which it takes over, with e's key, and serves the service that the other end
// names, on Mux or Raw. It counts against the Limits as an accepted connection
// and returns when the handler did.
func (r *Router) ServeNet(ctx context.Context, e *Endpoint, nc net.Conn) error {
	r.init()
	c, err := r.accounts().begin(nc.RemoteAddr(), tcpCost)
	if err != nil {
		r.refuse(ctx, nil, refusedLimit, nc.RemoteAddr(), err)
		refuseTCP(nc)
		return fmt.Errorf("alknet: serve inside a stream: %w", err)
	}
	defer c.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	l := &listening{r: r, e: e, ctx: ctx, stop: cancel, inside: true}
	return l.serveTCP(ctx, nc, c)
}

// protect calls f and makes a panic an error.
func protect(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &safe.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return f()
}

// asError is err as *Error, nil for nil.
func asError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: CodeInternal, Err: err}
}

// logPanic counts and logs err if it is a panic outside of any service.
func (r *Router) logPanic(err error) { r.notePanic(&r.panics, err) }

// notePanic counts and logs err if it is a panic outside of any handler.
func (r *Router) notePanic(count *atomic.Int64, err error) {
	if _, ok := errors.AsType[*safe.PanicError](err); !ok {
		return
	}
	count.Add(1)
	r.log().LogAttrs(r.ctx, slog.LevelError, "panic", append(panicAttrs(err), slog.String("err", err.Error()))...)
}
