package peer

import (
	"context"
	"errors"
	"time"

	"github.com/alkdev/alknet"
)

// What a backoff goes by.
const (
	goodLife      = 30 * time.Second       // a connection that lived so long was no failure
	firstJitter   = 250 * time.Millisecond // before the redial after one, so that a head that restarts is not met by all at once
	hopelessTimes = 5                      // MaxBackoff × this where repeating does not help
)

// A backoff says how long to wait before the next dial: full jitter over
// MinBackoff × 2ⁿ, at most MaxBackoff.
type backoff struct {
	s    *Supervisor
	n    int
	fast bool // the next dial is immediate
}

// lived notes how long a connection was up.
func (b *backoff) lived(d time.Duration) {
	if d >= goodLife {
		b.n, b.fast = 0, true
	}
}

// next is the time to wait after err.
func (b *backoff) next(err error) time.Duration {
	least, most := orDefault(b.s.MinBackoff, time.Second), orDefault(b.s.MaxBackoff, time.Minute)
	switch code, known := codeOf(err); {
	case known && code == alknet.CodeShutdown && b.n == 0:
		b.fast = false
		b.n++
		return b.jitter(firstJitter)
	case known && (code == alknet.CodeRefused || code == alknet.CodeRevoked || code == alknet.CodeUnauthenticated):
		b.fast = false
		return most*hopelessTimes/2 + b.jitter(most*hopelessTimes/2)
	case b.fast:
		b.fast = false
		return b.jitter(firstJitter)
	}
	d := most
	if b.n < 32 {
		d = min(least<<b.n, most)
	}
	b.n++
	return b.jitter(d)
}

func (b *backoff) jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(b.s.rand() % uint64(d))
}

// wait waits, at most until ctx ends.
func (b *backoff) wait(ctx context.Context, err error) {
	t := time.NewTimer(b.next(err))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// codeOf is the code with which a connection or a dial ended.
func codeOf(err error) (alknet.ErrorCode, bool) {
	e, ok := errors.AsType[*alknet.Error](err)
	if !ok {
		return 0, false
	}
	return e.Code, true
}
