package call

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/alkdev/alknet/internal/safe"
)

// A callCtx is the context of a running call. It is part of the call, so that
// a call without children costs no context of its own; contexts derived from it
// need no goroutine, since it has AfterFunc.
type callCtx struct {
	parent context.Context // for values
	c      *inCall
	until  time.Time // zero: no deadline

	mu    sync.Mutex
	err   error         // guarded by mu
	done  chan struct{} // guarded by mu; nil: nobody asked
	after []*afterFunc  // guarded by mu
}

// afterFunc is a function to be called at the end.
type afterFunc struct{ f func() }

// closedc is Done of a context that had ended before anybody asked.
var closedc = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Deadline is when the call must have ended.
func (x *callCtx) Deadline() (time.Time, bool) { return x.until, !x.until.IsZero() }

// Done is closed when the call is aborted, lost, late or over.
func (x *callCtx) Done() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.done == nil {
		if x.err != nil {
			return closedc
		}
		x.done = make(chan struct{})
	}
	return x.done
}

// Err says how the call ended.
func (x *callCtx) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

// requestKey is how a Request is found in a context.
type requestKey struct{}

// Value finds the Request, or what the connection's context has.
func (x *callCtx) Value(key any) any {
	if _, ok := key.(requestKey); ok {
		return x.c.request()
	}
	return x.parent.Value(key)
}

// AfterFunc calls f in a goroutine of its own once the call has ended. Package
// context looks for it.
func (x *callCtx) AfterFunc(f func()) (stop func() bool) {
	a := &afterFunc{f: f}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err != nil {
		x.start(a)
		return func() bool { return false }
	}
	x.after = append(x.after, a)
	return func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		for i, o := range x.after {
			if o == a {
				x.after = append(x.after[:i], x.after[i+1:]...)
				return true
			}
		}
		return false
	}
}

func (x *callCtx) start(a *afterFunc) {
	safe.Go(x.c.owner(), func(error) {}, a.f) // a context's own function does not panic
}

// cancel ends the context, once.
func (x *callCtx) cancel(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err != nil {
		return
	}
	x.err = err
	if x.done != nil {
		close(x.done)
	}
	for _, a := range x.after {
		x.start(a)
	}
	x.after = nil
}

// ctxError is what a caller hears whose context has ended.
func ctxError(err error) *Error {
	e := asError(err)
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return e
	}
	return e.ran(runUnknown)
}
