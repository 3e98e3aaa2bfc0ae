package peer

import (
	"context"
	"fmt"
)

// Drain gives a peer no new calls, moves the subscriptions that can go on
// elsewhere, and returns when none of our calls runs there any more, or with
// ctx's error. A peer that is not attached is drained already. It gets calls
// again once it has left and come back.
func (g *Graph) Drain(ctx context.Context, peer string) error {
	g.init()
	n := g.node(peer)
	if n == nil {
		return nil
	}
	g.drains.Add(1)
	defer g.drains.Add(-1)
	g.mu.Lock()
	first := !n.drained.Swap(true)
	links := n.linksNow()
	if first && len(links) > 0 {
		g.emit("draining", links[len(links)-1], "asked")
	}
	g.mu.Unlock()
	for _, l := range links {
		l.trouble("draining")
	}
	for {
		turn := g.turnc()
		if n.running.Load() == 0 {
			return nil
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return fmt.Errorf("peer: drain %s: %d calls still running: %w", n.id, n.running.Load(), ctx.Err())
		case <-g.ctx.Done():
			return errClosed
		}
	}
}

// drained has the Drains look again.
func (g *Graph) drained() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.turnLocked()
}
