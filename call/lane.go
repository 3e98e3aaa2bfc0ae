package call

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/budget"
)

// A lane is one stream of a link: the only one of a Raw connection, one of the
// few that unary calls share, or the stream of one call.
type lane struct {
	l      *link
	st     *alknet.Stream
	w      *writer
	r      frameReader
	opened bool        // by us: we call on it, and the peer answers
	both   bool        // Raw: both ends call on it
	own    bool        // opened for one call of ours
	over   atomic.Bool // that call has ended: nothing more is read
	req    request     // the reader's: what a frame is parsed into that may be a request
	corked []*writer   // the reader's: where it has appended, and not yet written

	mu      sync.Mutex
	running map[*inCall]struct{} // guarded by mu; calls of the peer that it answers
	eof     bool                 // guarded by mu; the peer sends nothing more
	shut    bool                 // guarded by mu; its end is under way
}

// newLane adds a stream to the link; nil: the link has ended.
func (l *link) newLane(st *alknet.Stream, opened bool) *lane {
	ln := &lane{l: l, st: st, opened: opened, both: l.single, running: make(map[*inCall]struct{})}
	ln.w = newWriter(st, &l.wg)
	ln.r = frameReader{src: st, timeout: l.s.lim.FrameTimeout, mem: l.mem}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil
	}
	l.lanes[ln] = struct{}{}
	return ln
}

// answers reports whether the peer calls on this lane.
func (ln *lane) answers() bool { return ln.both || !ln.opened }

// asks reports whether we call on it.
func (ln *lane) asks() bool { return ln.both || ln.opened }

// run reads the lane to its end.
func (ln *lane) run() {
	if !ln.opened && !ln.both {
		ln.r.hurry(0) // the first frame must come soon
		ln.r.first = true
		stop := ln.st.OnAbort(ln.reset)
		defer stop()
	}
	err := ln.read()
	ln.uncork()
	ln.ended(err)
}

// reset is what happens when the peer resets the stream or stops reading it.
func (ln *lane) reset() {
	ln.mu.Lock()
	over := ln.shut || len(ln.running) == 0
	ln.mu.Unlock()
	if over || ln.l.lostSoon() {
		return
	}
	if ln.l.aborted() {
		ln.abandon()
	}
}

// noticeTime is how long after the end of its streams a connection is known to
// have ended.
const noticeTime = 20 * time.Millisecond

// lostSoon reports whether the end of a stream is that of the connection, which
// some transports tell in this order.
func (l *link) lostSoon() bool {
	t := time.NewTimer(noticeTime)
	defer t.Stop()
	select {
	case <-l.conn.Done():
		return true
	case <-l.donec:
		return true
	case <-t.C:
		return false
	}
}

// abandon aborts the calls that were to be answered on the lane.
func (ln *lane) abandon() {
	ln.mu.Lock()
	calls := make([]*inCall, 0, len(ln.running))
	for c := range ln.running {
		calls = append(calls, c)
	}
	ln.mu.Unlock()
	for _, c := range calls {
		c.abort(errorf(codes.Cancelled, "the caller ended the stream"), false)
	}
}

// read handles frames until the stream ends.
func (ln *lane) read() error {
	for !ln.over.Load() {
		if len(ln.corked) > 0 && !ln.r.whole() {
			ln.uncork()
		}
		n, err := ln.r.length()
		if err != nil && ln.over.Load() {
			break // it was woken up to see that
		}
		if err == nil {
			err = ln.readFrame(n)
		}
		if err != nil {
			return err
		}
	}
	return io.EOF
}

// readFrame reads and handles a frame of n bytes.
func (ln *lane) readFrame(n int) error {
	if int64(n) > ln.limit() {
		if done, err := ln.oversize(n); err != nil || done {
			return err
		}
	}
	body, ok, err := ln.r.small(n)
	if !ok && err == nil {
		var head []byte
		if head, err = ln.r.peek(n); err != nil {
			return err
		}
		_, id, _, _ := peekHead(head)
		id = bytes.Clone(id) // whose it is, should there be no memory for it
		var left int
		body, left, err = ln.r.large(n)
		defer ln.r.release()
		if le, over := errors.AsType[*budget.LimitError](err); over {
			return ln.refuseLarge(left, id, le.Setting, le.Max)
		}
	}
	if err == nil {
		ln.handle(body)
	}
	return err
}

// limit is the largest frame that is read before it is known what it is for.
func (ln *lane) limit() int64 {
	lim := ln.l.s.lim.MaxFrameBytes
	if ln.l.h.Limits.MaxFrameBytes == 0 && ln.answers() && ln.l.conn.SharedIdentity().ID == "" {
		return anonymousMaxFrameBytes
	}
	return lim
}

// requestHead is how the canonical form of a request begins.
var requestHead = []byte(preType + `call.requested"`)

// handle acts on one frame, whose bytes are valid until it returns.
func (ln *lane) handle(body []byte) {
	var ev event
	if isRaw(body) {
		if err := ev.parseRaw(body); err == nil {
			ln.event(&ev, len(body))
		} else if ln.answers() {
			ln.sendError(nil, errorf(codes.InvalidRequest, "neither an envelope nor a raw frame").ran(runNo), false)
		}
		return
	}
	if ln.answers() && bytes.HasPrefix(body, requestHead) {
		ln.request(body)
		return
	}
	bad := ev.parse(body, &ln.req)
	switch {
	case bad != nil:
		ln.badFrame(bad)
	case ev.typ != evRequested:
		ln.event(&ev, len(body))
	case ln.answers():
		ln.request(body)
	}
}

// badFrame answers a frame that is not one strict envelope.
func (ln *lane) badFrame(bad *badEnvelope) {
	if ln.asks() {
		if c := ln.l.takeOut(bad.id); c != nil {
			c.fail(errorf(codes.Internal, "the answer is not a strict envelope").ran(runYes).because(bad.why))
			return
		}
	}
	if ln.answers() {
		ln.sendError(bad.id, errorf(codes.InvalidRequest, "not one strict envelope").ran(runNo), false)
	}
}

// event acts on an event of a call that exists, or is ignored.
func (ln *lane) event(ev *event, size int) {
	switch ev.typ {
	case evResponded, evCompleted, evError, evNotice:
		if ln.asks() {
			ln.l.answered(ln, ev, size)
		}
	case evItem, evEnd:
		if ln.answers() {
			if c := ln.l.running(ev.id); c != nil {
				c.inputEvent(ev, size)
			}
		}
	case evAborted:
		ln.abortEvent(ev)
	case evCredit:
		ln.creditEvent(ev)
	case evDraining:
		ln.l.peerDrains()
	}
}

// byCallee reports whether an abort or a credit comes from the end that serves
// the call.
func (ln *lane) byCallee(reply bool, id []byte) bool {
	if !ln.both {
		return ln.opened
	}
	return reply || ln.l.running(id) == nil // a base peer does not say
}

// request starts a call of the peer.
func (ln *lane) request(body []byte) {
	c := newInCall(ln)
	if err := c.hold(body); err != nil {
		_, id, _, _ := peekHead(body)
		ln.sendError(id, memoryError(err).ran(runNo), false)
		return
	}
	var ev event
	if bad := ev.parse(*c.frame, &c.meta); bad != nil {
		ln.badFrame(bad)
		c.recycle()
		return
	}
	c.id, c.input, c.size = string(ev.id), ev.data, len(body)
	c.imply()
	if c.meta.inputs || c.meta.rawInput {
		c.box = new(newMailbox())
	}
	if err := ln.l.admit(c); err != nil {
		ln.sendError(ev.id, err, false)
		c.recycle()
		return
	}
	if !ln.handOn(c) {
		ln.l.dispatch(c)
	}
}

// sendError answers a call that never began.
func (ln *lane) sendError(id []byte, e *Error, explain bool) {
	w := ln.w
	if w.begin() != nil {
		return
	}
	start := len(w.hot)
	w.hot = appendFrameHead(w.hot, evError, id)
	w.hot = endFrame(e.appendPayload(w.hot, explain), start)
	w.end(true, 1)
}

// add notes that a call of the peer is to be answered on the lane; false: it is
// over.
func (ln *lane) add(c *inCall) bool {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.shut {
		return false
	}
	ln.running[c] = struct{}{}
	return true
}

// remove is called once the call's last frame was handed to the writer.
func (ln *lane) remove(c *inCall) {
	ln.mu.Lock()
	delete(ln.running, c)
	over := ln.overLocked()
	ln.mu.Unlock()
	if over {
		ln.finish()
	}
}

// overLocked reports, once, that nothing more happens on the lane.
func (ln *lane) overLocked() bool {
	if ln.shut || !ln.eof || len(ln.running) > 0 {
		return false
	}
	ln.shut = true
	return true
}

// ended is called when nothing more is read from the lane.
func (ln *lane) ended(err error) {
	clean := errors.Is(err, io.EOF)
	if !clean && ln.l.over() {
		_ = ln.st.Close() // what was answered before the end is still delivered; a reset would discard it
		ln.w.fail(err)
		return
	}
	if ln.asks() {
		ln.l.laneLost(ln, err)
	}
	if !clean {
		ln.complain(err)
		ln.w.fail(err)
		if !errors.Is(err, net.ErrClosed) && !ln.l.connEnded() && !ln.idle() && !ln.l.lostSoon() {
			ln.abandon()
		}
	}
	ln.mu.Lock()
	ln.eof = true
	over := ln.overLocked()
	ln.mu.Unlock()
	if !clean {
		code := streamCode(err)
		if ln.l.connEnded() { // which is why the read failed: nothing was refused
			code = alknet.CodeOK
		}
		ln.st.Reset(code)
	}
	if over {
		ln.finish()
	}
}

// streamCode is the code with which the stream is reset because of what was
// read, or not read, from it.
func streamCode(err error) alknet.ErrorCode {
	if e, ok := errors.AsType[*alknet.Error](err); ok && !e.Remote {
		return e.Code
	}
	switch {
	case errors.Is(err, errFrameLength), errors.Is(err, errTruncated):
		return alknet.CodeProtocol
	case errors.Is(err, os.ErrDeadlineExceeded):
		return alknet.CodeLimit // frame_timeout
	}
	return alknet.CodeOK
}

// complain logs an end that is the peer's fault.
func (ln *lane) complain(err error) {
	if code := streamCode(err); code == alknet.CodeProtocol || code == alknet.CodeLimit {
		ln.l.log(slog.LevelWarn, "call: stream refused", err)
	}
}

// finish closes the stream after what is still to be written, and forgets it.
func (ln *lane) finish() {
	end := func() {
		_ = ln.st.Close() // the peer may be gone
		ln.l.mu.Lock()
		delete(ln.l.lanes, ln)
		ln.l.mu.Unlock()
	}
	if !ln.w.finish(end) {
		end()
	}
}

// halfClose ends our direction after what is still to be written.
func (ln *lane) halfClose() {
	ln.w.finish(func() { _ = ln.st.CloseWrite() }) // the peer may be gone
}
