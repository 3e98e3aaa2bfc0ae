package call

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/internal/strictjson"
)

// An outCall is a call that we make over a link: the caller's end of it.
type outCall struct {
	l   *link
	n   uint64 // its id behind the link's prefix
	ctx context.Context
	o   Options
	op  string
	ln  *lane // guarded by the link's lock; where it is answered

	items    bool // several outputs are expected
	peer     *hello
	maxReply int64
	due      due
	box      mailbox
	in       inflow
	out      outflow
	nextOut  uint64 // the reader's: number of the next output
	sent     atomic.Uint64
	held     atomic.Int64
	unwatch  func() bool
	begun    bool // the request was written
	closed   bool // no more input
	retake   bool // it continues a subscription: no window is charged anew
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
	c.begun, c.closed, c.nextOut = false, false, 0
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
	return c, nil
}

// frameOverhead is what an envelope adds to what it carries, at most.
const frameOverhead = 2 << 10

// shareable reports whether the call may go on a shared stream.
func (c *outCall) shareable(size int) bool {
	return c.peer.mux && !c.items && !c.o.InputStream && size <= sharedInputBytes && c.o.MaxReplyBytes <= sharedReplyBytes
}

// begin writes the request. streaming: input follows as items.
func (c *outCall) begin(input []byte, raw bool) error {
	l := c.l
	c.begun = true
	req, err := c.request()
	if err != nil {
		return err
	}
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
	if c.ctx.Done() != nil && (c.items || c.o.InputStream) {
		c.unwatch = context.AfterFunc(c.ctx, c.contextEnded)
	}
	c.write(ln, req, input, raw)
	if ln.own && !c.o.InputStream && (!c.items || !c.peer.credit) {
		ln.halfClose()
	}
	if ln.own {
		safe.Go(&l.wg, l.crashed, ln.run)
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
	if c.n == 0 || !c.retake {
		l.next++
		c.n = l.next
	}
	c.ln = ln
	l.out[c.n] = c
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
		begin = w.beginBulk
	}
	if begin() != nil {
		c.fail(errorf(codes.Unavailable, "the stream has ended").ran(runNo))
		return
	}
	b := &w.hot
	if bulk {
		b = &w.bulk
	}
	var id [64]byte
	start := len(*b)
	*b = appendFrameHead(*b, evRequested, c.l.appendID(id[:0], c.n))
	*b = endFrame(req.appendPayload(*b, input, !raw && !req.inputs && len(input) > 0), start)
	if raw {
		*b = appendRawFrame(*b, rawInput, c.l.appendID(id[:0], c.n), 0, input)
	}
	if bulk {
		w.endBulk()
	} else {
		w.end(c.ctx.Done() == nil) // who may be called away does not write for others
	}
}

// request is what the call says beside its input.
func (c *outCall) request() (*request, error) {
	req := &request{op: []byte(c.op), token: []byte(c.o.Token), key: []byte(c.o.IdempotencyKey), trace: []byte(c.o.Trace)}
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
		req.window = c.l.s.lim.WindowBytes
		req.resumable = c.peer.resume
		c.in = newInflow(req.window, c.l.s.lim.MaxWindowBytes)
		if c.o.After > 0 || c.o.ResumeToken != "" {
			req.resumes, req.after, req.resume = true, c.o.After, []byte(c.o.ResumeToken)
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

// inherit adds what a call made on behalf of another says of it.
func (c *outCall) inherit(req *request) {
	r, ok := RequestFromContext(c.ctx)
	if !ok {
		return
	}
	if len(req.trace) == 0 {
		req.trace = []byte(r.Trace)
	}
	req.state = r.c.meta.state
	if r.c.l == nil && r.c.parent == nil {
		return
	}
	origin := r.c
	for origin.l == nil && origin.parent != nil {
		origin = origin.parent
	}
	req.hops = origin.meta.hops + 1
	req.path = append(req.path, origin.meta.path...)
	if self := c.l.conn.LocalID(); !self.IsZero() {
		req.path = append(req.path, self.String())
	}
	req.claimed = claim(origin.who.id)
	req.delegation = c.l.s.onward(origin, c.l)
}

// claim is forwarded_for: whom our gate checked.
func claim(id *alknet.Identity) []byte {
	if id.ID == "" {
		return nil
	}
	w := wireIdentity{ID: id.ID, Scopes: id.Scopes, Resources: id.Resources}
	if !id.Peer.IsZero() {
		w.Peer = id.Peer.String()
	}
	buf := getBuffer()
	defer putBuffer(buf)
	if encode(buf, &w) != nil {
		return nil
	}
	return append([]byte(nil), buf.Bytes()...)
}

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
	safe.Go(&l.wg, l.crashed, ln.run)
	return ln, nil
}

// takeOut removes a live call of ours; who does so ends it.
func (l *link) takeOut(id []byte) *outCall {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.oursLocked(id)
	if c != nil {
		l.removeOutLocked(c)
	}
	return c
}

func (l *link) removeOutLocked(c *outCall) {
	delete(l.out, c.n)
	l.unscheduleLocked(&c.due)
}

// remove is takeOut of a call; false: it has ended already.
func (c *outCall) remove() bool {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.l.out[c.n] != c {
		return false
	}
	c.l.removeOutLocked(c)
	return true
}

// answered acts on what the callee sent. It is called by the lane's reader.
func (l *link) answered(ln *lane, ev *event, size int) {
	l.mu.Lock()
	c := l.oursLocked(ev.id)
	if c == nil || c.ln != ln {
		l.mu.Unlock()
		l.s.dropped.Add(1)
		return
	}
	item := ev.typ == evResponded && c.items
	if !item && ev.typ != evNotice {
		l.removeOutLocked(c)
	}
	l.mu.Unlock()
	switch {
	case item:
		c.item(ev, size)
	case ev.typ == evNotice:
		c.notice(ev)
		return
	case ev.typ == evResponded:
		own := ln.own
		data := ev.data
		if !ev.raw {
			data = orNull(data)
		}
		c.box.putLast(itemOf(ev, data, size), io.EOF) // the call may be gone now
		if own {
			ln.over.Store(true)
		}
		return
	case ev.typ == evCompleted:
		c.completed(ev)
	default:
		c.fail(parseError(ev.payload))
	}
}

func itemOf(ev *event, data []byte, size int) item {
	return item{data: data, raw: ev.raw, seq: ev.seq, token: ev.token, frame: size}
}

// item takes one output of a stream.
func (c *outCall) item(ev *event, size int) {
	c.nextOut++
	switch {
	case !c.peer.credit:
		ev.seq = c.nextOut // a base peer does not count
	case ev.seq != c.nextOut:
		c.lose(dataLoss(c.nextOut, ev.seq))
		return
	}
	if err := c.l.mem.Reserve(int64(size)); err != nil {
		c.lose(memoryError(err))
		return
	}
	c.held.Add(int64(size))
	data := ev.data
	if !ev.raw {
		data = orNull(data)
	}
	held := c.box.put(itemOf(ev, data, size))
	if held == 0 {
		c.unhold(int64(size))
	} else if !c.peer.credit && held > baseBufferBytes {
		c.lose(errorf(codes.SlowConsumer, "more than %d bytes of items wait", baseBufferBytes).ran(runUnknown))
	}
}

// lose ends the call from our side, and tells the callee.
func (c *outCall) lose(e *Error) {
	if c.remove() {
		c.l.sendAbort(c)
		c.fail(e)
	}
}

// completed is the end of a stream of outputs.
func (c *outCall) completed(ev *event) {
	var body struct {
		Last *uint64 `json:"last"`
	}
	if err := strictjson.Decode(orNull(ev.payload), &body); err == nil && body.Last != nil && *body.Last != c.nextOut {
		c.fail(errorf(codes.DataLoss, "the stream has %d items, of which %d came", *body.Last, c.nextOut).ran(runYes))
		return
	}
	if !c.items { // a subscription where one answer was due
		c.fail(errorf(codes.InvalidOperationType, "%s answers with a stream", c.op).ran(runYes))
		return
	}
	c.finish(io.EOF)
}

// fail ends the call with an error. The call was removed by who calls it.
func (c *outCall) fail(e *Error) { c.finish(e) }

// finish ends the call.
func (c *outCall) finish(err error) {
	if c.unwatch != nil {
		c.unwatch()
	}
	c.out.open()
	ln := c.ln
	c.box.finish(err) // the call may be gone now
	if ln != nil && ln.own {
		ln.over.Store(true)
		_ = ln.st.SetReadDeadline(longAgo) // its reader need not wait for the peer to close
	}
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// memoryError is the refusal of a budget.
func memoryError(err error) *Error {
	e := limitError("max_conn_buffered_bytes", 0).because(err)
	return e.ran(runUnknown)
}

// notice hands a notice on.
func (c *outCall) notice(ev *event) {
	var body struct {
		Name   string          `json:"name"`
		Detail json.RawMessage `json:"detail"`
	}
	if f := c.o.OnNotice; f != nil && strictjson.Decode(ev.payload, &body) == nil {
		f(body.Name, body.Detail)
	}
}

// contextEnded ends the call because its caller's context did.
func (c *outCall) contextEnded() {
	if c.remove() {
		c.l.sendAbort(c)
		c.fail(ctxError(c.ctx.Err()))
	}
}

// expire ends the call at the deadline that we gave it.
func (c *outCall) expire() {
	if c.remove() {
		c.l.sendAbort(c)
		c.fail(errorf(codes.Timeout, "deadline exceeded").ran(runUnknown).because(context.DeadlineExceeded))
	}
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
		return endFrame(append(appendFrameHead(b, evAborted, l.appendID(id[:0], c.n)), emptyObject...), start)
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
	safe.Go(&l.wg, l.crashed, func() { // on a stream of its own: the peer's reader of the old one is busy
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

// credited lets a stream of inputs go on.
func (l *link) credited(id []byte, bytes int64, seq uint64) {
	l.mu.Lock()
	c := l.oursLocked(id)
	l.mu.Unlock()
	if c == nil || !c.out.limited.Load() {
		return
	}
	if !c.out.grant(bytes, seq, c.sent.Load()) {
		c.lose(errorf(codes.DataLoss, "credit for what was not sent").ran(runUnknown))
	}
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
	if w.beginBulk() != nil {
		return errorf(codes.Unavailable, "the stream has ended").ran(runUnknown)
	}
	seq := c.sent.Add(1)
	var id [64]byte
	start := len(w.bulk)
	if raw {
		w.bulk = appendRawFrame(w.bulk, rawInput, c.l.appendID(id[:0], c.n), seq, data)
	} else {
		w.bulk = appendFrameHead(w.bulk, evItem, c.l.appendID(id[:0], c.n))
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
	if w.beginBulk() != nil {
		return nil // Recv says why
	}
	var id [64]byte
	start := len(w.bulk)
	w.bulk = appendFrameHead(w.bulk, evEnd, c.l.appendID(id[:0], c.n))
	w.bulk = append(strconv.AppendUint(append(w.bulk, `{"last":`...), c.sent.Load(), 10), '}')
	w.bulk = endFrame(w.bulk, start)
	w.endBulk()
	return nil
}

// recv returns the next output.
func (c *outCall) recv() (item, error) {
	if !c.begun { // nothing was sent: there is no input
		if err := c.closeSend(); err != nil {
			return item{}, err
		}
	}
	it, err := c.box.next(c.ctx)
	if err != nil {
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

// taken grants the callee more credit for an output that was consumed.
func (c *outCall) taken(it item) {
	c.unhold(int64(it.frame))
	if !c.peer.credit {
		return
	}
	grant := c.in.consumed(it.frame, it.seq, c.l.rtt)
	if grant == 0 {
		return
	}
	var id [64]byte
	c.ln.w.tryAppend(false, func(b []byte) []byte {
		start := len(b)
		b = appendFrameHead(b, evCredit, c.l.appendID(id[:0], c.n))
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
	if ae, ok := errors.AsType[*alknet.Error](cause); ok && ae.Remote && ae.Code == alknet.CodeLimit {
		e = limitError("max_frame_bytes of the peer", 0).because(cause)
	}
	for _, c := range lost {
		c.fail(e)
	}
}
