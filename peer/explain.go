package peer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alknet/call"
)

// An Explanation says who would get a call, and why.
type Explanation struct {
	// Operation is the name that was asked for.
	Operation string
	// Winner is the id of the peer that the policy would choose now; "": nobody.
	// LeastLoaded draws two and RoundRobin takes turns: there it is one that may be
	// chosen, the one with the lowest score or the next in turn.
	Winner string
	// Why says how the winner was chosen, or why there is none.
	Why string
	// Candidates are all peers that serve the operation, sorted by id.
	Candidates []Candidate
}

// A Candidate is a peer that serves an operation.
type Candidate struct {
	// Peer is its id.
	Peer string
	// OK: it may get the call.
	OK bool
	// Why it may or may not.
	Why string
	// Score is what the policy compares: for LeastLoaded the lower is better, for
	// the others the order in which they are taken, from 0.
	Score float64
}

// Explain says who would get a call of op, which may end in "@peer", and who
// would not. It decides nothing and counts nothing.
func (g *Graph) Explain(op string, r Ref) Explanation {
	g.init()
	ex := Explanation{Operation: op}
	c := &caller{g: g, ref: &r}
	sel, err := c.selects(context.Background(), op, &call.Options{})
	if err != nil {
		ex.Why = "no peer can have this name"
		return ex
	}
	rt := g.route(sel.name)
	if rt == nil {
		ex.Why = "no peer serves it"
		return ex
	}
	cands := rt.cands.Load()
	sel.adopt(cands)
	like := sel.like(cands)
	if of := g.offerOf(sel.peer, sel.name); sel.peer != "" && of != nil {
		like = of.spec
	}
	able := g.judge(&ex, &sel, cands, like)
	if len(able) == 0 {
		ex.Why = "nobody is ready"
		return ex
	}
	sel.rank(rt, cands, able)
	for i, of := range able {
		j, _ := slices.BinarySearchFunc(ex.Candidates, of.n.id, func(c Candidate, id string) int { return strings.Compare(c.Peer, id) })
		ex.Candidates[j].Score = float64(i)
		if r.Policy == LeastLoaded {
			ex.Candidates[j].Score = sel.cost(cands, of, time.Now().UnixNano())
		}
	}
	ex.Winner = able[0].n.id
	ex.Why = fmt.Sprintf("%s among %d", r.Policy, len(able))
	if sel.peer != "" {
		ex.Why = "it is this peer and no other"
	}
	return ex
}

// adopt makes the selection one of a call of the kind that the first attached
// candidate has, since no call says what is expected.
func (s *selection) adopt(c *candidates) {
	of := c.byOrder[0]
	if s.peer != "" {
		if mine := s.g.offerOf(s.peer, s.name); mine != nil {
			of = mine
		}
	}
	s.typ, s.inputs = of.spec.op.Func.Type, of.spec.op.Func.InputStream
}

// judge fills in the candidates and returns the able ones.
func (g *Graph) judge(ex *Explanation, sel *selection, cands *candidates, like *spec) (able []*offer) {
	best := suspect
	for _, of := range cands.byID {
		if sel.peer == "" || sel.peer == of.n.id {
			if sel.able(of, like, up) {
				best = up
			}
		}
	}
	for _, of := range cands.byID {
		why, ok := sel.verdict(of, like, best)
		ex.Candidates = append(ex.Candidates, Candidate{Peer: of.n.id, OK: ok, Why: why})
		if ok {
			able = append(able, of)
		}
	}
	return able
}

// verdict says whether an offer may be chosen among links of that state.
func (s *selection) verdict(of *offer, like *spec, state int32) (why string, ok bool) {
	switch {
	case s.peer != "" && of.n.id != s.peer:
		return "another peer is asked for", false
	case !s.kind(of.spec):
		return "it serves it as another kind of operation: " + string(of.spec.op.Func.Type), false
	case !s.labelled(of.n):
		return "it lacks a label that is asked for", false
	case s.passed(of.n):
		return "the call came through it", false
	case !s.fits(of, like):
		return "it serves it with another type, or under other access rules", false
	case of.n.drained.Load():
		return "it is being drained", false
	case s.link(of.n, state) != nil:
		return "it is " + stateNames[state], true
	case s.link(of.n, suspect) != nil:
		return "it is suspect, and another is up", false
	case len(of.n.linksNow()) == 0:
		return "it left less than half a minute ago", false
	}
	return "it drains", false
}

// rank sorts able offers as the policy would take them, without counting.
func (s *selection) rank(rt *route, c *candidates, able []*offer) {
	now := time.Now().UnixNano()
	key := fnv1a(fnvOffset, s.ref.Key)
	turn := int(rt.turns.Load() % uint64(len(c.byID)))
	slices.SortStableFunc(able, func(a, b *offer) int {
		switch s.ref.Policy {
		case First:
			return compare(a.n.order, b.n.order)
		case Affinity:
			return compare(fmix64(fnv1a(key, b.n.id)), fmix64(fnv1a(key, a.n.id)))
		case RoundRobin:
			n := len(c.byID)
			at := func(of *offer) uint64 { return uint64((slices.Index(c.byID, of) - turn + n) % n) }
			return compare(at(a), at(b))
		}
		ca, cb := s.cost(c, a, now), s.cost(c, b, now)
		switch {
		case ca < cb:
			return -1
		case ca > cb:
			return 1
		}
		return 0
	})
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
