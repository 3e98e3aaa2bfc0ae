package peer

import (
	"context"
	"iter"
	"sync"
	"time"
)

// An Event is a change of a Graph.
type Event struct {
	// Kind is one of
	//
	//	joined     the first link of a peer is attached
	//	up         a link gets calls, or does so again
	//	suspect    a link was silent for a while
	//	draining   a link gets no new calls
	//	changed    a peer serves other operations
	//	rerouted   a subscription went on elsewhere
	//	left       the last link of a peer has ended
	//	resync     a watcher was too slow: what follows is the state, as at the beginning
	Kind string
	// Peer is the id of the peer; Reason says why.
	Peer, Reason string
	// Generation is that of the link.
	Generation uint64
	// At is when it happened.
	At time.Time
}

// maxBehind is how many events a watcher may be behind.
const maxBehind = 1024

// A feed hands events out, in order.
type feed struct {
	onEvent func(Event)

	mu       sync.Mutex // held while an event is handed out, which keeps the order
	watchers map[*watcher]struct{}
	closed   bool
}

// A watcher is one loop over Watch.
type watcher struct {
	more   chan struct{} // has room for one
	events []Event       // guarded by feed.mu
	lost   bool          // guarded by feed.mu; it was too slow
	done   bool          // guarded by feed.mu; the graph is closed
}

func (f *feed) init(onEvent func(Event)) {
	f.onEvent, f.watchers = onEvent, make(map[*watcher]struct{})
}

// emit hands an event out. It may be called with Graph.mu held.
func (f *feed) emit(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.onEvent != nil {
		f.onEvent(e)
	}
	for w := range f.watchers {
		if len(w.events) >= maxBehind {
			w.events, w.lost = nil, true
		}
		if !w.lost {
			w.events = append(w.events, e)
		}
		w.wake()
	}
}

func (w *watcher) wake() {
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (f *feed) add(max int) (*watcher, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || len(f.watchers) >= max {
		return nil, false
	}
	w := &watcher{more: make(chan struct{}, 1)}
	f.watchers[w] = struct{}{}
	return w, true
}

func (f *feed) remove(w *watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, w)
}

// take returns what is new for w.
func (f *feed) take(w *watcher) (events []Event, lost, done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	events, lost, done = w.events, w.lost, w.done
	w.events = nil
	return events, lost, done
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for w := range f.watchers {
		w.done = true
		w.wake()
	}
}

// Watch yields the peers of this moment as "joined" events and then every
// change, until ctx ends or the Graph is closed. A loop that is more than 1,024
// events behind gets "resync" and the state again. It ends at once when
// Limits.MaxWatchers are reached.
func (g *Graph) Watch(ctx context.Context) iter.Seq[Event] {
	g.init()
	return func(yield func(Event) bool) {
		w, state := g.watch()
		if w == nil {
			return
		}
		defer g.feed.remove(w)
		for _, e := range state {
			if !yield(e) {
				return
			}
		}
		for {
			events, lost, done := g.feed.take(w)
			if lost {
				events = g.resync(w)
			}
			for _, e := range events {
				if !yield(e) {
					return
				}
			}
			if done {
				return
			}
			select {
			case <-w.more:
			case <-ctx.Done():
				return
			}
		}
	}
}

// watch registers a watcher together with the state from which it goes on.
func (g *Graph) watch() (*watcher, []Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	w, ok := g.feed.add(g.lim.MaxWatchers)
	if !ok {
		return nil, nil
	}
	return w, g.stateLocked()
}

// resync begins again for a watcher that was too slow.
func (g *Graph) resync(w *watcher) []Event {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.feed.mu.Lock()
	w.events, w.lost = nil, false
	g.feed.mu.Unlock()
	return append([]Event{{Kind: "resync", At: time.Now()}}, g.stateLocked()...)
}

// stateLocked is the state as events.
func (g *Graph) stateLocked() []Event {
	var events []Event
	for _, v := range g.nodes.Range {
		n := v.(*node)
		for i, l := range n.linksNow() {
			if i == 0 {
				events = append(events, Event{Kind: "joined", Peer: n.id, Generation: l.gen, At: l.since})
			}
			if s := l.state.Load(); s == up || s == suspect || s == draining {
				events = append(events, Event{Kind: stateNames[s], Peer: n.id, Generation: l.gen, At: l.since})
			}
		}
	}
	return events
}

// emit tells of a change of a link.
func (g *Graph) emit(kind string, l *link, reason string) {
	g.feed.emit(Event{Kind: kind, Peer: l.n.id, Generation: l.gen, Reason: reason, At: time.Now()})
}
