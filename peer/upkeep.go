package peer

import (
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/internal/strictjson"
)

// recvEtag receives one item of services/changes.
func recvEtag(s *call.Stream) (string, error) {
	data, _, err := s.Recv()
	if err != nil {
		return "", err
	}
	var in struct {
		Etag string `json:"etag"`
	}
	err = strictjson.Decode(data, &in)
	return in.Etag, err
}

// follow imports again whenever the peer says that it serves something else.
func (u *upkeep) follow() {
	for {
		etag, err := recvEtag(u.changes)
		if err != nil {
			u.changes.Cancel(nil)
			return
		}
		u.refresh(etag)
	}
}

// refresh imports again. An import that fails keeps what there is: the next
// change, or the next link, brings another.
func (u *upkeep) refresh(etag string) {
	g, n := u.l.g, u.l.n
	next := &upkeep{l: u.l, im: u.im, etag: etag}
	if g.Imports != nil {
		next.im = g.Imports(n.who())
	}
	g.mu.Lock()
	same := n.etag == etag && etag != "" && reflect.DeepEqual(n.imported, next.im)
	g.mu.Unlock()
	if same {
		return
	}
	ctx, cancel := context.WithTimeout(g.ctx, attachTime)
	defer cancel()
	if len(next.im.Allow) > 0 && next.fetch(ctx) != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if v, ok := g.nodes.Load(n.id); !ok || v.(*node) != n || u.l.state.Load() == left {
		return
	}
	g.overlayLocked(n, next)
	g.emit("changed", u.l, "")
}

// reread asks again what is known of every peer and what is taken from it. It
// is called about once a second.
func (g *Graph) reread() {
	for _, v := range g.nodes.Range {
		n := v.(*node)
		links := n.linksNow()
		if len(links) == 0 {
			continue
		}
		l := links[len(links)-1]
		if g.Known != nil {
			id := l.c.Conn().Identity()
			if p, ok := g.Known(id); ok && p.ID == n.id {
				n.known.Store(&p)
			}
		}
		if g.Imports == nil || l.state.Load() == left {
			continue
		}
		im := g.Imports(n.who())
		g.mu.Lock()
		same := n.overlay == nil && len(im.Allow) == 0 || reflect.DeepEqual(n.imported, im)
		etag := n.etag
		if !same && n.rereading {
			same = true
		}
		n.rereading = n.rereading || !same
		g.mu.Unlock()
		if !same {
			g.spawn(func() {
				u := &upkeep{l: l, im: im}
				if len(im.Allow) > 0 && l.watched.CompareAndSwap(false, true) {
					u.watch(g.ctx)
					etag = u.etag
				}
				u.refresh(etag)
				if u.changes != nil {
					g.spawn(u.follow)
				}
				g.mu.Lock()
				n.rereading = false
				g.mu.Unlock()
			})
		}
	}
}

// prune forgets peers that left long enough ago; whether any is left.
func (g *Graph) prune(now time.Time) (more bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var gone []*node
	for _, v := range g.nodes.Range {
		n := v.(*node)
		if !g.adhoc && !n.left.IsZero() && now.Sub(n.left) >= overlayTime {
			gone = append(gone, n)
		}
	}
	for _, n := range gone {
		g.forgetLocked(n)
	}
	if g.count == 0 {
		g.beating = false
	}
	return g.count > 0
}

// validPeerName reports whether an id can stand behind "@".
func validPeerName(id string) bool {
	return validID(id) && !slices.Contains(reservedIDs, id)
}
