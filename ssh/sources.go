package ssh

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// What a source is made to wait for.
const (
	penaltyLogin      = 5 * time.Second  // a login that failed
	penaltyUnfinished = 10 * time.Second // one that took too long
	penaltyLeft       = time.Second      // a connection that ended by itself before, as ssh-keyscan's do
	penaltyCrash      = 90 * time.Second // one that made the server panic
	penaltyFloor      = 15 * time.Second // a source that owes no more is let in: people mistype
	maxSources        = 65536            // that are remembered
)

// sources counts the connections of listeners, and where they come from.
type sources struct {
	limits Limits

	mu       sync.Mutex
	conns    int                        // guarded by mu
	startups int                        // guarded by mu
	perAddr  map[netip.Prefix]int       // guarded by mu; startups
	owes     map[netip.Prefix]time.Time // guarded by mu; when a penalty is over
}

// A place is what one connection counts as, until it is left.
type place struct {
	s       *sources
	addr    netip.Prefix
	startup bool // guarded by s.mu
	left    bool // guarded by s.mu
}

// begin counts a connection, or says which limit it is over.
func (s *sources) begin(remote net.Addr) (*place, string) {
	p := &place{s: s, addr: source(remote), startup: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch l := s.limits; {
	case time.Until(s.owes[p.addr]) > penaltyFloor:
		return nil, "MaxPenalty"
	case over(s.conns+1, l.MaxConns):
		return nil, "MaxConns"
	case over(s.startups+1, l.MaxStartups):
		return nil, "MaxStartups"
	case over(s.perAddr[p.addr]+1, l.MaxStartupsPerAddr):
		return nil, "MaxStartupsPerAddr"
	}
	if s.perAddr == nil {
		s.perAddr = make(map[netip.Prefix]int)
		s.owes = make(map[netip.Prefix]time.Time)
	}
	s.conns++
	s.startups++
	s.perAddr[p.addr]++
	return p, ""
}

// loggedIn ends the startup of a connection.
func (p *place) loggedIn() {
	if p == nil {
		return
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.endStartupLocked()
}

func (p *place) endStartupLocked() {
	if !p.startup {
		return
	}
	p.startup = false
	p.s.startups--
	if p.s.perAddr[p.addr]--; p.s.perAddr[p.addr] == 0 {
		delete(p.s.perAddr, p.addr)
	}
}

// leave ends a connection.
func (p *place) leave() {
	if p == nil {
		return
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.left {
		return
	}
	p.left = true
	p.endStartupLocked()
	p.s.conns--
}

// punish adds to what the source owes.
func (p *place) punish(d time.Duration) {
	if p == nil {
		return
	}
	s := p.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limits.MaxPenalty == 0 {
		return
	}
	now := time.Now()
	until := s.owes[p.addr]
	if until.Before(now) {
		until = now
	}
	if until = until.Add(d); until.Sub(now) > s.limits.MaxPenalty {
		until = now.Add(s.limits.MaxPenalty)
	}
	if _, known := s.owes[p.addr]; !known && len(s.owes) >= maxSources {
		s.forgetLocked(now)
	}
	s.owes[p.addr] = until
}

// forgetLocked makes room: it forgets what is over, or else whoever owes least
// of a sample.
func (s *sources) forgetLocked(now time.Time) {
	var least netip.Prefix
	var until time.Time
	seen := 0
	for addr, t := range s.owes {
		if t.Before(now) {
			delete(s.owes, addr)
			return
		}
		if seen == 0 || t.Before(until) {
			least, until = addr, t
		}
		if seen++; seen == 64 {
			break
		}
	}
	delete(s.owes, least)
}

// source is what counts as one source: an IPv4 address, an IPv6 /56, and all
// that have no address of the Internet together.
func source(a net.Addr) netip.Prefix {
	ip := addrPortOf(a).Addr()
	bits := 56
	if ip.Is4() {
		bits = 32
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// addrPortOf is the address of the Internet in a, or the zero one.
func addrPortOf(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
