package call

import (
	"bytes"

	"github.com/alkdev/alknet"
)

// oversize looks at the first bytes of a frame over the limit: it may be read if
// it names an operation, or one of our calls, that takes so much. done: it was
// read away and refused.
func (ln *lane) oversize(n int) (done bool, err error) {
	head, err := ln.r.peek(n)
	if err != nil {
		return false, err
	}
	most, id := ln.allowance(head)
	if int64(n) <= most {
		return false, nil
	}
	if !ln.both && !ln.opened && ln.idle() {
		return false, &alknet.Error{Code: alknet.CodeLimit, Reason: "max_frame_bytes"}
	}
	return true, ln.refuseLarge(n, id, "max_frame_bytes", ln.limit())
}

// idle reports whether no call of the peer runs on the lane.
func (ln *lane) idle() bool {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return len(ln.running) == 0
}

// allowance is how large the frame may be that begins with head, and its id.
func (ln *lane) allowance(head []byte) (most int64, id []byte) {
	if isRaw(head) {
		if len(head) < 2 || len(head) < 2+int(head[1]) {
			return 0, nil
		}
		id = head[2 : 2+int(head[1])]
		return ln.l.allowanceOf(id, head[0] == rawOutput && ln.asks()), id
	}
	typ, id, payload, ok := peekHead(head)
	switch {
	case !ok:
		return 0, nil
	case typ == evRequested && ln.answers():
		rest, _ := cut(payload, preOp)
		if name, _, ok := cutText(rest, maxRouteBytes+1); ok {
			if op := ln.l.s.find(bytes.TrimPrefix(name, []byte("/"))); op != nil {
				return op.MaxInputBytes, id
			}
		}
	case typ == evResponded || typ == evItem:
		return ln.l.allowanceOf(id, typ == evResponded && ln.asks()), id
	}
	return 0, id
}

// peekHead reads the beginning of a canonical frame.
func peekHead(head []byte) (typ eventType, id, payload []byte, ok bool) {
	b, ok := cut(head, preType)
	if !ok {
		return 0, nil, nil, false
	}
	name, b, ok := cutText(b, 32)
	if !ok {
		return 0, nil, nil, false
	}
	if b, ok = cut(b, preID[1:]); !ok {
		return 0, nil, nil, false
	}
	if id, b, ok = cutText(b, maxIDBytes); !ok {
		return 0, nil, nil, false
	}
	payload, ok = cut(b, prePayload[1:])
	return eventTypeOf(name), id, payload, ok
}

// allowanceOf is the largest frame of a live call: an output of ours, or an
// input of the peer's.
func (l *link) allowanceOf(id []byte, output bool) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if output {
		if c := l.oursLocked(id); c != nil {
			return c.maxReply
		}
		return 0
	}
	if c := l.in[string(id)]; c != nil {
		return c.maxInput.Load()
	}
	return 0
}

// refuseLarge reads n bytes away and tells whose frame it was.
func (ln *lane) refuseLarge(n int, id []byte, limit string, most int64) error {
	id = bytes.Clone(id)
	if err := ln.r.discard(n); err != nil {
		return err
	}
	refusal := limitError(limit, most)
	if ln.asks() {
		if c := ln.l.takeOut(id); c != nil {
			c.fail(refusal.ran(runYes))
			ln.l.sendAbort(c)
			return nil
		}
	}
	if ln.answers() {
		if c := ln.l.running(id); c != nil { // an item of a live call
			c.endWith(refusal.ran(runUnknown))
			return nil
		}
		ln.sendError(id, refusal, false)
	}
	return nil
}
