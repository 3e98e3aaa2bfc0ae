package node

import (
	"context"
	"iter"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/peer"
)

// graph is section [graph]: the peers that are attached, and the connections that
// the node keeps up.
type graph struct {
	*peer.Graph // nil: no [graph]

	mu     sync.Mutex
	kept   map[alknet.PeerID]kept // guarded by mu; supervisors that run
	open   *operatorView          // of the graph, for the control socket
	closed bool                   // guarded by mu
}

// A kept is a connection that the node keeps up.
type kept struct {
	calls *call.Handler // serves what the peer calls on it
	stop  context.CancelFunc
}

// openGraph makes the graph. It stays for the life of the node.
func (n *Node) openGraph() error {
	f := n.opts.File.Graph
	if f == nil {
		return nil
	}
	n.graph.kept = make(map[alknet.PeerID]kept)
	n.graph.Graph = &peer.Graph{
		Imports:       n.known.imports,
		Known:         n.known.entryFor,
		Heartbeat:     f.Heartbeat,
		IdleHeartbeat: f.IdleHeartbeat,
		Limits:        peer.Limits(f.Limits),
		Logger:        n.log,
		OnEvent:       func(e peer.Event) { n.event("peer."+e.Kind, e.Peer, e.Reason) },
	}
	n.graph.open = &operatorView{graph: n.graph.Graph, seen: make(map[*call.Operation]*call.Operation)}
	if err := n.registry.Register(n.graph.Operations()...); err != nil {
		return err
	}
	return n.registry.Register(n.known.book.Operations()...)
}

func (n *Node) closeGraph() {
	n.graph.mu.Lock()
	n.graph.closed = true
	for _, k := range n.graph.kept {
		k.stop()
	}
	n.graph.mu.Unlock()
	if n.graph.Graph != nil {
		_ = n.graph.Graph.Close() // connections have ended
	}
}

// sources are the operations of peers, for peers.
func (g *graph) sources() []call.Source {
	if g.Graph == nil {
		return nil
	}
	return []call.Source{g.Graph}
}

// operatorSources are the operations of peers, for the operator.
func (g *graph) operatorSources() []call.Source {
	if g.open == nil {
		return nil
	}
	return []call.Source{g.open}
}

// onConnect attaches who serves something. A client that only calls, such as a
// command of a peer beside the peer's own node, is not taken for a restart of it.
func (g *graph) onConnect() func(context.Context, *call.Client) error {
	if g.Graph == nil {
		return nil
	}
	return func(ctx context.Context, c *call.Client) error {
		if c.Conn().Identity().ID == "" || !serves(ctx, c) {
			return nil
		}
		return g.Attach(ctx, c)
	}
}

// serves reports whether a peer offers us more than what everybody has.
func serves(ctx context.Context, c *call.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := call.Call[struct {
		Operations []struct {
			Name string `json:"name"`
		} `json:"operations"`
	}](ctx, c, "services/list", struct{}{})
	if err != nil {
		return false
	}
	for _, op := range list.Operations {
		if !strings.HasPrefix(op.Name, "services/") {
			return true
		}
	}
	return false
}

// reconnect keeps a connection to each peer that [graph] connect names, and ends
// those that it no longer does. One whose calls are served as [call] was before a
// reload is followed by another.
func (n *Node) reconnect() {
	if n.graph.Graph == nil || n.phase.Load() == "draining" {
		return
	}
	f, calls := n.File(), n.callHandler()
	want := make(map[alknet.PeerID]string)
	for _, e := range n.known.entries() {
		if len(e.Keys) > 0 && len(e.Addrs) > 0 && !e.Disabled && f.Graph != nil && matches(f.Graph.Connect, e.ID) {
			want[e.Keys[0].ID] = e.ID
		}
	}
	n.graph.mu.Lock()
	defer n.graph.mu.Unlock()
	for key, k := range n.graph.kept {
		switch id, ok := want[key]; {
		case !ok:
			k.stop()
			delete(n.graph.kept, key)
		case k.calls != calls:
			n.retire(id, k)
			delete(n.graph.kept, key)
		}
	}
	for key, id := range want {
		if _, runs := n.graph.kept[key]; !runs && !n.graph.closed {
			ctx, stop := context.WithCancel(n.ctx)
			n.graph.kept[key] = kept{calls: calls, stop: stop}
			n.background("connection to "+id, func() error { return n.supervise(ctx, key, id, calls) })
		}
	}
}

// retire ends a connection once what runs over it has had its time. Its peer was told
// by the handler's drain; its successor is up meanwhile.
func (n *Node) retire(id string, k kept) {
	wait := n.drainTime()
	n.background("end of the connection to "+id, func() error {
		defer k.stop()
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-n.ctx.Done():
		}
		return nil
	})
}

// supervise keeps a connection to a peer up until ctx ends. What the peer calls on
// it is served by calls, as what it calls on a connection of its own.
func (n *Node) supervise(ctx context.Context, key alknet.PeerID, id string, calls *call.Handler) error {
	s := &peer.Supervisor{
		Graph: n.graph.Graph,
		Dial:  peer.DialPeer(n.dialer, n.known, key, calls),
		OnState: func(up bool, err error) {
			if err != nil {
				n.log.Info("no connection", "event", "peer.unreachable", "peer", id, "err", err)
			}
		},
	}
	_ = s.Run(ctx) // ends with ctx
	return nil
}

func (n *Node) callHandler() *call.Handler {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls
}

func matches(globs []string, id string) bool {
	for _, g := range globs {
		if ok, err := path.Match(g, id); ok && err == nil {
			return true
		}
	}
	return false
}

// addGraph adds what the graph knows to the status.
func (n *Node) addGraph(byID map[string]*PeerStatus) {
	if n.graph.Graph == nil {
		return
	}
	for _, i := range n.graph.Peers() {
		p := byID[i.ID]
		if p == nil {
			p = &PeerStatus{ID: i.ID, Key: i.Key.String(), Links: []LinkStatus{}}
			byID[i.ID] = p
		}
		p.State, p.Operations = i.State, append([]string{}, i.Operations...)
		for _, l := range i.Links {
			p.Running += l.Outstanding
			if !n.accepted(p, l) {
				p.Links = append(p.Links, LinkStatus{ALPN: call.ALPN, Transport: l.Transport.String(), Remote: l.Address,
					RTTMillis: float64(l.RTT.Microseconds()) / 1000, Since: l.Since})
			}
		}
	}
}

// accepted reports whether a link is one of the router's connections, which are
// listed already.
func (n *Node) accepted(p *PeerStatus, l peer.Link) bool {
	for i := range p.Links {
		if p.Links[i].ALPN == call.ALPN && p.Links[i].Remote == l.Address {
			if p.Links[i].RTTMillis == 0 {
				p.Links[i].RTTMillis = float64(l.RTT.Microseconds()) / 1000
			}
			return true
		}
	}
	return false
}

// An operatorView shows the operations of peers to the operator, who may call all
// that was taken, exported or not.
type operatorView struct {
	graph *peer.Graph

	mu   sync.Mutex
	seen map[*call.Operation]*call.Operation // guarded by mu
}

// maxSeen bounds what is remembered of operations; it is made again when needed.
const maxSeen = 10_000

func (v *operatorView) visible(op *call.Operation) *call.Operation {
	if !op.Internal {
		return op
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if c := v.seen[op]; c != nil {
		return c
	}
	if len(v.seen) >= maxSeen {
		clear(v.seen)
	}
	c := *op
	c.Internal = false
	v.seen[op] = &c
	return &c
}

// Lookup finds an operation of the graph.
func (v *operatorView) Lookup(name string) (*call.Operation, bool) {
	op, ok := v.graph.Lookup(name)
	if !ok {
		return nil, false
	}
	return v.visible(op), true
}

// All yields the operations of the graph.
func (v *operatorView) All() iter.Seq[*call.Operation] {
	return func(yield func(*call.Operation) bool) {
		for op := range v.graph.All() {
			if !yield(v.visible(op)) {
				return
			}
		}
	}
}

// Changed is the graph's.
func (v *operatorView) Changed() <-chan struct{} { return v.graph.Changed() }

// advertised says under which addresses the node is reached, for invites.
func (n *Node) advertised() []string {
	if f := n.File().Node; f != nil && len(f.Advertise) > 0 {
		return f.Advertise
	}
	return reachable(n.listeners)
}

var _ peer.Directory = (*known)(nil)
