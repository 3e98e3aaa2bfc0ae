package call

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/strictjson"
)

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
	if c.wire != "" {
		delete(l.foreign, c.wire)
	}
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
	from := c.from
	item := ev.typ == evResponded && c.items
	if !item && ev.typ != evNotice {
		l.removeOutLocked(c)
	}
	l.mu.Unlock()
	switch {
	case item:
		c.item(ev, size)
	case ev.typ == evNotice:
		c.notice(ev, from)
		return
	case ev.typ == evResponded:
		own := ln.own
		data := ev.data
		if !ev.raw {
			data = orNull(data)
		}
		if from != nil {
			from.handBackAnswer(ln, data, ev.raw)
			l.putOut(c)
			return
		}
		c.box.putLast(itemOf(ev, data, size), io.EOF) // the call may be gone now
		if own {
			ln.over.Store(true)
		}
		return
	case ev.typ == evCompleted:
		c.completed(ev)
	default:
		c.fail(l.remoteError(ev.payload))
	}
}

// remoteError reads a call.error, and notes through whom it came.
func (l *link) remoteError(payload []byte) *Error {
	e := parseError(payload)
	if len(e.Origin) > maxHops {
		e.Origin = e.Origin[:maxHops]
	}
	e.Origin = append([]string{l.conn.SharedIdentity().ID}, e.Origin...)
	return e
}

func itemOf(ev *event, data []byte, size int) item {
	return item{data: data, raw: ev.raw, seq: ev.seq, token: ev.token, frame: size}
}

// item takes one output of a stream.
func (c *outCall) item(ev *event, size int) {
	c.nextOut++
	before := c.received
	c.received += int64(size)
	switch {
	case c.peer.credit && before >= c.granted.Load():
		c.lose(limitError("window", before).ran(runUnknown))
		return
	case !c.peer.credit:
		ev.seq = c.nextOut // a base peer does not count
	case ev.seq != c.nextOut:
		c.lose(dataLoss(c.nextOut, ev.seq))
		return
	}
	data := ev.data
	if !ev.raw {
		data = orNull(data)
	}
	held := c.box.put(itemOf(ev, data, size))
	if !c.peer.credit && held > baseBufferBytes {
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
	if c.from != nil {
		c.from.handBackError(err)
		return
	}
	if c.unwatch != nil {
		c.unwatch()
	}
	c.out.open()
	ln := c.ln
	if ln != nil && c.o.InputStream {
		ln.w.wake()
	}
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

// notice hands a notice on; from is the call that c was handed on for.
func (c *outCall) notice(ev *event, from *inCall) {
	var body struct {
		Name   string          `json:"name"`
		Detail json.RawMessage `json:"detail"`
	}
	if from == nil && c.o.OnNotice == nil || strictjson.Decode(ev.payload, &body) != nil {
		return
	}
	if from != nil {
		from.notice(body.Name, body.Detail)
	} else {
		c.o.OnNotice(body.Name, body.Detail)
	}
}

// contextEnded ends the call because its caller's context did.
func (c *outCall) contextEnded() {
	if c.remove() {
		c.l.sendAbort(c)
		c.fail(ctxError(c.ctx.Err()))
	}
}

// claimLocked removes the call, if it has not ended: it may be used again then.
func (c *outCall) claimLocked() bool {
	if c.l.out[c.n] != c {
		return false
	}
	c.l.removeOutLocked(c)
	return true
}

// expire ends the call at the deadline that we gave it.
func (c *outCall) expire() {
	if c.writing.Load() { // for so long nothing could be written: its caller must get out
		c.ln.st.Reset(alknet.CodeLimit)
	}
	c.l.sendAbort(c)
	c.fail(errorf(codes.Timeout, "deadline exceeded").ran(runUnknown).because(context.DeadlineExceeded))
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
