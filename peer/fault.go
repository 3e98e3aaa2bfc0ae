package peer

import (
	"context"
	"errors"
	"time"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// notFound is the one answer for names that nobody serves.
func notFound(name string) *call.Error {
	return (&call.Error{Code: codes.NotFound, Message: "operation not found: " + name}).NotRun()
}

// unavailable is an error of ours: nothing was sent.
func unavailable(why string) *call.Error {
	return (&call.Error{Code: codes.Unavailable, Message: why, Retryable: true}).NotRun()
}

// ctxError is what a caller hears whose context has ended before anything was sent.
func ctxError(err error) *call.Error {
	if errors.Is(err, context.DeadlineExceeded) {
		return (&call.Error{Code: codes.Timeout, Message: "deadline exceeded", Retryable: true, Err: err}).NotRun()
	}
	return (&call.Error{Code: codes.Cancelled, Message: "cancelled", Err: err}).NotRun()
}

// errQuit is a wait that was ended by Cancel.
var errQuit = errors.New("peer: cancelled")

// A fault is what an error of an attempt means for the next.
type fault uint8

const (
	final   fault = iota // the caller's to deal with
	lost                 // the link is gone; the call may have run
	unsent               // it surely did not run, and that is nobody's fault: the link was gone, or the peer drains or serves it no more
	refused              // it surely did not run, because the peer is at a limit
	failed               // it ran, or may have, and the peer says that another attempt may help
)

// faultOf judges an error.
func faultOf(err error) (fault, *call.Error) {
	e, ok := errors.AsType[*call.Error](err)
	if !ok {
		return final, nil
	}
	switch {
	case !e.MayHaveRun && e.Code == codes.Unavailable, !e.MayHaveRun && e.Remote && e.Code == codes.NotFound:
		return unsent, e
	case !e.MayHaveRun && e.Code == codes.ResourceExhausted:
		return refused, e
	case e.MayHaveRun && !e.Remote && e.Code == codes.Unavailable:
		return lost, e
	case e.MayHaveRun && e.Retryable && e.Code != codes.Timeout:
		return failed, e
	}
	return final, e
}

// backoff is how long to wait before attempt n (from 1) is repeated: 10 ms × 2ⁿ
// with jitter, or what the peer asked for.
func (g *Graph) backoff(n int, after time.Duration) time.Duration {
	d := 10 * time.Millisecond << min(n, 10)
	d = d/2 + time.Duration(g.rand()%uint64(d/2))
	return max(d, after)
}

// via adds the peer to the origin of an error.
func via(err error, id string) error {
	e, ok := errors.AsType[*call.Error](err)
	if !ok || !e.Remote && !e.MayHaveRun {
		return err
	}
	c := *e
	c.Origin = append([]string{id}, e.Origin...)
	return &c
}
