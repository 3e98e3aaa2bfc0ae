package node

import (
	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/peer"
	"github.com/alkdev/alknet/peer/pair"
)

func (n *Node) buildPair(f *config.File) (*part, error) {
	h := &pair.Handler{
		Book:   n.known.book,
		Dir:    n.places.State,
		Head:   n.id,
		Addrs:  n.advertised,
		OnJoin: func(p peer.Peer) { n.event("peer.joined", p.ID, "") },
		Logger: n.log,
	}
	set := func(h *pair.Handler) func() {
		return func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.pairs = h
		}
	}
	return &part{service: overOf(pair.Service(h), f.Pair.Over), use: set(h), drop: set(nil)}, nil
}

func overOf(s alknet.Service, over []string) alknet.Service {
	return settings(s, config.Service{Over: over, AllowAnonymous: s.AllowAnonymous, Access: s.Access})
}
