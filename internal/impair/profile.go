// Package impair is a bad network on loopback, for tests: a relay for UDP and
// one for TCP that delay, lose, reorder, duplicate, corrupt and hold back what
// passes, after a [Profile] and a seed that the test's log shows.
//
//	relay := impair.UDP(t, server.Addr().String(), impair.Profile{Delay: 15 * time.Millisecond, Loss: 0.02})
//	conn := dial(relay.Addr())
package impair

import (
	"math/rand/v2"
	"sync"
	"time"
)

// A Profile is what happens to the packets of each direction. Shares are from 0
// to 1. The zero value lets everything pass at once.
type Profile struct {
	Name string // for a test's name; it changes nothing

	Seed uint64 // of all choices; 0: a new one

	Delay  time.Duration // of every packet, each way
	Jitter time.Duration // up to so much more, evenly; packets keep their order

	Loss  float64 // share of the packets that are lost; 1: all of them
	Burst int     // the most that are lost in a row; 0: one

	Reorder   float64       // share that is held back, so that others overtake it
	ReorderBy time.Duration // for how long; 0: 10 ms
	Duplicate float64       // share that arrives twice
	Corrupt   float64       // share in which one bit is flipped

	Up   time.Duration // how long the line works, from the start
	Down time.Duration // how long it then does not, before it works again; 0: it always does

	BytesPerSecond int64 // rate; 0: none
	MaxQueue       int   // packets that wait for their turn at that rate, the rest is dropped; 0: 25

	Rebind time.Duration // how often the server sees the client at a new port; 0: never
}

// Profiles are the networks that a protocol of ours has to live with, N0 to N9.
func Profiles() []Profile {
	const hop = 15 * time.Millisecond
	return []Profile{
		{Name: "N0 clean", Delay: hop},
		{Name: "N1 loss 2%", Delay: hop, Loss: 0.02},
		{Name: "N2 loss 30%", Delay: hop, Loss: 0.3, Burst: 3},
		{Name: "N3 corruption 2%", Delay: hop, Corrupt: 0.02},
		{Name: "N4 corruption 30%", Delay: hop, Corrupt: 0.3},
		{Name: "N5 blackhole", Delay: hop, Up: 5 * time.Second, Down: 2 * time.Second},
		{Name: "N6 long", Delay: 375 * time.Millisecond},
		{Name: "N7 reorder", Delay: hop, Jitter: 2 * time.Millisecond, Reorder: 0.1, Duplicate: 0.01},
		{Name: "N8 rebind", Delay: hop, Rebind: time.Second},
		{Name: "N9 10 Mbit/s", Delay: hop, BytesPerSecond: 10_000_000 / 8, MaxQueue: 25},
	}
}

const (
	defaultReorderBy = 10 * time.Millisecond
	defaultQueue     = 25
	retransmit       = 200 * time.Millisecond // what a lost segment costs a TCP stream
)

// Counts is what passed in one direction, in packets; of TCP, in pieces of the
// stream as they were read.
type Counts struct {
	Packets    int64 // that came in
	Bytes      int64 // that came in
	Lost       int64 // for any reason
	Duplicated int64 // arrived twice
	Corrupted  int64 // arrived with a bit flipped
	Reordered  int64 // were held back
}

// A lane is one direction of a relay: it decides what happens to each packet.
type lane struct {
	mu      sync.Mutex
	rnd     *rand.Rand  // guarded by mu, as all below
	profile Profile     //
	began   time.Time   // when the profile did
	burst   int         // losses still to come in a row
	pass    bool        // a run of losses is over: this one is not lost
	last    time.Time   // when the packet before arrives
	free    time.Time   // when the line has sent what is in its queue
	leaving []time.Time // when what is in the queue will have left it
	counts  Counts
}

// A fate is what happens to a packet.
type fate struct {
	due  [2]time.Time // when it arrives, and does again
	n    int          // how often it arrives
	flip int          // the bit that is flipped, or -1
}

// reset begins a profile.
func (l *lane) reset(p Profile, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.profile, l.began, l.burst, l.pass, l.leaving = p, now, 0, false, nil
	l.last, l.free = now, now // nothing waits for what the old profile held back
}

// chance is true in a share of the cases.
func (l *lane) chance(share float64) bool { return share > 0 && l.rnd.Float64() < share }

// packet decides about a datagram of size bytes that comes in now.
func (l *lane) packet(now time.Time, size int) fate {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &l.profile
	l.counts.Packets++
	l.counts.Bytes += int64(size)
	f := fate{flip: -1}
	if l.opensLocked(now).After(now) || l.losesLocked() || l.fullLocked(now) {
		l.counts.Lost++
		return f
	}
	f.flip = l.flipLocked(size)
	f.due[0], f.n = l.arrivalLocked(now, size), 1
	if p.BytesPerSecond > 0 {
		l.leaving = append(l.leaving, l.free)
	}
	if l.chance(p.Reorder) {
		l.counts.Reordered++
		by := p.ReorderBy
		if by == 0 {
			by = defaultReorderBy
		}
		f.due[0] = f.due[0].Add(by)
	} else {
		l.last = f.due[0]
	}
	if l.chance(p.Duplicate) {
		l.counts.Duplicated++
		f.due[1], f.n = f.due[0], 2
	}
	return f
}

// piece decides about a piece of a stream: it may not be lost, so what would be
// comes late, as after TCP's own repair, and nothing overtakes it.
func (l *lane) piece(now time.Time, size int) fate {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Packets++
	l.counts.Bytes += int64(size)
	f := fate{n: 1, flip: l.flipLocked(size)}
	from := l.opensLocked(now)
	if l.profile.Loss < 1 && l.losesLocked() {
		l.counts.Lost++
		from = from.Add(retransmit)
	}
	f.due[0] = l.arrivalLocked(from, size)
	l.last = f.due[0]
	return f
}

// opensLocked returns when the line works: now, or at the end of a black hole.
func (l *lane) opensLocked(now time.Time) time.Time {
	p := &l.profile
	if p.Down <= 0 {
		return now
	}
	period := p.Up + p.Down
	at := now.Sub(l.began) % period
	if at < p.Up {
		return now
	}
	return now.Add(period - at)
}

// losesLocked decides about loss. Losses come in runs of one to Burst, with at
// least one packet between two runs, so that Loss of all packets are lost.
func (l *lane) losesLocked() bool {
	p := &l.profile
	switch {
	case p.Loss <= 0:
		return false
	case p.Loss >= 1:
		return true
	case l.burst > 0:
		l.burst--
		l.pass = l.burst == 0
		return true
	case l.pass:
		l.pass = false
		return false
	}
	longest := max(p.Burst, 1)
	mean := float64(longest+1) / 2
	if !l.chance(p.Loss / (mean * (1 - p.Loss))) {
		return false
	}
	l.burst = l.rnd.IntN(longest)
	l.pass = l.burst == 0
	return true
}

// fullLocked reports whether the queue for the rate has no room.
func (l *lane) fullLocked(now time.Time) bool {
	if l.profile.BytesPerSecond <= 0 {
		return false
	}
	for len(l.leaving) > 0 && !l.leaving[0].After(now) {
		l.leaving = l.leaving[1:]
	}
	room := l.profile.MaxQueue
	if room == 0 {
		room = defaultQueue
	}
	return len(l.leaving) >= room
}

// arrivalLocked returns when size bytes arrive that are sent at from: not before
// what was sent before them.
func (l *lane) arrivalLocked(from time.Time, size int) time.Time {
	p := &l.profile
	if p.BytesPerSecond > 0 {
		if l.free.Before(from) {
			l.free = from
		}
		l.free = l.free.Add(time.Duration(int64(size) * int64(time.Second) / p.BytesPerSecond))
		from = l.free
	}
	at := from.Add(p.Delay)
	if p.Jitter > 0 {
		at = at.Add(time.Duration(l.rnd.Int64N(int64(p.Jitter))))
	}
	if at.Before(l.last) {
		return l.last
	}
	return at
}

// flipLocked returns the bit of a packet to flip, or -1.
func (l *lane) flipLocked(size int) int {
	if size == 0 || !l.chance(l.profile.Corrupt) {
		return -1
	}
	l.counts.Corrupted++
	return l.rnd.IntN(size * 8)
}

// flip flips a bit of b; -1 is none.
func flip(b []byte, bit int) {
	if bit >= 0 {
		b[bit/8] ^= 1 << (bit % 8)
	}
}
