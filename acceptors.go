package alknet

import (
	"sync/atomic"

	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/internal/session"
)

// acceptors take the QUIC connections whose handshake is complete and decide
// who they are. Whoever accepted a connection also decides, which may take long
// where somebody is asked, so that one acceptor at least always waits for the
// next: mostly two take turns. The handler gets a goroutine of its own, whose
// stack has not grown in deciding: it may keep it for days.
type acceptors struct {
	l     *listening
	ln    *session.Listener
	idle  atomic.Int32 // those that wait, or are about to
	ended chan error   // why Accept failed; the first word counts
}

// idleAcceptors is how many stay when there is nothing to do.
const idleAcceptors = 2

func (l *listening) newAcceptors(ln *session.Listener) *acceptors {
	return &acceptors{l: l, ln: ln, ended: make(chan error, 1)}
}

// run accepts until the listening ends, or until the socket fails.
func (a *acceptors) run() error {
	a.start()
	err := <-a.ended
	if a.l.ctx.Err() != nil {
		return nil
	}
	return err
}

func (a *acceptors) start() {
	a.idle.Add(1)
	// One that panics or exits while it decides has left others behind.
	safe.Go(&a.l.r.wg, a.l.r.logPanic, a.loop)
}

func (a *acceptors) loop() {
	for {
		s, ctx, err := a.ln.Accept(a.l.ctx)
		if err != nil {
			select {
			case a.ended <- err:
			default:
			}
			return
		}
		if a.idle.Add(-1) == 0 {
			a.start()
		}
		a.serve(s, claimFrom(ctx))
		if a.idle.Add(1) > idleAcceptors {
			a.idle.Add(-1)
			return
		}
	}
}

// serve decides about one connection. A panic costs that connection only.
func (a *acceptors) serve(s session.Session, c *claim) {
	decided := false
	defer func() {
		if !decided {
			_ = s.Close(uint64(CodeInternal), "")
		}
	}()
	err := protect(func() error {
		a.l.serveQUIC(s, c)
		return nil
	})
	a.l.r.logPanic(err)
	decided = err == nil
}
