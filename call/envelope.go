package call

import (
	"bytes"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/alkdev/alknet/internal/strictjson"
)

// An eventType is the type of an event (docs/protocol.md, section "Call").
type eventType uint8

const (
	evUnknown   eventType = iota // ignored
	evRequested                  // caller: starts a call
	evResponded                  // callee: an output
	evCompleted                  // callee: the end of a subscription
	evError                      // callee: the call failed
	evAborted                    // either: the call is over
	evItem                       // caller: an item of input
	evEnd                        // caller: the end of the input
	evCredit                     // receiver of items: send more
	evNotice                     // callee: worth knowing
	evDraining                   // either, no id: no new calls
)

// The names of events, as they stand between the quotes.
var eventNames = [...]string{
	evRequested: "call.requested", evResponded: "call.responded", evCompleted: "call.completed", evError: "call.error",
	evAborted: "call.aborted", evItem: "call.item", evEnd: "call.end", evCredit: "call.credit", evNotice: "call.notice",
	evDraining: "call.draining",
}

// maxIDBytes bounds a call's id.
const maxIDBytes = 64

// An event is a frame that was read. Its slices point into the frame.
type event struct {
	typ     eventType
	id      []byte
	payload []byte // one strict JSON value; nil where the fields below were read at once
	raw     bool   // data is bytes, not JSON

	data  []byte // output of evResponded, input of evRequested and evItem; nil: absent
	seq   uint64 // of evResponded and evItem
	token []byte // of evResponded: resume by it
	req   *request
}

// The canonical form: what we write, and what is read by comparison.
const (
	preType    = `{"type":"`
	preID      = `","id":"`
	prePayload = `","payload":`
	preOp      = `{"operationId":"`
	preOutput  = `{"output":`
	preSeq     = `{"seq":`
)

// badEnvelope is a frame that is not one strict envelope; id is "" if it has none.
type badEnvelope struct {
	id  []byte
	why error
}

// parse reads a frame body that begins with "{" or white space. ev.req is used
// for requests. The canonical form is read by comparing it, anything else by
// the strict decoder: both accept the same frames.
func (ev *event) parse(frame []byte, req *request) *badEnvelope {
	if ev.parseCanonical(frame, req) {
		return nil
	}
	return ev.parseAny(frame, req)
}

// cut returns what follows prefix in b.
func cut(b []byte, prefix string) ([]byte, bool) {
	if len(b) < len(prefix) || string(b[:len(prefix)]) != prefix {
		return b, false
	}
	return b[len(prefix):], true
}

// cutText returns the plain text before the next quote: no escapes, all printable ASCII.
func cutText(b []byte, max int) (text, rest []byte, ok bool) {
	n := bytes.IndexByte(b, '"')
	if n < 0 || n > max || !plainText(b[:n]) {
		return nil, b, false
	}
	return b[:n], b[n+1:], true
}

// cutUint returns the number before the next byte that is no digit.
func cutUint(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for i < len(b) && i < 19 && b[i] >= '0' && b[i] <= '9' {
		n = n*10 + uint64(b[i]-'0')
		i++
	}
	if i == 0 || i > 1 && b[0] == '0' || i < len(b) && (b[i] >= '0' && b[i] <= '9' || b[i] == '.' || b[i] == 'e' || b[i] == 'E') {
		return 0, b, false
	}
	return n, b[i:], true
}

// parseCanonical reads our own member order. Whatever it does not know leads to
// the strict decoder, so it decides nothing alone but that a frame is right.
func (ev *event) parseCanonical(frame []byte, req *request) bool {
	b, ok := cut(frame, preType)
	if !ok {
		return false
	}
	typ, b, ok := cutText(b, 32)
	if !ok {
		return false
	}
	if b, ok = cut(b, preID[1:]); !ok {
		return false
	}
	id, b, ok := cutText(b, maxIDBytes)
	if !ok || len(id) == 0 {
		return false
	}
	if b, ok = cut(b, prePayload[1:]); !ok || len(b) < 3 || b[len(b)-1] != '}' {
		return false
	}
	*ev = event{typ: eventTypeOf(typ), id: id}
	body := b[:len(b)-1] // one value, if the frame is right
	switch ev.typ {
	case evRequested:
		*req = request{}
		ev.req = req
		return ev.canonicalRequest(body, req)
	case evResponded:
		return ev.canonicalOutput(body)
	case evItem:
		return ev.canonicalItem(body, `"input":`)
	}
	ev.payload = body
	return len(body) == 2 && body[0] == '{' && body[1] == '}' || strictjson.Check(body) == nil
}

// eventTypeOf finds a type by its name. The lengths tell most apart.
func eventTypeOf(name []byte) eventType {
	for i := evRequested; i <= evDraining; i++ {
		if string(name) == eventNames[i] {
			return i
		}
	}
	return evUnknown
}

// lastValue takes b as one value and the brace that closes its object.
func lastValue(b []byte) ([]byte, bool) {
	if len(b) < 2 || b[len(b)-1] != '}' {
		return nil, false
	}
	v := b[:len(b)-1]
	if strictjson.Check(v) != nil {
		return nil, false
	}
	return absentNull(v), true
}

// canonicalOutput reads {"output":v} and {"seq":n,"output":v}.
func (ev *event) canonicalOutput(b []byte) bool {
	if len(b) == 2 && b[0] == '{' && b[1] == '}' {
		return true
	}
	if rest, ok := cut(b, preOutput); ok {
		ev.data, ok = lastValue(rest)
		return ok
	}
	return ev.canonicalItem(b, `"output":`)
}

// canonicalItem reads {"seq":n,NAMEv}, NAME being "output": or "input":, with a
// token in between.
func (ev *event) canonicalItem(b []byte, name string) bool {
	b, ok := cut(b, preSeq)
	if !ok {
		return false
	}
	if ev.seq, b, ok = cutUint(b); !ok {
		return false
	}
	if rest, has := cut(b, `,"token":"`); has && name[1] == 'o' {
		if ev.token, b, ok = cutText(rest, maxResumeTokenBytes); !ok {
			return false
		}
	}
	if b, ok = cut(b, ","); !ok {
		return false
	}
	if b, ok = cut(b, name); !ok {
		return false
	}
	ev.data, ok = lastValue(b)
	return ok
}

// The members that canonicalRequest knows, in the order in which we write them.
const (
	mDeadline = `,"deadline_ms":`
	mTrace    = `,"traceparent":"`
	mKey      = `,"idempotency_key":"`
	mWindow   = `,"window":`
	mToken    = `,"auth_token":"`
	mInputs   = `,"input_stream":true`
	mRaw      = `,"raw_input":true`
	mResume   = `,"resumable":true`
	mInput    = `,"input":`

	// of calls that were handed on
	mHops       = `,"hops":`
	mPath       = `,"path":["`
	mDelegation = `,"delegation":"`
	mClaimed    = `,"forwarded_for":`
)

// canonicalRequest reads the payload of call.requested in our own order.
func (ev *event) canonicalRequest(b []byte, req *request) bool {
	b, ok := cut(b, preOp)
	if !ok {
		return false
	}
	op, b, ok := cutText(b, maxRouteBytes+1)
	if !ok {
		return false
	}
	req.op = bytes.TrimPrefix(op, []byte("/"))
	if rest, has := cut(b, mDeadline); has {
		n, rest, ok := cutUint(rest)
		if !ok {
			return false
		}
		req.deadline, b = clampMillis(n), rest
	}
	if rest, has := cut(b, mTrace); has {
		x := req.more()
		if x.trace, b, ok = cutText(rest, 64); !ok || len(x.trace) == 0 {
			return false
		}
	}
	if rest, has := cut(b, mKey); has {
		x := req.more()
		if x.key, b, ok = cutText(rest, maxIdempotencyKeyBytes); !ok || len(x.key) == 0 {
			return false
		}
	}
	if rest, has := cut(b, mWindow); has {
		n, rest, ok := cutUint(rest)
		if !ok {
			return false
		}
		req.window, b = clampBytes(n), rest
	}
	if rest, has := cut(b, mToken); has {
		if req.more().token, b, ok = cutText(rest, maxTokenBytes); !ok {
			return false
		}
	}
	b, req.inputs = cut(b, mInputs)
	b, req.rawInput = cut(b, mRaw)
	b, req.resumable = cut(b, mResume)
	if b, ok = req.cutRoute(b); !ok {
		return false
	}
	if len(b) == 1 && b[0] == '}' {
		return true
	}
	if b, ok = cut(b, mInput); !ok {
		return false
	}
	ev.data, ok = lastValue(b)
	return ok
}

// cutRoute reads what a call has that was handed on, in the order of appendRare.
func (r *request) cutRoute(b []byte) (rest []byte, ok bool) {
	if rest, has := cut(b, mHops); has {
		n, rest, ok := cutUint(rest)
		if !ok || n > maxHops {
			return b, false
		}
		r.hops, b = int(n), rest
	}
	if rest, has := cut(b, mPath); has {
		x := r.more()
		for {
			var p []byte
			if p, rest, ok = cutText(rest, maxIDBytes); !ok || len(x.path) == maxHops {
				return b, false
			}
			x.path = append(x.path, string(p))
			if next, more := cut(rest, `,"`); more {
				rest = next
				continue
			}
			break
		}
		if b, ok = cut(rest, "]"); !ok {
			return b, false
		}
	}
	if rest, has := cut(b, mDelegation); has {
		if r.more().delegation, b, ok = cutText(rest, maxTokenBytes); !ok {
			return b, false
		}
	}
	if rest, has := cut(b, mClaimed); has {
		n := objectEnd(rest)
		if n < 0 || strictjson.Check(rest[:n]) != nil {
			return b, false
		}
		r.more().claimed, b = rest[:n], rest[n:]
	}
	return b, true
}

// maxClaimDepth is how deep forwarded_for is in the canonical form.
const maxClaimDepth = 8

// objectEnd is how long the object is with which b begins, by its brackets; -1:
// it does not end. Whether it is one is for the strict decoder to say.
func objectEnd(b []byte) int {
	if len(b) == 0 || b[0] != '{' {
		return -1
	}
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			if depth++; depth > maxClaimDepth {
				return -1
			}
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// clampMillis keeps a deadline within what a Duration holds; 0 means at once.
func clampMillis(n uint64) int64 { return int64(max(min(n, maxDeadlineMillis), 1)) }

// maxDeadlineMillis is ten years: more is no deadline.
const maxDeadlineMillis = 10 * 365 * 24 * uint64(time.Hour/time.Millisecond)

// clampBytes keeps a window within what can be counted.
func clampBytes(n uint64) int64 { return int64(max(min(n, 1<<40), 1)) }

// appendFrameHead appends the length, to be filled in by endFrame, and the
// envelope up to the payload.
func appendFrameHead(b []byte, t eventType, id []byte) []byte {
	b = append(b, 0, 0, 0, 0)
	b = append(append(b, preType...), eventNames[t]...)
	b = append(b, preID...)
	b = appendID(b, id)
	return append(b, prePayload...)
}

// appendID appends an id as the inside of a JSON string.
func appendID(b, id []byte) []byte {
	if plainText(id) {
		return append(b, id...)
	}
	q, _ := jsontext.AppendQuote(nil, id) // its error is of bytes that it has replaced
	return append(b, q[1:len(q)-1]...)
}

// endFrame closes the envelope and writes the length of the frame at start.
func endFrame(b []byte, start int) []byte {
	b = append(b, '}')
	putLength(b, start)
	return b
}

// putLength writes the length of the frame that begins at start.
func putLength(b []byte, start int) {
	n := uint32(len(b) - start - 4)
	b[start], b[start+1], b[start+2], b[start+3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
}

// appendRequest appends the payload of call.requested in canonical order.
func (r *request) appendPayload(b []byte, input []byte, hasInput bool) []byte {
	b = append(append(b, preOp...), '/')
	b = append(append(b, r.op...), '"')
	if r.deadline > 0 {
		b = strconv.AppendInt(append(b, mDeadline...), r.deadline, 10)
	}
	x := r.rare()
	b = appendMember(b, mTrace, x.trace)
	b = appendMember(b, mKey, x.key)
	if r.window > 0 {
		b = strconv.AppendInt(append(b, mWindow...), r.window, 10)
	}
	b = appendMember(b, mToken, x.token)
	if r.inputs {
		b = append(b, mInputs...)
	}
	if r.rawInput {
		b = append(b, mRaw...)
	}
	if r.resumable {
		b = append(b, mResume...)
	}
	b = r.appendRare(b)
	if hasInput {
		b = append(append(b, mInput...), input...)
	}
	return append(b, '}')
}

// appendMember appends a member of text, if there is one.
func appendMember(b []byte, name string, text []byte) []byte {
	if len(text) == 0 {
		return b
	}
	b = appendID(append(b, name...), text)
	return append(b, '"')
}

// appendRare appends what only routed and resumed calls have.
func (r *request) appendRare(b []byte) []byte {
	x := r.rare()
	b = appendMember(b, `,"tracestate":"`, x.state)
	if r.resumes {
		b = strconv.AppendUint(append(b, `,"resume":{"after":`...), r.after, 10)
		b = append(appendMember(b, `,"token":"`, x.resume), '}')
	}
	if r.hops > 0 {
		b = strconv.AppendInt(append(b, mHops...), int64(r.hops), 10)
	}
	if len(x.path) > 0 {
		b = append(b, `,"path":[`...)
		for i, p := range x.path {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, p)
		}
		b = append(b, ']')
	}
	b = appendMember(b, mDelegation, x.delegation)
	if len(x.claimed) > 0 {
		b = append(append(b, mClaimed...), x.claimed...)
	}
	return b
}

// validID reports whether an id has 1 to 64 bytes of UTF-8.
func validID(id []byte) bool { return len(id) > 0 && len(id) <= maxIDBytes && utf8.Valid(id) }
