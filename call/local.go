package call

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/alkdev/alknet/call/codes"
)

// A localEnd is the caller's end of a call that is made in this process. Items
// cross in memory, at the pace of the slower side.
type localEnd struct {
	c       *inCall
	ctx     context.Context // the caller's
	o       Options
	box     mailbox     // outputs
	in      outflow     // lets the caller send inputs
	seq     uint64      // inputs sent
	started bool        // the one input was sent, or the stream of inputs has begun
	closed  bool        // CloseSend
	unwatch func() bool // ctx; guarded by c.mu
	timer   *time.Timer // the operation's deadline; nil: none; guarded by c.mu
}

// localWindow is how much either direction holds, in bytes.
const localWindow = 256 << 10

// open starts a call in this process for who. The gate decides in the goroutine
// that runs it; the call begins with the first Send or CloseSend, or at once if
// its input is a stream.
func (h *Handler) open(ctx context.Context, op string, o Options, who *caller) *inCall {
	s := h.state()
	c := &inCall{h: h, s: s, who: who, id: s.nextLocalID(), peer: &localPeer, begun: s.now()}
	c.stream.end = (*calleeEnd)(c)
	c.ctx.c, c.ctx.parent = c, ctx
	c.box = new(newMailbox())
	c.meta.op = []byte(op)
	c.meta.inputs = o.InputStream
	c.meta.after = o.After
	c.meta.some = &rare{
		token: []byte(o.Token), key: []byte(o.IdempotencyKey), trace: []byte(o.Trace), resume: []byte(o.ResumeToken),
	}
	if o.Type == Subscription {
		c.meta.window = localWindow
	}
	loc := &localEnd{c: c, ctx: ctx, o: o, box: newMailbox()}
	loc.in.limit(localWindow)
	c.out.limit(localWindow)
	c.loc = loc
	return c
}

// localPeer understands everything.
var localPeer = hello{mux: true, meta: true, credit: true, input: true, raw: true, notice: true, abort: true}

// stream is the caller's end. A call whose input is a stream begins at once.
func (e *localEnd) stream() (*Stream, error) {
	if e.o.InputStream {
		if err := e.start(); err != nil {
			return nil, err
		}
	}
	return &Stream{end: e}, nil
}

// start has the call run.
func (e *localEnd) start() error {
	c := e.c
	if err := c.s.reserve(c.who); err != nil {
		return err
	}
	e.started = true
	if until, ok := e.ctx.Deadline(); ok {
		c.ctx.until = until
	}
	stop := context.AfterFunc(e.ctx, func() {
		if errors.Is(e.ctx.Err(), context.DeadlineExceeded) {
			c.expire()
			return
		}
		c.abort(errorf(codes.Cancelled, "aborted by the caller").ran(runUnknown), false)
	})
	c.mu.Lock()
	e.unwatch = stop
	c.mu.Unlock()
	if !c.s.run(c) {
		stop()
		c.s.release(c.who)
		return errorf(codes.Unavailable, "draining").ran(runNo)
	}
	return nil
}

func (e *localEnd) send(data []byte, raw, checked bool) error {
	if err := checkJSON(data, raw, checked); err != nil {
		return err
	}
	c := e.c
	if !e.o.InputStream {
		if e.started {
			return errorf(codes.InvalidRequest, "the call takes one input")
		}
		if raw {
			c.meta.rawInput = true
			c.box.putLast(item{data: data, raw: true, seq: 1, frame: recordHeader + len(data)}, io.EOF)
		} else {
			c.input = append([]byte(nil), data...)
		}
		c.size = len(data)
		return e.start()
	}
	if !e.started {
		if err := e.start(); err != nil {
			return err
		}
	}
	if err := e.in.wait(&c.ctx); err != nil || c.done.Load() {
		return errorf(codes.Cancelled, "the call is over").ran(runUnknown)
	}
	e.seq++
	frame := recordHeader + len(data)
	e.in.charge(frame)
	c.box.put(item{data: data, raw: raw, seq: e.seq, frame: frame})
	return nil
}

func (e *localEnd) closeSend() error {
	if e.closed {
		return nil
	}
	e.closed = true
	if !e.started {
		if err := e.start(); err != nil {
			return err
		}
	}
	if e.o.InputStream {
		e.c.box.finish(io.EOF)
	}
	return nil
}

func (e *localEnd) recv() (item, error) {
	if !e.started && !e.o.InputStream { // nothing was sent: there is no input
		if err := e.closeSend(); err != nil {
			return item{}, err
		}
	}
	it, err := e.box.next(context.Background()) // the call ends with ctx, and says so here
	if err == nil {
		e.c.out.charge(-it.frame)
		e.c.out.signal()
	}
	return it, err
}

func (e *localEnd) cancel(err *Error) { e.c.abort(err, false) }

// unwatchAll forgets the caller's context and the deadline.
func (e *localEnd) unwatchAll() {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	if e.unwatch != nil {
		e.unwatch()
	}
	if e.timer != nil {
		e.timer.Stop()
	}
}

// conclude is the terminal event, as the caller gets it.
func (e *localEnd) conclude(err *Error) {
	c := e.c
	e.unwatchAll()
	switch {
	case err != nil:
		e.box.finish(err)
	case c.items:
		e.box.finish(io.EOF)
	default:
		data := c.reply
		if !c.answered {
			data = nullValue
		}
		e.box.putLast(item{data: data, raw: c.replyRaw, seq: 1, frame: recordHeader + len(data)}, io.EOF)
	}
}

// notice hands a notice to the caller.
func (e *localEnd) notice(name string, detail []byte) {
	if f := e.o.OnNotice; f != nil {
		f(name, json.RawMessage(append([]byte(nil), detail...)))
	}
}
