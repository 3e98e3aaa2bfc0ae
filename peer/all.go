package peer

import (
	"context"
	"iter"
	"sync"

	"github.com/alkdev/alknet/call"
)

// A Result is what one peer answered to [All].
type Result[Out any] struct {
	// Peer is the id of the peer.
	Peer string
	// Out is its answer, if Err is nil.
	Out Out
	// Err is a [*call.Error].
	Err error
}

// maxAtOnce is how many peers All calls at once.
const maxAtOnce = 64

// All calls op, a query or a mutation, on every peer that serves it and that r
// allows, at most 64 at a time, and yields the results in the order of arrival.
// Every peer is called once and over one connection: a mutation is never
// repeated, a query not elsewhere. When ctx ends the rest yields its error, and
// leaving the loop aborts the rest. r.Policy, Wait and Hedge mean nothing here.
func All[Out, In any](ctx context.Context, g *Graph, r Ref, op string, in In) iter.Seq[Result[Out]] {
	return func(yield func(Result[Out]) bool) {
		g.init()
		peers, err := g.everybody(ctx, r, op)
		if err != nil {
			yield(Result[Out]{Peer: r.Peer, Err: err})
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		results := make(chan Result[Out], len(peers)) // nobody waits to hand one over
		slots := make(chan struct{}, maxAtOnce)
		one := func(id string) {
			defer wg.Done()
			res := Result[Out]{Peer: id, Err: unavailable("the graph is closed")}
			defer func() { results <- res }()
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
				res.Err = ctxError(ctx.Err())
				return
			}
			to := Ref{Peer: id, Wait: -1, MaxAttempts: 1}
			res.Out, res.Err = call.Call[Out](ctx, g.To(to), op, in)
		}
		for _, id := range peers {
			wg.Add(1)
			if !g.spawn(func() { one(id) }) {
				wg.Done()
				results <- Result[Out]{Peer: id, Err: unavailable("the graph is closed")}
			}
		}
		for range peers {
			if !yield(<-results) {
				return
			}
		}
	}
}

// everybody are the peers that All calls.
func (g *Graph) everybody(ctx context.Context, r Ref, op string) ([]string, error) {
	c := &caller{g: g, ref: &r}
	sel, err := c.selects(ctx, op, &call.Options{})
	if err != nil {
		return nil, err
	}
	rt := g.route(sel.name)
	if rt == nil {
		return nil, notFound(op)
	}
	cands := rt.cands.Load()
	like := sel.like(cands)
	var ids []string
	for _, of := range cands.byID {
		if sel.peer != "" && sel.peer != of.n.id || like == nil || !sel.fits(of, like) {
			continue
		}
		if !of.n.drained.Load() && (sel.link(of.n, up) != nil || sel.link(of.n, suspect) != nil) {
			ids = append(ids, of.n.id)
		}
	}
	if len(ids) == 0 {
		_, _, ch := sel.choose()
		if ch == ready {
			ch = waiting // it came just now
		}
		return nil, sel.hopeless(ch, 0)
	}
	return ids, nil
}
