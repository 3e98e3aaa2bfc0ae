package call

import (
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/alkdev/alknet/call/codes"
)

// A retention keeps a running subscription so that it can go on after its
// connection was lost: the frames that were sent and not acknowledged, never
// more than the window, and the handler, which waits for credit meanwhile.
type retention struct {
	c        *inCall
	identity string // whose it is
	name     string // what it is of, as called

	mu     sync.Mutex
	l      *link       // guarded by mu; nil: the connection was lost
	ln     *lane       // guarded by mu
	frames []byte      // guarded by mu; whole frames, oldest first
	marks  []mark      // guarded by mu; what is in frames
	held   int64       // guarded by mu; reserved for frames
	ended  bool        // guarded by mu; the terminal event is in frames, or was sent
	gone   bool        // guarded by mu; nobody can take it up any more
	lossy  bool        // guarded by mu; not every frame is kept
	grace  *time.Timer // guarded by mu; runs while the connection is lost
	late   *time.Timer // guarded by mu; the deadline of the call, once its first connection was lost
}

// A mark is one frame of a retention.
type mark struct {
	seq uint64
	len int
}

// retain keeps c from now on, if it can be kept.
func (c *inCall) retain() {
	if c.l == nil || !c.meta.resumable || !c.items || c.inputs || !c.peer.credit || !c.peer.resume ||
		c.who.id.ID == "" || c.s.lim.ResumeGrace <= 0 || c.s.builtin[c.entry.op.Name] == c.entry {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep = &retention{c: c, identity: c.who.id.ID, name: string(c.meta.op), l: c.l, ln: c.ln}
}

// send keeps and sends an item.
func (r *retention) send(seq uint64, token string, data []byte, raw bool) error {
	wait, err := r.sendNow(seq, token, data, raw)
	if wait != nil {
		wait.awaitRoom(&r.c.done)
	}
	return err
}

// sendNow is send; full is the writer where much has gathered.
func (r *retention) sendNow(seq uint64, token string, data []byte, raw bool) (full *writer, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.gone {
		return nil, r.c.whyOver()
	}
	start := len(r.frames)
	r.frames = r.c.appendItem(r.frames, seq, token, data, raw)
	n := len(r.frames) - start
	r.c.out.charge(n - 4)
	full = r.writeLocked(r.frames[start:])
	if !r.lossy && (r.held > r.c.s.lim.MaxWindowBytes || r.c.l.mem.Reserve(int64(n)) != nil) {
		r.lossy = true // a caller that acknowledges nothing, or no memory: it goes on, but not elsewhere
		r.releaseLocked(r.held)
		r.marks = nil
	}
	if r.lossy {
		r.frames = r.frames[:0]
		return full, nil
	}
	r.held += int64(n)
	r.marks = append(r.marks, mark{seq, n})
	return full, nil
}

// writeLocked hands frames to the stream, if there is one; full is its writer if
// much has gathered there.
func (r *retention) writeLocked(b []byte) (full *writer) {
	if r.ln != nil && r.ln.w.tryAppendBulk(b) {
		return r.ln.w
	}
	return nil
}

// ack drops what the caller has consumed.
func (r *retention) ack(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropLocked(seq)
}

func (r *retention) dropLocked(seq uint64) {
	n, bytes := 0, 0
	for n < len(r.marks) && r.marks[n].seq != 0 && r.marks[n].seq <= seq {
		bytes += r.marks[n].len
		n++
	}
	if n == 0 {
		return
	}
	r.marks = append(r.marks[:0], r.marks[n:]...)
	r.frames = append(r.frames[:0], r.frames[bytes:]...)
	r.releaseLocked(int64(bytes))
}

func (r *retention) releaseLocked(n int64) {
	n = min(n, r.held)
	r.held -= n
	r.c.l.mem.Release(n)
}

// end sends the terminal event, or keeps it for who comes back.
func (r *retention) end(e *Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.ended = true
	start := len(r.frames)
	r.frames = r.c.appendEnd(r.frames, e)
	if r.ln != nil {
		r.writeLocked(r.frames[start:])
		r.freeLocked()
	} else {
		r.marks = append(r.marks, mark{0, len(r.frames) - start})
	}
}

// abandon forgets the subscription: its caller wants no more of it.
func (r *retention) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.freeLocked()
}

// freeLocked gives everything back.
func (r *retention) freeLocked() {
	r.gone = true
	r.frames, r.marks = nil, nil
	r.releaseLocked(r.held)
	for _, t := range []*time.Timer{r.grace, r.late} {
		if t != nil {
			t.Stop()
		}
	}
}

// detach keeps the subscription of a lost connection; false: it has ended.
func (r *retention) detach() bool {
	s := r.c.s
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.gone || r.lossy || r.c.done.Load() || s.isDraining() || !s.retained.add(r) {
		return false
	}
	r.l, r.ln = nil, nil
	r.c.out.balance.Store(0)                                      // it waits
	if until := r.c.ctx.until; !until.IsZero() && r.late == nil { // the lost link no longer counts
		r.late = time.AfterFunc(time.Until(until), r.c.expire)
	}
	r.grace = time.AfterFunc(s.lim.ResumeGrace, r.expire)
	return true
}

// expire gives up.
func (r *retention) expire() {
	s := r.c.s
	if !s.retained.remove(r) {
		return
	}
	r.abandon()
	r.c.abort(errorf(codes.Cancelled, "the connection was lost").ran(runUnknown), false)
}

// attach goes on behind item after on another connection. ok false: that cannot be
// done exactly. over: the handler has ended, and all there is was sent.
func (r *retention) attach(ln *lane, after uint64, window int64) (ok, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent := r.c.sent.Load()
	first := sent + 1
	if len(r.marks) > 0 && r.marks[0].seq != 0 {
		first = r.marks[0].seq
	}
	if r.gone || after > sent || after+1 < first {
		return false, false
	}
	r.grace.Stop()
	r.dropLocked(after)
	r.l, r.ln = ln.l, ln
	pending := int64(len(r.frames) - 4*len(r.marks))
	r.writeLocked(r.frames)
	r.c.out.acked.Store(after)
	r.c.out.balance.Store(min(window, r.c.s.lim.MaxWindowBytes) - pending)
	r.c.out.signal()
	if r.ended {
		r.freeLocked()
	}
	return true, r.ended
}

// A retainer holds the subscriptions whose connection was lost.
type retainer struct {
	s *state

	mu   sync.Mutex
	byID map[string]*retention // guarded by mu
}

// maxRetained bounds how many subscriptions wait, of all peers.
const maxRetained = 8192

func newRetainer(s *state) *retainer { return &retainer{s: s, byID: make(map[string]*retention)} }

// clear gives up all of them.
func (t *retainer) clear() {
	t.mu.Lock()
	all := make([]*retention, 0, len(t.byID))
	for _, r := range t.byID {
		all = append(all, r)
	}
	t.mu.Unlock()
	for _, r := range all {
		r.expire()
	}
}

func (t *retainer) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

func (t *retainer) add(r *retention) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.byID) >= maxRetained || t.byID[r.c.id] != nil {
		return false
	}
	t.byID[r.c.id] = r
	return true
}

func (t *retainer) remove(r *retention) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[r.c.id] != r {
		return false
	}
	delete(t.byID, r.c.id)
	return true
}

// take finds the subscription that a request continues, of that identity and
// that operation only.
func (t *retainer) take(id, identity, op string) *retention {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.byID[id]
	if r == nil || identity == "" || r.identity != identity || r.name != op {
		return nil
	}
	delete(t.byID, id)
	return r
}

// errResumed is a call that has become another's connection.
var errResumed = &Error{Code: "RESUMED"}

// resume goes on with a retained subscription that c asks for: errResumed, and c
// itself is over. Another error says that it cannot go on.
func (c *inCall) resume() *Error {
	if !c.meta.resumes || c.l == nil {
		return nil
	}
	r := c.s.retained.take(c.id, c.who.id.ID, string(c.meta.op))
	if r == nil {
		return nil
	}
	old := r.c
	c.l.replace(c, old) // before the old one can end on this connection
	ok, over := c.ln.add(old), false
	if ok {
		ok, over = r.attach(c.ln, c.meta.after, c.meta.window)
	}
	if !ok || over { // nobody else forgets it here
		c.l.replace(old, c)
		c.ln.remove(old)
	}
	if !ok {
		r.abandon()
		old.abort(errorf(codes.Cancelled, "resumed where it cannot go on").ran(runUnknown), false)
		return notResumable(c.meta.after)
	}
	return errResumed
}

// replace puts one call in the place of another of the same id.
func (l *link) replace(out, in *inCall) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.in[out.id] == out {
		l.in[out.id] = in
	}
}

// notResumable says where the stream was to go on.
func notResumable(after uint64) *Error {
	e := errorf(codes.NotResumable, "the subscription cannot go on after item %d", after).ran(runNo)
	e.Details = json.RawMessage(`{"after":` + strconv.FormatUint(after, 10) + `}`)
	return e
}

// acked notes what the caller has consumed.
func (c *inCall) acked(seq uint64) {
	c.mu.Lock()
	keep := c.keep
	c.mu.Unlock()
	if keep != nil {
		keep.ack(seq)
	}
}
