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

// beatsPerInterval is how often the monitor looks within a Heartbeat while there is
// something to watch. Otherwise it looks about once.
const beatsPerInterval = 8

// A monitor watches over all links with one goroutine and one timer. It rests while
// no call runs and no sign of life is due: an idle node is not to be woken for nothing.
type monitor struct {
	g      *Graph
	beat   time.Duration // a Heartbeat
	busy   time.Time     // when there was last something to watch
	reread time.Time     // when what is known of peers was last asked
}

// monitorLocked starts the monitor, which runs while there are peers.
func (g *Graph) monitorLocked() {
	if g.beating {
		g.rouse()
		return
	}
	g.beating = g.spawnLocked(g.monitor)
}

// rouse has a monitor that rests look as often as it has to.
func (g *Graph) rouse() {
	if !g.resting.Load() || !g.resting.CompareAndSwap(true, false) {
		return
	}
	select {
	case g.roused <- struct{}{}:
	default: // it is about to see that of another
	}
}

func (g *Graph) monitor() {
	beat := g.heartbeat()
	if beat == 0 {
		beat = time.Second // nobody is cut for silence, but what is known is asked again
	}
	now := time.Now()
	m := &monitor{g: g, beat: max(beat, 80*time.Millisecond), busy: now, reread: now}
	t := time.NewTimer(m.beat / beatsPerInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-g.roused:
			m.busy = time.Now()
			t.Reset(m.beat / beatsPerInterval)
			continue
		case <-g.ctx.Done():
			return
		}
		wait, more := m.look(time.Now())
		if !more {
			return
		}
		t.Reset(wait)
	}
}

// look looks at all links, and says when to look again; more: there are peers.
func (m *monitor) look(now time.Time) (wait time.Duration, more bool) {
	g := m.g
	g.resting.Store(false)
	if m.watch(now) {
		m.busy = now
	}
	if now.Sub(m.reread) >= m.beat-m.beat/beatsPerInterval {
		m.reread = now
		g.reread()
		if !g.prune(now) {
			return 0, false
		}
	}
	if now.Sub(m.busy) < m.beat {
		return m.beat / beatsPerInterval, true
	}
	g.resting.Store(true)
	if m.watch(now) { // what began before it was seen to rest
		g.rouse()
	}
	return m.rest(now), true
}

// rest is at most a Heartbeat, and ends when the book is looked at, if it can.
func (m *monitor) rest(now time.Time) time.Duration {
	wait := untilPoll(now)
	if wait > m.beat {
		return m.beat
	}
	return wait + (m.beat-wait)/pollEvery*pollEvery
}

// watch checks every link; whether there is one to watch closely.
func (m *monitor) watch(now time.Time) (busy bool) {
	for _, v := range m.g.nodes.Range {
		for _, l := range v.(*node).linksNow() {
			busy = m.g.check(l, now) || busy
		}
	}
	return busy
}

// check looks at one link; whether something may happen to it soon.
func (g *Graph) check(l *link, now time.Time) (busy bool) {
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
	busy = b.asked || b.busy || l.running.Load() > 0
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
	return busy
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
