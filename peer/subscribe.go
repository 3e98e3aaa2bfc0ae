package peer

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/strictjson"
)

// A subscription is a routed stream of items that outlives its peer. It keeps
// the input and what was consumed last, and goes on there.
type subscription struct {
	g     *Graph
	sel   selection
	o     call.Options
	ctx   context.Context
	input []byte
	raw   bool
	sent  bool
	tries int // since the last item
	seq   uint64
	token string
	ended error // what Recv returns from now on; nil: it has not ended

	now     *attempt     // where it runs; nil: nowhere
	from    *call.Stream // the stream of the item last received, or the first: what can be continued
	resumed bool         // now continues a run, and no item has come since
	grace   time.Time    // until when the process of a lost link is waited for

	mu    sync.Mutex
	live  *attempt      // guarded by mu; now, while somebody may cancel it
	err   *call.Error   // guarded by mu; of Cancel
	move  string        // guarded by mu; why it was asked to go elsewhere; "": it was not
	quitc chan struct{} // guarded by mu; closed by Cancel
}

func newSubscription(ctx context.Context, sel selection, o call.Options) *subscription {
	return &subscription{g: sel.g, sel: sel, o: o, ctx: ctx, seq: o.After, token: o.ResumeToken, quitc: make(chan struct{})}
}

// Send keeps the input; the call begins.
func (s *subscription) Send(data []byte, raw bool) error {
	if s.sent {
		return (&call.Error{Code: codes.InvalidRequest, Message: "the call takes one input"}).NotRun()
	}
	s.input, s.raw, s.sent = append(s.input, data...), raw, true
	return s.CloseSend()
}

// CloseSend begins the call if somebody is ready; else the first Recv does.
func (s *subscription) CloseSend() error {
	if s.now == nil && s.ended == nil {
		_ = s.begin(0) // Recv waits, and says why
	}
	return nil
}

// Last is the number and the token of the item last received.
func (s *subscription) Last() (seq uint64, token string) { return s.seq, s.token }

// Recv returns the next item, from wherever.
func (s *subscription) Recv() (data []byte, raw bool, err error) {
	for s.ended == nil {
		if s.now == nil {
			if err := s.begin(s.sel.ref.wait(call.Subscription)); err != nil {
				s.finish(err)
				break
			}
		}
		data, raw, err := s.now.st.Recv()
		if err == nil {
			if seq, token := s.now.st.Last(); seq > 0 {
				s.seq, s.token = seq, token
			} else { // a base peer does not count
				s.seq++
			}
			s.tries, s.from, s.resumed = 0, s.now.st, false
			return data, raw, nil
		}
		s.lost(err)
	}
	return nil, false, s.ended
}

// finish ends the stream for its consumer.
func (s *subscription) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		err = s.err
	}
	s.ended = err
}

// lost deals with the end of an attempt.
func (s *subscription) lost(err error) {
	a := s.now
	s.mu.Lock()
	s.live = nil
	cancelled, move := s.err, s.move
	s.move = ""
	s.mu.Unlock()
	if errors.Is(err, io.EOF) {
		a.end(nil)
		s.finish(io.EOF)
		return
	}
	a.end(err)
	s.now = nil
	switch {
	case cancelled != nil || s.ctx.Err() != nil:
		s.finish(err)
	case move != "":
		s.elsewhere(a, err, move)
	default:
		s.afterFault(a, err)
	}
}

// afterFault decides where a broken stream goes on: in the process where it ran,
// whose run then simply continues, else elsewhere if the operation can begin
// after an item.
func (s *subscription) afterFault(a *attempt, err error) {
	f, e := faultOf(err)
	resumable := a.of.spec.op.Resumable
	begun := s.seq > s.o.After
	again := s.tries < s.sel.ref.attempts()
	switch {
	case f == lost || s.resumed && e != nil && e.Code == codes.NotResumable:
		if s.reunite(a) {
			return
		}
		if resumable {
			s.elsewhere(a, err, "lost")
			return
		}
	case f == failed && handedBack(e) && resumable:
		s.elsewhere(a, err, "draining")
		return
	case f == unsent && (!begun || resumable) && s.refusedByTheOnly(a, e):
		return
	case f == unsent && begun && resumable:
		s.elsewhere(a, err, "unavailable")
		return
	case f == unsent && !begun && again:
		return // begin again
	case f == refused && again && s.g.budget.take() && s.sleep(s.g.backoff(s.tries, e.RetryAfter)):
		s.sel.tried = nil
		return
	}
	s.finish(via(err, a.of.n.id))
}

// refusedByTheOnly reports whether the only peer there is did not take the stream,
// and may do so after a while, which has passed.
func (s *subscription) refusedByTheOnly(a *attempt, e *call.Error) bool {
	alone, later := s.g.alone(a.l, e)
	if !alone || !later || !s.sleep(s.g.backoff(settleBackoff, e.RetryAfter)) {
		return false
	}
	s.sel.tried = nil
	s.tries--
	return true
}

// handedBack reports whether a draining peer gave the stream back between two items.
func handedBack(e *call.Error) bool {
	var in struct {
		After *uint64 `json:"after"`
	}
	return e.Code == codes.Unavailable && strictjson.Decode(e.Details, &in) == nil && in.After != nil
}

// elsewhere has the next Recv go on at another peer, if the operation can.
func (s *subscription) elsewhere(a *attempt, err error, why string) {
	if s.tries >= s.sel.ref.attempts()+1 {
		s.finish(via(err, a.of.n.id))
		return
	}
	if err := s.begin(s.sel.ref.wait(call.Subscription)); err != nil {
		s.finish(err)
		return
	}
	s.rerouted(a, why)
}

// rerouted tells who wants to know.
func (s *subscription) rerouted(from *attempt, why string) {
	to := s.now
	if to == nil || to.of.n == from.of.n && to.l.instance == from.l.instance {
		return
	}
	seq := strconv.FormatUint(s.seq, 10)
	s.g.emit("rerouted", to.l, "from "+from.of.n.id+" after item "+seq+": "+why)
	if s.o.OnNotice != nil {
		// Ids and reasons are ours: they need no escapes.
		s.o.OnNotice("rerouted", json.RawMessage(`{"from":"`+from.of.n.id+`","to":"`+to.of.n.id+`","seq":`+seq+`,"reason":"`+why+`"}`))
	}
}

// reunite goes on with the same run over another link to the same process, if
// that comes soon enough. The process may not yet have noticed that the old link
// is lost: it is asked again then.
func (s *subscription) reunite(old *attempt) bool {
	if old.l.instance == "" || s.from == nil {
		return false
	}
	if !s.resumed {
		s.grace = time.Now().Add(s.patience(old))
	} else if !s.sleep(resumePause) {
		return false
	}
	left := time.Until(s.grace)
	if left <= 0 {
		return false
	}
	l := s.g.reunion(s.ctx, old.of.n, old.l, left, s.quit)
	if l == nil {
		return false
	}
	o := s.o
	o.Resume = s.from
	s.resumed = s.attempt(old.of, l, o) == nil
	return s.resumed
}

// resumePause is how long to wait before a process is asked again.
const resumePause = 50 * time.Millisecond

// patience is how long to wait for the process: only a moment if the stream can
// go on elsewhere.
func (s *subscription) patience(old *attempt) time.Duration {
	wait := min(s.sel.ref.wait(call.Subscription), defaultResumeGrace)
	if old.of.spec.op.Resumable {
		if _, _, ch := s.sel.choose(); ch == ready {
			return min(sameInstanceAtLeast, wait)
		}
	}
	return wait
}

// begin sends an attempt to somebody who is ready within wait.
func (s *subscription) begin(wait time.Duration) error {
	for {
		of, l, err := s.sel.pick(s.ctx, wait, s.quit)
		if err != nil {
			return err
		}
		o := s.o
		o.After, o.ResumeToken = s.seq, s.token
		if err = s.attempt(of, l, o); err == nil {
			return nil
		}
		if f, _ := faultOf(err); f != unsent || s.tries >= s.sel.ref.attempts() {
			return err
		}
	}
}

// attempt opens the stream over l.
func (s *subscription) attempt(of *offer, l *link, o call.Options) error {
	s.tries++
	s.sel.tried = append(s.sel.tried[:0], triedLink{of.n, l.gen}) // others may be tried again: time has passed
	a := &attempt{owner: s, of: of, l: l}
	if err := a.open(s.ctx, &s.sel, o); err != nil {
		return err
	}
	a.list()
	err := s.feed(a.st)
	if err != nil {
		a.st.Cancel(nil)
		a.end(err)
		return err
	}
	if o.Resume == nil {
		s.from, s.resumed = a.st, false
	}
	s.mu.Lock()
	s.now, s.live = a, a
	cancelled := s.err
	s.mu.Unlock()
	if cancelled != nil {
		a.st.Cancel(cancelled)
	}
	return nil
}

func (s *subscription) feed(st *call.Stream) error {
	if !s.sent {
		return st.CloseSend()
	}
	return st.SendChecked(s.input, s.raw)
}

// trouble moves a stream that can go on elsewhere away from a link that drains.
func (s *subscription) trouble(a *attempt, why string) {
	if why == stateNames[suspect] || !a.of.spec.op.Resumable {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != a || s.err != nil {
		return
	}
	sel := s.sel
	sel.tried = []triedLink{{a.of.n, a.l.gen}}
	if _, _, ch := sel.choose(); ch != ready {
		return // nowhere to go: it runs on until the peer ends it
	}
	s.move = why
	a.st.Cancel(&call.Error{Code: codes.Cancelled, Message: "it goes on elsewhere", MayHaveRun: true})
}

// Cancel ends the call.
func (s *subscription) Cancel(err *call.Error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	close(s.quitc)
	a := s.live
	s.mu.Unlock()
	if a != nil {
		a.st.Cancel(err)
		a.end(err)
	}
}

func (s *subscription) quit() <-chan struct{} { return s.quitc }

func (s *subscription) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
	case <-s.quitc:
	}
	return false
}
