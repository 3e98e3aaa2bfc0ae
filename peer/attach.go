package peer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/internal/printable"
)

// attachTime is how long a peer has to say what it serves.
const attachTime = 15 * time.Second

// Attach adds a connection to the Graph and returns once its operations are
// imported and calls can be routed over it; the Graph lets go of it when it
// ends. It is a Handler's OnConnect, and what a [Supervisor] calls. A peer
// without an identity is left alone. An error says that nothing was attached.
func (g *Graph) Attach(ctx context.Context, c *call.Client) error {
	g.init()
	l, err := g.newLink(c)
	if l == nil || err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	if err := c.Settled(ctx); err != nil {
		l.stop()
		return fmt.Errorf("peer: attach %q: %w", l.n.id, err)
	}
	l.instance = c.Instance()
	up := &upkeep{l: l}
	if err := up.begin(ctx); err != nil {
		l.stop()
		return fmt.Errorf("peer: attach %q: %w", l.n.id, err)
	}
	dead, err := g.admit(l, up)
	if err != nil {
		l.stop()
		return err
	}
	for _, old := range dead {
		old.stop()
		old.trouble(restarted)
	}
	return nil
}

// restarted is why the links of a process drain that was followed by another.
const restarted = "restarted"

// newLink makes the link of a connection; nil: the peer has no identity.
func (g *Graph) newLink(c *call.Client) (*link, error) {
	id := c.Conn().Identity()
	var known *Peer
	if g.Known != nil {
		if p, ok := g.Known(id); ok {
			known, id.ID = &p, p.ID
		}
	}
	if id.ID == "" {
		return nil, nil
	}
	if !validPeerName(id.ID) {
		return nil, fmt.Errorf("peer: attach %s: an id is up to %d of a-z, 0-9, \".\", \"_\" and \"-\", and none of %v",
			printable.Quote(id.ID), maxPeerName, reservedIDs)
	}
	n := g.node(id.ID)
	if n == nil { // not in the Graph before it is admitted
		n = &node{id: id.ID}
	}
	n.known.Store(known)
	l := &link{g: g, n: n, c: c, key: id.Peer, since: time.Now()}
	l.ctx, l.stop = context.WithCancel(g.ctx)
	return l, nil
}

// An upkeep imports what the peer of a link serves, and does so again when it
// changes.
type upkeep struct {
	l       *link
	changes *call.Stream // services/changes; nil: a base peer
	im      call.Import
	etag    string
	ops     []call.Operation
	same    bool // etag and import are those of the overlay that the peer has
}

// changesOperation is how a peer says that it serves something else.
const changesOperation = "services/changes"

// begin asks what the peer serves.
func (u *upkeep) begin(ctx context.Context) error {
	g, l := u.l.g, u.l
	if g.Imports != nil {
		u.im = g.Imports(l.n.who())
	}
	if len(u.im.Allow) == 0 {
		return nil
	}
	l.watched.Store(true)
	u.watch(ctx)
	g.mu.Lock()
	n := l.n
	u.same = u.etag != "" && n.etag == u.etag && n.overlay != nil && reflect.DeepEqual(n.imported, u.im)
	g.mu.Unlock()
	if u.same {
		return nil
	}
	return u.fetch(ctx)
}

// watch subscribes to the peer's changes. A base peer has none.
func (u *upkeep) watch(ctx context.Context) {
	unwatch := context.AfterFunc(ctx, u.l.stop)
	defer unwatch()
	s, err := call.With(u.l.c, call.Options{Token: u.im.Token}).Open(u.l.ctx, changesOperation, call.Options{Type: call.Subscription})
	if err != nil {
		return
	}
	if err := s.CloseSend(); err != nil {
		return
	}
	if u.etag, err = recvEtag(s); err != nil {
		s.Cancel(nil)
		return
	}
	u.changes = s
}

// fetch imports. What was skipped is logged and costs nothing else.
func (u *upkeep) fetch(ctx context.Context) error {
	ops, err := u.l.c.Import(ctx, u.im)
	if err != nil && ops == nil {
		if e, ok := errors.AsType[*call.Error](err); ok {
			return e
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	u.ops = ops
	u.l.g.skipped(u.l, err)
	return nil
}

// skipped reports what of a peer was not taken, unless it was the same before.
func (g *Graph) skipped(l *link, err error) {
	what := ""
	if err != nil {
		what = err.Error()
	}
	g.mu.Lock()
	same := l.n.problem == what
	l.n.problem = what
	g.mu.Unlock()
	if err != nil && !same {
		g.log().LogAttrs(g.ctx, slog.LevelWarn, "peer: not everything was imported",
			slog.Any("peer", printable.Text(l.n.id)), slog.Any("err", printable.Text(what)))
	}
}

// admit makes a link routable, and returns the links of the process before.
func (g *Graph) admit(l *link, u *upkeep) (dead []*link, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errClosed
	}
	n, err := g.nodeLocked(l)
	if err != nil {
		return nil, err
	}
	g.gen++
	l.gen = g.gen
	first := len(n.linksNow()) == 0
	dead = g.supersedeLocked(n, l)
	n.links.Store(new(append(slices.Clone(n.linksNow()), l)))
	g.links[l] = struct{}{}
	l.anew = n.instance != "" && n.instance != l.instance
	n.instance, n.left = l.instance, time.Time{}
	if first {
		n.drained.Store(false)
		g.emit("joined", l, "")
	}
	if !u.same && !g.adhoc {
		g.overlayLocked(n, u)
	}
	l.state.Store(up)
	g.emit("up", l, "")
	l.beat.heard(l.bytesIn(), time.Now())
	g.turnLocked()
	g.spawnLocked(l.attend)
	if u.changes != nil {
		g.spawnLocked(u.follow)
	}
	g.monitorLocked()
	return dead, nil
}

// nodeLocked is the node of l, which may have been replaced meanwhile.
func (g *Graph) nodeLocked(l *link) (*node, error) {
	if v, ok := g.nodes.Load(l.n.id); ok {
		n := v.(*node)
		n.known.Store(l.n.known.Load())
		l.n = n
		return n, nil
	}
	if g.count >= g.lim.MaxPeers {
		return nil, &alknet.Error{Code: alknet.CodeLimit, Reason: fmt.Sprintf("max_peers = %d", g.lim.MaxPeers)}
	}
	n := l.n
	if n.order = g.places[n.id]; n.order == 0 {
		g.order++
		n.order = g.order
		g.placeLocked(n.id, n.order)
	}
	g.count++
	g.nodes.Store(n.id, n)
	return n, nil
}

// placeLocked remembers the place of a peer for when it comes back.
func (g *Graph) placeLocked(id string, order uint64) {
	if len(g.places) >= 4*min(g.lim.MaxPeers, 1<<20) {
		clear(g.places) // of peers that are long gone: the present ones keep theirs in their node
	}
	g.places[id] = order
}

// supersedeLocked drains what a new link replaces: the links of the process
// before a restart, and the oldest if there are too many.
func (g *Graph) supersedeLocked(n *node, l *link) (dead []*link) {
	links := n.linksNow()
	for _, old := range links {
		if old.instance != l.instance && old.instance != "" {
			g.drainLocked(old, restarted)
			old.beat.doubt(time.Now()) // its process is most likely dead
			dead = append(dead, old)
		}
	}
	if len(links) >= g.lim.MaxLinksPerPeer {
		oldest := links[0]
		_ = oldest.c.Conn().CloseWithError(alknet.CodeLimit, "max_links_per_peer") // it is over either way
		g.removeLocked(oldest, "replaced by a newer link")
	}
	return dead
}

// overlayLocked replaces what a peer offers.
func (g *Graph) overlayLocked(n *node, u *upkeep) {
	old := n.overlay
	n.overlay = make(map[string]*offer, len(u.ops))
	n.etag, n.imported = u.etag, u.im
	changed := false
	for _, op := range u.ops {
		sp := g.specs.intern(op)
		had := old[op.Name]
		if had != nil && had.spec == sp {
			n.overlay[op.Name] = had
			continue
		}
		of := &offer{n: n, name: op.Name, remote: remoteName(op.Name, u.im.Prefix), spec: sp}
		n.overlay[op.Name] = of
		g.offerLocked(of, had)
		changed = true
	}
	for name, had := range old {
		if n.overlay[name] == nil {
			g.offerLocked(nil, had)
			changed = true
		}
		g.specs.release(had.spec)
	}
	if changed {
		g.servedLocked()
	}
}

// remoteName is what the peer calls an operation.
func remoteName(name, prefix string) string {
	if prefix == "" {
		return name
	}
	return strings.TrimPrefix(name, prefix+"/")
}

// offerLocked puts an offer in the place of another of the same peer and name;
// either may be nil.
func (g *Graph) offerLocked(of, old *offer) {
	either := of
	if either == nil {
		either = old
	}
	rt := g.route(either.name)
	if rt == nil {
		rt = &route{g: g, name: either.name}
	}
	had := rt.cands.Load()
	if had == nil {
		had = &candidates{}
	}
	next := &candidates{byOrder: swapped(had.byOrder, old, of, byOrder), byID: swapped(had.byID, old, of, byID)}
	if len(next.byID) == 0 {
		g.routes.Delete(rt.name)
		return
	}
	if had.op != nil && had.byOrder[0].spec == next.byOrder[0].spec {
		next.op, next.any = had.op, had.any // call keeps what it made of them
	} else {
		sp := next.byOrder[0].spec
		next.op, next.any = g.operation(sp, rt.name), g.operation(sp, rt.name+"@"+anyPeer)
	}
	rt.cands.Store(next)
	g.routes.Store(rt.name, rt)
}

// swapped is a sorted list without old and with of, either of which may be nil. It
// is another list: somebody may be choosing from the one that was.
func swapped(list []*offer, old, of *offer, by func(a, b *offer) int) []*offer {
	next := make([]*offer, 0, len(list)+1)
	for _, o := range list {
		if o != old {
			next = append(next, o)
		}
	}
	if of != nil {
		i, _ := slices.BinarySearchFunc(next, of, by)
		next = slices.Insert(next, i, of)
	}
	return next
}

func byOrder(a, b *offer) int { return cmp.Compare(a.n.order, b.n.order) }
func byID(a, b *offer) int    { return strings.Compare(a.n.id, b.n.id) }

// attend waits for the end of a link.
func (l *link) attend() {
	defer l.stop()
	drainc := l.c.Draining()
	for {
		select {
		case <-drainc:
			drainc = nil
			l.stop() // what we subscribe to must not keep the peer from ending
			l.g.drain(l, stateNames[draining])
		case <-l.c.Done():
			l.g.remove(l, "the connection ended")
			return
		case <-l.g.ctx.Done():
			l.g.remove(l, "the graph is closed")
			return
		}
	}
}

// drain takes a link out of what gets calls.
func (g *Graph) drain(l *link, why string) {
	g.mu.Lock()
	g.drainLocked(l, why)
	g.mu.Unlock()
	l.trouble(why)
}

func (g *Graph) drainLocked(l *link, why string) {
	if s := l.state.Load(); s == up || s == suspect {
		l.state.Store(draining)
		g.emit("draining", l, why)
	}
}

// remove lets go of a link.
func (g *Graph) remove(l *link, why string) {
	g.mu.Lock()
	g.removeLocked(l, why)
	g.mu.Unlock()
}

func (g *Graph) removeLocked(l *link, why string) {
	if l.state.Swap(left) == left {
		return
	}
	n := l.n
	delete(g.links, l)
	rest := slices.DeleteFunc(slices.Clone(n.linksNow()), func(o *link) bool { return o == l })
	n.links.Store(&rest)
	if len(rest) == 0 {
		n.left = time.Now()
		g.emit("left", l, why)
		g.log().LogAttrs(g.ctx, slog.LevelInfo, "peer: left", slog.Any("peer", printable.Text(n.id)), slog.String("why", why))
	}
	g.turnLocked()
}

// forgetLocked drops a peer that left.
func (g *Graph) forgetLocked(n *node) {
	if v, ok := g.nodes.Load(n.id); !ok || v.(*node) != n {
		return
	}
	for _, of := range n.overlay {
		g.offerLocked(nil, of)
		g.specs.release(of.spec)
	}
	n.overlay, n.etag = nil, ""
	g.nodes.Delete(n.id)
	g.count--
	g.servedLocked()
}
