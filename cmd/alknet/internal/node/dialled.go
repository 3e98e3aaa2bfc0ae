package node

import (
	"sync"
	"time"

	"github.com/alkdev/alknet"
)

// A dialledPeers says who the peers are that the node dialled, for what they call on
// those connections: the same as if they had dialled. It belongs to one handler of
// [call], with its access rule, and remembers each until who is known changes.
type dialledPeers struct {
	n      *Node
	access alknet.AccessControl

	mu    sync.Mutex
	epoch int64                              // guarded by mu; of Node.tickets, when ids was begun
	ids   map[alknet.PeerID]*alknet.Identity // guarded by mu
}

// maxDialled bounds what is remembered; it is made again when needed.
const maxDialled = 10_000

// identify is the call handler's.
func (d *dialledPeers) identify(proven *alknet.Identity) *alknet.Identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := d.n.tickets.Load(); now != d.epoch || len(d.ids) >= maxDialled {
		d.epoch, d.ids = now, nil
	}
	if id := d.ids[proven.Peer]; id != nil {
		return id
	}
	id, keep := d.n.known.identity(proven.Peer)
	if d.access.Check(&id) != nil {
		id, keep = alknet.Identity{Peer: proven.Peer}, false // the service is not for it: a stranger
	}
	if keep {
		if d.ids == nil {
			d.ids = make(map[alknet.PeerID]*alknet.Identity)
		}
		d.ids[proven.Peer] = &id
	}
	return &id
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
