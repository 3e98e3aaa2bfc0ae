package peer

import (
	"maps"
	"slices"
	"time"

	"github.com/alkdev/alknet"
)

// An Info is what a Graph knows of a peer.
type Info struct {
	// ID is the peer's stable id, Name what people call it.
	ID, Name string
	// Key is the key that its newest connection proved.
	Key alknet.PeerID
	// State is that of its best link: attaching, up, suspect, draining or left.
	State string
	// Labels come from the Book. They are for choosing, never for access.
	Labels map[string]string
	// Links are its connections.
	Links []Link
	// Operations are what we take from it, by the names they have here, sorted.
	Operations []string
	// Load is how many calls of ours run there plus, as it last reported, how much
	// of what it can take it has to do: 0 nothing, 1 all.
	Load float64
}

// A Link is one connection of a peer.
type Link struct {
	// State is attaching, up, suspect, draining or left.
	State string
	// Transport carries it; 0: a Pipe.
	Transport alknet.Transport
	// Address is the other end's. It proves nothing.
	Address string
	// Instance names the peer's process, new at each of its starts.
	Instance string
	// Generation counts the links of the Graph.
	Generation uint64
	// RTT is the smoothed time of a question and its answer; 0: not measured.
	RTT time.Duration
	// Outstanding are the calls that we have running over it.
	Outstanding int
	// Since is when it was attached.
	Since time.Time
	// Relayed: it goes through a relay.
	Relayed bool
}

// infoLocked is what is known of n.
func (g *Graph) infoLocked(n *node) Info {
	info := n.who()
	best := left
	for _, l := range n.linksNow() {
		s := l.state.Load()
		if s < best {
			best = s
		}
		if s == attaching { // it sorts before up, and is no better
			best = min(best, up)
		}
		info.Key = l.key
		info.Links = append(info.Links, l.info(s))
	}
	info.State = stateNames[best]
	if n.drained.Load() && best != left {
		info.State = stateNames[draining]
	}
	info.Operations = slices.Sorted(maps.Keys(n.overlay))
	info.Load = float64(n.running.Load()) + float64(n.load.Load())/1000
	return info
}

// who is the part of an Info that says who the peer is.
func (n *node) who() Info {
	info := Info{ID: n.id}
	if p := n.known.Load(); p != nil {
		info.Name, info.Labels = p.Name, maps.Clone(p.Labels)
	}
	return info
}

func (l *link) info(state int32) Link {
	i := Link{
		State: stateNames[state], Transport: l.c.Conn().Transport(), Instance: l.instance, Generation: l.gen,
		RTT: time.Duration(l.rtt.Load()), Outstanding: int(l.running.Load()), Since: l.since,
	}
	if a := l.c.Conn().RemoteAddr(); a != nil {
		i.Address = a.String()
	}
	return i
}
