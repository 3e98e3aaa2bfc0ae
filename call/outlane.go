package call

import (
	"context"
	"errors"
	"io"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call/codes"
)

// lane is the stream for the call.
func (c *outCall) lane(size int) (*lane, error) {
	l := c.l
	if l.single {
		ln, err := l.waitOne(c.ctx)
		return ln, err
	}
	if c.shareable(size) {
		return l.sharedLane(c.ctx)
	}
	return l.ownLane(c.ctx)
}

// ownLane opens a stream for one call.
func (l *link) ownLane(ctx context.Context) (*lane, error) {
	st, err := l.conn.OpenStream(ctx)
	if err != nil {
		return nil, openError(ctx, err)
	}
	ln := l.newLane(st, true)
	if ln == nil {
		st.Reset(alknet.CodeOK)
		return nil, errorf(codes.Unavailable, "the connection has ended").ran(runNo)
	}
	ln.own = true
	return ln, nil
}

func openError(ctx context.Context, err error) error {
	if cerr := ctx.Err(); cerr != nil {
		return asError(cerr).ran(runNo)
	}
	return errorf(codes.Unavailable, "the connection has ended").ran(runNo).because(err)
}

// sharedLane returns one of the long-lived streams: the first, unless much waits
// to be written on it.
func (l *link) sharedLane(ctx context.Context) (*lane, error) {
	for i := range l.shared {
		l.mu.Lock()
		ln := l.shared[i]
		l.mu.Unlock()
		if ln == nil {
			return l.openShared(ctx, i)
		}
		if i == len(l.shared)-1 || ln.w.pending() < maxTurn {
			return ln, nil
		}
	}
	return nil, io.ErrUnexpectedEOF // not reached: the last one is taken
}

// openShared opens shared stream i, unless somebody else just did.
func (l *link) openShared(ctx context.Context, i int) (*lane, error) {
	ln, err := l.ownLane(ctx)
	if err != nil {
		return nil, err
	}
	ln.own = false
	l.mu.Lock()
	if had := l.shared[i]; had != nil || l.err != nil {
		l.mu.Unlock()
		ln.st.Reset(alknet.CodeOK) // nothing was sent on it
		ln.finish()
		if had == nil {
			return nil, errorf(codes.Unavailable, "the connection has ended").ran(runNo)
		}
		return had, nil
	}
	l.shared[i] = ln
	l.mu.Unlock()
	if !l.spawn(ln.run) {
		return nil, errorf(codes.Unavailable, "the connection has ended").ran(runNo)
	}
	return ln, nil
}

// sendAbort tells the callee that nobody waits for a call any more. It never
// blocks.
func (l *link) sendAbort(c *outCall) {
	if c.ln == nil {
		return
	}
	var id [64]byte
	frame := func(b []byte) []byte {
		start := len(b)
		return endFrame(append(appendFrameHead(b, evAborted, c.appendID(id[:0])), emptyObject...), start)
	}
	if c.ln.w.tryAppend(true, frame) {
		return
	}
	if c.peer.mux && !l.single {
		l.mu.Lock()
		shared := l.shared[0]
		l.mu.Unlock()
		if shared != nil && shared.w.tryAppend(true, frame) {
			return
		}
	}
	if l.single {
		return
	}
	l.spawn(func() { // on a stream of its own: the peer's reader of the old one is busy
		ctx, cancel := context.WithTimeout(l.ctx, helloTimeout)
		defer cancel()
		st, err := l.conn.OpenStream(ctx)
		if err == nil {
			_, _ = st.Write(frame(nil)) // the peer may be gone
			_ = st.Close()
		}
		if c.ln.own {
			c.ln.st.Reset(alknet.CodeOK)
		}
	})
}

// laneLost fails the calls of ours that were to be answered on a lane.
func (l *link) laneLost(ln *lane, cause error) {
	var lost []*outCall
	l.mu.Lock()
	for _, c := range l.out {
		if c.ln == ln {
			lost = append(lost, c)
			l.removeOutLocked(c)
		}
	}
	for i := range l.shared {
		if l.shared[i] == ln {
			l.shared[i] = nil
		}
	}
	l.mu.Unlock()
	if len(lost) == 0 {
		return
	}
	e := errorf(codes.Unavailable, "the stream ended before the answer").ran(runUnknown).because(cause)
	// Only a stream of one call with one input was refused as a whole: of several
	// calls, or inputs, some may have run.
	alone := ln.own && len(lost) == 1 && !lost[0].o.InputStream
	if ae, ok := errors.AsType[*alknet.Error](cause); ok && ae.Remote && ae.Code == alknet.CodeLimit && alone {
		e = limitError("max_frame_bytes of the peer", 0).because(cause)
	}
	for _, c := range lost {
		c.fail(e)
	}
}
