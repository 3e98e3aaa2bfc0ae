package peer

import (
	"context"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// A unary is a routed query or mutation: it keeps the input so that it can be
// sent again.
type unary struct {
	g     *Graph
	sel   selection // changed under mu
	o     call.Options
	ctx   context.Context // the caller's
	bound context.Context // ctx, with a deadline once the call is repeated
	begun time.Time
	input []byte
	raw   bool
	sent  bool // Send was called: there is an input
	ended bool // Recv has returned the answer or the error
	tries int  // attempts of the main line; changed under mu
	stop  context.CancelFunc

	req    *call.Request // guarded by mu; of a call that is handed on without a goroutine; nil: it has one
	failed error         // how an attempt without one has ended; nil: it has not

	main attempt
	back *time.Timer // of a timed hedge; nil: none

	mu     sync.Mutex
	live   bool          // guarded by mu; main was sent and not yet answered
	over   bool          // guarded by mu; the answer was decided, or Cancel called
	err    *call.Error   // guarded by mu; of Cancel
	quitc  chan struct{} // guarded by mu; closed by Cancel; nil: nobody waits
	second *hedge        // guarded by mu
}

func newUnary(ctx context.Context, sel selection, o call.Options) *unary {
	u := &unary{g: sel.g, sel: sel, o: o, ctx: ctx, bound: ctx, begun: time.Now()}
	u.main.owner = u
	return u
}

// Send keeps the input and begins the call if somebody is ready.
func (u *unary) Send(data []byte, raw bool) error {
	if u.sent {
		return (&call.Error{Code: codes.InvalidRequest, Message: "the call takes one input"}).NotRun()
	}
	u.input, u.raw, u.sent = append(u.input, data...), raw, true
	switch {
	case u.failed != nil: // Recv decides how it goes on
	case u.main.st != nil: // it is under way, and in trouble
		u.hedge(false)
	default:
		u.begin(0)
	}
	return nil
}

// CloseSend begins a call without an input.
func (u *unary) CloseSend() error {
	if !u.sent && u.failed == nil && u.main.st == nil {
		u.begin(0)
	}
	return nil
}

// Last says that there are no items to count.
func (u *unary) Last() (seq uint64, token string) { return 1, "" }

// Recv returns the answer.
func (u *unary) Recv() (data []byte, raw bool, err error) {
	if u.ended {
		return nil, false, io.EOF
	}
	data, raw, err = u.answer()
	u.ended = true
	u.mu.Lock()
	u.over = true
	second := u.second
	u.mu.Unlock()
	if second != nil {
		second.stop()
	}
	if u.back != nil {
		u.back.Stop()
	}
	if u.stop != nil {
		defer u.stop()
	}
	return data, raw, err
}

// answer tries until there is an answer or a final error.
func (u *unary) answer() ([]byte, bool, error) {
	last := u.failed
	if u.failed = nil; last != nil && !u.again(last) {
		return nil, false, last
	}
	for {
		if u.main.st == nil {
			if err := u.begin(u.sel.ref.wait(u.o.Type)); err != nil {
				return nil, false, u.refusal(err, last)
			}
		}
		data, raw, err := u.main.st.Recv()
		u.mu.Lock()
		u.live = false
		second := u.second
		u.mu.Unlock()
		if err == nil {
			u.main.measured()
		}
		u.main.end(err)
		if err == nil {
			return data, raw, nil
		}
		if second != nil {
			if data, raw, ok := second.wait(u.bound); ok {
				return data, raw, nil
			}
		}
		if err := u.cancelled(); err != nil {
			return nil, false, err
		}
		err = via(err, u.main.of.n.id)
		if !u.again(err) {
			return nil, false, err
		}
		last = err
	}
}

// refusal is what the caller hears when no further attempt can be begun: what
// the last one said, unless that is no more than that it did not run.
func (u *unary) refusal(err, last error) error {
	if cerr := u.cancelled(); cerr != nil {
		return cerr
	}
	if f, _ := faultOf(last); last == nil || f == unsent {
		return err
	}
	return last
}

// cancelled is Cancel's error.
func (u *unary) cancelled() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err != nil {
		return u.err
	}
	return nil
}

// begin sends an attempt to somebody who is ready within wait. Attempts that
// surely were not sent are repeated elsewhere at once.
func (u *unary) begin(wait time.Duration) error {
	var last error
	for {
		of, l, err := u.sel.pick(u.bound, wait, u.quit)
		if err != nil {
			if last != nil && u.tries >= u.sel.ref.attempts() {
				return last
			}
			return err
		}
		if err = u.attempt(of, l); err == nil {
			return nil
		}
		last = err
		if f, _ := faultOf(err); f != unsent || u.tries >= u.sel.ref.attempts() {
			return err
		}
	}
}

// attempt sends the call over l.
func (u *unary) attempt(of *offer, l *link) error {
	a := &u.main
	u.mu.Lock()
	u.tries++
	u.sel.tried = append(u.sel.tried, triedLink{of.n, l.gen})
	u.mu.Unlock()
	if u.tries > 1 && u.stop == nil {
		u.bound, u.stop = u.bounded()
	}
	a.of, a.l, a.st = of, l, nil
	if err := a.open(u.bound, &u.sel, u.options(of, l)); err != nil {
		return err
	}
	if repeatable(of) {
		a.list()
	}
	if err := u.feed(a.st); err != nil {
		a.st.Cancel(nil)
		a.st = nil
		a.end(err)
		return err
	}
	u.mu.Lock()
	u.live = u.err == nil
	u.mu.Unlock()
	if err := u.cancelled(); err != nil {
		a.st.Cancel(nil)
		a.end(err)
		return err
	}
	if repeatable(of) {
		u.armHedge()
	}
	return nil
}

// feed sends the input, or that there is none.
func (u *unary) feed(st *call.Stream) error {
	if !u.sent {
		return st.CloseSend()
	}
	return st.SendChecked(u.input, u.raw)
}

// bounded gives a call that is repeated the deadline that one attempt has.
func (u *unary) bounded() (context.Context, context.CancelFunc) {
	if _, has := u.ctx.Deadline(); has {
		return context.WithCancel(u.ctx)
	}
	return context.WithDeadline(u.ctx, u.begun.Add(defaultCallTimeout))
}

// options of an attempt: a mutation gets a key, so that it can be repeated
// towards the same process and runs once.
func (u *unary) options(of *offer, l *link) call.Options {
	if !repeatable(of) && of.spec.op.Func.Type == call.Mutation && u.o.IdempotencyKey == "" && l.instance != "" {
		u.o.IdempotencyKey = u.g.prefix + strconv.FormatUint(u.g.calls.Add(1), 36)
	}
	return u.o
}

// repeatable reports whether the operation may run twice.
func repeatable(of *offer) bool { return of.spec.op.Idempotent || of.spec.op.Func.Type == call.Query }

// again prepares another attempt after an error, if the rules allow one.
func (u *unary) again(err error) bool {
	f, e := faultOf(err)
	of, l := u.main.of, u.main.l
	if f == final || u.bound.Err() != nil || u.tries >= u.sel.ref.attempts() {
		return false
	}
	may := f == unsent || f == refused || repeatable(of)
	switch {
	case f == lost && !may:
		return u.sameProcess(of, l)
	case !may:
		return false
	case f == unsent && u.refusedByTheOnly(l, e):
		return u.main.st == nil
	case f == lost || f == unsent:
		u.main.st = nil
		return true
	}
	// The peer lives and does not want the call: that is what the budget is for.
	if !u.g.budget.take() || !u.sleep(u.g.backoff(u.tries, e.RetryAfter)) {
		return false
	}
	u.main.st = nil
	if _, _, ch := u.sel.choose(); ch != ready {
		u.mu.Lock()
		u.sel.tried = nil // nobody else: the same again
		u.mu.Unlock()
	}
	return true
}

// refusedByTheOnly reports whether the call did not run at the only peer there is.
// It is then made again there, if that may help and after a while, or is over.
func (u *unary) refusedByTheOnly(l *link, e *call.Error) bool {
	alone, later := u.g.alone(l, e)
	if !alone {
		return false
	}
	if !later && e.Code == codes.NotFound || !u.sleep(u.g.backoff(settleBackoff, e.RetryAfter)) {
		return true
	}
	u.mu.Lock()
	u.main.st, u.sel.tried = nil, nil
	if later {
		u.tries--
	}
	u.mu.Unlock()
	return true
}

// sameProcess repeats a mutation that may have run towards the process that may
// have run it, under its key.
func (u *unary) sameProcess(of *offer, old *link) bool {
	if old.instance == "" || u.o.IdempotencyKey == "" {
		return false
	}
	l := u.g.reunion(u.bound, of.n, old, u.sel.ref.wait(u.o.Type), u.quit)
	if l == nil {
		return false
	}
	return u.attempt(of, l) == nil
}

// reunion waits for another link to the process that old went to; nil: none came.
func (g *Graph) reunion(ctx context.Context, n *node, old *link, wait time.Duration, quit func() <-chan struct{}) *link {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		turn := g.turnc()
		for _, l := range n.linksNow() {
			if l != old && l.instance == old.instance && l.state.Load() == up {
				return l
			}
			if l.instance != old.instance && l.gen > old.gen {
				return nil // it was restarted
			}
		}
		select {
		case <-turn:
		case <-timer.C:
			return nil
		case <-quit():
			return nil
		case <-ctx.Done():
			return nil
		case <-g.ctx.Done():
			return nil
		}
	}
}

// sleep waits; false: the call ended meanwhile.
func (u *unary) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-u.bound.Done():
	case <-u.quit():
	}
	return false
}

// quit returns a channel that Cancel closes.
func (u *unary) quit() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.quitc == nil {
		u.quitc = make(chan struct{})
		if u.err != nil {
			close(u.quitc)
		}
	}
	return u.quitc
}

// Cancel ends the call.
func (u *unary) Cancel(err *call.Error) {
	u.mu.Lock()
	if u.over {
		u.mu.Unlock()
		return
	}
	u.over, u.err = true, err
	if u.quitc != nil {
		close(u.quitc)
	}
	var st *call.Stream
	if u.live {
		st = u.main.st
	}
	second := u.second
	u.mu.Unlock()
	if second != nil {
		second.stop()
	}
	if st != nil {
		st.Cancel(err)
		u.main.end(err)
	}
}
