package node

import (
	"sync"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// A dialledPeers says who the peers are that the node dialled, for what they call on
// those connections: the same as if they had dialled. It remembers each until who is
// known changes.
type dialledPeers struct {
	n *Node

	mu  sync.Mutex
	ids map[alknet.PeerID]*alknet.Identity // guarded by mu
}

// maxDialled bounds what is remembered; it is made again when needed.
const maxDialled = 10_000

// forget is called when who is known, or what a service asks for, has changed.
func (d *dialledPeers) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ids = nil
}

// identify is the call handler's.
func (d *dialledPeers) identify(proven *alknet.Identity) *alknet.Identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	if id := d.ids[proven.Peer]; id != nil {
		return id
	}
	id, keep := d.n.known.identity(proven.Peer)
	if !d.n.admits(call.ALPN, &id) {
		id, keep = alknet.Identity{Peer: proven.Peer}, false // the service is not for it: a stranger
	}
	if keep {
		if d.ids == nil || len(d.ids) >= maxDialled {
			d.ids = make(map[alknet.PeerID]*alknet.Identity)
		}
		d.ids[proven.Peer] = &id
	}
	return &id
}

// admits reports whether a service is for a peer.
func (n *Node) admits(alpn string, id *alknet.Identity) bool {
	for _, s := range n.router.Services() {
		if s.ALPN == alpn {
			return s.Access.Check(id) == nil
		}
	}
	return true // without the service nothing is offered either
}

// identity is who a proven key is; a key that is not known, or no longer good, is a
// stranger. keep: it stays so until who is known changes.
func (k *known) identity(key alknet.PeerID) (id alknet.Identity, keep bool) {
	p, ok := k.entryFor(alknet.Identity{Peer: key})
	if !ok {
		return alknet.Identity{Peer: key}, true
	}
	keep = true
	for _, own := range p.Keys {
		if own.ID != key {
			continue
		}
		if !own.NotAfter.IsZero() {
			if keep = false; !time.Now().Before(own.NotAfter) {
				return alknet.Identity{Peer: key}, false
			}
		}
	}
	return alknet.Identity{ID: p.ID, Peer: key, Scopes: p.Scopes, Resources: p.Resources}, keep
}
