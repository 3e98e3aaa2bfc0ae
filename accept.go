package alknet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/internal/session"
)

// A listening is one Router accepting on one Endpoint.
type listening struct {
	r     *Router
	e     *Endpoint
	ctx   context.Context // of its connections; ends with the Router or the Endpoint
	stop  context.CancelFunc
	loops sync.WaitGroup

	configs handshakeConfigs

	inside bool // ctx is of one connection, inside a stream
}

// h3UniStreams is how many unidirectional streams a peer may have open where
// HTTP/3 is served: it and WebTransport use them (RFC 9114, section 6.2). How
// many is said before the ALPN is known, so on connections of other protocols
// they are refused one by one; without HTTP/3 nobody may open any.
const h3UniStreams = 100

// run accepts on the endpoint's sockets until l.ctx ends or a socket fails.
func (l *listening) run() error {
	defer l.loops.Wait()
	defer l.stop()
	errs := make(chan error, 2)
	report := func(err error) { errs <- err }
	if l.e.udp != nil {
		ln, err := l.e.udp.Listen(session.ListenConfig{
			TLS:    l.tlsConfig(QUIC),
			Params: l.quicParams,
			Admit:  l.admitQUIC,
			Retry:  func(net.Addr) bool { return l.r.accounts().crowded() },
		})
		if err != nil {
			return err
		}
		defer func() { _ = ln.Close() }() // what is under way is refused
		safe.Go(&l.loops, report, func() { report(l.newAcceptors(ln).run()) })
	}
	if l.e.tcp != nil {
		defer interrupt(l.e.tcp)()
		defer l.stop()
		safe.Go(&l.loops, report, func() { report(l.acceptTCP(l.e.tcp)) })
	}
	select {
	case err := <-errs:
		return err
	case <-l.ctx.Done():
		return nil
	}
}

// interrupt prepares ln for an Accept that must end although ln stays open; the
// returned function ends it.
func interrupt(ln net.Listener) func() {
	d, ok := ln.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return func() { _ = ln.Close() } // there is no other way
	}
	_ = d.SetDeadline(time.Time{}) // from an earlier Serve
	return func() { _ = d.SetDeadline(time.Unix(1, 0)) }
}

// quicParams are the settings of the next QUIC connection.
func (l *listening) quicParams() session.Params {
	lim := l.r.accounts().limits
	p := session.Params{
		HandshakeTimeout: lim.HandshakeTimeout,
		IdleTimeout:      lim.IdleTimeout,
		MaxStreams:       int64(lim.maxStreams()),
		MaxConnWindow:    session.DefaultConnWindow,
		GrowWindow: func(ctx context.Context, delta uint64) bool {
			c := claimFrom(ctx)
			return c == nil || c.grow(int64(delta))
		},
	}
	if lim.ConnBytes > 0 {
		p.MaxConnWindow = min(p.MaxConnWindow, uint64(max(lim.ConnBytes, minConnBytes)))
	}
	if l.r.find("h3", QUIC) != nil {
		p.UniStreams = h3UniStreams
	}
	for _, s := range *l.r.services.Load() {
		if s.KeepAlive > 0 && s.over()&QUIC != 0 && (p.KeepAlive == 0 || s.KeepAlive < p.KeepAlive) {
			p.KeepAlive = s.KeepAlive
		}
	}
	return p
}

// minConnBytes is the least that a connection needs to work, in bytes.
const minConnBytes = 256 << 10

// admitQUIC counts a new QUIC connection at its first packet, until ctx ends with it.
func (l *listening) admitQUIC(ctx context.Context, remote net.Addr) (context.Context, error) {
	c, err := l.r.accounts().begin(remote, quicCost)
	if err != nil {
		l.r.refuse(ctx, nil, refusedLimit, remote, err)
		return nil, err
	}
	context.AfterFunc(ctx, c.close)
	return context.WithValue(ctx, claimKey{}, c), nil
}

func (l *listening) serveQUIC(s session.Session, c *claim) {
	state := s.TLS()
	cut := func() { _ = s.Close(uint64(CodeLimit), "handshake_timeout") }
	a, err := l.identify(l.ctx, admission{state: &state, over: QUIC, claim: c, remote: s.RemoteAddr()}, cut)
	if err != nil {
		_ = s.Close(uint64(err.Code), err.Reason) // the peer may be gone
		return
	}
	conn, lc, err := l.r.register(l.ctx, s, a)
	if err != nil {
		_ = s.Close(uint64(err.Code), err.Reason)
		return
	}
	if conn.alpn != "h3" && l.r.find("h3", QUIC) != nil {
		safe.Go(&l.r.wg, l.r.logPanic, func() { session.RefuseUniStreams(s, uint64(CodeRefused)) })
	}
	fail := func(err error) { l.r.logPanic(err); _ = s.Close(uint64(CodeInternal), "") }
	safe.Go(&l.r.wg, fail, func() { _ = l.r.run(conn, lc) }) // it was logged
}

// acceptTCP accepts connections and starts their handshakes.
func (l *listening) acceptTCP(ln net.Listener) error {
	spare := openSpare()
	defer func() { _ = spare.Close() }()
	var delay time.Duration
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			delay = 0
			l.startTCP(nc)
			continue
		case l.ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			// Free a descriptor to tell one client that there is none, rather
			// than to let it wait for what does not come.
			_ = spare.Close()
			if nc, err := ln.Accept(); err == nil {
				l.r.refuse(l.ctx, nil, refusedLimit, nc.RemoteAddr(), errFiles)
				refuseTCP(nc)
			}
			spare = openSpare()
		}
		delay = min(max(2*delay, minAcceptDelay), maxAcceptDelay)
		l.r.refuse(l.ctx, nil, refusedAccept, ln.Addr(), err)
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-l.ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// Accept errors back off within these bounds.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// errFiles is the refusal when the process may open no more files.
var errFiles = errors.New("no file descriptor is free: raise the process's limit (ulimit -n)")

// openSpare opens a descriptor to be given up when there is no other.
func openSpare() io.Closer {
	f, err := os.Open(os.DevNull)
	if err != nil {
		return io.NopCloser(nil)
	}
	return f
}

// refuseTCP closes a connection before its handshake with the TLS alert
// internal_error, which RFC 8446, section 6.2 has for a lack of resources.
func refuseTCP(nc net.Conn) {
	_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = nc.Write([]byte{21, 3, 3, 0, 2, 2, 80}) // the client may be gone
	_ = nc.Close()
}

// startTCP counts a new TCP connection and runs it.
func (l *listening) startTCP(nc net.Conn) {
	c, err := l.r.accounts().begin(nc.RemoteAddr(), tcpCost)
	if err != nil {
		l.r.refuse(l.ctx, nil, refusedLimit, nc.RemoteAddr(), err)
		refuseTCP(nc)
		return
	}
	fail := func(err error) { l.r.logPanic(err); _ = nc.Close(); c.close() }
	safe.Go(&l.r.wg, fail, func() {
		defer c.close()
		_ = l.serveTCP(l.ctx, nc, c) // it was logged
	})
}

// serveTCP runs TLS in nc, which it takes over, and serves what comes of it.
func (l *listening) serveTCP(ctx context.Context, nc net.Conn, c *claim) error {
	watch := session.Watch(nc)
	hctx := context.WithValue(ctx, claimKey{}, c)
	if d := l.r.accounts().limits.HandshakeTimeout; d > 0 {
		var cancel context.CancelFunc
		hctx, cancel = context.WithDeadline(hctx, c.begun.Add(d))
		defer cancel()
	}
	tc := tls.Server(watch, l.tlsConfig(Mux|Raw))
	if err := tc.HandshakeContext(hctx); err != nil {
		_ = watch.Close()
		l.r.refuse(ctx, nil, refusedHandshake, nc.RemoteAddr(), err)
		return fmt.Errorf("alknet: handshake: %w", err)
	}
	state := tc.ConnectionState()
	adm := admission{state: &state, over: Mux, claim: c, remote: nc.RemoteAddr()}
	if svc := l.r.pick(offered(state), Mux|Raw); svc != nil {
		adm.over = svc.over() & (Mux | Raw)
	}
	adm, rerr := l.identify(ctx, adm, func() { _ = watch.Abort() })
	s, err := l.startSession(tc, watch, adm, rerr)
	if err != nil {
		_ = watch.Close()
		return fmt.Errorf("alknet: start session: %w", err)
	}
	if rerr == nil {
		var conn *Conn
		var lc *liveConn
		if conn, lc, rerr = l.r.register(ctx, s, adm); rerr == nil {
			if l.inside {
				defer context.AfterFunc(ctx, func() { lc.cancel(context.Cause(ctx)) })()
			}
			return l.r.run(conn, lc)
		}
	}
	_ = s.Close(uint64(rerr.Code), rerr.Reason) // the peer may be gone
	return rerr
}

func offered(state tls.ConnectionState) []string {
	if state.NegotiatedProtocol == "" {
		return nil
	}
	return []string{state.NegotiatedProtocol}
}

// startSession makes a session of a TLS connection: one to serve, or one that
// only says why it is refused.
func (l *listening) startSession(tc *tls.Conn, watch *session.WatchedConn, a admission, refused *Error) (session.Session, error) {
	lim := l.r.accounts().limits
	watch.SetIdleTimeout(lim.IdleTimeout)
	if a.over == Raw {
		return session.NewRaw(tc, watch, session.RawAccepts), nil
	}
	conf := session.MuxConfig{MaxStreams: 1, MaxBytes: minConnBytes}
	if refused == nil {
		conf = session.MuxConfig{
			MaxStreams: lim.maxStreams(),
			KeepAlive:  a.svc.KeepAlive,
			MaxBytes:   lim.ConnBytes,
			Memory:     claimMemory{a.claim},
		}
	}
	return session.NewMux(tc, watch, false, conf)
}
