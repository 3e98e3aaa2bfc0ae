package peer

import (
	"context"
	crand "crypto/rand"
	"errors"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/internal/safe"
)

// A Graph is the connected peers and the operations that each serves. It is a
// [call.Source] for a Handler, its [Graph.Attach] is the Handler's OnConnect,
// and [Graph.To] makes callers that route. Set the fields before use. All
// methods may be called concurrently. [Graph.Close] ends what it runs.
type Graph struct {
	// Imports says what we take from a peer. It is asked when a peer attaches,
	// and again about once a second, so that a change takes effect. Nil: nothing.
	// Usually Book.Imports.
	Imports func(p Info) call.Import
	// Known says what is known of a connected peer: its name and labels, and the
	// id of one that we dialled, which has proven no more than a key. Nil: nothing,
	// and peers that we dialled are called by the text of their key. Usually
	// Book.Known.
	Known func(id alknet.Identity) (Peer, bool)
	// Default is how names without "@peer" are routed.
	Default Ref
	// Catalog is to say which head the peers of other heads hang on. It is not asked
	// yet: a Graph knows the peers that are attached to it.
	Catalog Catalog
	// Heartbeat is how often a peer with calls outstanding has to be heard of.
	// 0: 1 s. A peer that is silent for 1.5 times as long is suspect, and after 3
	// times as long it is cut. IdleHeartbeat is the same for a peer without calls,
	// except that silence then counts from the question on. 0: 15 s.
	Heartbeat, IdleHeartbeat time.Duration
	// Rand is used for choice and jitter, never for secrets. Nil: math/rand/v2.
	Rand func() uint64
	// OnEvent is called for each event, in order. It must not block, and not call
	// the Graph.
	OnEvent func(Event)
	// Limits bound what peers can make us hold.
	Limits Limits
	// Logger gets what was not taken, and why peers left. Nil: silent.
	Logger *slog.Logger

	adhoc   bool // operations are learned as they are called, and peers never forgotten
	once    sync.Once
	ctx     context.Context // until Close
	stop    context.CancelFunc
	wg      sync.WaitGroup
	lim     Limits
	budget  budget
	nodes   sync.Map // id → *node
	routes  sync.Map // name of ours → *route
	feed    feed
	prefix  string        // of the keys that routes give to mutations
	calls   atomic.Uint64 // keys given
	drains  atomic.Int64  // Drains that wait
	resting atomic.Bool   // the monitor looks once a Heartbeat
	roused  chan struct{} // it is not to

	mu      sync.Mutex
	closed  bool               // guarded by mu
	count   int                // guarded by mu; nodes
	order   uint64             // guarded by mu; of nodes
	gen     uint64             // guarded by mu; of links
	specs   interned           // guarded by mu
	turn    chan struct{}      // guarded by mu; closed at the next change of readiness
	changed chan struct{}      // guarded by mu; closed at the next change of what is served
	beating bool               // guarded by mu; the monitor runs
	places  map[string]uint64  // guarded by mu; order of peers that left, so that they keep it
	links   map[*link]struct{} // guarded by mu; all of them, draining ones too
}

// Limits bound what peers can make a Graph hold. In every field zero is the
// default and negative is none.
type Limits struct {
	// MaxPeers is how many peers may be attached. 0: 10,000.
	MaxPeers int
	// MaxLinksPerPeer is how many connections one peer may have attached; a newer
	// one takes the place of the oldest. 0: 8.
	MaxLinksPerPeer int
	// MaxWatchers is how many may Watch at once. 0: 256.
	MaxWatchers int
	// MaxCatalogEntries is how many attachments of other heads are to be kept, once a
	// Catalog is asked. 0: 100,000.
	MaxCatalogEntries int
}

// limit returns def for 0 and the largest int for a negative limit.
func limit(v, def int) int {
	switch {
	case v == 0:
		return def
	case v < 0:
		return int(^uint(0) >> 1)
	}
	return v
}

// overlayTime is how long a peer's operations are kept after its last link, and
// how long ago somebody must have been there for a call to wait for him.
const overlayTime = 30 * time.Second

// errClosed is what a Graph says after Close.
var errClosed = errors.New("peer: graph closed")

// init prepares the Graph at its first use.
func (g *Graph) init() {
	g.once.Do(func() {
		g.ctx, g.stop = context.WithCancel(context.Background())
		g.lim = Limits{
			MaxPeers: limit(g.Limits.MaxPeers, 10_000), MaxLinksPerPeer: limit(g.Limits.MaxLinksPerPeer, 8),
			MaxWatchers: limit(g.Limits.MaxWatchers, 256), MaxCatalogEntries: limit(g.Limits.MaxCatalogEntries, 100_000),
		}
		g.prefix = crand.Text() + "."
		g.budget.tokens.Store(budgetMax)
		g.turn, g.changed = make(chan struct{}), make(chan struct{})
		g.places, g.links = make(map[string]uint64), make(map[*link]struct{})
		g.specs = make(interned)
		g.roused = make(chan struct{}, 1)
		g.feed.init(g.OnEvent)
	})
}

// Close ends what the Graph runs, not the connections of its peers. Routes are
// refused afterwards.
func (g *Graph) Close() error {
	g.init()
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.stop()
	g.feed.close()
	g.wg.Wait()
	return nil
}

// spawn runs f in a goroutine that Close waits for; false: the Graph is closed.
func (g *Graph) spawn(f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.spawnLocked(f)
}

func (g *Graph) spawnLocked(f func()) bool {
	if g.closed {
		return false
	}
	safe.Go(&g.wg, g.crashed, f)
	return true
}

func (g *Graph) crashed(err error) {
	attrs := []slog.Attr{slog.Any("err", err)}
	if pe, ok := errors.AsType[*safe.PanicError](err); ok {
		attrs = append(attrs, slog.Any("panic", pe.Value), slog.String("stack", string(pe.Stack)))
	}
	g.log().LogAttrs(g.ctx, slog.LevelError, "peer: a goroutine of the graph failed", attrs...)
}

func (g *Graph) log() *slog.Logger {
	if g.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return g.Logger
}

func (g *Graph) rand() uint64 {
	if g.Rand != nil {
		return g.Rand()
	}
	return rand.Uint64()
}

func (g *Graph) heartbeat() time.Duration     { return orDefault(g.Heartbeat, time.Second) }
func (g *Graph) idleHeartbeat() time.Duration { return orDefault(g.IdleHeartbeat, 15*time.Second) }

// orDefault returns def for 0, and 0 for a negative v.
func orDefault(v, def time.Duration) time.Duration {
	if v == 0 {
		return def
	}
	return max(v, 0)
}

// A node is a peer that is attached, or was less than overlayTime ago.
type node struct {
	id      string
	order   uint64                  // of attachment, the smallest first
	links   atomic.Pointer[[]*link] // that may get calls or did; never changed in place
	known   atomic.Pointer[Peer]    // what Graph.Known said last
	drained atomic.Bool             // by Graph.Drain
	load    atomic.Int64            // as it last reported, in thousandths
	running atomic.Int64            // our calls at it

	instance  string            // guarded by Graph.mu; of its newest link
	overlay   map[string]*offer // guarded by Graph.mu
	imported  call.Import       // guarded by Graph.mu; how overlay was made
	etag      string            // guarded by Graph.mu; of what the peer served then
	left      time.Time         // guarded by Graph.mu; when the last link ended; zero: there is one
	problem   string            // guarded by Graph.mu; what of its import was reported
	rereading bool              // guarded by Graph.mu; it is being imported again
}

// linksNow are the links of this moment.
func (n *node) linksNow() []*link {
	if p := n.links.Load(); p != nil {
		return *p
	}
	return nil
}

// A link is one connection of a peer.
type link struct {
	g        *Graph
	n        *node
	c        *call.Client
	key      alknet.PeerID
	gen      uint64
	instance string
	since    time.Time
	anew     bool            // its process followed another; set before it is up
	ctx      context.Context // of what we subscribe to; until it drains
	stop     context.CancelFunc
	state    atomic.Int32
	running  atomic.Int64 // our calls over it
	rtt      atomic.Int64 // smoothed, in nanoseconds; 0: not measured
	watched  atomic.Bool  // its peer tells of changes
	beat     beat         // the monitor's

	mu    sync.Mutex
	first *attempt // guarded by mu; calls that want to hear when the link is in trouble
}

// The states of a link.
const (
	attaching int32 = iota // its operations are being imported; it gets no calls
	up                     // it gets calls
	suspect                // it was silent for a while; it gets calls if nobody else can
	draining               // it gets no new calls
	left                   // it has ended
)

var stateNames = [...]string{attaching: "attaching", up: "up", suspect: "suspect", draining: "draining", left: "left"}

// An offer is one operation of one peer.
type offer struct {
	n      *node
	name   string // ours
	remote string // the peer's
	spec   *spec
	lat    latency
	pinned atomic.Pointer[call.Operation] // what Lookup gives for name@peer
}

// A route is everybody who offers an operation.
type route struct {
	g     *Graph
	name  string
	cands atomic.Pointer[candidates]
	turns atomic.Uint64 // RoundRobin's
	times histogram     // of answers
}

// candidates are the offers of a route, never changed in place.
type candidates struct {
	byID    []*offer
	byOrder []*offer
	op      *call.Operation // what Lookup gives
	any     *call.Operation // and for name@any
}

// node finds a peer.
func (g *Graph) node(id string) *node {
	if v, ok := g.nodes.Load(id); ok {
		return v.(*node)
	}
	return nil
}

// route finds an operation.
func (g *Graph) route(name string) *route {
	if v, ok := g.routes.Load(name); ok {
		return v.(*route)
	}
	return nil
}

// turnc returns a channel that is closed when somebody may have become ready.
func (g *Graph) turnc() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.turn
}

// turnLocked tells who waits for a peer to look again.
func (g *Graph) turnLocked() {
	close(g.turn)
	g.turn = make(chan struct{})
}

// servedLocked tells who asked for Changed.
func (g *Graph) servedLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
	g.turnLocked()
}

// Changed returns a channel that is closed when other operations are served.
func (g *Graph) Changed() <-chan struct{} {
	g.init()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// Lookup finds the operation of a name, which may end in "@peer" or "@any". A
// name without is routed as Graph.Default says. It is what a Handler's gate
// checks: Import.Access, and Internal unless the operation is exported.
func (g *Graph) Lookup(name string) (*call.Operation, bool) {
	g.init()
	name, peer := splitName(name)
	base, onward := innermost(name)
	if peer == "" || peer == anyPeer {
		rt := g.route(base)
		if rt == nil || onward != "" {
			return nil, false
		}
		if peer == anyPeer {
			return rt.cands.Load().any, true
		}
		return rt.cands.Load().op, true
	}
	of := g.offerOf(peer, base)
	if of == nil {
		return nil, false
	}
	if onward != "" { // another head's business: its name is checked there
		return g.operation(of.spec, base+onward+"@"+peer), true
	}
	if op := of.pinned.Load(); op != nil {
		return op, true
	}
	of.pinned.CompareAndSwap(nil, g.operation(of.spec, name+"@"+peer))
	return of.pinned.Load(), true
}

// offerOf finds what a peer offers under a name of ours.
func (g *Graph) offerOf(peer, name string) *offer {
	rt := g.route(name)
	if rt == nil {
		return nil
	}
	byID := rt.cands.Load().byID
	i, ok := slices.BinarySearchFunc(byID, peer, func(o *offer, id string) int { return strings.Compare(o.n.id, id) })
	if !ok {
		return nil
	}
	return byID[i]
}

// All yields the operations of all peers under their plain names.
func (g *Graph) All() iter.Seq[*call.Operation] {
	g.init()
	return func(yield func(*call.Operation) bool) {
		for _, v := range g.routes.Range {
			if !yield(v.(*route).cands.Load().op) {
				return
			}
		}
	}
}

// Peers are the peers of this moment, sorted by id, and those that left less
// than half a minute ago.
func (g *Graph) Peers() []Info {
	g.init()
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []Info
	for _, v := range g.nodes.Range {
		all = append(all, g.infoLocked(v.(*node)))
	}
	slices.SortFunc(all, func(a, b Info) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// anyPeer is the name behind "@" that means any peer.
const anyPeer = "any"

// splitName splits a name at its last "@".
func splitName(name string) (op, peer string) {
	if i := strings.LastIndexByte(name, '@'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return name, ""
}

// innermost splits a name at its first "@", which it keeps: what is behind is
// for the peers to sort out.
func innermost(name string) (op, onward string) {
	if i := strings.IndexByte(name, '@'); i >= 0 {
		return name[:i], name[i:]
	}
	return name, ""
}

var _ call.Source = (*Graph)(nil)
