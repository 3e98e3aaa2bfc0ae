package peer

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// Caller returns a Caller over the Supervisor's connections: it waits for one,
// as long as the call's context and, for a unary call without a deadline, 30 s
// allow, sends again what may be sent again, and resumes subscriptions across
// reconnects. It works while Run does.
func (s *Supervisor) Caller() call.Caller {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.graph == nil {
		s.graph = &Graph{adhoc: true, Rand: s.Rand}
		s.graph.init()
		for c := range s.conns {
			s.joinLocked(c)
		}
	}
	return &supervised{g: s.graph}
}

// joinLocked attaches a connection to the graph behind Caller.
func (s *Supervisor) joinLocked(c *call.Client) {
	if g := s.graph; g != nil {
		g.spawn(func() { _ = g.Attach(g.ctx, c) }) // an end of c shows in the others who hold it
	}
}

// closeGraph ends what Caller has started.
func (s *Supervisor) closeGraph() {
	s.mu.Lock()
	g := s.graph
	s.graph = nil
	s.mu.Unlock()
	if g != nil {
		_ = g.Close() // it returns nil
	}
}

// A supervised calls one peer that comes and goes. What its operations are like
// is asked when they are first called.
type supervised struct{ g *Graph }

// patienceForever is longer than any call.
const patienceForever = 365 * 24 * time.Hour

// Open waits for a connection and starts a call.
func (s *supervised) Open(ctx context.Context, op string, o call.Options) (*call.Stream, error) {
	op = strings.TrimPrefix(op, "/")
	ref := Ref{Wait: patienceForever, Policy: First}
	if o.Type != call.Subscription {
		ref.Wait = defaultCallTimeout
	}
	if s.g.route(op) == nil {
		if err := s.learn(ctx, op, o, ref.Wait); err != nil {
			return nil, err
		}
	}
	return s.g.To(ref).Open(ctx, op, o)
}

// learn asks the peer what an operation is like.
func (s *supervised) learn(ctx context.Context, op string, o call.Options, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	l, err := s.g.anyLink(ctx)
	if err != nil {
		return err
	}
	desc, err := l.c.Describe(ctx, op)
	if err != nil { // it cannot be seen, or the peer describes nothing: nothing is known of it
		if isLost(err) || notServed(err) && l.settles() {
			if err := s.pause(ctx); err != nil {
				return err
			}
			return s.learn(ctx, op, o, wait)
		}
		if notServed(err) && l.instance != "" { // not to be remembered: it may be served later
			return notFound(op)
		}
		desc = call.Operation{Name: op, Func: call.Func{Type: o.Type, InputStream: o.InputStream}}
		if o.Type == "" {
			desc.Func.Type = call.Mutation
		}
	}
	desc.Name = op
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	n := l.n
	if s.g.route(op) != nil || s.g.closed {
		return nil
	}
	of := &offer{n: n, name: op, remote: op, spec: s.g.specs.intern(desc)}
	if n.overlay == nil {
		n.overlay = make(map[string]*offer)
	}
	n.overlay[op] = of
	s.g.offerLocked(of, nil)
	return nil
}

// settleTime is how long a process that was started anew may take until it serves
// what the one before did: the workers of a head have to come back to it.
const settleTime = 10 * time.Second

// alone reports whether a call has to be made again over the link that has refused
// it: it is that of the one peer there is. later: as long as it may be settling,
// whatever it says now counts for nothing.
func (g *Graph) alone(l *link, e *call.Error) (yes, later bool) {
	if !g.adhoc || !e.Remote || l.state.Load() != up {
		return false, false
	}
	return true, l.settles()
}

// settles reports whether what the peer says that it does not serve counts for
// nothing yet.
func (l *link) settles() bool { return l.anew && time.Since(l.since) < settleTime }

// settleBackoff is how often 10 ms are doubled between two calls to a peer that
// settles.
const settleBackoff = 5

// pause waits a little before the peer is asked again.
func (s *supervised) pause(ctx context.Context) error {
	t := time.NewTimer(s.g.backoff(settleBackoff, 0))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctxError(ctx.Err())
	}
}

// notServed reports whether the peer itself says that it has no such operation.
func notServed(err error) bool {
	e, ok := errors.AsType[*call.Error](err)
	return ok && e.Remote && e.Code == codes.NotFound
}

// isLost reports whether a call failed because its connection was lost.
func isLost(err error) bool {
	f, _ := faultOf(err)
	return f == lost || f == unsent
}

// anyLink waits for a link that is up.
func (g *Graph) anyLink(ctx context.Context) (*link, error) {
	for {
		turn := g.turnc()
		for _, v := range g.nodes.Range {
			for _, l := range v.(*node).linksNow() {
				if l.state.Load() == up {
					return l, nil
				}
			}
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return nil, ctxError(ctx.Err())
		case <-g.ctx.Done():
			return nil, unavailable("the supervisor has ended")
		}
	}
}
