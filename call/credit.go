package call

import (
	"context"
	"sync/atomic"
	"time"
)

// An inflow is the receiver's side of credit: it grants the sender more when
// the consumer has taken half of the window, and lets the window grow while the
// consumer empties it within two round trips. It belongs to the consumer.
type inflow struct {
	window, max int64
	taken       int64 // consumed and not yet granted again
	seq         uint64
	since       time.Time // when the last whole window began
	passed      int64     // consumed since then
}

// minRoundTrip is what a grant takes to the sender and back at least, with the
// goroutines and busy processors on the way: on a quick network a small window is
// what limits.
const minRoundTrip = 25 * time.Millisecond

func newInflow(window, most int64) inflow { return inflow{window: window, max: most} }

// consumed notes that a frame of n bytes was taken. grant is how many bytes the
// sender may send more, 0: none yet. The window grows if reserve admits it.
func (f *inflow) consumed(n int, seq uint64, rtt func() time.Duration, reserve func(int64) bool) (grant int64) {
	f.seq = seq
	f.taken += int64(n)
	f.passed += int64(n)
	if f.taken < f.window/2 {
		return 0
	}
	grant, f.taken = f.taken, 0
	now := time.Now()
	if f.passed >= f.window {
		if !f.since.IsZero() && now.Sub(f.since) <= 2*max(rtt(), minRoundTrip) && f.window < f.max {
			if more := min(f.window, f.max-f.window); reserve(more) {
				f.window += more
				grant += more
			}
		}
		f.passed, f.since = 0, now
	} else if f.since.IsZero() {
		f.since = now
	}
	return grant
}

// An outflow is the sender's side: it may send while its balance is positive.
// The zero value does not limit.
type outflow struct {
	balance atomic.Int64  // what may still be sent
	limited atomic.Bool   // false: the transport alone limits
	closed  atomic.Bool   // nobody waits any more
	acked   atomic.Uint64 // the last item that the peer has consumed
	wake    chan struct{} // made by limit
}

// limit starts credit with a window. It is called before anything is sent.
func (f *outflow) limit(window int64) {
	f.wake = make(chan struct{}, 1)
	f.balance.Store(window)
	f.limited.Store(true)
}

// wait waits until something may be sent. One frame may then be larger than
// the balance.
func (f *outflow) wait(ctx context.Context) error {
	for f.limited.Load() && f.balance.Load() <= 0 && !f.closed.Load() {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// charge notes that a frame of n bytes is sent.
func (f *outflow) charge(n int) { f.balance.Add(-int64(n)) }

// maxBalance bounds what a peer can grant, in bytes.
const maxBalance = 1 << 40

// grant adds credit for n bytes and notes that items up to seq were consumed.
// It reports whether the peer may say so: it cannot consume what was not sent,
// nor take back what it said. It is called by one goroutine at a time.
func (f *outflow) grant(n int64, seq, sent uint64) bool {
	if n < 0 || seq > sent || seq < f.acked.Load() || n > maxBalance-max(f.balance.Load(), 0) {
		return false
	}
	f.acked.Store(seq)
	f.balance.Add(n)
	f.signal()
	return true
}

// open lets everybody through: the call is over.
func (f *outflow) open() {
	f.closed.Store(true)
	if f.limited.Load() {
		f.signal()
	}
}

func (f *outflow) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
