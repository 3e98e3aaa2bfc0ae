package ssh

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/forward"
)

// A listener is a remote forward.
type listener struct {
	net.Listener
	c    *connection
	kind string // of the channels: "forwarded-tcpip" or "forwarded-streamlocal@openssh.com"
	host string // as the client asked for it, or the path: it finds its forward by it
	port uint32 // that is bound; 0 for a socket
}

// forwardTCP is the payload of tcpip-forward (RFC 4254, section 7.1).
type forwardTCP struct {
	Host string
	Port uint32
}

// forwardUnix is the payload of streamlocal-forward@openssh.com.
type forwardUnix struct{ Path string }

// listenKey is how a forward is found again.
func listenKey(host string, port uint32) string {
	return strconv.FormatUint(uint64(port), 10) + " " + host
}

// listen binds what a request asks for and serves it. The answer holds the port
// if the client left it to us.
func (c *connection) listen(req *xssh.Request) ([]byte, error) {
	if req.Type == "tcpip-forward" {
		var p forwardTCP
		if err := xssh.Unmarshal(req.Payload, &p); err != nil || len(p.Host) > maxAddrText {
			return nil, errBadReq
		}
		if p.Port > maxTCPPort {
			return nil, errBadPort
		}
		return c.listenTCP(p)
	}
	var p forwardUnix
	if err := xssh.Unmarshal(req.Payload, &p); err != nil {
		return nil, errBadReq
	}
	_, err := c.bind("unix", p.Path, &listener{kind: "forwarded-streamlocal@openssh.com", host: p.Path}, c.grant.permitListen == nil)
	return nil, err
}

func (c *connection) listenTCP(p forwardTCP) ([]byte, error) {
	host := p.Host
	switch host {
	case "", "*":
		host = ""
	case "localhost":
		host = "127.0.0.1"
	}
	port := strconv.FormatUint(uint64(p.Port), 10)
	l := &listener{kind: "forwarded-tcpip", host: p.Host, port: p.Port}
	bound, err := c.bind("tcp", net.JoinHostPort(unbracket(host), port), l, permits(c.grant.permitListen, p.Host, p.Port))
	if err != nil || p.Port != 0 {
		return nil, err
	}
	return xssh.Marshal(struct{ Port uint32 }{bound}), nil
}

// bind asks the gate for a listener, and serves it.
func (c *connection) bind(network, address string, l *listener, permitted bool) (port uint32, err error) {
	if err := c.mayForward(permitted); err != nil {
		return 0, err
	}
	c.mu.Lock()
	full := over(len(c.listeners)+1, c.limits.MaxListeners) || c.draining
	c.mu.Unlock()
	if full { // this goroutine alone adds to them
		return 0, &forward.Error{Code: forward.CodeFailed, Reason: "limit MaxListeners " + strconv.Itoa(c.limits.MaxListeners)}
	}
	if l.Listener, err = c.h.Gate.Listen(c.ctx, c.identity(), network, address); err != nil {
		return 0, err
	}
	if ta, ok := l.Addr().(*net.TCPAddr); ok {
		l.port = uint32(ta.Port)
	}
	l.c = c
	key := listenKey(l.host, l.port)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil || c.draining {
		return 0, errors.Join(net.ErrClosed, l.Close())
	}
	c.listeners[key] = l
	safe.Go(&c.wg, func(err error) { c.logPanic(err); _ = l.Close() }, func() {
		l.serve()
		c.forget(key, l)
	})
	return l.port, nil
}

func (c *connection) forget(key string, l *listener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listeners[key] == l {
		delete(c.listeners, key)
	}
}

// cancelListen ends the forward that a request names.
func (c *connection) cancelListen(req *xssh.Request) bool {
	key := ""
	if req.Type == "cancel-tcpip-forward" {
		var p forwardTCP
		if xssh.Unmarshal(req.Payload, &p) != nil {
			return false
		}
		key = listenKey(p.Host, p.Port)
	} else {
		var p forwardUnix
		if xssh.Unmarshal(req.Payload, &p) != nil {
			return false
		}
		key = listenKey(p.Path, 0)
	}
	c.mu.Lock()
	l := c.listeners[key]
	delete(c.listeners, key)
	c.mu.Unlock()
	if l == nil {
		return false
	}
	_ = l.Close() // what was accepted goes on
	return true
}

// closeListeners ends all remote forwards.
func (c *connection) closeListeners() {
	c.mu.Lock()
	list := c.listeners
	c.listeners = make(map[string]*listener)
	c.mu.Unlock()
	for _, l := range list {
		_ = l.Close() // it is given up
	}
}

// acceptPause is the wait after an accept that failed, such as for want of a
// file descriptor.
const acceptPause = 50 * time.Millisecond

// serve opens a channel for each connection, until the listener ends.
func (l *listener) serve() {
	defer func() { _ = l.Close() }() // twice is harmless
	for {
		nc, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || l.c.ctx.Err() != nil {
				return
			}
			select {
			case <-l.c.ctx.Done():
				return
			case <-time.After(acceptPause):
			}
			continue
		}
		if why := l.c.take(false); why != "" {
			_ = nc.Close() // it is one too many
			l.c.refused(l.kind, errors.New(why))
			continue
		}
		safe.Go(&l.c.wg, func(err error) { l.c.logPanic(err); _ = nc.Close() }, func() {
			defer l.c.give(false)
			l.open(nc)
		})
	}
}

// open opens the channel of one connection. It ends with the SSH connection,
// which answers or closes.
func (l *listener) open(nc net.Conn) {
	var payload []byte
	if l.kind == "forwarded-tcpip" {
		origin := addrPortOf(nc.RemoteAddr())
		payload = xssh.Marshal(openTCP{l.host, l.port, originHost(origin), uint32(origin.Port())})
	} else {
		payload = xssh.Marshal(struct{ Path, Reserved string }{l.host, ""})
	}
	ch, reqs, err := l.c.sc.OpenChannel(l.kind, payload)
	if err != nil {
		reset(nc) // the client does not want it, or is gone
		l.c.h.log().LogAttrs(l.c.ctx, slog.LevelDebug, "ssh forwarded channel refused", slog.String("type", l.kind))
		return
	}
	l.c.splice(l.kind, ch, reqs, nc)
}

// reset closes a connection so that its peer sees that nobody has served it.
func reset(nc net.Conn) {
	if tc, ok := nc.(interface{ SetLinger(int) error }); ok {
		_ = tc.SetLinger(0) // Close then sends a reset
	}
	_ = nc.Close() // it is given up
}

func originHost(a netip.AddrPort) string {
	if !a.Addr().IsValid() {
		return "127.0.0.1"
	}
	return a.Addr().String()
}
