package alknet

import (
	"context"
	"time"
)

type claimKey struct{}

// A claimContext is what a QUIC connection's context is made from. It carries the
// claim, and closes it when the connection has ended.
//
// It never ends by itself. A context that is made from one with an AfterFunc method
// registers there to hear of the parent's end, and withdraws when it ends first: that
// is the end of the connection, told where it happens. [context.AfterFunc] would cost
// a goroutine at the end, and half a kilobyte for as long as the connection is idle.
type claimContext struct{ c *claim }

// never is the Done of a context that does not end.
var never = make(chan struct{})

// Deadline is part of [context.Context].
func (claimContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done is part of [context.Context].
func (claimContext) Done() <-chan struct{} { return never }

// Err is part of [context.Context].
func (claimContext) Err() error { return nil }

// Value is part of [context.Context].
func (x claimContext) Value(key any) any {
	if key == (claimKey{}) {
		return x.c
	}
	return nil
}

// AfterFunc is what the one context made from x calls; f would never run.
func (x claimContext) AfterFunc(func()) (withdraw func() bool) {
	return func() bool { x.c.close(); return true }
}

// claimFrom is what the connection of ctx holds; nil outside of one.
func claimFrom(ctx context.Context) *claim {
	if ctx == nil {
		return nil
	}
	c, _ := ctx.Value(claimKey{}).(*claim)
	return c
}
