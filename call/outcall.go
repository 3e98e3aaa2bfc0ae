package call

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet/call/codes"
)

// An outCall is a call that we make over a link: the caller's end of it.
type outCall struct {
	l   *link
	n   uint64 // its id behind the link's prefix
	ctx context.Context
	o   Options
	op  string
	ln  *lane // guarded by the link's lock; where it is answered

	req      request
	items    bool // several outputs are expected
	peer     *hello
	maxReply int64
	due      due
	box      mailbox
	in       inflow
	out      outflow
	nextOut  uint64       // the reader's: number of the next output
	received int64        // the reader's: bytes of outputs
	others   int          // live calls beside it when it began
	granted  atomic.Int64 // how many the callee may send
	sent     atomic.Uint64
	held     atomic.Int64
	writing  atomic.Bool // its caller writes for everybody, and cannot leave
	unwatch  func() bool
	begun    bool          // the request was written
	started  chan struct{} // of a stream of inputs: closed once begin is through
	closed   bool          // no more input
	from     *inCall       // guarded by the link's lock while live; the call that is handed on; nil: somebody receives
	wire     string        // its id, if that is one of another connection; "": prefix and n
}

// getOutLocked takes a call from the free list, or makes one.
func (l *link) getOutLocked() *outCall {
	if n := len(l.freeOut); n > 0 {
		c := l.freeOut[n-1]
		l.freeOut = l.freeOut[:n-1]
		return c
	}
	c := &outCall{l: l, box: newMailbox()}
	c.due.fire = c
	return c
}

// putOut gives back a unary call whose end was received: nobody else knows of it.
func (l *link) putOut(c *outCall) {
	c.box.reset()
	c.ctx, c.o, c.ln, c.peer, c.unwatch = nil, Options{}, nil, nil, nil
	c.begun, c.closed, c.nextOut, c.wire, c.from = false, false, 0, "", nil
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && len(l.freeOut) < maxFreeCalls {
		l.freeOut = append(l.freeOut, c)
	}
}

// prepare makes a call that is not yet begun.
func (l *link) prepare(ctx context.Context, op string, o Options) (*outCall, error) {
	if err := o.check(op); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, asError(err).ran(runNo)
	}
	peer := l.features()
	if o.Type == Subscription || o.InputStream {
		peer = l.settled(ctx) // how items go must be the same for both sides
	}
	if l.peerDraining() && op != opPing {
		return nil, errorf(codes.Unavailable, "the peer drains").ran(runNo)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, errorf(codes.Unavailable, "the connection has ended").ran(runNo).because(l.err)
	}
	c := l.getOutLocked()
	c.ctx, c.o, c.op, c.peer, c.items = ctx, o, op, peer, o.Type == Subscription
	if c.maxReply = o.MaxReplyBytes; c.maxReply == 0 {
		c.maxReply = l.s.lim.MaxFrameBytes
	}
	c.maxReply = min(c.maxReply+frameOverhead, largestFrameBytes)
	if c.started = nil; o.InputStream {
		c.started = make(chan struct{})
	}
	return c, nil
}

// frameOverhead is what an envelope adds to what it carries, at most.
const frameOverhead = 2 << 10

// shareable reports whether the call may go on a shared stream.
func (c *outCall) shareable(size int) bool {
	return c.peer.mux && !c.items && !c.o.InputStream && size <= sharedInputBytes && c.o.MaxReplyBytes <= sharedReplyBytes
}

// begin writes the request.
func (c *outCall) begin(input []byte, raw bool) error {
	c.begun = true
	if c.started != nil {
		defer close(c.started)
	}
	req, err := c.request()
	if err == nil {
		err = c.enterAndWrite(req, input, raw)
	}
	if err != nil {
		c.unhold(c.held.Load())
	}
	return err
}

func (c *outCall) enterAndWrite(req *request, input []byte, raw bool) error {
	if raw && !c.peer.raw {
		input, raw = base64String(input), false
	}
	if raw {
		req.rawInput = true
	}
	ln, err := c.lane(len(input))
	if err != nil {
		return err
	}
	if err := c.enter(ln, req); err != nil {
		return err
	}
	c.write(ln, req, input, raw)
	if ln.own && !c.o.InputStream && (!c.items || !c.peer.credit) {
		ln.halfClose()
	}
	if ln.own && !c.l.spawn(ln.run) {
		return c.l.lost()
	}
	return nil
}

// enter notes the call as live.
func (c *outCall) enter(ln *lane, req *request) error {
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return errorf(codes.Unavailable, "the connection has ended").ran(runNo).because(l.err)
	}
	l.next++
	c.n = l.next
	if c.wire != "" {
		if l.foreign[c.wire] != nil {
			return errorf(codes.InvalidRequest, "the subscription goes on already").ran(runNo)
		}
		if l.foreign == nil {
			l.foreign = make(map[string]*outCall)
		}
		l.foreign[c.wire] = c
	}
	c.ln = ln
	c.others = len(l.out)
	l.out[c.n] = c
	if (c.items || c.o.InputStream) && c.ctx.Done() != nil {
		c.unwatch = context.AfterFunc(c.ctx, c.contextEnded)
	}
	if _, has := c.ctx.Deadline(); !has && req.deadline > 0 {
		l.scheduleLocked(&c.due, l.since()+time.Duration(req.deadline)*time.Millisecond)
	}
	return nil
}

// write appends the frames of the request.
func (c *outCall) write(ln *lane, req *request, input []byte, raw bool) {
	w := ln.w
	bulk := len(input) > smallAnswer || c.o.InputStream
	begin := w.begin
	if bulk {
		begin = func() error { return w.beginBulk(&c.out.closed) }
	}
	if begin() != nil {
		if c.remove() {
			c.fail(errorf(codes.Unavailable, "the stream has ended").ran(runNo))
		}
		return
	}
	b := &w.hot
	if bulk {
		b = &w.bulk
	}
	var id [64]byte
	start := len(*b)
	*b = appendFrameHead(*b, evRequested, c.appendID(id[:0]))
	*b = endFrame(req.appendPayload(*b, input, !raw && !req.inputs && len(input) > 0), start)
	if raw {
		*b = appendRawFrame(*b, rawInput, c.appendID(id[:0]), 0, input)
	}
	if bulk {
		w.endBulk()
	} else {
		inline := c.writesForOthers()
		c.writing.Store(inline)
		w.end(inline, c.others)
		c.writing.Store(false)
	}
}

// writesForOthers reports whether who makes the call may write what others have
// appended: not who may be called away meanwhile, but a handler that hands a call
// on may, whose own caller is answered in time by somebody else.
func (c *outCall) writesForOthers() bool {
	if _, handler := c.ctx.(*callCtx); handler {
		return true
	}
	return c.ctx.Done() == nil
}

// appendID appends the id of the call.
func (c *outCall) appendID(b []byte) []byte {
	if c.wire != "" {
		return append(b, c.wire...)
	}
	return c.l.appendID(b, c.n)
}

// request is what the call says beside its input.
func (c *outCall) request() (*request, error) {
	req := &c.req
	req.reset()
	req.op = append(req.op, c.op...)
	if c.o.Token != "" || c.o.IdempotencyKey != "" || c.o.Trace != "" {
		x := req.more()
		x.token, x.key, x.trace = []byte(c.o.Token), []byte(c.o.IdempotencyKey), []byte(c.o.Trace)
	}
	if until, ok := c.ctx.Deadline(); ok {
		left := time.Until(until)
		if left <= 0 {
			return nil, asError(context.DeadlineExceeded).ran(runNo)
		}
		req.deadline = max(int64((left+time.Millisecond-1)/time.Millisecond), 1)
	} else if !c.items && !c.o.InputStream {
		req.deadline = int64(defaultTimeout / time.Millisecond)
	}
	if c.items {
		var err error
		if req.window, err = c.promise(); err != nil {
			return nil, err
		}
		req.resumable = c.peer.resume
		c.in = newInflow(req.window, c.l.s.lim.MaxWindowBytes)
		if r := c.o.Resume; r != nil {
			c.o.After, c.o.ResumeToken = r.Last()
			c.wire = r.wireID()
		}
		if c.o.After > 0 || c.o.ResumeToken != "" || c.wire != "" {
			req.resumes, req.after, req.more().resume = true, c.o.After, []byte(c.o.ResumeToken)
		}
		c.nextOut = c.o.After
	}
	req.inputs = c.o.InputStream && c.peer.input
	if req.inputs && c.peer.credit {
		c.out.limit(c.peer.window)
	}
	c.inherit(req)
	return req, nil
}

// send sends an input.
func (c *outCall) send(data []byte, raw, checked bool) error {
	if err := checkJSON(data, raw, checked); err != nil {
		return err
	}
	if !c.o.InputStream || !c.peer.input {
		if c.begun {
			return errorf(codes.InvalidRequest, "the call takes one input")
		}
		c.closed = true
		return c.begin(data, raw)
	}
	if !c.begun {
		if err := c.begin(nil, false); err != nil {
			return err
		}
	}
	if err := c.out.wait(c.ctx); err != nil {
		return ctxError(err)
	}
	if c.out.closed.Load() {
		return errorf(codes.Cancelled, "the call is over").ran(runUnknown)
	}
	if raw && !c.peer.raw {
		data, raw = base64String(data), false
	}
	return c.sendItem(data, raw)
}

func (c *outCall) sendItem(data []byte, raw bool) error {
	w := c.ln.w
	if w.beginBulk(&c.out.closed) != nil {
		return errorf(codes.Cancelled, "the call is over").ran(runUnknown)
	}
	seq := c.sent.Add(1)
	var id [64]byte
	start := len(w.bulk)
	if raw {
		w.bulk = appendRawFrame(w.bulk, rawInput, c.appendID(id[:0]), seq, data)
	} else {
		w.bulk = appendFrameHead(w.bulk, evItem, c.appendID(id[:0]))
		w.bulk = strconv.AppendUint(append(w.bulk, preSeq...), seq, 10)
		w.bulk = append(append(append(w.bulk, `,"input":`...), data...), '}')
		w.bulk = endFrame(w.bulk, start)
	}
	c.out.charge(len(w.bulk) - start - 4)
	w.endBulk()
	return nil
}

// closeSend ends the input.
func (c *outCall) closeSend() error {
	if c.closed {
		return nil
	}
	c.closed = true
	if !c.begun {
		if err := c.begin(nil, false); err != nil {
			return err
		}
	}
	if !c.o.InputStream || !c.peer.input || c.out.closed.Load() {
		return nil
	}
	w := c.ln.w
	if w.beginBulk(&c.out.closed) != nil {
		return nil // Recv says why
	}
	var id [64]byte
	start := len(w.bulk)
	w.bulk = appendFrameHead(w.bulk, evEnd, c.appendID(id[:0]))
	w.bulk = append(strconv.AppendUint(append(w.bulk, `{"last":`...), c.sent.Load(), 10), '}')
	w.bulk = endFrame(w.bulk, start)
	w.endBulk()
	return nil
}

// awaitBegin waits until the request was written. A call that takes one input
// and got none begins without.
func (c *outCall) awaitBegin() error {
	if !c.o.InputStream {
		if c.begun {
			return nil
		}
		return c.closeSend()
	}
	select {
	case <-c.started:
		return nil
	case <-c.ctx.Done():
		return ctxError(c.ctx.Err())
	case <-c.l.donec:
		return c.l.lost().ran(runNo)
	}
}

// recv returns the next output.
func (c *outCall) recv() (item, error) {
	if err := c.awaitBegin(); err != nil {
		return item{}, err
	}
	it, err := c.box.next(c.ctx)
	if err != nil {
		defer func() { c.unhold(c.held.Load()) }()
		if c.ctx.Err() != nil && !errors.Is(err, io.EOF) && c.remove() {
			c.l.sendAbort(c)
			c.fail(ctxError(c.ctx.Err()))
		}
		if e, ok := errors.AsType[*Error](err); ok {
			return item{}, e
		}
		if !errors.Is(err, io.EOF) {
			err = ctxError(err)
		}
		return item{}, err
	}
	if c.items {
		c.taken(it)
	}
	return it, nil
}

// The window of a stream when there is little memory left: a share of it.
const (
	windowShare    = 16
	minWindowBytes = 8 << 10
)

// promise reserves the window of a stream: what the peer may send is held by
// then, however late it is read.
func (c *outCall) promise() (int64, error) {
	l := c.l
	window := min(l.s.lim.WindowBytes, max((l.s.lim.MaxConnBufferedBytes-l.mem.Used())/windowShare, minWindowBytes))
	if err := l.mem.Reserve(window); err != nil {
		return 0, memoryError(err).ran(runNo)
	}
	c.held.Add(window)
	c.granted.Store(window)
	return window, nil
}

// grow reserves more of a window.
func (c *outCall) grow(more int64) bool {
	if c.l.mem.Used() > c.l.s.lim.MaxConnBufferedBytes/2 || c.l.mem.Reserve(more) != nil {
		return false
	}
	c.held.Add(more)
	return true
}

// taken grants the callee more credit for an output that was consumed.
func (c *outCall) taken(it item) {
	if !c.peer.credit {
		return
	}
	grant := c.in.consumed(it.frame, it.seq, c.l.rtt, c.grow)
	if grant == 0 {
		return
	}
	c.granted.Add(grant)
	var id [64]byte
	c.ln.w.tryAppend(false, func(b []byte) []byte {
		start := len(b)
		b = appendFrameHead(b, evCredit, c.appendID(id[:0]))
		return endFrame(appendCredit(b, grant, it.seq, false), start)
	})
}

// unhold releases n bytes of what waits in the box, or what is left of it.
func (c *outCall) unhold(n int64) {
	for {
		held := c.held.Load()
		if n = min(n, held); n <= 0 {
			return
		}
		if c.held.CompareAndSwap(held, held-n) {
			c.l.mem.Release(n)
			return
		}
	}
}

// cancel ends the call from outside.
func (c *outCall) cancel(e *Error) {
	if c.remove() {
		c.l.sendAbort(c)
		c.fail(e)
	}
	c.box.discard(e)
	c.unhold(c.held.Load())
}
