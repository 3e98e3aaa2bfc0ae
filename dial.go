package alknet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/alkdev/alknet/internal/session"
)

// Dialling constants.
const (
	defaultFallback  = 300 * time.Millisecond
	defaultKeepAlive = 15 * time.Second
	defaultSessions  = 256
	// nextAddress is how long an address has before the next one of the same
	// name is tried too (RFC 8305, section 5).
	nextAddress = 250 * time.Millisecond
	// udpDeadTime is how long a host is dialled over TCP first after UDP did
	// not answer there.
	udpDeadTime = time.Minute
	// maxUDPDead bounds how many such hosts are remembered.
	maxUDPDead = 1024
	// maxAddresses bounds how many addresses of a name are tried.
	maxAddresses = 16
)

// Dial connects to a service of a peer. It tries QUIC first and TCP beside it
// after Config.DialFallback, on all addresses of the name, and keeps the first
// connection whose other end is proven. It ends with ctx; each attempt has at
// most 10 s.
//
// The error wraps [ErrNoService] if the peer does not serve alpn, and an
// *[Error] with CodeUnauthenticated if another key answered than to.Peer, with
// CodeLimit if the peer refused before the handshake because it is at a limit.
// What a peer decides after the handshake (its access rules, per-peer limits,
// draining) is the *Error, with Remote set, of the first use of the connection:
// in TLS 1.3 the dialling side is done first.
func (e *Endpoint) Dial(ctx context.Context, to Addr, alpn string) (*Conn, error) {
	c, err := e.dial(ctx, to, alpn)
	if err != nil {
		return nil, fmt.Errorf("alknet: dial %s for %q: %w", to, alpn, err)
	}
	return c, nil
}

func (e *Endpoint) dial(ctx context.Context, to Addr, alpn string) (*Conn, error) {
	over, err := to.check(alpn, QUIC|Mux)
	if err != nil {
		return nil, err
	}
	if err := e.enter(); err != nil {
		return nil, err
	}
	defer e.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	addrs, err := resolve(ctx, to.HostPort)
	if err != nil {
		return nil, err
	}
	d := &dialer{e: e, to: to, alpn: alpn, over: over}
	s, won, err := e.race(ctx, d.plan(addrs))
	if err != nil {
		if e.ctx.Err() != nil {
			return nil, net.ErrClosed
		}
		return nil, err
	}
	return e.adopt(s, to, alpn, won)
}

// enter counts a dial, for Close to wait for.
func (e *Endpoint) enter() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return net.ErrClosed
	}
	e.wg.Add(1)
	return nil
}

// check refuses an address that cannot be dialled and returns its transports.
func (a Addr) check(alpn string, def Transport) (Transport, error) {
	if a.Via != "" {
		return 0, fmt.Errorf("through a relay: %w", errors.ErrUnsupported)
	}
	if alpn == "" || len(alpn) > 255 {
		return 0, errors.New("an ALPN has 1 to 255 bytes")
	}
	over := a.Over
	if over == 0 {
		over = def
	}
	return over, over.check()
}

// adopt makes a Conn of a dialled session and remembers it for Close.
func (e *Endpoint) adopt(s session.Session, to Addr, alpn string, over Transport) (*Conn, error) {
	id := Identity{ID: to.serverName()}
	if !to.Peer.IsZero() {
		id = Identity{ID: to.Peer.String(), Peer: to.Peer}
	}
	c := newConn(s, alpn, over, id)
	if !e.cfg.Anonymous && !to.Peer.IsZero() { // by name no certificate is sent
		c.local = e.id
	}
	e.mu.Lock()
	closed := e.closed
	if !closed {
		e.dialled[c] = struct{}{}
		c.dialled = &dialledConn{e: e, withdraw: s.OnDone(func() { e.forget(c) })}
	}
	e.mu.Unlock()
	if closed {
		_ = c.CloseWithError(CodeShutdown, "")
		return nil, net.ErrClosed
	}
	return c, nil
}

// A dialledConn is how an Endpoint learns that a connection it dialled has ended.
type dialledConn struct {
	e        *Endpoint
	withdraw func() bool // of what does it in a goroutine when the peer, or time, ends it
}

// forget ends what adopt began.
func (e *Endpoint) forget(c *Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.dialled, c)
}

// serverName is the name a peer dialled without a key must prove.
func (a Addr) serverName() string {
	if a.ServerName != "" {
		return a.ServerName
	}
	host, _, err := net.SplitHostPort(a.HostPort)
	if err != nil {
		return a.HostPort
	}
	return host
}

// resolve returns the addresses of hostport, the families in turn (RFC 8305,
// section 4).
func resolve(ctx context.Context, hostport string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", port, err)
	}
	if host == "" {
		host = "localhost"
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("%q has no address", host)
	}
	var first, second []netip.AddrPort
	for _, ip := range ips[:min(len(ips), maxAddresses)] {
		ap := netip.AddrPortFrom(ip.Unmap(), uint16(n))
		if ap.Addr().Is4() == ips[0].Unmap().Is4() {
			first = append(first, ap)
		} else {
			second = append(second, ap)
		}
	}
	var all []netip.AddrPort
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			all = append(all, first[i])
		}
		if i < len(second) {
			all = append(all, second[i])
		}
	}
	return all, nil
}

// A dialer makes the connections of one Dial.
type dialer struct {
	e    *Endpoint
	to   Addr
	alpn string
	over Transport
}

// tls is the configuration of one attempt. With a key pinned no server name is
// sent: the server would answer with the certificate of that name.
func (d *dialer) tls() *tls.Config {
	c := session.ClientTLS{
		ALPN:  d.alpn,
		Roots: d.e.cfg.Roots,
	}
	if d.e.cache != nil {
		c.Cache = prefixCache{d.e.cache, d.to.Peer.String() + " " + d.alpn + " "}
	}
	if d.to.Peer.IsZero() {
		c.ServerName = d.to.serverName()
		return c.Config()
	}
	c.Verify = func(leaf *x509.Certificate) error {
		got, err := certificatePeer(leaf)
		if err != nil {
			return &Error{Code: CodeUnauthenticated, Reason: "the peer showed no node key", Err: err}
		}
		if got != d.to.Peer {
			return &Error{Code: CodeUnauthenticated, Reason: fmt.Sprintf("the key %s answered, not %s", got, d.to.Peer)}
		}
		return nil
	}
	if !d.e.cfg.Anonymous {
		c.Certificate = func() (*tls.Certificate, error) { return d.e.cert, nil }
	}
	return c.Config()
}

// prefixCache keeps the sessions of different peers and services apart, which
// crypto/tls would file under the same address.
type prefixCache struct {
	tls.ClientSessionCache
	prefix string
}

func (c prefixCache) Get(key string) (*tls.ClientSessionState, bool) {
	return c.ClientSessionCache.Get(c.prefix + key)
}

func (c prefixCache) Put(key string, cs *tls.ClientSessionState) {
	c.ClientSessionCache.Put(c.prefix+key, cs)
}

// quic dials one address over QUIC.
func (d *dialer) quic(ctx context.Context, to netip.AddrPort) (session.Session, error) {
	udp, err := d.e.udpFor(to.Addr())
	if err != nil {
		return nil, err
	}
	p := session.Params{
		HandshakeTimeout: defaultHandshakeTimeout,
		IdleTimeout:      defaultIdleTimeout,
		KeepAlive:        d.e.keepAlive(),
		MaxStreams:       defaultMaxStreams,
		MaxConnWindow:    session.DefaultConnWindow,
	}
	if d.alpn == "h3" {
		p.UniStreams = h3UniStreams
	}
	return udp.Dial(ctx, net.UDPAddrFromAddrPort(to), d.tls(), p)
}

// tcp dials one address over TCP.
func (d *dialer) tcp(ctx context.Context, to netip.AddrPort) (session.Session, error) {
	var nd net.Dialer
	nc, err := nd.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return d.handshake(ctx, nc)
}

// handshake runs TLS in nc, which it takes over.
func (d *dialer) handshake(ctx context.Context, nc net.Conn) (session.Session, error) {
	watch := session.Watch(nc)
	tc := tls.Client(watch, d.tls())
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = watch.Close()
		return nil, err
	}
	if d.over&Raw != 0 {
		return session.NewRaw(tc, watch, session.RawOpens), nil
	}
	s, err := session.NewMux(tc, watch, true, session.MuxConfig{
		MaxStreams: defaultMaxStreams, KeepAlive: d.e.keepAlive(), MaxBytes: defaultConnBytes,
	})
	if err != nil {
		_ = watch.Close()
	}
	return s, err
}

func (e *Endpoint) keepAlive() time.Duration { return orDefault(e.cfg.KeepAlive, defaultKeepAlive) }

// DialConn connects to a service of a peer inside a stream that exists already,
// with TLS end to end: relays, proxies, WebSockets, SSH channels. to.Over is
// Mux or Raw; 0: Mux. It takes nc over, also when it fails. Errors are Dial's.
func (e *Endpoint) DialConn(ctx context.Context, nc net.Conn, to Addr, alpn string) (*Conn, error) {
	c, err := e.dialConn(ctx, nc, to, alpn)
	if err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("alknet: dial %s for %q inside a stream: %w", to, alpn, err)
	}
	return c, nil
}

func (e *Endpoint) dialConn(ctx context.Context, nc net.Conn, to Addr, alpn string) (*Conn, error) {
	to.Via = "" // nc is the way
	over, err := to.check(alpn, Mux)
	if err != nil {
		return nil, err
	}
	over &^= QUIC
	if over == 0 {
		return nil, fmt.Errorf("QUIC inside a stream: %w", errors.ErrUnsupported)
	}
	ctx, cancel := context.WithTimeout(ctx, defaultHandshakeTimeout)
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	d := &dialer{e: e, to: to, alpn: alpn, over: over}
	s, err := d.handshake(ctx, nc)
	if err != nil {
		return nil, dialError(err)
	}
	return e.adopt(s, to, alpn, over)
}

// udpFor returns the socket to dial ip from: the one that accepts, unless it is
// bound to an address from which ip cannot be reached.
func (e *Endpoint) udpFor(ip netip.Addr) (*session.UDP, error) {
	if e.udp != nil && reaches(e.udp.LocalAddr(), ip) {
		return e.udp, nil
	}
	network, addr := "udp4", "0.0.0.0:0"
	if ip.Is6() {
		network, addr = "udp6", "[::]:0"
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, net.ErrClosed
	}
	if u := e.dialUDP[network]; u != nil {
		return u, nil
	}
	pc, err := net.ListenPacket(network, addr)
	if err != nil {
		return nil, err
	}
	u := session.NewUDP(pc, e.resetKey())
	e.dialUDP[network] = u
	return u, nil
}

// reaches reports whether a socket bound to local can send to ip.
func reaches(local net.Addr, ip netip.Addr) bool {
	ua, ok := local.(*net.UDPAddr)
	if !ok {
		return true // the caller's own kind of socket
	}
	bound, _ := netip.AddrFromSlice(ua.IP)
	bound = bound.Unmap()
	if !bound.IsValid() || bound.IsUnspecified() {
		return bound.Is6() || !bound.IsValid() || ip.Is4() // a socket on :: has both families
	}
	return bound.Is4() == ip.Is4() && bound.IsLoopback() == ip.IsLoopback()
}
