package alknet

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alkdev/alknet/internal/budget"
)

// Limits bound what peers can make a Router hold. In every field zero is the
// default and negative is no limit. They are read when a Router first serves
// a connection.
type Limits struct {
	// MaxConns is how many connections there may be, counted from accept. 0: 16,384.
	MaxConns int
	// MaxConnsPerPeer is how many of them one known peer may have. 0: 64.
	MaxConnsPerPeer int
	// MaxHandshakes is how many connections may be without an identity yet.
	// From half of it on, QUIC clients must prove their address first. 0: 512.
	MaxHandshakes int
	// MaxHandshakesPerAddr is the same for one IPv4 address or IPv6 /56. 0: 16.
	MaxHandshakesPerAddr int
	// MaxStreams is how many streams a peer may have open on a connection, and
	// how many handlers of a StreamFunc run for it. A peer that wants more
	// waits. 0: 256.
	MaxStreams int
	// UnauthenticatedBytes is the memory for peers without an identity,
	// anonymous ones included. 0: 64 MiB.
	UnauthenticatedBytes int64
	// ConnBytes is the memory for received and unread data of one connection;
	// at least 256 KiB are used. On Mux it also bounds the streams, each of
	// which may hold 256 KiB. 0: 16 MiB.
	ConnBytes int64
	// TotalBytes is the memory for all peers. 0: a quarter of the process's
	// memory limit (GOMEMLIMIT, cgroup or RAM).
	TotalBytes int64
	// HandshakeTimeout is the time from the first packet to an identity. 0: 10 s.
	HandshakeTimeout time.Duration
	// IdleTimeout ends a connection on which nothing moved for so long. 0: 60 s.
	IdleTimeout time.Duration
}

// The defaults of Limits.
const (
	defaultMaxConns             = 16384
	defaultMaxConnsPerPeer      = 64
	defaultMaxHandshakes        = 512
	defaultMaxHandshakesPerAddr = 16
	defaultMaxStreams           = 256
	defaultUnauthenticatedBytes = 64 << 20
	defaultConnBytes            = 16 << 20
	defaultHandshakeTimeout     = 10 * time.Second
	defaultIdleTimeout          = time.Minute
	fallbackTotalBytes          = 1 << 30 // where the machine's memory is not known
	totalShare                  = 4       // TotalBytes is the memory limit divided by this
)

// What a connection is charged for its own state, in bytes, before any data: a
// little more than was measured on an idle one.
const (
	quicCost = 64 << 10
	tcpCost  = 32 << 10
)

// orDefault returns def for a zero v, and 0 ("no limit") for a negative one.
func orDefault[T ~int | ~int64](v, def T) T {
	if v == 0 {
		return def
	}
	return max(v, 0)
}

// withDefaults resolves the zero fields; 0 then means no limit.
func (l Limits) withDefaults() Limits {
	return Limits{
		MaxConns:             orDefault(l.MaxConns, defaultMaxConns),
		MaxConnsPerPeer:      orDefault(l.MaxConnsPerPeer, defaultMaxConnsPerPeer),
		MaxHandshakes:        orDefault(l.MaxHandshakes, defaultMaxHandshakes),
		MaxHandshakesPerAddr: orDefault(l.MaxHandshakesPerAddr, defaultMaxHandshakesPerAddr),
		MaxStreams:           orDefault(l.MaxStreams, defaultMaxStreams),
		UnauthenticatedBytes: orDefault(l.UnauthenticatedBytes, defaultUnauthenticatedBytes),
		ConnBytes:            orDefault(l.ConnBytes, defaultConnBytes),
		TotalBytes:           orDefault(l.TotalBytes, memoryLimit()/totalShare),
		HandshakeTimeout:     orDefault(l.HandshakeTimeout, defaultHandshakeTimeout),
		IdleTimeout:          orDefault(l.IdleTimeout, defaultIdleTimeout),
	}
}

// maxStreams is MaxStreams as a number: no limit is more than anyone opens.
func (l Limits) maxStreams() int {
	if l.MaxStreams == 0 {
		return 1 << 20
	}
	return l.MaxStreams
}

// memoryLimit is what the process may use, in bytes: GOMEMLIMIT, else the
// cgroup's limit, else the machine's RAM.
func memoryLimit() int64 {
	limit := debug.SetMemoryLimit(-1)
	for _, name := range [...]string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(name); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
				limit = min(limit, n)
			}
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib int64
		if _, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kib); err == nil {
			limit = min(limit, kib<<10)
		}
	}
	if limit == math.MaxInt64 {
		limit = fallbackTotalBytes * totalShare
	}
	return limit
}

// A ledger counts what connections hold against the limits.
type ledger struct {
	limits Limits // with defaults; 0: none
	total  *budget.Budget
	unauth *budget.Budget

	mu         sync.Mutex
	conns      int                  // guarded by mu
	handshakes int                  // guarded by mu
	perAddr    map[netip.Prefix]int // guarded by mu; handshakes
	perPeer    map[string]int       // guarded by mu; connections
}

func newLedger(l Limits) *ledger {
	l = l.withDefaults()
	limit := func(n int64) int64 {
		if n == 0 {
			return math.MaxInt64
		}
		return n
	}
	total := budget.New("limits.total_bytes", limit(l.TotalBytes), nil)
	return &ledger{
		limits:  l,
		total:   total,
		unauth:  budget.New("limits.unauthenticated_bytes", limit(l.UnauthenticatedBytes), total),
		perAddr: make(map[netip.Prefix]int),
		perPeer: make(map[string]int),
	}
}

// over reports whether n more than max; max 0 is no limit.
func over(n, max int) bool { return max > 0 && n > max }

// A claim is what one connection holds, from accept to its end. Each part is
// given back once.
type claim struct {
	l      *ledger
	addr   netip.Prefix
	cost   int64
	begun  time.Time
	mu     sync.Mutex
	alpn   string // what its handshake was told
	shake  bool   // counts as a handshake
	anon   bool   // cost is charged to the unauthenticated
	known  bool   // cost is charged to the total alone
	peer   string // counts for this peer
	closed bool
}

// begin counts a new connection from remote, or refuses it.
func (l *ledger) begin(remote net.Addr, cost int64) (*claim, error) {
	c := &claim{l: l, addr: prefix(remote), cost: cost, begun: time.Now(), shake: true}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch lim := l.limits; {
	case over(l.conns+1, lim.MaxConns):
		return nil, limitError("max_conns", int64(lim.MaxConns))
	case over(l.handshakes+1, lim.MaxHandshakes):
		return nil, limitError("max_handshakes", int64(lim.MaxHandshakes))
	case c.addr.IsValid() && over(l.perAddr[c.addr]+1, lim.MaxHandshakesPerAddr):
		return nil, limitError("max_handshakes_per_addr", int64(lim.MaxHandshakesPerAddr))
	}
	if err := l.unauth.Reserve(cost); err != nil {
		return nil, budgetError(err)
	}
	c.anon = true
	l.conns++
	l.handshakes++
	if c.addr.IsValid() {
		l.perAddr[c.addr]++
	}
	return c, nil
}

// prefix is what counts as one address: an IPv4 address, an IPv6 /56. Invalid
// for addresses that are not of the Internet.
func prefix(a net.Addr) netip.Prefix {
	var ip netip.Addr
	switch a := a.(type) {
	case *net.UDPAddr:
		ip = a.AddrPort().Addr()
	case *net.TCPAddr:
		ip = a.AddrPort().Addr()
	}
	ip = ip.Unmap().WithZone("")
	if !ip.IsValid() {
		return netip.Prefix{}
	}
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

// crowded reports whether clients must prove their address first.
func (l *ledger) crowded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limits.MaxHandshakes > 0 && l.handshakes >= l.limits.MaxHandshakes/2
}

// identified ends the handshake's share and counts the connection for its peer;
// key "" is an anonymous one.
func (c *claim) identified(key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.endHandshakeLocked()
	if key == "" {
		return nil
	}
	if err := c.movePeerLocked(key); err != nil {
		return err
	}
	c.l.unauth.Release(c.cost)
	c.anon = false
	if err := c.l.total.Reserve(c.cost); err != nil {
		return budgetError(err)
	}
	c.known = true
	return nil
}

func (c *claim) movePeerLocked(key string) error {
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if over(l.perPeer[key]+1, l.limits.MaxConnsPerPeer) {
		return limitError("max_conns_per_peer", int64(l.limits.MaxConnsPerPeer))
	}
	l.perPeer[key]++
	c.peer = key
	return nil
}

func (c *claim) endHandshakeLocked() {
	if !c.shake {
		return
	}
	c.shake = false
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handshakes--
	if c.addr.IsValid() {
		if l.perAddr[c.addr]--; l.perAddr[c.addr] == 0 {
			delete(l.perAddr, c.addr)
		}
	}
}

// close gives everything back; idempotent.
func (c *claim) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	c.endHandshakeLocked()
	switch {
	case c.anon:
		c.l.unauth.Release(c.cost)
	case c.known:
		c.l.total.Release(c.cost)
	}
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns--
	if c.peer != "" {
		if l.perPeer[c.peer]--; l.perPeer[c.peer] == 0 {
			delete(l.perPeer, c.peer)
		}
	}
}

func (c *claim) setALPN(alpn string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alpn = alpn
}

func (c *claim) getALPN() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alpn
}

// grow charges n bytes more to the connection, until it ends.
func (c *claim) grow(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	b := c.l.total
	if c.anon {
		b = c.l.unauth
	}
	if b.Reserve(n) != nil {
		return false
	}
	c.cost += n
	return true
}
