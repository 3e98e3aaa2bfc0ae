package call

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/safe"
)

// An inCall is a call that is served here: one that came over a link, or one
// made in this process through Handler.As or Request.Env.
type inCall struct {
	h   *Handler
	s   *state
	l   *link     // nil: made in this process
	ln  *lane     // where it is answered
	loc *localEnd // the caller in this process; nil: the call came over a link

	parent *inCall // the call that made this one through its Env

	id        string
	meta      request
	frame     *[]byte // what meta and input point into
	heldFrame int64   // reserved for it
	input     []byte  // the one input; nil: absent
	size      int     // bytes of the request's frame
	begun     time.Time
	who       *caller  // guarded by mu; the worker may read it
	entry     *entry   // guarded by mu; the worker may read it; nil: the gate has not decided
	req       *Request // guarded by mu; nil: nobody has asked for it yet
	ctx       callCtx
	stream    Stream
	peer      *hello // what the caller understands

	due      due
	maxInput atomic.Int64
	box      *mailbox // inputs that arrive one by one; nil: they do not
	in       *inflow  // nil: no inputs are counted
	nextIn   uint64   // the reader's: number of the next input item
	out      outflow
	sent     atomic.Uint64 // items sent
	held     atomic.Int64  // bytes in box
	outBytes atomic.Int64

	reply    []byte  // the handler's, or the reader's; valid if answered
	replyBuf *[]byte // where reply lies, from the pool

	found  *Operation  // what find has found for it; nil: not asked
	hop    hop         // how it is handed on; nil: it is not
	next   HandlerFunc // what serves it instead of the operation's, without the gate
	reader *lane       // whose reader ends the call; nil: another goroutine

	work sync.WaitGroup // Request.Go
	key  *idempotent    // the worker's; of a call with an idempotency key

	mu      sync.Mutex // guards what the gate sets while others may end the call
	workErr error      // guarded by mu
	keep    *retention // guarded by mu; a resumable subscription; nil: it is not
	on      onward     // guarded by mu

	// The small ones together: a call is made for each request.
	done      atomic.Bool // its terminal event was decided
	lateFlag  atomic.Bool // it was answered TIMEOUT and runs on
	items     bool        // several outputs
	inputs    bool        // several inputs
	gotInput  bool        // the handler's
	forwarded bool        // the handler's: the call was made elsewhere, and its error says whether it ran
	answered  bool        // the handler's; reply holds the answer
	replyRaw  bool        // the handler's
	decided   bool        // guarded by mu; the gate is through with what req says
	allowed   bool        // guarded by mu; the gate let it in
	keyed     bool        // guarded by mu; its answer is kept under its key
	orphan    bool        // guarded by mu; it runs on without its connection
}

// frames are buffers of requests and answers.
var frames = sync.Pool{New: func() any { return new([]byte) }}

// newInCall makes the call that a frame on ln will start.
func newInCall(ln *lane) *inCall {
	c := &inCall{h: ln.l.h, s: ln.l.s, l: ln.l, ln: ln, peer: ln.l.features()}
	c.stream.end = (*calleeEnd)(c)
	c.due.fire = c
	c.ctx.c, c.ctx.parent = c, ln.l.ctx
	return c
}

// imply credits the peer with what its request shows that it understands: it
// may have seen what we announce before we have seen what it does.
func (c *inCall) imply() {
	if c.peer.credit || c.meta.window == 0 && !c.meta.inputs {
		return
	}
	c.peer = &hello{
		credit: true, meta: true, input: true, resume: c.meta.resumable,
		window: defaultWindowBytes, maxFrame: defaultMaxFrameBytes,
	}
}

// smallFrame is up to where the memory of a running call's frame is not reserved:
// MaxRunningPerConn bounds it well enough.
const smallFrame = 4 << 10

// hold keeps a copy of a frame until the handler has returned.
func (c *inCall) hold(body []byte) error {
	if len(body) > smallFrame {
		if err := c.l.mem.Reserve(int64(len(body))); err != nil {
			return err
		}
		c.heldFrame = int64(len(body))
	}
	c.frame = frames.Get().(*[]byte)
	*c.frame = append((*c.frame)[:0], body...)
	return nil
}

// recycle gives the frame's buffer back. Nothing points into it any more.
func (c *inCall) recycle() {
	if c.heldFrame > 0 {
		c.l.mem.Release(c.heldFrame)
		c.heldFrame = 0
	}
	f, r := c.frame, c.replyBuf
	c.frame, c.input, c.replyBuf = nil, nil, nil
	if f != nil && cap(*f) <= maxPooledBytes {
		frames.Put(f)
	}
	if r != nil && cap(c.reply) <= maxPooledBytes {
		*r = c.reply[:0]
		c.reply = nil
		frames.Put(r)
	}
}

// owner is who waits for the goroutines of the call.
func (c *inCall) owner() *sync.WaitGroup {
	if c.l != nil && !c.meta.resumable && !c.meta.resumes {
		return &c.l.wg
	}
	return &c.s.wg
}

// admit counts a new call of the peer and notes it as live, or refuses it.
func (l *link) admit(c *inCall) *Error {
	c.begun = time.Now()
	c.who = l.caller()
	l.mu.Lock()
	err := l.admitLocked(c)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if err = l.s.reserve(c.who); err == nil {
		if c.ln.add(c) {
			return nil
		}
		l.s.release(c.who)
		err = errorf(codes.Unavailable, "the stream has ended").ran(runNo)
	}
	l.drop(c)
	l.mu.Lock()
	l.runningHere.Add(-1)
	l.mu.Unlock()
	return err
}

func (l *link) admitLocked(c *inCall) *Error {
	switch {
	case l.err != nil:
		return errorf(codes.Unavailable, "the connection has ended").ran(runNo)
	case l.draining && string(c.meta.op) != opHello && string(c.meta.op) != opPing:
		return errorf(codes.Unavailable, "draining").ran(runNo)
	case l.runningHere.Load() >= int64(l.s.lim.MaxRunningPerConn)+l.inputs.Load():
		return limitError("max_running_per_conn", int64(l.s.lim.MaxRunningPerConn))
	}
	if _, live := l.in[c.id]; live {
		return errorf(codes.InvalidRequest, "the id is that of a live call").ran(runNo)
	}
	l.in[c.id] = c
	l.runningHere.Add(1)
	return nil
}

// running finds a live call of the peer.
func (l *link) running(id []byte) *inCall {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.in[string(id)]
}

// home is where the call is answered now; nil, nil: its connection was lost, or
// it was made in this process.
func (c *inCall) home() (*link, *lane) {
	c.mu.Lock()
	keep := c.keep
	c.mu.Unlock()
	if keep == nil {
		return c.l, c.ln
	}
	keep.mu.Lock()
	defer keep.mu.Unlock()
	return keep.l, keep.ln
}

// drop forgets a live call: its id is free again.
func (c *inCall) drop() {
	if l, _ := c.home(); l != nil {
		l.drop(c)
	}
}

func (l *link) drop(c *inCall) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.in[c.id] == c {
		delete(l.in, c.id)
	}
	l.unscheduleLocked(&c.due)
}

// run serves the call: gate, handler, answer. It is called once.
func (c *inCall) run() {
	returned := false
	var err error
	defer func() {
		if !returned {
			if v := recover(); v != nil {
				err = c.panicked(&safe.PanicError{Value: v, Stack: debug.Stack()})
			} else {
				err = internal(errors.New("the handler ended its goroutine"))
			}
			c.endWith(asError(err)) // now, and not when all that it started has ended
			c.work.Wait()
		}
		c.handlerDone(err)
	}()
	err = c.serve()
	returned = true
}

// serve decides and runs.
func (c *inCall) serve() error {
	f := c.next
	if f == nil {
		if err := c.gate(); err != nil {
			return err
		}
		if c.key != nil {
			if done, err := c.s.keys.claim(c); done {
				return err
			}
			c.mu.Lock()
			c.keyed = c.key != nil
			c.mu.Unlock()
		}
		f = c.chain()
	}
	err := f(&c.ctx, &c.stream)
	c.work.Wait()
	if err == nil {
		c.mu.Lock()
		err = c.workErr
		c.mu.Unlock()
	}
	if e, ok := errors.AsType[*Error](err); ok && !c.forwarded && (e.executed == runUnsaid || e.Remote) {
		e = new(*e)         // it may be one value for all calls
		err = e.ran(runYes) // whatever became of what the handler called: it ran
	}
	return err
}

// chain is the handler with the middleware around it.
func (c *inCall) chain() HandlerFunc {
	f := c.entry.op.Func.Serve
	for i := len(c.h.Middleware) - 1; i >= 0; i-- {
		f = c.h.Middleware[i](&c.entry.op, f)
	}
	return f
}

// panicked logs a panic of a handler; the caller hears no more than INTERNAL.
func (c *inCall) panicked(pe *safe.PanicError) error {
	c.s.panics.Add(1)
	c.h.logger().LogAttrs(context.Background(), slog.LevelError, "call: handler panicked",
		slog.String("operation", string(c.meta.op)), slog.String("id", c.id),
		slog.String("panic", fmtPanic(pe.Value)), slog.String("stack", string(pe.Stack)))
	return internal(pe)
}

// fmtPanic is the value of a panic for our log.
func fmtPanic(v any) string {
	if err, ok := v.(error); ok {
		return err.Error()
	}
	return fmt.Sprint(v)
}

// handlerDone answers the call, if nothing else has ended it, and frees its place.
func (c *inCall) handlerDone(err error) {
	if errors.Is(err, errResumed) {
		c.handedOver()
		return
	}
	c.drop()
	first := c.done.CompareAndSwap(false, true)
	c.freePlace()
	if c.key != nil {
		c.s.keys.settle(c, err)
	}
	if first {
		c.conclude(err)
	} else if c.late() {
		c.s.overrunning.Add(-1)
	}
	c.ctx.cancel(context.Canceled)
	c.box.discard(io.EOF)
	c.giveBack()
	if _, ln := c.home(); ln != nil {
		ln.remove(c)
	}
	c.s.bury(c)
	if c.loc == nil {
		c.recycle()
	}
}

// handedOver ends a call that another, which waited for it, goes on with.
func (c *inCall) handedOver() {
	c.done.Store(true)
	c.drop()
	c.freePlace()
	c.ctx.cancel(context.Canceled)
	c.ln.remove(c)
	c.recycle()
}

// freePlace ends the counting of the handler.
func (c *inCall) freePlace() {
	c.s.release(c.who)
	if c.entry != nil {
		c.entry.leave()
	}
	if c.l != nil {
		c.l.mu.Lock()
		c.l.runningHere.Add(-1)
		c.l.mu.Unlock()
		if c.streams() {
			c.l.inputs.Add(-1)
		}
	}
}

// streams reports whether items flow, so that the call counts as a subscription.
func (c *inCall) streams() bool { return c.entry != nil && (c.items || c.inputs) }

// conclude writes the terminal event. done was set by who calls it.
func (c *inCall) conclude(err error) {
	c.mu.Lock()
	keep, who, entry := c.keep, c.who, c.entry
	c.mu.Unlock()
	var e *Error
	if err != nil {
		e = visible(asError(err), entry, who)
	}
	c.record(e)
	if keep == nil {
		c.emitEnd(e)
		return
	}
	keep.end(e)
	c.drop() // again: it may have come to another connection since it was forgotten
}

// visible is the error as its caller may see it: an undeclared code is INTERNAL,
// and reasons are for scope call:explain.
func visible(e *Error, entry *entry, who *caller) *Error {
	if (e.Reason != "" || len(e.Origin) > 0) && (who == nil || !who.explain) {
		e = new(*e)
		e.Reason, e.Origin = "", nil
	}
	if entry == nil || codes.Known(e.Code) || e.Remote {
		return e
	}
	for _, spec := range entry.op.Errors {
		if spec.Code == e.Code {
			return e
		}
	}
	hidden := internal(e)
	if who != nil && who.explain {
		hidden.Details = append(appendString([]byte(`{"code":`), e.Code), '}')
	}
	return hidden
}

// over reports whether the call has had its terminal event.
func (c *inCall) over() bool { return c.done.Load() }

// endWith ends the call from outside its handler with an error.
func (c *inCall) endWith(e *Error) { c.stopWith(e, context.Canceled) }

// stopWith ends the call once: the handler's context ends with cause.
func (c *inCall) stopWith(e *Error, cause error) bool {
	if !c.done.CompareAndSwap(false, true) {
		return false
	}
	c.drop()
	c.conclude(e)
	c.wakeUp(e, cause)
	c.letGo()
	return true
}

// wakeUp ends what the handler may wait for.
func (c *inCall) wakeUp(e *Error, cause error) {
	c.ctx.cancel(cause)
	c.box.finish(e)
	c.out.open()
	if _, ln := c.home(); ln != nil {
		ln.w.wake()
	}
}

// abort ends the call because its caller wants no answer. confirm: it is told.
func (c *inCall) abort(e *Error, confirm bool) {
	if !c.done.CompareAndSwap(false, true) {
		return
	}
	c.drop()
	c.mu.Lock()
	keep := c.keep
	c.mu.Unlock()
	c.record(e)
	if c.loc != nil {
		c.loc.unwatchAll()
		c.loc.box.finish(e)
	}
	c.wakeUp(e, context.Canceled)
	if confirm && c.l != nil && c.peer.abort {
		c.emitAborted()
	}
	if keep != nil {
		keep.abandon()
	}
	c.letGo()
}

// disconnected is what happens when the connection is lost: a subscription waits
// for its caller to come back, unless that said goodbye; anything else is aborted.
func (c *inCall) disconnected(goodbye bool) {
	c.mu.Lock()
	keep := c.keep
	c.mu.Unlock()
	if keep != nil && !goodbye && keep.detach() {
		return
	}
	if !goodbye && c.s.adopt(c) {
		return
	}
	c.abort(errorf(codes.Cancelled, "the connection was lost").ran(runUnknown), false)
}

// claimLocked is for the deadlines: done decides.
func (c *inCall) claimLocked() bool { return true }

// expire ends the call at its deadline, whatever its handler does.
func (c *inCall) expire() {
	c.s.overrunning.Add(1)
	e := errorf(codes.Timeout, "deadline exceeded").ran(runUnknown)
	c.lateFlag.Store(true)
	if !c.stopWith(e, context.DeadlineExceeded) {
		c.s.overrunning.Add(-1)
		c.lateFlag.Store(false)
	}
}

// late reports whether the handler runs beyond its deadline.
func (c *inCall) late() bool { return c.lateFlag.Load() }
