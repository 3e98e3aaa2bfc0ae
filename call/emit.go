package call

import (
	"io"
	"strconv"
	"sync/atomic"

	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/strictjson"
)

// smallAnswer is up to where an answer goes before items.
const smallAnswer = 32 << 10

// sendItem sends one output of a stream. It waits for credit.
func (c *inCall) sendItem(data []byte, raw bool) error {
	if err := c.out.wait(&c.ctx); err != nil {
		return c.whyOver()
	}
	if c.done.Load() {
		return c.whyOver()
	}
	seq := c.sent.Add(1)
	token := c.stream.next
	c.stream.next = ""
	c.outBytes.Add(int64(len(data)))
	if c.loc != nil {
		it := item{data: data, raw: raw, seq: seq, token: []byte(token), frame: recordHeader + len(data)}
		c.out.charge(it.frame)
		c.loc.box.put(it)
		return nil
	}
	if raw && !c.peer.raw {
		data, raw = base64String(data), false
	}
	if c.keep != nil {
		return c.keep.send(seq, token, data, raw)
	}
	w := c.ln.w
	if w.beginBulk(&c.done) != nil {
		return c.whyOver()
	}
	start := len(w.bulk)
	w.bulk = c.appendItem(w.bulk, seq, token, data, raw)
	c.out.charge(len(w.bulk) - start - 4)
	w.endBulk()
	return nil
}

// appendItem appends the frame of an output.
func (c *inCall) appendItem(b []byte, seq uint64, token string, data []byte, raw bool) []byte {
	if raw {
		return appendRawFrame(b, rawOutput, []byte(c.id), seq, data)
	}
	start := len(b)
	b = appendFrameHead(b, evResponded, []byte(c.id))
	if c.items && c.peer.credit { // a base peer wants no members that it does not know to count
		b = strconv.AppendUint(append(b, preSeq...), seq, 10)
		if token != "" {
			b = append(appendString(append(b, `,"token":`...), token), `,"output":`...)
		} else {
			b = append(b, `,"output":`...)
		}
	} else {
		b = append(b, preOutput...)
	}
	b = append(append(b, data...), '}')
	return endFrame(b, start)
}

// emitEnd writes the terminal event: an error, the answer, or the end of the items.
// Only a large answer waits for room, in its own worker: deadlines and aborts come
// from goroutines that others depend on.
func (c *inCall) emitEnd(e *Error) {
	if c.loc != nil {
		c.loc.conclude(e)
		return
	}
	w := c.ln.w
	switch {
	case e != nil || c.items:
		w.tryAppend(true, func(b []byte) []byte { return c.appendEnd(b, e) })
	case len(c.reply) > smallAnswer:
		if w.beginBulk(&never) == nil {
			w.bulk = c.appendEnd(w.bulk, nil)
			w.endBulk()
		}
	case c.reader != nil:
		c.reader.append(w, func(b []byte) []byte { return c.appendEnd(b, nil) })
	default:
		if w.begin() == nil {
			w.hot = c.appendEnd(w.hot, nil)
			w.end(true, int(c.l.runningHere.Load()))
		}
	}
}

// never is for what waits without a call.
var never atomic.Bool

// appendEnd appends the frame of the terminal event.
func (c *inCall) appendEnd(b []byte, e *Error) []byte {
	start := len(b)
	switch {
	case e != nil:
		b = appendFrameHead(b, evError, []byte(c.id))
		return endFrame(e.appendPayload(b, true), start) // visible has taken out what is not for this caller
	case c.items:
		b = appendFrameHead(b, evCompleted, []byte(c.id))
		if c.peer.credit {
			b = append(strconv.AppendUint(append(b, `{"last":`...), c.sent.Load(), 10), '}')
		} else {
			b = append(b, emptyObject...)
		}
		return endFrame(b, start)
	}
	data := c.reply
	if !c.answered {
		data = nullValue
	}
	c.outBytes.Add(int64(len(data)))
	if c.replyRaw {
		if c.peer.raw {
			return appendRawFrame(b, rawOutput, []byte(c.id), 0, data)
		}
		data = base64String(data)
	}
	b = append(appendFrameHead(b, evResponded, []byte(c.id)), preOutput...)
	b = append(append(b, data...), '}')
	return endFrame(b, start)
}

// emitControl writes a small frame with a payload about the call.
func (c *inCall) emitControl(t eventType, payload []byte) {
	_, ln := c.home()
	if ln == nil {
		return
	}
	ln.w.tryAppend(false, func(b []byte) []byte {
		start := len(b)
		return endFrame(append(appendFrameHead(b, t, []byte(c.id)), payload...), start)
	})
}

// emitAborted confirms an abort.
func (c *inCall) emitAborted() {
	payload := `{}`
	if c.ln.both {
		payload = `{"reply":true}`
	}
	c.emitControl(evAborted, []byte(payload))
}

// notice tells the caller what may interest it.
func (c *inCall) notice(name string, detail []byte) {
	if !validGlob(name) || strictjson.Check(orNull(detail)) != nil {
		return
	}
	switch {
	case c.loc != nil:
		c.loc.notice(name, detail)
	case c.peer.notice && !c.done.Load():
		b := appendString([]byte(`{"name":`), name)
		b = append(append(b, `,"detail":`...), orNull(detail)...)
		c.emitControl(evNotice, append(b, '}'))
	}
}

// inputEvent takes an item of input, or their end, from the lane's reader.
func (c *inCall) inputEvent(ev *event, size int) {
	if ev.typ == evEnd {
		c.inputEnd(ev)
		return
	}
	if c.done.Load() {
		return
	}
	if c.meta.rawInput && c.nextIn == 0 && !c.meta.inputs { // the one raw input of a request
		c.nextIn++
		c.take(item{data: ev.data, raw: ev.raw, seq: 1, frame: size}, true)
		return
	}
	if c.nextIn++; ev.seq != c.nextIn {
		c.endWith(dataLoss(c.nextIn, ev.seq))
		return
	}
	data := ev.data
	if !ev.raw {
		data = orNull(data)
	}
	c.take(item{data: data, raw: ev.raw, seq: ev.seq, frame: size}, false)
}

// dataLoss is a hole or a repeat in a stream of items.
func dataLoss(want, got uint64) *Error {
	e := errorf(codes.DataLoss, "item %d came where %d was due", got, want).ran(runUnknown)
	return e
}

// take puts an input into the box, within the memory of the connection.
func (c *inCall) take(it item, last bool) {
	if err := c.l.mem.Reserve(int64(it.frame)); err != nil {
		c.endWith(memoryError(err))
		return
	}
	c.held.Add(int64(it.frame))
	held := c.box.put(it)
	if held == 0 { // the handler has returned
		c.giveBack()
		return
	}
	if last {
		c.box.finish(io.EOF)
	}
	if limit := baseBufferBytes + c.s.lim.MaxWindowBytes; int64(held) > limit {
		c.endWith(errorf(codes.SlowConsumer, "more than %d bytes of input wait", limit).ran(runUnknown))
	}
}

// inputEnd is the end of the input.
func (c *inCall) inputEnd(ev *event) {
	var body struct {
		Last *uint64 `json:"last"`
	}
	if err := strictjson.Decode(ev.payload, &body); err != nil || body.Last != nil && *body.Last != c.nextIn {
		c.endWith(errorf(codes.DataLoss, "the input ended after %d items, not as many as it should", c.nextIn).ran(runUnknown))
		return
	}
	c.box.finish(io.EOF)
}

// consumed grants the caller more credit for an input that was taken.
func (c *inCall) consumed(it item) {
	if c.l == nil {
		c.loc.in.charge(-it.frame)
		c.loc.in.signal()
		return
	}
	c.unhold(int64(it.frame))
	if !c.inputs || !c.peer.credit {
		return
	}
	if grant := c.in.consumed(it.frame, it.seq, c.l.rtt, anyWindow); grant > 0 && !c.done.Load() {
		c.emitControl(evCredit, appendCredit(nil, grant, it.seq, c.ln.both))
	}
}

// anyWindow lets a window of inputs grow: what arrives is reserved then.
func anyWindow(int64) bool { return true }

// giveBack releases the memory of inputs that nobody took.
func (c *inCall) giveBack() { c.unhold(c.held.Load()) }

// unhold releases n bytes of what is held, or what is left of it.
func (c *inCall) unhold(n int64) {
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

// stopInput tells the caller to send no more: its rest is refused.
func (c *inCall) stopInput() { c.box.discard(io.EOF) }

// appendCredit appends the payload of call.credit.
func appendCredit(b []byte, bytes int64, seq uint64, reply bool) []byte {
	b = strconv.AppendInt(append(b, `{"bytes":`...), bytes, 10)
	b = strconv.AppendUint(append(b, `,"seq":`...), seq, 10)
	if reply {
		b = append(b, `,"reply":true`...)
	}
	return append(b, '}')
}

// abortEvent ends a call because one side wants no more of it.
func (ln *lane) abortEvent(ev *event) {
	var body struct {
		Code  string `json:"code"`
		Reply bool   `json:"reply"`
	}
	if strictjson.Decode(orNull(ev.payload), &body) != nil {
		body.Code = ""
	}
	if !body.Reply && ln.answers() && !ln.l.aborted() { // also for calls that have ended
		return
	}
	if ln.byCallee(body.Reply, ev.id) {
		if c := ln.l.takeOut(ev.id); c != nil {
			e := errorf(codes.Cancelled, "aborted by the callee").ran(runUnknown)
			if e.Remote = true; body.Code != "" {
				e.Code = body.Code
			}
			c.fail(e)
		}
		return
	}
	if c := ln.l.running(ev.id); c != nil {
		c.abort(errorf(codes.Cancelled, "aborted by the caller").ran(runUnknown), true)
	}
}

// creditEvent lets a sender of items go on.
func (ln *lane) creditEvent(ev *event) {
	var body struct {
		Bytes int64  `json:"bytes"`
		Seq   uint64 `json:"seq"`
		Reply bool   `json:"reply"`
	}
	if strictjson.Decode(orNull(ev.payload), &body) != nil {
		return
	}
	if ln.byCallee(body.Reply, ev.id) {
		ln.l.credited(ev.id, body.Bytes, body.Seq)
		return
	}
	c := ln.l.running(ev.id)
	if c == nil || !c.out.limited.Load() {
		return
	}
	if !c.out.grant(body.Bytes, body.Seq, c.sent.Load()) {
		c.endWith(errorf(codes.DataLoss, "credit for what was not sent").ran(runUnknown))
		return
	}
	c.acked(body.Seq)
}
