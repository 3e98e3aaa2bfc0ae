package alknet

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alkdev/alknet/internal/safe"
)

// A waiter waits until the connections of one service, or of all, are gone.
type waiter struct {
	svc   *service // nil: all
	count int
	done  chan struct{} // closed at zero
}

// left notes that a connection of svc is gone.
func (w *waiter) left(svc *service) {
	if w.svc != nil && w.svc != svc {
		return
	}
	if w.count--; w.count == 0 {
		close(w.done)
	}
}

// Shutdown drains the Router: new connections are refused with CodeShutdown,
// every connection is Draining, each handler that is a [Shutdowner] is told,
// and Shutdown waits for the handlers, no longer than they need. When ctx ends
// first it closes what is left with CodeShutdown and returns an error that
// names the ALPNs whose handlers still ran. Serve then returns ErrRouterClosed.
func (r *Router) Shutdown(ctx context.Context) error {
	r.init()
	r.mu.Lock()
	if r.state == closed {
		r.mu.Unlock()
		return nil
	}
	r.state = draining
	r.mu.Unlock()
	err := r.drain(ctx, nil)
	return errors.Join(err, r.Close())
}

// Remove takes a service away: the next handshake no longer offers it, and its
// connections are drained as in [Router.Shutdown]. Its name is free again at
// once. The error wraps [ErrNoService] if alpn is not registered.
func (r *Router) Remove(ctx context.Context, alpn string) error {
	r.init()
	r.mu.Lock()
	old := *r.services.Load()
	i := slices.IndexFunc(old, func(s *service) bool { return s.ALPN == alpn })
	if i < 0 {
		r.mu.Unlock()
		return fmt.Errorf("alknet: remove %q: %w", alpn, ErrNoService)
	}
	svc := old[i]
	svc.gone.Store(true)
	list := slices.Delete(slices.Clone(old), i, i+1)
	r.services.Store(&list)
	r.mu.Unlock()
	err := r.drain(ctx, svc)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past.add(svc.counters())
	return err
}

// drain drains the connections of svc, or all for nil.
func (r *Router) drain(ctx context.Context, svc *service) error {
	r.mu.Lock()
	w := &waiter{svc: svc, done: make(chan struct{})}
	for c, lc := range r.live {
		if svc == nil || lc.svc == svc {
			w.count++
			c.drain()
		}
	}
	if w.count == 0 {
		close(w.done)
	}
	r.waiters = append(r.waiters, w)
	r.mu.Unlock()
	defer r.dropWaiter(w)

	wait := r.tellShutdowners(ctx, svc)
	select {
	case <-w.done:
	case <-ctx.Done():
		return r.cut(ctx, svc)
	}
	return wait()
}

func (r *Router) dropWaiter(w *waiter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiters = slices.DeleteFunc(r.waiters, func(o *waiter) bool { return o == w })
}

// tellShutdowners calls each handler that wants to know, at once, and returns
// how to wait for them.
func (r *Router) tellShutdowners(ctx context.Context, svc *service) (wait func() error) {
	services := []*service{svc}
	if svc == nil {
		services = *r.services.Load()
	}
	var told []Shutdowner
	results := make(chan error, len(services))
	for _, s := range services {
		sd, ok := s.Handler.(Shutdowner)
		if !ok || slices.ContainsFunc(told, func(o Shutdowner) bool { return same(o, sd) }) {
			continue
		}
		told = append(told, sd)
		report := func(err error) { results <- err }
		safe.Go(&r.wg, report, func() {
			err := sd.Shutdown(ctx)
			if err != nil {
				err = fmt.Errorf("alknet: shut down %q: %w", s.ALPN, err)
			}
			report(err)
		})
	}
	return func() error {
		var errs []error
		for range told {
			select {
			case err := <-results:
				errs = append(errs, err)
			case <-ctx.Done():
				return errors.Join(append(errs, fmt.Errorf("alknet: shut down: a handler's Shutdown still runs: %w", ctx.Err()))...)
			}
		}
		return errors.Join(errs...)
	}
}

// same reports whether two handlers are one: one handler may serve several ALPNs.
func same(a, b Shutdowner) bool {
	t := reflect.TypeOf(a)
	return t == reflect.TypeOf(b) && t.Comparable() && a == b
}

// cut closes what a drain left over and names it.
func (r *Router) cut(ctx context.Context, svc *service) error {
	var names []string
	var conns []*Conn
	r.mu.Lock()
	for c, lc := range r.live {
		if svc != nil && lc.svc != svc {
			continue
		}
		conns = append(conns, c)
		lc.cancel(context.Cause(ctx))
		if !slices.Contains(names, c.alpn) {
			names = append(names, c.alpn)
		}
	}
	r.mu.Unlock()
	closeAll(conns, CodeShutdown)
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return fmt.Errorf("alknet: drain: still running: %s: %w", strings.Join(names, ", "), ctx.Err())
}

// Close cuts every connection with CodeShutdown at once and ends Serve. It does
// not wait for handlers that ignore the end of their context.
func (r *Router) Close() error {
	r.init()
	r.mu.Lock()
	r.state = closed
	var conns []*Conn
	for c, lc := range r.live {
		conns = append(conns, c)
		lc.cancel(ErrRouterClosed)
	}
	listenings := make([]*listening, 0, len(r.endpoints))
	for _, l := range r.endpoints {
		listenings = append(listenings, l)
	}
	r.mu.Unlock()
	r.stop()
	closeAll(conns, CodeShutdown)
	for _, l := range listenings {
		l.loops.Wait()
	}
	return nil
}

// closers bounds how many connections are closed at once: each may wait half a
// second for its peer to hear why.
const closers = 256

// closeAll closes conns with code, many at a time, and waits.
func closeAll(conns []*Conn, code ErrorCode) {
	forEach(conns, func(c *Conn) { _ = c.CloseWithError(code, "") }) // the peers may be gone
}

// forEach calls f for each of conns, many at a time, and waits.
func forEach(conns []*Conn, f func(*Conn)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, closers)
	for _, c := range conns {
		slots <- struct{}{}
		safe.Go(&wg, func(error) {}, func() {
			defer func() { <-slots }()
			f(c)
		})
	}
	wg.Wait()
}

// reauthenticateTime is how long Reauthenticate waits for Authenticate: who has
// not been judged again by then is closed.
const reauthenticateTime = 900 * time.Millisecond

// Reauthenticate asks again who every connected peer is, after the list of
// peers changed. Within a second it closes who is no longer welcome, with
// CodeRevoked or the code of Authenticate's error, and gives the others their
// new Identity. Session tickets made before are void. A peer for which
// Authenticate does not answer in time is closed too. The error is ctx's, if it
// ended first.
func (r *Router) Reauthenticate(ctx context.Context) error {
	r.init()
	r.epoch.Add(1)
	r.tickets.forget()
	judged, cancel := context.WithTimeout(ctx, reauthenticateTime)
	defer cancel()
	live := make(map[*Conn]*liveConn)
	r.mu.Lock()
	for c, lc := range r.live {
		if lc.ours {
			live[c] = lc
		}
	}
	r.mu.Unlock()
	pending := make([]*Conn, 0, len(live))
	for c := range live {
		pending = append(pending, c)
	}
	forEach(pending, func(c *Conn) { r.rejudge(judged, c, live[c]) })
	return ctx.Err()
}

// rejudge judges one connection again and closes it if it is not welcome.
func (r *Router) rejudge(ctx context.Context, c *Conn, lc *liveConn) {
	verdict := make(chan *Error, 1)
	safe.Go(&r.wg, func(err error) { verdict <- asError(err) }, func() { verdict <- r.judge(ctx, c, lc) })
	var err *Error
	select {
	case err = <-verdict:
	case <-ctx.Done():
		err = &Error{Code: CodeRevoked, Reason: "not authenticated again in time", Err: ctx.Err()}
	}
	if err != nil {
		id := c.Identity()
		r.refuse(ctx, &admission{svc: lc.svc, id: id}, refusedRevoked, c.RemoteAddr(), err)
		c.setIdentity(&Identity{ID: id.ID, Peer: id.Peer}, true) // what it began has no rights while it ends
		_ = c.CloseWithError(err.Code, err.Reason)               // the peer may be gone
		c.tellIdentity()
	}
}

// judge asks who the peer of a live connection is now.
func (r *Router) judge(ctx context.Context, c *Conn, lc *liveConn) *Error {
	state := c.s.TLS()
	id, err := r.authenticate(ctx, &state, lc.svc)
	if err == nil {
		err = lc.svc.admit(&id)
	}
	if err == nil {
		if c.setIdentity(&id, false) {
			c.tellIdentity()
		}
		return nil
	}
	if err.Code == CodeUnauthenticated || err.Code == CodeRefused {
		return &Error{Code: CodeRevoked, Reason: err.Reason, Err: err}
	}
	return err
}
