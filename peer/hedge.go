package peer

import (
	"context"
	"time"

	"github.com/alkdev/alknet/call"
)

// A hedge is the second attempt of a call whose first has not answered: who
// answers first wins, and the other is aborted.
type hedge struct {
	u     *unary
	stop  context.CancelFunc
	donec chan struct{} // closed when it has ended
	data  []byte        // set before donec is closed
	raw   bool
	err   error
}

// wait returns the hedge's answer, if it has one.
func (h *hedge) wait(ctx context.Context) (data []byte, raw, ok bool) {
	select {
	case <-h.donec:
		return h.data, h.raw, h.err == nil
	case <-ctx.Done():
		return nil, false, false
	}
}

// armHedge has a hedge begin in time, if the Ref asks for one.
func (u *unary) armHedge() {
	d := u.sel.ref.Hedge
	if d < 0 {
		if rt := u.g.route(u.sel.name); rt != nil {
			d = rt.times.p95()
		}
	}
	if d > 0 && u.back == nil {
		u.back = time.AfterFunc(d, func() { u.hedge(true) })
	}
}

// trouble is what the link of the first attempt may get into: a query on a
// silent link, or at a process that was followed by another, is tried elsewhere at
// once. One that drains finishes.
func (u *unary) trouble(_ *attempt, why string) {
	if why != stateNames[suspect] && why != restarted {
		return
	}
	u.mu.Lock()
	r := u.req
	u.mu.Unlock()
	if r != nil {
		r.Escalate() // its goroutine hedges
		return
	}
	u.hedge(false)
}

// hedge begins the second attempt. charged: it costs a token of the budget.
func (u *unary) hedge(charged bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over || !u.live || u.second != nil || u.tries >= u.sel.ref.attempts() {
		return
	}
	sel := u.sel
	of, l, ch := sel.choose()
	if ch != ready || !repeatable(of) || charged && !u.g.budget.take() {
		return
	}
	u.tries++
	u.sel.tried = append(u.sel.tried[:len(u.sel.tried):len(u.sel.tried)], triedLink{of.n, l.gen})
	ctx, stop := u.bounded()
	h := &hedge{u: u, stop: stop, donec: make(chan struct{})}
	if !u.g.spawn(func() { h.run(ctx, of, l, &sel) }) {
		stop()
		return
	}
	u.second = h
}

// run makes the attempt.
func (h *hedge) run(ctx context.Context, of *offer, l *link, sel *selection) {
	defer h.stop()
	unwatch := context.AfterFunc(h.u.g.ctx, h.stop)
	defer unwatch()
	h.err = errQuit
	defer h.finish()
	a := attempt{owner: h, of: of, l: l}
	o := h.u.o
	o.OnNotice = nil
	if h.err = a.open(ctx, sel, o); h.err != nil {
		return
	}
	defer a.st.Cancel(nil)
	if h.err = h.u.feed(a.st); h.err == nil {
		var data []byte
		if data, h.raw, h.err = a.st.Recv(); h.err == nil {
			h.data = append([]byte(nil), data...)
			a.measured()
		}
	}
	a.end(h.err)
}

// finish hands the answer to who waits for the first attempt.
func (h *hedge) finish() {
	close(h.donec)
	if h.err != nil {
		return
	}
	u := h.u
	u.mu.Lock()
	var st *call.Stream
	if u.live && !u.over {
		st = u.main.st
	}
	u.mu.Unlock()
	if st != nil {
		st.Cancel(&call.Error{Code: "CANCELLED", Message: "another peer answered first", MayHaveRun: true})
	}
}

// trouble with a hedge's link is not hedged again.
func (h *hedge) trouble(*attempt, string) {}
