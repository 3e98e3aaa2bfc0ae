package peer

import (
	"context"
	"time"

	"github.com/alkdev/alknet/call"
)

// A hop is what package call asks of a call that is handed on without a goroutine
// of its own ([call.Func.HandOn]). A unary is one until it needs a goroutine.
type hop = interface {
	Over() (c *call.Client, op string, o *call.Options)
	Withdraw()
	Ended(err error) (e error, again bool)
	Carry(ctx context.Context, out *call.Stream) *call.Stream
}

// handOn chooses who gets a call, if somebody is ready; nil: it has to wait.
func (s *selection) handOn(r *call.Request, o *call.Options) hop {
	u := &unary{g: s.g, sel: *s, o: *o, begun: time.Now(), tries: 1, req: r}
	u.sel.path = r.Path
	of, l, ch := u.sel.choose()
	if ch != ready || l.state.Load() != up {
		return nil
	}
	a := &u.main
	a.owner, a.of, a.l = u, of, l
	a.start()
	if repeatable(of) {
		a.list()
		if l.state.Load() != up { // it was in trouble before it was listed
			u.Withdraw()
			return nil
		}
	}
	return u
}

// Over is where the attempt goes.
func (u *unary) Over() (*call.Client, string, *call.Options) {
	u.o = u.options(u.main.of, u.main.l)
	return u.main.l.c, u.main.name(&u.sel), &u.o
}

// Withdraw undoes an attempt that was not sent.
func (u *unary) Withdraw() {
	u.main.end(errQuit)
	u.tries = 0
}

// Ended notes how the attempt ended, and whether another may follow.
func (u *unary) Ended(err error) (error, bool) {
	if err == nil {
		u.main.measured()
		u.main.end(nil)
		return nil, false
	}
	u.main.end(err)
	err = via(err, u.main.of.n.id)
	if f, _ := faultOf(err); f == final || u.tries >= u.sel.ref.attempts() {
		return err, false
	}
	u.failed = err
	return nil, true
}

// Carry goes on with the call as any other.
func (u *unary) Carry(ctx context.Context, out *call.Stream) *call.Stream {
	u.ctx, u.bound = ctx, ctx
	u.mu.Lock()
	u.req = nil
	u.main.st, u.live = out, out != nil
	if u.tries > 0 {
		u.sel.tried = append(u.sel.tried, triedLink{u.main.of.n, u.main.l.gen})
	}
	u.mu.Unlock()
	return carry(u)
}
