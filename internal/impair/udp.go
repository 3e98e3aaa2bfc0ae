package impair

import (
	"container/heap"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/alkdev/alknet/internal/safe"
)

const (
	maxDatagram  = 64 << 10
	socketBuffer = 4 << 20
	maxFlows     = 1024    // clients of a relay
	maxScheduled = 1 << 16 // packets under way
)

// UDP starts a relay to the UDP server at target, which is closed with t. Every
// client gets a socket of its own towards the server.
func UDP(t testing.TB, target string, p Profile) *Relay {
	t.Helper()
	r := newRelay(t, p)
	to, err := net.ResolveUDPAddr("udp", target)
	if err != nil {
		t.Fatalf("impair: %v", err)
	}
	front, err := net.ListenPacket("udp", listenAddr)
	if err != nil {
		t.Fatalf("impair: %v", err)
	}
	u := &udpRelay{Relay: r, front: front.(*net.UDPConn), target: to, flows: make(map[netip.AddrPort]*flow), wakec: make(chan struct{}, 1)}
	_ = u.front.SetReadBuffer(socketBuffer) // what the system allows
	r.addr, r.front = front.LocalAddr(), front
	safe.Go(&r.wg, r.fail, u.readClients)
	safe.Go(&r.wg, r.fail, u.deliver)
	t.Cleanup(r.Close)
	return r
}

// A udpRelay is the sockets of a Relay for UDP.
type udpRelay struct {
	*Relay
	front  *net.UDPConn // towards the clients
	target *net.UDPAddr

	mu    sync.Mutex
	flows map[netip.AddrPort]*flow // guarded by mu; by client
	line  schedule                 // guarded by mu; what is under way
	seq   int                      // guarded by mu
	wakec chan struct{}            // has an element when the head of line changed
}

// A flow is a client's socket towards the server.
type flow struct {
	client netip.AddrPort
	conn   *net.UDPConn
	since  time.Time
	remove func() // from the closers
}

// readClients passes on what clients send.
func (u *udpRelay) readClients() {
	buf := make([]byte, maxDatagram)
	for {
		n, client, err := u.front.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP message about what we sent
		}
		u.schedule(u.toServer, buf[:n], func(b []byte) {
			if f := u.flowOf(client); f != nil {
				_, _ = f.conn.Write(b) // datagrams may be lost
			}
		})
	}
}

// readServer passes on what the server sends to a client.
func (u *udpRelay) readServer(f *flow) {
	defer f.conn.Close()
	buf := make([]byte, maxDatagram)
	for {
		n, err := f.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // nobody listens there, at the moment
		}
		u.schedule(u.toClient, buf[:n], func(b []byte) {
			_, _ = u.front.WriteToUDPAddrPort(b, f.client) // datagrams may be lost
		})
	}
}

// flowOf returns a client's socket, a new one if it has none or Rebind says so.
func (u *udpRelay) flowOf(client netip.AddrPort) *flow {
	p, _ := u.current()
	now := time.Now()
	u.mu.Lock()
	f := u.flows[client]
	full := f == nil && len(u.flows) >= maxFlows
	u.mu.Unlock()
	switch {
	case full:
		return nil
	case f != nil && (p.Rebind <= 0 || now.Sub(f.since) < p.Rebind):
		return f
	case f != nil:
		f.conn.Close()
	}
	conn, err := net.DialUDP("udp", nil, u.target)
	if err != nil {
		return nil // the packet is lost
	}
	f = &flow{client: client, conn: conn, since: now}
	u.mu.Lock()
	u.flows[client] = f
	u.mu.Unlock()
	f.remove = u.closers.add(func() { u.drop(f) })
	safe.Go(&u.wg, u.fail, func() { defer f.remove(); u.readServer(f) })
	return f
}

// drop forgets a flow.
func (u *udpRelay) drop(f *flow) {
	u.mu.Lock()
	if u.flows[f.client] == f {
		delete(u.flows, f.client)
	}
	u.mu.Unlock()
	f.conn.Close()
}

// schedule sends a copy of b as the lane decides.
func (u *udpRelay) schedule(l *lane, b []byte, send func([]byte)) {
	fate := l.packet(time.Now(), len(b))
	for i := range fate.n {
		data := append([]byte(nil), b...)
		if i == 0 {
			flip(data, fate.flip)
		}
		u.mu.Lock()
		if len(u.line) < maxScheduled {
			u.seq++
			heap.Push(&u.line, packet{due: fate.due[i], seq: u.seq, data: data, send: send})
		}
		u.mu.Unlock()
	}
	select {
	case u.wakec <- struct{}{}:
	default:
	}
}

// deliver sends each packet when it is due.
func (u *udpRelay) deliver() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, wait := u.next(time.Now())
		if next != nil {
			next.send(next.data)
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-u.wakec:
		case <-u.donec:
			return
		}
	}
}

// next removes the packet that is due, or returns how long to wait for one.
func (u *udpRelay) next(now time.Time) (*packet, time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.line) == 0 {
		return nil, time.Hour
	}
	if wait := u.line[0].due.Sub(now); wait > 0 {
		return nil, wait
	}
	p := heap.Pop(&u.line).(packet)
	return &p, 0
}

// A packet is under way.
type packet struct {
	due  time.Time
	seq  int // of two that are due at once, the first is first
	data []byte
	send func([]byte)
}

// A schedule is a heap of packets, the next one on top.
type schedule []packet

// Len is part of [heap.Interface].
func (s schedule) Len() int { return len(s) }

// Less is part of [heap.Interface].
func (s schedule) Less(i, j int) bool {
	if s[i].due.Equal(s[j].due) {
		return s[i].seq < s[j].seq
	}
	return s[i].due.Before(s[j].due)
}

// Swap is part of [heap.Interface].
func (s schedule) Swap(i, j int) { s[i], s[j] = s[j], s[i] }

// Push is part of [heap.Interface].
func (s *schedule) Push(x any) { *s = append(*s, x.(packet)) }

// Pop is part of [heap.Interface].
func (s *schedule) Pop() any {
	last := (*s)[len(*s)-1]
	(*s)[len(*s)-1] = packet{}
	*s = (*s)[:len(*s)-1]
	return last
}
