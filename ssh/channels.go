package ssh

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/forward"
)

var (
	errNoGate  = &forward.Error{Code: forward.CodeDenied, Reason: "no forwards here"}
	errByLogin = &forward.Error{Code: forward.CodeDenied, Reason: "the login does not permit it"}
	errBadPort = &forward.Error{Code: forward.CodeAddress, Reason: "a port is a number from 1 to 65535"}
	errBadReq  = &forward.Error{Code: forward.CodeAddress, Reason: "malformed request"}
)

const (
	maxTCPPort  = 65535
	maxAddrText = 1024 // bytes of a host in a request
)

// openTCP is the payload of direct-tcpip and forwarded-tcpip (RFC 4254, section 7.2).
type openTCP struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// openUnix is the payload of direct-streamlocal@openssh.com.
type openUnix struct {
	Path      string
	Reserved  string
	Reserved2 uint32
}

// directTCP connects a channel to a host and a port.
func (c *connection) directTCP(ch xssh.NewChannel) {
	var p openTCP
	if err := xssh.Unmarshal(ch.ExtraData(), &p); err != nil || len(p.Host) > maxAddrText {
		c.reject(ch, errBadReq)
		return
	}
	if p.Port == 0 || p.Port > maxTCPPort {
		c.reject(ch, errBadPort)
		return
	}
	address := net.JoinHostPort(unbracket(p.Host), strconv.FormatUint(uint64(p.Port), 10))
	c.direct(ch, "tcp", address, permits(c.grant.permitOpen, unbracket(p.Host), p.Port))
}

// unbracket takes the brackets off an IPv6 address, which some clients send.
func unbracket(host string) string {
	if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		return host[1 : len(host)-1]
	}
	return host
}

// directUnix connects a channel to a socket.
func (c *connection) directUnix(ch xssh.NewChannel) {
	var p openUnix
	if err := xssh.Unmarshal(ch.ExtraData(), &p); err != nil {
		c.reject(ch, errBadReq)
		return
	}
	c.direct(ch, "unix", p.Path, c.grant.permitOpen == nil)
}

// direct judges, dials and splices one channel.
func (c *connection) direct(ch xssh.NewChannel, network, address string, permitted bool) {
	if err := c.mayForward(permitted); err != nil {
		c.reject(ch, err)
		return
	}
	target, err := c.h.Gate.DialContext(c.ctx, c.identity(), network, address)
	if err != nil {
		c.reject(ch, err)
		return
	}
	accepted, reqs, err := ch.Accept()
	if err != nil {
		_ = target.Close() // the connection has ended
		return
	}
	c.splice(ch.ChannelType(), accepted, reqs, target)
}

// mayForward is what does not depend on the destination.
func (c *connection) mayForward(permitted bool) error {
	switch {
	case c.h.Gate == nil:
		return errNoGate
	case c.grant.noForward || !permitted:
		return errByLogin
	}
	return nil
}

// splice copies between a channel and a connection until both have ended. The
// channel counts until the client has closed it too: one that never does gets no
// other in its place.
func (c *connection) splice(kind string, ch xssh.Channel, reqs <-chan *xssh.Request, nc net.Conn) {
	begun := time.Now()
	cc := &counted{Channel: ch, nc: c.nc}
	closed := make(chan struct{})
	safe.Go(&c.wg, c.logPanic, func() {
		defer close(closed)
		xssh.DiscardRequests(reqs)
	})
	_, _, err := forward.Splice(c.ctx, &chanConn{counted: cc, local: nc.LocalAddr(), remote: nc.RemoteAddr()}, nc)
	result := "ok"
	if err != nil {
		result = "cut"
	}
	c.closed(kind, cc, begun, slog.String("result", result))
	<-closed
}

// reject refuses a channel. The client hears the code and the rule.
func (c *connection) reject(ch xssh.NewChannel, err error) {
	reason := xssh.ConnectionFailed
	if e, ok := errors.AsType[*forward.Error](err); ok {
		switch {
		case e.Code == forward.CodeDenied:
			reason = xssh.Prohibited
		case e.Code == forward.CodeFailed && e.Err == nil:
			reason = xssh.ResourceShortage // a limit
		}
	}
	c.refused(ch.ChannelType(), err)
	_ = ch.Reject(reason, err.Error()) // its text holds no destination
}

// A chanConn is a channel as a net.Conn, without deadlines.
type chanConn struct {
	*counted
	local, remote net.Addr
}

// Close closes the channel; it may be closed already.
func (c *chanConn) Close() error {
	if err := c.counted.Close(); err != nil && err != io.EOF {
		return err
	}
	return nil
}

func (c *chanConn) LocalAddr() net.Addr              { return c.local }
func (c *chanConn) RemoteAddr() net.Addr             { return c.remote }
func (c *chanConn) SetDeadline(time.Time) error      { return errNoDeadline }
func (c *chanConn) SetReadDeadline(time.Time) error  { return errNoDeadline }
func (c *chanConn) SetWriteDeadline(time.Time) error { return errNoDeadline }

var errNoDeadline = errors.New("ssh: a channel has no deadlines")

var _ net.Conn = (*chanConn)(nil)

// An addr is the address of an SSH channel's other end, as the peer says.
type addr struct{ network, text string }

func (a addr) Network() string { return a.network }

// String is the text, quoted if it is not plain.
func (a addr) String() string {
	if q := printable.Quote(a.text); q != `"`+a.text+`"` {
		return q
	}
	return a.text
}
