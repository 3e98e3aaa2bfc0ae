package forward

import (
	"cmp"
	"context"
	"log/slog"
	"sync"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/printable"
)

// A flow is what is open under a decision.
type flow struct {
	id   alknet.Identity // who opened it, as it was then
	conn *alknet.Conn    // whose identity that is; nil: it does not change
	key  string          // whom it counts for
	q    query
	cut  func()
}

// A holder is a connection whose peer has flows.
type holder struct {
	flows int    // how many
	leave func() // the connection's identity is no longer watched
}

// newFlow is a flow that is not open yet.
func newFlow(ctx context.Context, id *alknet.Identity, q query, cut func()) *flow {
	f := &flow{id: *id, key: flowKey(id), q: q, cut: sync.OnceFunc(cut)}
	f.q.ranges = nil
	if conn, ok := alknet.ConnFromContext(ctx); ok && samePeer(conn.SharedIdentity(), id) {
		f.conn = conn
	}
	return f
}

// samePeer reports whether a is whom b was, whatever it may do and is called now.
func samePeer(a, b *alknet.Identity) bool {
	if !a.Peer.IsZero() || !b.Peer.IsZero() {
		return a.Peer == b.Peer
	}
	return a.ID == b.ID
}

// flowKey is whom a flow counts for.
func flowKey(id *alknet.Identity) string {
	if id.ID != "" {
		return id.ID
	}
	return id.Peer.String()
}

// now is who has the flow at the moment.
func (f *flow) now() *alknet.Identity {
	if f.conn != nil {
		return f.conn.SharedIdentity()
	}
	return &f.id
}

// open counts a flow and remembers it for the next policy or identity, which may
// cut it at once. Both may have changed since it was judged, so it is judged
// again, when a change can no longer be missed.
func (g *Gate) open(f *flow) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	limit := cmp.Or(g.MaxFlows, defaultMaxFlows)
	if limit > 0 && g.counts[f.key] >= limit {
		return limitError("MaxFlows", limit)
	}
	g.addLocked(f)
	v := g.policy.judgeFlow(&f.id, f)
	if v.allow && f.conn != nil {
		v = g.policy.judgeFlow(f.now(), f)
	}
	if !v.allow {
		g.removeLocked(f)
		return denied(v)
	}
	return nil
}

func (g *Gate) addLocked(f *flow) {
	if g.flows == nil {
		g.flows = make(map[*flow]struct{})
		g.counts = make(map[string]int)
		g.conns = make(map[*alknet.Conn]*holder)
	}
	g.flows[f] = struct{}{}
	g.counts[f.key]++
	if f.conn == nil {
		return
	}
	h := g.conns[f.conn]
	if h == nil {
		h = &holder{leave: f.conn.OnIdentity(func() { g.rejudge(f.conn) })}
		g.conns[f.conn] = h
	}
	h.flows++
}

func (g *Gate) removeLocked(f *flow) {
	if _, open := g.flows[f]; !open {
		return
	}
	delete(g.flows, f)
	if g.counts[f.key]--; g.counts[f.key] == 0 {
		delete(g.counts, f.key)
	}
	if h := g.conns[f.conn]; h != nil {
		if h.flows--; h.flows == 0 {
			h.leave()
			delete(g.conns, f.conn)
		}
	}
}

func (g *Gate) release(f *flow) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.removeLocked(f)
}

// Flows is how many connections, listeners and names are open.
func (g *Gate) Flows() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.flows)
}

// SetPolicy replaces the policy, at any time. Flows and listeners that the new
// one does not allow are cut before it returns, judged by the address that they
// have; others are untouched. Nil denies everything.
func (g *Gate) SetPolicy(p *Policy) {
	g.mu.Lock()
	g.policy = p
	open := len(g.flows)
	g.mu.Unlock()
	rules := 0
	if p != nil {
		rules = len(p.Rules)
	}
	g.log().Info("forward policy", "rules", rules, "flows", open, "cut", g.cut(func(*flow) bool { return true }))
}

// rejudge cuts what the peer of a connection may no longer have.
func (g *Gate) rejudge(conn *alknet.Conn) {
	if n := g.cut(func(f *flow) bool { return f.conn == conn }); n > 0 {
		g.log().Info("forward identity", slog.Any("id", printable.Text(conn.SharedIdentity().ID)), slog.Int("cut", n))
	}
}

// cut ends those of some flows that are not allowed now.
func (g *Gate) cut(some func(*flow) bool) int {
	var list []*flow
	g.mu.Lock()
	for f := range g.flows {
		if some(f) && !g.policy.judgeFlow(f.now(), f).allow {
			list = append(list, f)
		}
	}
	g.mu.Unlock()
	for _, f := range list {
		f.cut()
	}
	return len(list)
}
