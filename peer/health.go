package peer

import (
	"context"
	"sync"
	"time"

	"github.com/alkdev/alknet"
)

// A beat is what the monitor knows of a link's life. Any byte is a sign of it.
type beat struct {
	mu    sync.Mutex
	bytes int64     // guarded by mu; received so far
	at    time.Time // guarded by mu; when that was last more than before
	asked bool      // guarded by mu; a sign of life is due, and none has come since
	busy  bool      // guarded by mu; a ping is out
	since time.Time // guarded by mu; from when on silence counts
}

// heard notes what was received; it reports whether that is more than before.
func (b *beat) heard(bytes int64, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.heardLocked(bytes, now)
}

func (b *beat) heardLocked(bytes int64, now time.Time) bool {
	if bytes == b.bytes && !b.at.IsZero() {
		return false
	}
	b.bytes, b.at = bytes, now
	return true
}

// doubt has a sign of life be due from now on.
func (b *beat) doubt(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.asked {
		b.asked, b.since = true, now
	}
}

// beatsPerInterval is how often the monitor looks within a Heartbeat.
const beatsPerInterval = 8

// monitorLocked starts the monitor, which runs while there are peers.
func (g *Graph) monitorLocked() {
	if g.beating {
		return
	}
	g.beating = g.spawnLocked(g.monitor)
}

// monitor watches over all links with one goroutine and one timer.
func (g *Graph) monitor() {
	tick := time.NewTicker(max(g.heartbeat(), 80*time.Millisecond) / beatsPerInterval)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-g.ctx.Done():
			return
		}
		now := time.Now()
		for _, v := range g.nodes.Range {
			for _, l := range v.(*node).linksNow() {
				g.check(l, now)
			}
		}
		if n%beatsPerInterval == 0 {
			g.reread()
			if !g.prune(now) {
				return
			}
		}
	}
}

// check looks at one link.
func (g *Graph) check(l *link, now time.Time) {
	b := &l.beat
	b.mu.Lock()
	heard := b.heardLocked(l.bytesIn(), now)
	silence := time.Duration(0)
	ask := false
	switch {
	case heard:
		b.asked = false
	case b.asked:
		silence = now.Sub(later(b.since, b.at))
		ask = !b.busy
	default:
		ask = g.askLocked(l, now)
	}
	b.busy = b.busy || ask
	b.mu.Unlock()
	if ask {
		g.spawn(func() { g.ping(l) })
	}
	state := l.state.Load()
	switch hb := g.heartbeat(); {
	case hb == 0 || state == left:
	case silence >= 3*hb:
		_ = l.c.Conn().CloseWithError(alknet.CodeInternal, "no sign of life") // it is over either way
		g.remove(l, "silent")
	case silence >= 3*hb/2 && state == up:
		g.suspect(l)
	case heard && state == suspect:
		g.recovered(l)
	}
}

// askLocked decides whether a ping is due, and from when on silence counts: on a
// link with calls from its last byte, as far as a round trip allows.
func (g *Graph) askLocked(l *link, now time.Time) bool {
	b := &l.beat
	quiet := now.Sub(b.at)
	busy := l.running.Load() > 0
	hb := g.heartbeat()
	if busy && hb > 0 && quiet >= hb {
		b.since = now.Add(-max(hb-4*time.Duration(l.rtt.Load()), 0))
		b.asked = true
		return true
	}
	if idle := g.idleHeartbeat(); idle > 0 && quiet >= idle {
		b.since, b.asked = now, true
		return true
	}
	return false
}

// ping asks the peer of l for a sign of life and its load.
func (g *Graph) ping(l *link) {
	ctx, cancel := context.WithTimeout(g.ctx, max(4*g.heartbeat(), time.Second))
	defer cancel()
	rtt, load, err := l.c.Ping(ctx)
	now := time.Now()
	l.beat.mu.Lock()
	l.beat.busy = false
	if err == nil {
		l.beat.asked, l.beat.at = false, now
	}
	l.beat.mu.Unlock()
	if err != nil {
		return // the monitor goes by the silence, not by the answer
	}
	smooth(&l.rtt, rtt)
	if load >= 0 && load <= 1 { // it only chooses, so that a lie harms the liar
		l.n.load.Store(int64(load * 1000))
	}
	if l.state.Load() == suspect {
		g.recovered(l)
	}
}

// suspect takes a silent link out of the first choice. Queries on it are tried
// elsewhere at once.
func (g *Graph) suspect(l *link) {
	if !l.state.CompareAndSwap(up, suspect) {
		return
	}
	g.mu.Lock()
	g.emit("suspect", l, "silent")
	g.mu.Unlock()
	l.trouble("suspect")
}

func (g *Graph) recovered(l *link) {
	if !l.state.CompareAndSwap(suspect, up) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.emit("up", l, "heard again")
	g.turnLocked()
}

// bytesIn is what the link has received.
func (l *link) bytesIn() int64 { return l.c.Conn().Stats().BytesIn }

// trouble tells the calls on l that they may want to be elsewhere.
func (l *link) trouble(why string) {
	l.mu.Lock()
	var calls []*attempt
	for a := l.first; a != nil; a = a.next {
		calls = append(calls, a)
	}
	l.mu.Unlock()
	for _, a := range calls {
		a.owner.trouble(a, why)
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
