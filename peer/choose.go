package peer

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// A selection is what one call wants of the peer that gets it.
type selection struct {
	g      *Graph
	ref    *Ref
	gate   *spec  // what call's gate has checked; nil: the program itself calls
	name   string // ours, without "@"
	onward string // "@peer" for the next head to sort out
	peer   string // "": any
	typ    call.OpType
	inputs bool // the input is a stream
	path   []alknet.PeerID
	tried  []triedLink
}

// A triedLink is a link that had the call already.
type triedLink struct {
	n   *node
	gen uint64
}

// selects works out what a call of op wants.
func (c *caller) selects(ctx context.Context, op string, o *call.Options) (selection, error) {
	name, peer := splitName(strings.TrimPrefix(op, "/"))
	base, onward := innermost(name)
	s := selection{g: c.g, ref: c.ref, gate: c.gate, name: base, onward: onward, peer: c.ref.Peer, typ: o.Type, inputs: o.InputStream}
	switch {
	case peer == "" || peer == anyPeer:
	case s.peer != "" && s.peer != peer:
		return s, notFound(op)
	default:
		s.peer = peer
	}
	if onward != "" && s.peer == "" {
		return s, notFound(op)
	}
	if r, ok := call.RequestFromContext(ctx); ok {
		s.path = r.Path
	}
	return s, nil
}

// A chance is how a selection stands.
type chance uint8

const (
	nobody  chance = iota // nobody serves the operation
	unfit                 // somebody does, and none of them will do
	waiting               // somebody would do, and is not ready
	ready                 // somebody is chosen
)

// choose picks a peer and one of its links. It takes no lock.
func (s *selection) choose() (*offer, *link, chance) {
	rt := s.g.route(s.name)
	if rt == nil {
		return nil, nil, nobody
	}
	c := rt.cands.Load()
	like := s.like(c)
	if s.peer != "" {
		of := s.g.offerOf(s.peer, s.name)
		if of == nil {
			return nil, nil, nobody
		}
		return s.alone(of, of.spec)
	}
	if like == nil {
		return nil, nil, unfit
	}
	for _, state := range [...]int32{up, suspect} {
		if of := s.byPolicy(rt, c, like, state); of != nil {
			if l := s.link(of.n, state); l != nil {
				return of, l, ready
			}
		}
	}
	for _, of := range c.byID {
		if s.fits(of, like) {
			return nil, nil, waiting
		}
	}
	return nil, nil, unfit
}

// alone is choose for one peer.
func (s *selection) alone(of *offer, like *spec) (*offer, *link, chance) {
	if !s.fits(of, like) {
		return nil, nil, unfit
	}
	if of.n.drained.Load() {
		return nil, nil, waiting
	}
	for _, state := range [...]int32{up, suspect} {
		if l := s.link(of.n, state); l != nil {
			return of, l, ready
		}
	}
	return nil, nil, waiting
}

// like is the spec that all candidates have to be like: what the gate checked,
// or that of the first attached whose kind is the call's.
func (s *selection) like(c *candidates) *spec {
	if s.gate != nil {
		return s.gate
	}
	for _, of := range c.byOrder {
		if s.kind(of.spec) {
			return of.spec
		}
	}
	return nil
}

// kind reports whether an operation is of the kind that the call expects.
func (s *selection) kind(sp *spec) bool {
	f := &sp.op.Func
	return f.InputStream == s.inputs && (f.Type == call.Subscription) == (s.typ == call.Subscription)
}

// fits reports whether an offer will do, as far as that does not change with the
// state of its peer.
func (s *selection) fits(of *offer, like *spec) bool {
	if !s.kind(of.spec) || of.spec != like && !(s.gate != nil && of.spec.admits(like) || s.gate == nil && of.spec.op.Func.Type == like.op.Func.Type) {
		return false
	}
	return s.labelled(of.n) && !s.passed(of.n)
}

// labelled reports whether n has the labels that are asked for.
func (s *selection) labelled(n *node) bool {
	if len(s.ref.Labels) == 0 {
		return true
	}
	p := n.known.Load()
	if p == nil {
		return false
	}
	for k, v := range s.ref.Labels {
		if got, ok := p.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// passed reports whether the call came through n.
func (s *selection) passed(n *node) bool {
	if len(s.path) == 0 {
		return false
	}
	for _, l := range n.linksNow() {
		if slices.Contains(s.path, l.key) {
			return true
		}
	}
	return false
}

// able reports whether of may get the call now, over a link of that state.
func (s *selection) able(of *offer, like *spec, state int32) bool {
	return !of.n.drained.Load() && s.fits(of, like) && s.link(of.n, state) != nil
}

// link is the best link of n: little to do and near.
func (s *selection) link(n *node, state int32) *link {
	since := uint64(0)
	for _, t := range s.tried {
		if t.n == n {
			since = max(since, t.gen)
		}
	}
	var best *link
	var cost int64
	for _, l := range n.linksNow() {
		if l.state.Load() != state || l.gen <= since {
			continue
		}
		c := (l.running.Load() + 1) * max(l.rtt.Load(), 1)
		if best == nil || c < cost {
			best, cost = l, c
		}
	}
	return best
}

// byPolicy is one of the able offers, as the Ref's policy has it.
func (s *selection) byPolicy(rt *route, c *candidates, like *spec, state int32) *offer {
	switch s.ref.Policy {
	case RoundRobin:
		n := uint64(len(c.byID))
		at := rt.turns.Add(1) - 1
		for i := range n {
			if of := c.byID[(at+i)%n]; s.able(of, like, state) {
				rt.turns.Add(i) // the next call goes behind it
				return of
			}
		}
		return nil
	case Affinity:
		return s.nearest(c, like, state)
	case First:
		for _, of := range c.byOrder {
			if s.able(of, like, state) {
				return of
			}
		}
		return nil
	}
	return s.leastLoaded(c, like, state)
}

// nearest is rendezvous hashing: the highest hash of the key and an id.
func (s *selection) nearest(c *candidates, like *spec, state int32) *offer {
	var best *offer
	var most uint64
	key := fnv1a(fnvOffset, s.ref.Key)
	for _, of := range c.byID {
		if h := fmix64(fnv1a(key, of.n.id)); (best == nil || h > most) && s.able(of, like, state) {
			best, most = of, h
		}
	}
	return best
}

// fnvOffset begins an FNV-1a hash of 64 bits.
const fnvOffset = 14695981039346656037

func fnv1a(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// fmix64 spreads the bits of a hash (the finalizer of MurmurHash3).
func fmix64(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// leastLoaded draws two able offers and takes the one with less to do.
func (s *selection) leastLoaded(c *candidates, like *spec, state int32) *offer {
	n := uint64(len(c.byID))
	if n == 1 {
		if of := c.byID[0]; s.able(of, like, state) {
			return of
		}
		return nil
	}
	r := s.g.rand()
	i := r % n
	j := (i + 1 + (r>>32)%(n-1)) % n // another one
	var a, b *offer
	able := func(of *offer) bool { return of != a && s.able(of, like, state) }
	if a = firstFrom(c, i, able); a == nil {
		return nil
	}
	if b = firstFrom(c, j, able); b == nil {
		return a
	}
	now := time.Now().UnixNano()
	if s.cost(c, b, now) < s.cost(c, a, now) {
		return b
	}
	return a
}

// firstFrom is the first offer from index i on, all around, that is able.
func firstFrom(c *candidates, i uint64, able func(*offer) bool) *offer {
	n := uint64(len(c.byID))
	for k := range n {
		if of := c.byID[(i+k)%n]; able(of) {
			return of
		}
	}
	return nil
}

// cost is what LeastLoaded compares.
func (s *selection) cost(c *candidates, of *offer, now int64) float64 {
	ns, ok := of.lat.at(now)
	if !ok {
		ns = median(c, of, now)
	}
	return float64(of.n.running.Load()+1) * float64(ns) * (1 + float64(of.n.load.Load())/1000)
}

// The median is taken of at most maxSampled others, of the first maxLooked.
const (
	maxSampled = 16
	maxLooked  = 64
)

// median is the median latency of the others, of the first few that have one; 1
// if none has.
func median(c *candidates, of *offer, now int64) int64 {
	var some [maxSampled]int64
	n := 0
	for _, o := range c.byID[:min(len(c.byID), maxLooked)] {
		if ns, ok := o.lat.at(now); ok && o != of {
			some[n] = ns
			if n++; n == maxSampled {
				break
			}
		}
	}
	if n == 0 {
		return 1
	}
	slices.Sort(some[:n])
	return some[n/2]
}

// pick chooses, and waits as the Ref says if nobody is ready. quit ends it.
func (s *selection) pick(ctx context.Context, wait time.Duration, quit func() <-chan struct{}) (*offer, *link, error) {
	of, l, ch := s.choose()
	if ch == ready {
		return of, l, nil
	}
	var timer *time.Timer
	for {
		turn := s.g.turnc() // before looking again, so that no change is missed
		if of, l, ch = s.choose(); ch == ready {
			return of, l, nil
		}
		if err := s.hopeless(ch, wait); err != nil {
			return nil, nil, err
		}
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
		}
		select {
		case <-turn:
		case <-timer.C:
			wait = 0
		case <-quit():
			return nil, nil, errQuit
		case <-ctx.Done():
			return nil, nil, ctxError(ctx.Err())
		case <-s.g.ctx.Done():
			return nil, nil, unavailable("the graph is closed")
		}
	}
}

// hopeless is why waiting does not help; nil: it may.
func (s *selection) hopeless(ch chance, wait time.Duration) error {
	switch {
	case ch == nobody:
		return notFound(s.name)
	case ch == unfit && s.mistyped():
		return (&call.Error{Code: codes.InvalidOperationType, Message: "peers serve " + s.name + " as another kind of operation"}).NotRun()
	case ch == unfit && s.looped():
		return (&call.Error{Code: codes.LoopDetected, Message: "the call came through everybody who serves " + s.name}).NotRun()
	case ch == unfit:
		return unavailable("no peer of those that serve " + s.name + " will do")
	case wait <= 0:
		return unavailable("no peer that serves " + s.name + " is ready")
	}
	return nil
}

// looped reports whether somebody would do if the call had not come through him.
func (s *selection) looped() bool {
	if len(s.path) == 0 {
		return false
	}
	fresh := *s
	fresh.path = nil
	_, _, ch := fresh.choose()
	return ch == ready || ch == waiting
}

// mistyped reports whether all that serve the operation serve another kind.
func (s *selection) mistyped() bool {
	rt := s.g.route(s.name)
	return rt != nil && !slices.ContainsFunc(rt.cands.Load().byID, func(of *offer) bool {
		return (s.peer == "" || of.n.id == s.peer) && s.kind(of.spec)
	})
}
