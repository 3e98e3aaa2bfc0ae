package node

import (
	"sync"
	"time"
)

// An Event is something that happened in the node: a word for what, and about
// whom.
type Event struct {
	Event  string    `json:"event"`           // "ready", "reloaded", "peer.up", …
	At     time.Time `json:"at"`              // when
	Peer   string    `json:"peer,omitzero"`   // its id, or empty
	Detail string    `json:"detail,omitzero"` // more, by event
}

// A hub hands events to who watches. One that does not keep up misses events,
// which it is told.
type hub struct {
	mu       sync.Mutex
	watchers map[chan Event]bool // guarded by mu; true: it missed some
}

// The bounds of a hub.
const (
	maxWatchers    = 64
	watcherBacklog = 256
)

// watch returns a channel of events from now on; nil if too many watch.
func (h *hub) watch() (events <-chan Event, stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watchers) >= maxWatchers {
		return nil, nil
	}
	if h.watchers == nil {
		h.watchers = make(map[chan Event]bool)
	}
	c := make(chan Event, watcherBacklog)
	h.watchers[c] = false
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, c)
	}
}

func (h *hub) publish(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c, missed := range h.watchers {
		if missed && len(c) < cap(c)-1 {
			c <- Event{Event: "missed", At: e.At}
			h.watchers[c] = false
		}
		select {
		case c <- e:
		default:
			h.watchers[c] = true
		}
	}
}

// event tells who watches.
func (n *Node) event(what, peer, detail string) {
	n.events.publish(Event{Event: what, At: time.Now(), Peer: peer, Detail: detail})
}
