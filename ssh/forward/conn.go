package forward

import (
	"context"
	"net"
	"sync"
	"sync/atomic"

	"github.com/alkdev/alknet"
)

// A flowConn is a connection that the Gate may cut.
type flowConn struct {
	net.Conn
	release func()
	wasCut  atomic.Bool
}

// errCut is what a connection says after the Gate has cut it.
var errCut = &Error{Code: CodeDenied, Reason: "it is no longer allowed"}

// track makes nc a flow, or closes it.
func (g *Gate) track(ctx context.Context, id *alknet.Identity, q query, nc net.Conn) (net.Conn, error) {
	c := &flowConn{Conn: nc}
	f := newFlow(ctx, id, q, c.cut)
	c.release = sync.OnceFunc(func() { g.release(f) })
	if err := g.open(f); err != nil {
		_ = nc.Close() // nobody has used it
		return nil, err
	}
	return c, nil
}

func (c *flowConn) cut() {
	c.wasCut.Store(true)
	_ = c.Conn.Close() // whoever uses it closes it again
}

func (c *flowConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && c.wasCut.Load() {
		err = errCut
	}
	return n, err
}

func (c *flowConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil && c.wasCut.Load() {
		err = errCut
	}
	return n, err
}

// CloseWrite ends the writing direction, where the network has that.
func (c *flowConn) CloseWrite() error {
	if cw, ok := c.Conn.(closeWriter); ok {
		return cw.CloseWrite()
	}
	return nil // a datagram has no end
}

func (c *flowConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// SetLinger is that of TCP, so that a reset can be passed on.
func (c *flowConn) SetLinger(sec int) error {
	if tc, ok := c.Conn.(*net.TCPConn); ok {
		return tc.SetLinger(sec)
	}
	return nil
}

// A flowListener is a listener that the Gate may cut, with what it accepted.
type flowListener struct {
	net.Listener
	close func() error // ends the listener, once

	mu    sync.Mutex
	dead  bool                   // guarded by mu; cut or closed
	conns map[*flowConn]struct{} // guarded by mu
}

func (l *flowListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &flowConn{Conn: nc}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		_ = nc.Close() // it came too late
		return nil, net.ErrClosed
	}
	l.conns[c] = struct{}{}
	c.release = sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, c)
	})
	return c, nil
}

// Close ends the listener; connections that it accepted go on.
func (l *flowListener) Close() error { return l.close() }

func (l *flowListener) cut() {
	l.mu.Lock()
	l.dead = true
	conns := make([]*flowConn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	_ = l.close() // whoever uses it closes it again
	for _, c := range conns {
		c.cut()
	}
}
