package alknet

import (
	"context"
	"sync"
	"sync/atomic"
)

// A streamContext is the context of one stream's handler. It ends with the
// connection's, when the peer aborts the stream, and when the handler has
// returned. What watches for all that is made when somebody first asks: most
// handlers read and write, and never do.
type streamContext struct {
	context.Context // the connection's
	s               *Stream
	once            sync.Once
	watched         atomic.Pointer[watchedContext]
	ended           atomic.Bool
}

// A watchedContext is a streamContext that somebody waits for.
type watchedContext struct {
	context.Context
	cancel context.CancelFunc
	stop   func() bool // of OnAbort
}

// watch returns the context that ends when c does.
func (c *streamContext) watch() context.Context {
	c.once.Do(func() {
		ctx, cancel := context.WithCancel(c.Context)
		w := &watchedContext{Context: ctx, cancel: cancel, stop: c.s.st.OnAbort(cancel)}
		c.watched.Store(w)
		if c.ended.Load() { // else end sees w
			w.end()
		}
	})
	return c.watched.Load().Context
}

// end is called when the handler has returned.
func (c *streamContext) end() {
	c.ended.Store(true)
	if w := c.watched.Load(); w != nil {
		w.end()
	}
}

func (w *watchedContext) end() {
	w.stop()
	w.cancel()
}

// Done is part of [context.Context].
func (c *streamContext) Done() <-chan struct{} { return c.watch().Done() }

// Err is part of [context.Context].
func (c *streamContext) Err() error { return c.watch().Err() }

// Value is part of [context.Context]. Once there is a context that is watched,
// the contexts made of c find it here and need no goroutine to follow it.
func (c *streamContext) Value(key any) any {
	if w := c.watched.Load(); w != nil {
		return w.Value(key)
	}
	return c.Context.Value(key)
}
