package call

import (
	"bytes"
	"context"

	"github.com/alkdev/alknet/call/codes"
)

// A hop is one attempt to hand a unary call on, as package peer makes it. Its
// methods are called without locks and must not wait.
type hop = interface {
	// Over is whom the call is handed to, its name there and what it says.
	Over() (c *Client, op string, o *Options)
	// Withdraw is called instead of Ended when nothing was sent. Carry follows, and
	// makes the first attempt.
	Withdraw()
	// Ended is told how the attempt ended, nil: with an answer. It returns the error
	// that the caller is to hear; again: Carry follows, and makes the next attempt.
	Ended(err error) (e error, again bool)
	// Carry goes on with the call in a goroutine that may wait: out is the attempt,
	// which is still open; nil: there is none. The input follows.
	Carry(ctx context.Context, out *Stream) *Stream
}

// HandOn has unary calls of f handed on by the goroutine that reads them, and
// their answers by the one that reads those: as bytes, without a goroutine of
// their own. begin chooses whom to; it must not wait. Where it returns nil, and
// for calls that need more (a token, a key, a Middleware, an Audit), Serve serves.
func (f *Func) HandOn(begin func(r *Request) hop) { f.handOn = begin }

// onward is where a call was handed on to.
type onward struct {
	l     *link // nil: nowhere, or its answer is not awaited here any more
	n     uint64
	hurry bool // Escalate was called before the call was sent
}

// handOn begins to serve a call in the goroutine that has read it; false: it is
// one that needs a goroutine of its own, and nothing was done.
func (ln *lane) handOn(c *inCall) bool {
	m, x, h := &c.meta, c.meta.rare(), c.h
	if len(h.Sources) == 0 || h.Audit != nil || len(h.Middleware) > 0 ||
		m.inputs || m.rawInput || m.window > 0 || m.resumable || m.resumes ||
		len(x.key) > 0 || len(x.token) > 0 || len(x.delegation) > 0 || len(c.input) > sharedInputBytes {
		return false
	}
	op := c.s.find(m.op)
	if op == nil || op.Func.handOn == nil || h.Owns != nil && op.Access.ResourceType != "" || h.Delegate != nil && ln.l.lent() {
		return false
	}
	c.found = op
	if err := c.gate(); err != nil {
		c.handlerDone(err)
		return true
	}
	c.forwarded = true
	c.hop = op.Func.handOn(c.request())
	if c.hop == nil {
		c.next = op.Func.Serve
	} else if c.post(ln) {
		return true
	} else {
		c.hop.Withdraw()
		c.next = c.carryOn(nil)
	}
	ln.l.goOn(c)
	return true
}

// lent reports whether the peer has lent us its rights, which to narrow takes long.
func (l *link) lent() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.handed != ""
}

// goOn has c.next serve the call in a goroutine, or ends it with the connection.
func (l *link) goOn(c *inCall) {
	if !l.spawn(c.run) {
		c.handlerDone(l.lost())
	}
}

// carryOn serves the call by what its hop makes of it from now on.
func (c *inCall) carryOn(out *Stream) HandlerFunc {
	return func(ctx context.Context, s *Stream) error {
		to := c.hop.Carry(ctx, out)
		defer to.Cancel(nil) // does nothing once it has ended
		return s.handTo(to)
	}
}

// post sends the call to where its hop says; false: that cannot be done without
// waiting. ln is the lane whose reader we are.
func (c *inCall) post(ln *lane) bool {
	client, op, o := c.hop.Over()
	l := client.l
	to := l.readyLane()
	if to == nil {
		return false
	}
	out, err := l.prepare(&c.ctx, op, *o)
	if err != nil {
		return false
	}
	out.begun, out.closed, out.from = true, true, c
	req, err := out.request()
	if err != nil || !l.single && !out.shareable(len(c.input)) || out.enter(to, req) != nil {
		l.putOut(out)
		return false
	}
	n := out.n
	input := c.oneInput()
	c.mu.Lock()
	c.on.l, c.on.n = l, n
	hurry := c.on.hurry
	c.mu.Unlock()
	if !ln.append(to.w, func(b []byte) []byte {
		var id [64]byte
		start := len(b)
		b = appendFrameHead(b, evRequested, l.appendID(id[:0], n))
		return endFrame(req.appendPayload(b, input, len(input) > 0), start)
	}) {
		return !c.takeBack() // false only if nobody else has ended it
	}
	if c.done.Load() { // it was ended meanwhile
		c.letGo()
	}
	if hurry {
		c.request().Escalate()
	}
	return true
}

// readyLane is a lane that a small call may go on at once; nil: there is none.
func (l *link) readyLane() *lane {
	if l.single {
		select {
		case <-l.onec:
			return l.one
		default:
			return nil
		}
	}
	for i := range l.shared {
		l.mu.Lock()
		ln := l.shared[i]
		l.mu.Unlock()
		if ln == nil || i == len(l.shared)-1 || ln.w.pending() < maxTurn {
			return ln
		}
	}
	return nil
}

// recall removes the call that this one was handed on as; nil: its end is under way,
// or it never was.
func (c *inCall) recall() *outCall {
	c.mu.Lock()
	on := c.on
	c.on.l = nil
	c.mu.Unlock()
	if on.l == nil {
		return nil
	}
	on.l.mu.Lock()
	defer on.l.mu.Unlock()
	out := on.l.out[on.n]
	if out == nil || out.from != c {
		return nil
	}
	on.l.removeOutLocked(out)
	return out
}

// takeBack is recall of a call that was not sent.
func (c *inCall) takeBack() bool {
	out := c.recall()
	if out != nil {
		out.l.putOut(out)
	}
	return out != nil
}

// letGo aborts what the call was handed on as, once it has ended here.
func (c *inCall) letGo() {
	out := c.recall()
	if out == nil {
		return
	}
	out.l.sendAbort(out)
	err := errorf(codes.Cancelled, "cancelled").ran(runUnknown)
	c.hop.Ended(err)
	c.handlerDone(err)
}

// handBackAnswer answers the call with what the peer has answered that it was
// handed on to. ln is the lane whose reader we are.
func (c *inCall) handBackAnswer(ln *lane, data []byte, raw bool) {
	c.hop.Ended(nil)
	if most := c.s.outputLimit(c.entry.op.MaxOutputBytes); int64(len(data)) > most {
		c.handlerDone(limitError("max_output_bytes", most).ran(runYes))
		return
	}
	if len(data) > smallAnswer || c.ln.w.full() { // it has to wait for its turn
		data = bytes.Clone(data)
		c.next = func(_ context.Context, s *Stream) error { return s.sendChecked(data, raw) }
		c.l.goOn(c)
		return
	}
	c.reply, c.replyRaw, c.answered, c.reader = data, raw, true, ln
	c.handlerDone(nil)
}

// handBackError ends the call as the attempt ended, unless another follows.
func (c *inCall) handBackError(err error) {
	e, again := c.hop.Ended(err)
	if again && !c.done.Load() {
		c.next = c.carryOn(nil)
		c.l.goOn(c)
		return
	}
	if e == nil {
		e = err
	}
	c.handlerDone(e)
}

// Escalate has the hop of a call that was handed on carry it from now on, in a
// goroutine and with its attempt open. It reports whether it did: not if the
// attempt has ended.
func (r *Request) Escalate() bool {
	c := r.c
	c.mu.Lock()
	on := c.on
	c.on.l, c.on.hurry = nil, true
	c.mu.Unlock()
	if on.l == nil {
		return false
	}
	on.l.mu.Lock()
	out := on.l.out[on.n]
	if out == nil || out.from != c {
		on.l.mu.Unlock()
		return false
	}
	out.from = nil
	on.l.mu.Unlock()
	c.next = c.carryOn(&Stream{end: out})
	if !c.l.spawn(c.run) {
		err := c.l.lost()
		out.cancel(err)
		c.hop.Ended(err)
		c.handlerDone(err)
	}
	return true
}
