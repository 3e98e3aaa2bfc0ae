package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/safe"
)

// maxUnanswered is how many keep-alives may be missed.
const maxUnanswered = 3

// A connection is one SSH connection to somebody who has logged in.
type connection struct {
	h      *Handler
	login  *login
	grant  *grant
	nc     *loginConn
	sc     *xssh.ServerConn
	limits Limits
	since  time.Time       // when the login was complete
	ctx    context.Context // ends with the connection
	stop   context.CancelCauseFunc
	wg     sync.WaitGroup // everything that serves it
	rights rights
	turnc  chan chan struct{} // taken by the loop of global requests, see awaitRequests

	mu         sync.Mutex
	channels   int                  // guarded by mu; open, those that we opened included
	sessions   int                  // guarded by mu
	listeners  map[string]*listener // guarded by mu; remote forwards
	noSessions bool                 // guarded by mu; the client wants no more
	draining   bool                 // guarded by mu
}

// serveSSH logs in and serves until the connection ends. drained ends when the
// node shuts down.
func (h *Handler) serveSSH(ctx, drained context.Context, stream net.Conn, l *login) (err error) {
	nc := &loginConn{Conn: stream}
	defer context.AfterFunc(ctx, nc.kill)() // of the parent: an end of the peer's own is not cut short
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	before := context.AfterFunc(drained, nc.kill) // who has not logged in has begun nothing
	defer func() {
		if v := recover(); v != nil { // in the library's handshake, or a function of Users
			l.place.punish(penaltyCrash)
			panic(v)
		}
	}()
	epoch := h.epoch.Load()
	sc, g, chans, reqs, err := l.handshake(ctx, nc)
	if err != nil {
		before()
		return nil // it is logged; there is nothing that the peer's ALPN could tell it
	}
	c := &connection{
		h: h, login: l, grant: g, nc: nc, sc: sc, limits: h.Limits.withDefaults(), ctx: ctx, stop: stop,
		listeners: make(map[string]*listener), since: time.Now(), turnc: make(chan chan struct{}),
	}
	if !before() || !h.add(c) || h.epoch.Load() != epoch && !c.holds(ctx) {
		nc.kill()
	}
	defer h.remove(c)
	if l.conn != nil {
		defer l.conn.OnIdentity(c.identityChanged)()
	}
	safe.Go(&c.wg, c.panicked, c.keepAlive)
	safe.Go(&c.wg, c.panicked, func() { c.globalRequests(reqs) })
	c.announceHostKeys()
	stopDrain := context.AfterFunc(drained, c.drain)
	for ch := range chans {
		c.opened(ch)
	}
	stopDrain()
	stop(net.ErrClosed)
	c.closeListeners()
	c.endRights()
	c.wg.Wait()
	h.log().LogAttrs(context.Background(), slog.LevelInfo, "ssh logout",
		slog.String("addr", l.remote.String()), slog.Any("id", printable.Text(g.identity.ID)), since(c.since))
	return nil
}

// end cuts the connection.
func (c *connection) end(why error) {
	c.stop(why)
	c.nc.kill()
}

// panicked: a panic outside of a channel costs the connection.
func (c *connection) panicked(err error) {
	c.logPanic(err)
	c.end(err)
}

func (c *connection) logPanic(err error) {
	attrs := []any{"id", printable.Text(c.grant.identity.ID), "err", err}
	if p, ok := errors.AsType[*safe.PanicError](err); ok {
		attrs = append(attrs, "panic", p.Value, "stack", string(p.Stack))
	}
	c.h.log().Error("ssh panic", attrs...)
}

// keepAlive asks the client whether it is there. Some answer with a failure,
// which is an answer.
func (c *connection) keepAlive() {
	every := c.limits.KeepAlive
	if every == 0 {
		return
	}
	dead := time.AfterFunc(maxUnanswered*every, func() { c.end(errors.New("ssh: keep-alives are not answered")) })
	defer dead.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		if _, _, err := c.sc.SendRequest("keepalive@openssh.com", true, nil); err != nil {
			return
		}
		dead.Reset(maxUnanswered * every)
	}
}

// drain refuses new channels and ends the connection when none is left.
func (c *connection) drain() {
	c.mu.Lock()
	c.draining = true
	idle := c.channels == 0
	c.mu.Unlock()
	c.closeListeners()
	if idle {
		_ = c.sc.Close() // the peer may be gone
	}
}

// take counts a channel, or says why there may be none.
func (c *connection) take(session bool) (reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.draining:
		return "draining"
	case session && c.noSessions:
		return "no more sessions, as was asked for"
	case session && over(c.sessions+1, c.limits.MaxSessions):
		return "limit MaxSessions " + strconv.Itoa(c.limits.MaxSessions)
	case over(c.channels+1, c.limits.MaxChannels):
		return "limit MaxChannels " + strconv.Itoa(c.limits.MaxChannels)
	}
	c.channels++
	if session {
		c.sessions++
	}
	return ""
}

// give ends what take has counted.
func (c *connection) give(session bool) {
	c.mu.Lock()
	c.channels--
	if session {
		c.sessions--
	}
	last := c.draining && c.channels == 0
	c.mu.Unlock()
	if last {
		safe.Go(&c.wg, c.panicked, c.leave)
	}
}

// leaveTime is how long a client may take to see that its last channel has ended
// well, before a node that shuts down ends the connection.
const leaveTime = 200 * time.Millisecond

// leave ends the connection, unless the client does.
func (c *connection) leave() {
	t := time.NewTimer(leaveTime)
	defer t.Stop()
	select {
	case <-c.ctx.Done():
	case <-t.C:
		_ = c.sc.Close() // the peer may be gone
	}
}

// opened hands a channel that the client opens to a goroutine of its own. It
// runs in the loop that reads the connection, and does nothing that waits but
// write a refusal.
func (c *connection) opened(ch xssh.NewChannel) {
	var serve func(xssh.NewChannel)
	kind := ch.ChannelType()
	switch kind {
	case "session":
		serve = c.session
	case "direct-tcpip":
		serve = c.directTCP
	case "direct-streamlocal@openssh.com":
		serve = c.directUnix
	default:
		_ = ch.Reject(xssh.UnknownChannelType, "unknown channel type")
		return
	}
	session := kind == "session"
	if why := c.take(session); why != "" {
		c.refused(kind, errors.New(why))
		_ = ch.Reject(xssh.ResourceShortage, why)
		return
	}
	safe.Go(&c.wg, func(err error) { c.logPanic(err) }, func() {
		defer c.give(session)
		serve(ch)
	})
}

// announceHostKeys tells the client which keys the host has, before a session
// begins: a client does not wait for them when its session ends. Who came by an
// alknet connection has the certificate.
func (c *connection) announceHostKeys() {
	if hk, err := c.h.hostKeys(); err == nil && c.login.conn == nil {
		_, _, _ = c.sc.SendRequest(requestHostKeys, false, hk.announcement()) // the client may be gone
	}
}

// globalRequests answers them in their order.
func (c *connection) globalRequests(reqs <-chan *xssh.Request) {
	hk, err := c.h.hostKeys()
	if err != nil {
		return
	}
	for {
		select {
		case req, ok := <-reqs:
			if !ok {
				return
			}
			c.globalRequest(hk, req)
		case done := <-c.turnc:
			for n := len(reqs); n > 0; n-- { // nobody else takes them
				c.globalRequest(hk, <-reqs)
			}
			close(done)
		}
	}
}

// awaitRequests waits until every global request that came before it is called
// is answered. Sshd answers a client in the order in which it asks: what a
// session runs finds the remote forwards that were asked for before it, and a
// client that ends with its session has the proofs of new host keys by then.
func (c *connection) awaitRequests(ctx context.Context) {
	done := make(chan struct{})
	select {
	case c.turnc <- done:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (c *connection) globalRequest(hk *hostKeys, req *xssh.Request) {
	var (
		ok      bool
		payload []byte
		err     error
	)
	switch req.Type {
	case "keepalive@openssh.com":
		ok = true
	case "no-more-sessions@openssh.com":
		c.mu.Lock()
		c.noSessions = true
		c.mu.Unlock()
		ok = true
	case requestHostKeysProve:
		payload, err = hk.prove(c.sc.SessionID(), req.Payload)
		ok = err == nil
	case "tcpip-forward", "streamlocal-forward@openssh.com":
		payload, err = c.listen(req)
		ok = err == nil
		c.refused(req.Type, err)
	case "cancel-tcpip-forward", "cancel-streamlocal-forward@openssh.com":
		ok = c.cancelListen(req)
	}
	_ = req.Reply(ok, payload) // a connection that ends ends the loop
}

// refused logs what was not granted; err holds no destination.
func (c *connection) refused(kind string, err error) {
	if err == nil {
		return
	}
	c.h.logBurst(c.ctx, "refused "+kind, "ssh refused", slog.Any("id", printable.Text(c.grant.identity.ID)),
		slog.String("type", kind), slog.String("why", err.Error()))
}

// identity is who the peer is now: a Router may have changed what it may do. It
// is not to be changed.
func (c *connection) identity() *alknet.Identity {
	if c.login.conn == nil {
		return &c.grant.identity
	}
	return c.login.conn.SharedIdentity()
}

// A counted channel knows how much went through it, and whether it has ended or
// was cut: the library says io.EOF of both.
type counted struct {
	xssh.Channel
	nc      *loginConn // that carries it
	in, out atomic.Int64
}

// errLost is what a channel says that was cut with its connection. What was read
// from it may be a part of what was sent.
var errLost = fmt.Errorf("ssh: the connection was lost: %w", net.ErrClosed)

// errGone is a Write to a channel that the other end has closed.
var errGone = fmt.Errorf("ssh: the other end has closed the channel: %w", io.ErrClosedPipe)

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Channel.Read(b)
	c.in.Add(int64(n))
	if err == io.EOF && c.nc.lost.Load() {
		err = errLost
	}
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Channel.Write(b)
	c.out.Add(int64(n))
	if err == io.EOF {
		if err = errGone; c.nc.lost.Load() {
			err = errLost
		}
	}
	return n, err
}

// closed logs a channel that has ended.
func (c *connection) closed(kind string, ch *counted, begun time.Time, attrs ...slog.Attr) {
	attrs = append([]slog.Attr{
		slog.Any("id", printable.Text(c.grant.identity.ID)), slog.String("type", kind), since(begun),
		slog.Int64("in", ch.in.Load()), slog.Int64("out", ch.out.Load()),
	}, attrs...)
	c.h.logBurst(c.ctx, "close "+kind, "ssh close", attrs...)
}
