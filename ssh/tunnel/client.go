package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/forward"
)

// maxPending is how many connections of a listener may wait for Accept; more
// are refused.
const maxPending = 64

// A Client is a connection to a node's tunnels. It is a [forward.Link]. All
// methods may be called concurrently.
type Client struct {
	conn *alknet.Conn
	ctx  context.Context // ends with the client
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu        sync.Mutex
	over      bool                 // guarded by mu
	next      uint32               // guarded by mu; the last id
	listeners map[uint32]*listener // guarded by mu
}

var _ forward.Link = (*Client)(nil)

// Dial connects to the tunnel service of a peer.
func Dial(ctx context.Context, ep *alknet.Endpoint, to alknet.Addr) (*Client, error) {
	conn, err := ep.Dial(ctx, to, ALPN)
	if err != nil {
		return nil, fmt.Errorf("tunnel: dial: %w", err)
	}
	return NewClient(conn), nil
}

// NewClient makes a Client of a connection, which it takes over.
func NewClient(conn *alknet.Conn) *Client {
	c := &Client{conn: conn, listeners: make(map[uint32]*listener)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	safe.Go(&c.wg, c.fail, c.accept)
	return c
}

// fail ends the client for a panic.
func (c *Client) fail(error) { _ = c.conn.CloseWithError(alknet.CodeInternal, "") }

// accept hands streams that the peer opens to their listeners.
func (c *Client) accept() {
	for {
		s, err := c.conn.AcceptStream(c.ctx)
		if err != nil {
			break
		}
		safe.Go(&c.wg, func(error) { s.Reset(alknet.CodeInternal) }, func() { c.accepted(s) })
	}
	c.mu.Lock()
	c.over = true
	list := c.listeners
	c.listeners = nil
	c.mu.Unlock()
	c.stop()
	for _, l := range list {
		l.ended()
	}
}

// accepted reads the header of a stream that the peer has opened.
func (c *Client) accepted(s *alknet.Stream) {
	_ = s.SetReadDeadline(time.Now().Add(headerTimeout))
	hd, err := readHeader(s)
	if err != nil || hd.kind != kindAccepted {
		s.Reset(alknet.CodeProtocol)
		return
	}
	_ = s.SetReadDeadline(time.Time{})
	c.mu.Lock()
	l := c.listeners[hd.id]
	c.mu.Unlock()
	if l == nil || l.network != networks[hd.network] {
		_, _ = s.Write(answer{code: forward.CodeDenied, id: hd.id, text: "not asked for"}.append(nil)) // the peer may be gone
		_ = s.Close()
		return
	}
	if _, err := s.Write(answer{id: hd.id}.append(nil)); err != nil {
		s.Reset(alknet.CodeInternal)
		return
	}
	l.offer(&flow{Stream: s, remote: address(hd.network, hd.address)})
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.conn.Done() }

// Close ends the connection, with everything that runs over it.
func (c *Client) Close() error {
	err := c.conn.Close()
	c.stop()
	c.wg.Wait()
	if err != nil {
		return fmt.Errorf("tunnel: close: %w", err)
	}
	return nil
}

// DialContext connects from the peer: network is "tcp" or "udp", address
// "host:port"; "unix", the path of a socket; or "name", a published name. On
// udp one Read or Write is one datagram, and datagrams may be lost. The error is
// a *[forward.Error].
func (c *Client) DialContext(ctx context.Context, network, target string) (net.Conn, error) {
	number := networkNumber(network)
	if number == 0 {
		return nil, &forward.Error{Code: forward.CodeCommand, Reason: "unknown network"}
	}
	s, _, err := ask(ctx, c.conn, header{kind: kindDial, network: number, address: target})
	if err != nil {
		return nil, err
	}
	if network == "udp" {
		return c.udp(s, address(number, target))
	}
	return &flow{Stream: s, local: addr{network: network}, remote: address(number, target)}, nil
}

// udp makes a stream a connection of datagrams.
func (c *Client) udp(s *alknet.Stream, remote net.Addr) (net.Conn, error) {
	u := &udpConn{Stream: s, in: bufio.NewReader(s), q: newQueue(), remote: remote}
	if !c.goes(func() {
		stop := context.AfterFunc(c.ctx, u.q.close)
		defer stop()
		if u.q.drain(s) != nil {
			s.Reset(resetClosed)
		}
	}) {
		return nil, &forward.Error{Code: forward.CodeNetUnreachable, Reason: "the tunnel is down"}
	}
	return u, nil
}

// goes runs f with the client, unless it has ended.
func (c *Client) goes(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	safe.Go(&c.wg, c.fail, f)
	return true
}

// Listen accepts connections at the peer: network is "tcp", address "ip:port",
// or "unix", the path of a socket. The error is a *[forward.Error].
func (c *Client) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if network != "tcp" && network != "unix" {
		return nil, &forward.Error{Code: forward.CodeCommand, Reason: "tunnels listen on tcp and unix only"}
	}
	return c.listen(ctx, kindListen, network, address)
}

// Publish offers a name at the peer, [a-z0-9-]{1,63}, which others dial with
// network "name". No port is opened. The error is a *[forward.Error].
func (c *Client) Publish(ctx context.Context, name string) (net.Listener, error) {
	return c.listen(ctx, kindPublish, "name", name)
}

func (c *Client) listen(ctx context.Context, k kind, network, target string) (net.Listener, error) {
	l := &listener{c: c, network: network, conns: make(chan net.Conn, maxPending), donc: make(chan struct{})}
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return nil, &forward.Error{Code: forward.CodeNetUnreachable, Reason: "the tunnel is down"}
	}
	c.next++
	l.id = c.next
	c.listeners[l.id] = l // the first connection may be here before the answer
	c.mu.Unlock()
	number := networkNumber(network)
	s, a, err := ask(ctx, c.conn, header{kind: k, network: number, id: l.id, address: target})
	if err != nil {
		_ = l.Close() // it never was
		return nil, err
	}
	l.setStream(s, address(number, a.text))
	if !c.goes(func() {
		_, _ = s.Read(make([]byte, 1)) // its end is that of the listener
		_ = l.Close()
	}) {
		_ = l.Close()
		return nil, &forward.Error{Code: forward.CodeNetUnreachable, Reason: "the tunnel is down"}
	}
	return l, nil
}

// A listener is one at the peer.
type listener struct {
	c       *Client
	network string
	id      uint32
	conns   chan net.Conn
	donc    chan struct{} // closed when no more are accepted
	once    sync.Once

	mu   sync.Mutex
	s    *alknet.Stream // guarded by mu; nil until the answer is here
	addr net.Addr       // set with s, before anybody else has the listener
	dead bool           // guarded by mu
}

func (l *listener) setStream(s *alknet.Stream, a net.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s, l.addr = s, a
}

// offer queues a connection, or closes it.
func (l *listener) offer(f *flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		f.Reset(resetClosed)
		return
	}
	f.local = l.addr
	select {
	case l.conns <- f:
	default:
		f.Reset(alknet.CodeLimit)
	}
}

// Accept waits for a connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c, ok := <-l.conns:
		if ok {
			return c, nil
		}
	case <-l.donc:
	}
	return nil, fmt.Errorf("tunnel: accept: %w", net.ErrClosed)
}

// Close ends the listener, at the peer too. What was accepted goes on.
func (l *listener) Close() error {
	l.c.mu.Lock()
	delete(l.c.listeners, l.id)
	l.c.mu.Unlock()
	l.ended()
	return nil
}

// ended wakes Accept, and closes what nobody will accept.
func (l *listener) ended() {
	l.once.Do(func() { close(l.donc) })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	if l.s != nil {
		_ = l.s.CloseWrite() // the peer ends its side, or is gone
	}
	for {
		select {
		case c := <-l.conns:
			_ = c.Close() // nobody will accept it
		default:
			return
		}
	}
}

// Addr is where it listens at the peer.
func (l *listener) Addr() net.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.addr
}

// A flow is a stream with the addresses of its ends at the peer.
type flow struct {
	*alknet.Stream
	local, remote net.Addr
}

func (f *flow) LocalAddr() net.Addr {
	if f.local == nil {
		return f.Stream.LocalAddr()
	}
	return f.local
}

func (f *flow) RemoteAddr() net.Addr { return f.remote }

// address is what the peer says as an address.
func address(network uint8, text string) net.Addr {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		switch networks[network] {
		case "tcp":
			return net.TCPAddrFromAddrPort(ap)
		case "udp":
			return net.UDPAddrFromAddrPort(ap)
		}
	}
	return addr{networks[network], text}
}

// An addr is an address that is only a text.
type addr struct{ network, text string }

func (a addr) Network() string { return a.network }

func (a addr) String() string {
	if a.text == "" {
		return a.network
	}
	if printable.Quote(a.text) == `"`+a.text+`"` {
		return a.text
	}
	return printable.Quote(a.text)
}

// errTooLong is a datagram that no datagram is.
var errTooLong = errors.New("tunnel: a datagram has at most 65535 bytes")

// isRefused is how a socket says that an earlier datagram was not taken.
func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// resetPolicyOr is the code of a flow of datagrams whose socket has failed.
func resetPolicyOr(err error) alknet.ErrorCode {
	if e, ok := errors.AsType[*forward.Error](err); ok && e.Code == forward.CodeDenied {
		return resetPolicy
	}
	return resetClosed
}
