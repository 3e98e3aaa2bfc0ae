package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"

	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/forward"
)

// maxPending is how many connections of a remote listener may wait for Accept;
// more are refused, so that they do not hold up the rest of the connection.
const maxPending = 64

// DialContext connects from the server: network is "tcp", address "host:port",
// or "unix", the path of a socket. The connection has CloseWrite and no
// deadlines. A refusal is a *[forward.Error].
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	kind, payload, err := dialPayload(network, address)
	if err != nil {
		return nil, err
	}
	ch, reqs, err := c.open(ctx, kind, payload)
	if err != nil {
		return nil, err
	}
	return c.channelConn(ch, reqs, addr{network, address})
}

func dialPayload(network, address string) (kind string, payload []byte, err error) {
	switch network {
	case "tcp":
		host, port, err := splitHostPort(address)
		if err != nil {
			return "", nil, err
		}
		return "direct-tcpip", xssh.Marshal(openTCP{host, port, "127.0.0.1", 0}), nil
	case "unix":
		return "direct-streamlocal@openssh.com", xssh.Marshal(openUnix{Path: address}), nil
	}
	return "", nil, &forward.Error{Code: forward.CodeCommand, Reason: "SSH forwards tcp and unix only"}
}

func splitHostPort(address string) (string, uint32, error) {
	host, service, err := net.SplitHostPort(address)
	if err == nil {
		port, perr := strconv.ParseUint(service, 10, 16)
		if perr == nil {
			return host, uint32(port), nil
		}
	}
	return "", 0, errBadPort
}

// channelConn is a channel as a connection; its requests mean nothing.
func (c *Client) channelConn(ch xssh.Channel, reqs <-chan *xssh.Request, remote net.Addr) (net.Conn, error) {
	if err := c.goes(func() { xssh.DiscardRequests(reqs) }); err != nil {
		_ = ch.Close() // the connection has ended
		return nil, err
	}
	return &chanConn{counted: &counted{Channel: ch, nc: c.nc}, local: c.conn.LocalAddr(), remote: remote}, nil
}

// Listen accepts connections at the server: network is "tcp", address
// "ip:port", or "unix", the path of a socket. An empty host is every address,
// port 0 any free one. A refusal is a *[forward.Error].
func (c *Client) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	l := &remoteListener{c: c, network: network, conns: make(chan net.Conn, maxPending), donc: make(chan struct{})}
	kind := "tcpip-forward"
	var payload []byte
	switch network {
	case "tcp":
		var err error
		if l.host, l.port, err = splitHostPort(address); err != nil {
			return nil, err
		}
		payload = xssh.Marshal(forwardTCP{l.host, l.port})
	case "unix":
		kind, l.host = "streamlocal-forward@openssh.com", address
		payload = xssh.Marshal(forwardUnix{address})
	default:
		return nil, &forward.Error{Code: forward.CodeCommand, Reason: "SSH forwards tcp and unix only"}
	}
	if err := c.request(ctx, kind, payload, l); err != nil {
		return nil, err
	}
	return l, nil
}

// request registers l, unless ctx ends first.
func (c *Client) request(ctx context.Context, kind string, payload []byte, l *remoteListener) error {
	done := make(chan error, 1)
	if err := c.goes(func() { done <- c.register(kind, payload, l) }); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	if err := c.goes(func() {
		if <-done == nil {
			_ = l.Close() // too late
		}
	}); err != nil {
		return err
	}
	return ctx.Err()
}

// register sends the request. With a known port the listener is there before
// the answer, since the first connection may come with it.
func (c *Client) register(kind string, payload []byte, l *remoteListener) error {
	if l.network == "unix" || l.port != 0 {
		if !c.addListener(l) {
			return fmt.Errorf("ssh: listen: %w", errInUse)
		}
	}
	ok, answer, err := c.conn.SendRequest(kind, true, payload)
	switch {
	case err != nil:
		err = c.lost()
	case !ok:
		err = &forward.Error{Code: forward.CodeDenied, Reason: "the server does not listen there"}
	case l.network == "tcp" && l.port == 0:
		var p struct{ Port uint32 }
		if err = xssh.Unmarshal(answer, &p); err != nil || p.Port == 0 || p.Port > maxTCPPort {
			err = errors.New("ssh: listen: the server does not say which port")
			break
		}
		l.port = p.Port
		if !c.addListener(l) {
			err = fmt.Errorf("ssh: listen: %w", errInUse)
		}
	}
	if err != nil {
		c.removeListener(l)
	}
	return err
}

var errInUse = errors.New("this client listens there already")

func (c *Client) addListener(l *remoteListener) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := listenKey(l.host, l.port)
	if c.listeners == nil || c.listeners[key] != nil {
		return false
	}
	c.listeners[key] = l
	return true
}

func (c *Client) removeListener(l *remoteListener) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := listenKey(l.host, l.port)
	if c.listeners[key] != l {
		return false
	}
	delete(c.listeners, key)
	return true
}

// opened hands a channel that the server opens to its listener. It runs in the
// loop that reads the connection, and does nothing that waits.
func (c *Client) opened(ch xssh.NewChannel) {
	key := ""
	var origin net.Addr = addr{"unix", ""}
	switch ch.ChannelType() {
	case "forwarded-tcpip":
		var p openTCP
		if xssh.Unmarshal(ch.ExtraData(), &p) == nil {
			key = listenKey(p.Host, p.Port)
			origin = tcpAddr(p.OriginHost, p.OriginPort)
		}
	case "forwarded-streamlocal@openssh.com":
		var p struct{ Path, Reserved string }
		if xssh.Unmarshal(ch.ExtraData(), &p) == nil {
			key = listenKey(p.Path, 0)
		}
	case "auth-agent@openssh.com":
		c.openedAgent(ch)
		return
	}
	c.mu.Lock()
	l := c.listeners[key]
	c.mu.Unlock()
	if l == nil {
		_ = ch.Reject(xssh.Prohibited, "not asked for")
		return
	}
	l.opened(ch, origin)
}

// tcpAddr is an address as the server says it.
func tcpAddr(host string, port uint32) net.Addr {
	if ip, err := netip.ParseAddr(host); err == nil && port <= maxTCPPort {
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(port)))
	}
	return addr{"tcp", net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))}
}

// openedAgent splices a channel to the agent.
func (c *Client) openedAgent(ch xssh.NewChannel) {
	if c.cfg.Agent == nil {
		_ = ch.Reject(xssh.Prohibited, "not asked for")
		return
	}
	safe.Go(&c.wg, c.fail, func() {
		nc, err := c.cfg.Agent()
		if err != nil {
			_ = ch.Reject(xssh.ConnectionFailed, "no agent")
			return
		}
		accepted, reqs, err := ch.Accept()
		if err != nil {
			_ = nc.Close() // the connection has ended
			return
		}
		safe.Go(&c.wg, c.fail, func() { xssh.DiscardRequests(reqs) })
		conn := &chanConn{counted: &counted{Channel: accepted, nc: c.nc}, local: nc.LocalAddr(), remote: nc.RemoteAddr()}
		_, _, _ = forward.Splice(c.ctx, conn, nc) // both ends see how it ended
	})
}

// A remoteListener is a listener at the server.
type remoteListener struct {
	c       *Client
	network string
	host    string // or the path
	port    uint32
	conns   chan net.Conn
	donc    chan struct{} // closed when no more are accepted
	once    sync.Once
}

// opened queues a channel, or refuses it.
func (l *remoteListener) opened(ch xssh.NewChannel, origin net.Addr) {
	if len(l.conns) == cap(l.conns) {
		_ = ch.Reject(xssh.ResourceShortage, "too many wait")
		return
	}
	accepted, reqs, err := ch.Accept()
	if err != nil {
		return // the connection has ended
	}
	safe.Go(&l.c.wg, l.c.fail, func() { xssh.DiscardRequests(reqs) })
	conn := &chanConn{counted: &counted{Channel: accepted, nc: l.c.nc}, local: l.Addr(), remote: origin}
	select {
	case <-l.donc:
		_ = conn.Close() // nobody will accept it
	default:
		l.conns <- conn // there is room: this goroutine alone adds
	}
}

// Accept waits for a connection.
func (l *remoteListener) Accept() (net.Conn, error) {
	select {
	case <-l.donc:
	default:
		select {
		case c := <-l.conns:
			return c, nil
		case <-l.donc:
		}
	}
	return nil, fmt.Errorf("ssh: accept: %w", net.ErrClosed)
}

// Close ends the listener, at the server too. What was accepted goes on.
func (l *remoteListener) Close() error {
	if !l.c.removeListener(l) {
		l.ended()
		return nil
	}
	l.ended()
	kind, payload := "cancel-tcpip-forward", xssh.Marshal(forwardTCP{l.host, l.port})
	if l.network == "unix" {
		kind, payload = "cancel-streamlocal-forward@openssh.com", xssh.Marshal(forwardUnix{l.host})
	}
	if _, _, err := l.c.conn.SendRequest(kind, false, payload); err != nil {
		return l.c.lost()
	}
	return nil
}

// ended wakes Accept, and closes what nobody will accept.
func (l *remoteListener) ended() {
	l.once.Do(func() { close(l.donc) })
	for {
		select {
		case c := <-l.conns:
			_ = c.Close() // nobody will accept it
		default:
			return
		}
	}
}

// Addr is where it listens at the server.
func (l *remoteListener) Addr() net.Addr {
	if l.network == "unix" {
		return &net.UnixAddr{Name: l.host, Net: "unix"}
	}
	return tcpAddr(l.host, l.port)
}
