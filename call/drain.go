package call

import (
	"context"
	"strconv"
	"time"

	"github.com/alkdev/alknet/call/codes"
)

// drainPoll is how often an end of all calls is looked for, at most.
const drainPoll = 5 * time.Millisecond

// drain drains one connection, because the Router asks for it.
func (l *link) drain(ctx context.Context) {
	l.beginDrain(ctx)
	if l.drained(ctx) == nil {
		l.fail(nil)
	}
}

// beginDrain tells the peer, refuses new calls and hands back the subscriptions
// that can go on elsewhere.
func (l *link) beginDrain(ctx context.Context) {
	l.mu.Lock()
	if l.draining || l.err != nil {
		l.mu.Unlock()
		return
	}
	l.draining = true
	var move []*inCall
	for _, c := range l.in {
		move = append(move, c)
	}
	l.mu.Unlock()
	l.sendDraining(ctx)
	for _, c := range move {
		c.handBack()
	}
}

// handBack ends a subscription that can be resumed elsewhere, between two items.
func (c *inCall) handBack() {
	c.mu.Lock()
	keep, entry := c.keep, c.entry
	c.mu.Unlock()
	if keep == nil || entry == nil || !entry.op.Resumable {
		return
	}
	e := errorf(codes.Unavailable, "draining").ran(runYes)
	keep.mu.Lock()
	e.Details = []byte(`{"after":` + strconv.FormatUint(c.sent.Load(), 10) + `}`)
	keep.mu.Unlock()
	c.endWith(e)
}

// sendDraining tells a peer that understands it.
func (l *link) sendDraining(ctx context.Context) {
	if !l.features().drain {
		return
	}
	grace := int64(defaultTimeout / time.Millisecond)
	if until, ok := ctx.Deadline(); ok {
		grace = max(time.Until(until).Milliseconds(), 0)
	}
	frame := func(b []byte) []byte {
		start := len(b)
		b = append(appendFrameHead(b, evDraining, nil), `{"grace_ms":`...)
		b = append(strconv.AppendInt(b, grace, 10), '}')
		return endFrame(b, start)
	}
	told := false
	for _, ln := range l.answering() { // which of them the peer reads on is not known here
		told = ln.w.tryAppend(false, frame) || told
	}
	if told && l.single {
		return
	}
	open, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	st, err := l.conn.OpenStream(open)
	if err != nil {
		return // it hears of it when the connection ends
	}
	_, _ = st.Write(frame(nil)) // as above
	_ = st.Close()
}

// answering are the streams on which we write and the peer may read.
func (l *link) answering() []*lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*lane, 0, len(l.lanes))
	for ln := range l.lanes {
		if !ln.own {
			list = append(list, ln)
		}
	}
	return list
}

// drained waits until no call of the peer runs and every answer was written.
func (l *link) drained(ctx context.Context) error {
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for !l.quiet() {
		select {
		case <-l.donec:
			return nil
		case <-ctx.Done():
			l.mu.Lock()
			var left []*inCall
			for _, c := range l.in {
				left = append(left, c)
			}
			l.mu.Unlock()
			for _, c := range left {
				c.endWith(errorf(codes.Unavailable, "draining").ran(runUnknown))
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// returned waits until no handler runs.
func (s *state) returned(ctx context.Context) error {
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for s.running.Load() > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// quiet reports whether nothing of the peer's runs and nothing waits to be written.
func (l *link) quiet() bool {
	l.mu.Lock()
	busy := len(l.in) > 0 || l.runningHere.Load() > 0
	lanes := make([]*lane, 0, len(l.lanes))
	for ln := range l.lanes {
		lanes = append(lanes, ln)
	}
	l.mu.Unlock()
	if busy {
		return false
	}
	for _, ln := range lanes {
		if ln.serving() || ln.w.busyNow() {
			return false
		}
	}
	return true
}

// serving reports whether a call of the peer has not yet handed its last frame to
// the writer: its handler has given up its place a moment before.
func (ln *lane) serving() bool {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return len(ln.running) > 0
}

// over reports whether the link has ended, here or there: readers are woken then
// by a deadline that is nobody's fault.
func (l *link) over() bool {
	select {
	case <-l.donec:
		return true
	default:
		return false
	}
}
