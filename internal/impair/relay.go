package impair

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// A Relay passes traffic on to a server, as its profile says. It is made by
// [UDP] or [TCP], may be used concurrently, and is closed with its test.
type Relay struct {
	t        testing.TB
	addr     net.Addr
	front    io.Closer // the socket towards the clients
	toServer *lane
	toClient *lane
	closers  closers
	wg       sync.WaitGroup
	donec    chan struct{} // closed by Close
	once     sync.Once     // of Close

	mu       sync.Mutex
	profile  Profile       // guarded by mu
	changedc chan struct{} // guarded by mu; closed when profile is no longer in force
}

// newRelay makes a relay that has no sockets yet, and says its seed in t's log.
func newRelay(t testing.TB, p Profile) *Relay {
	if p.Seed == 0 {
		p.Seed = rand.Uint64()
	}
	t.Logf("impair: profile %q, seed %d", p.Name, p.Seed)
	r := &Relay{
		t:        t,
		toServer: &lane{rnd: rand.New(rand.NewPCG(p.Seed, 1))},
		toClient: &lane{rnd: rand.New(rand.NewPCG(p.Seed, 2))},
		donec:    make(chan struct{}),
		changedc: make(chan struct{}),
	}
	r.SetProfile(p)
	return r
}

// Addr is where clients connect to, "127.0.0.1:port".
func (r *Relay) Addr() string { return r.addr.String() }

// SetProfile replaces the profile for what comes in from now on; the times of Up
// and Down begin again. Seed is ignored: the choices go on as they began.
func (r *Relay) SetProfile(p Profile) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changedc)
	r.profile, r.changedc = p, make(chan struct{})
	now := time.Now()
	r.toServer.reset(p, now)
	r.toClient.reset(p, now)
}

// current is the profile in force, and a channel that is closed when it is not.
func (r *Relay) current() (Profile, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.profile, r.changedc
}

// Counts is what has passed so far, in each direction.
func (r *Relay) Counts() (toServer, toClient Counts) {
	return r.toServer.read(), r.toClient.read()
}

// read copies the counts.
func (l *lane) read() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// Cut breaks every connection through the relay: of TCP they are reset, of UDP
// the server sees the clients at new ports. New ones are taken.
func (r *Relay) Cut() { r.closers.closeAll() }

// Close ends the relay and all connections through it, and waits for its
// goroutines. It may be called more than once.
func (r *Relay) Close() {
	r.once.Do(func() {
		close(r.donec)
		_ = r.front.Close()
		r.closers.end()
	})
	r.wg.Wait()
}

// fail reports a panic of a goroutine of ours.
func (r *Relay) fail(err error) { r.t.Errorf("impair: %v", err) }

// closers are what ends the connections of a relay.
type closers struct {
	mu    sync.Mutex
	next  int            // guarded by mu
	conns map[int]func() // guarded by mu; nil once there may be no more
	ended bool           // guarded by mu
}

// add keeps f until the returned function is called. After end, it calls f at once.
func (c *closers) add(f func()) (remove func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		f()
		return func() {}
	}
	if c.conns == nil {
		c.conns = make(map[int]func())
	}
	id := c.next
	c.next++
	c.conns[id] = f
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.conns, id)
	}
}

// closeAll calls and forgets every function.
func (c *closers) closeAll() {
	c.mu.Lock()
	conns := c.conns
	c.conns = nil
	c.mu.Unlock()
	for _, f := range conns {
		f()
	}
}

// end is closeAll, for what is added later too.
func (c *closers) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.closeAll()
}

// listenAddr is a free port on loopback.
const listenAddr = "127.0.0.1:0"
