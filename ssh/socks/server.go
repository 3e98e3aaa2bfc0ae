package socks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/forward"
)

const (
	defaultMaxConns         = 1024
	defaultMaxAssociations  = 16
	defaultHandshakeTimeout = 10 * time.Second
	firstAcceptPause        = 5 * time.Millisecond
	lastAcceptPause         = time.Second
)

// A Server is a proxy. Its fields are not to be changed once it serves.
type Server struct {
	// Dial connects to what a client asks for: network is "tcp" or "udp", address
	// "host:port" with the host as the client gave it. user is the name that Auth
	// has admitted, or empty. An error that wraps a *forward.Error gives the reply
	// its code.
	Dial func(ctx context.Context, user, network, address string) (net.Conn, error)
	// Auth checks a name and a password. Nil: clients need none, and Serve refuses
	// a listener that is not on loopback or a Unix socket.
	Auth func(user, password string) error
	// UDP answers UDP ASSOCIATE.
	UDP bool
	// MaxConns is how many connections there may be. 0: 1,024; negative: no limit.
	MaxConns int
	// MaxAssociations is how many of them may carry datagrams. 0: 16; negative:
	// no limit.
	MaxAssociations int
	// HandshakeTimeout is the time until a client has said what it wants. 0: 10 s;
	// negative: no limit.
	HandshakeTimeout time.Duration
	// Logger gets failures, never destinations. Nil: silent.
	Logger *slog.Logger

	once  sync.Once
	ctx   context.Context // of connections; ends when Shutdown gives up
	stop  context.CancelFunc
	mu    sync.Mutex
	down  bool                      // guarded by mu
	open  map[net.Listener]struct{} // guarded by mu
	conns int                       // guarded by mu
	assoc int                       // guarded by mu
	wg    sync.WaitGroup            // connections; added to under mu
}

func (s *Server) init() {
	s.once.Do(func() {
		s.ctx, s.stop = context.WithCancel(context.Background())
		s.open = make(map[net.Listener]struct{})
	})
}

func (s *Server) log() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}

// orDefault returns def for a zero v, and 0 ("no limit") for a negative one.
func orDefault[T ~int | ~int64](v, def T) T {
	if v == 0 {
		return def
	}
	return max(v, 0)
}

// errOpenProxy is a listener that everybody could use.
var errOpenProxy = errors.New("socks: a listener that is not on loopback needs Server.Auth")

// Serve accepts clients on l, which it closes, until Shutdown or until l is
// closed; the error then wraps net.ErrClosed.
func (s *Server) Serve(l net.Listener) error {
	s.init()
	defer func() { _ = l.Close() }() // twice is harmless
	if s.Auth == nil && !private(l.Addr()) {
		return errOpenProxy
	}
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		return fmt.Errorf("socks: serve: %w", net.ErrClosed)
	}
	s.open[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, l)
	}()
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.admit(nc)
		case errors.Is(err, net.ErrClosed), s.ctx.Err() != nil:
			return fmt.Errorf("socks: serve: %w", net.ErrClosed)
		default:
			pause = min(max(2*pause, firstAcceptPause), lastAcceptPause)
			s.log().Warn("socks accept failed", "err", err)
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
			}
		}
	}
}

// private reports whether only this machine reaches an address.
func private(a net.Addr) bool {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}

// admit serves a client, or closes its connection.
func (s *Server) admit(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := orDefault(s.MaxConns, defaultMaxConns)
	if s.down || limit > 0 && s.conns >= limit {
		_ = nc.Close() // it is one too many
		return
	}
	s.conns++
	fail := func(err error) {
		s.log().Error("socks panic", "err", err)
		_ = nc.Close() // it is given up
	}
	safe.Go(&s.wg, fail, func() {
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.conns--
		}()
		if err := s.ServeConn(s.ctx, nc); err != nil {
			s.log().Info("socks", "err", err)
		}
	})
}

// Shutdown closes the listeners, waits for connections under way, and cuts what
// is left when ctx ends, whose error it then returns.
func (s *Server) Shutdown(ctx context.Context) error {
	s.init()
	s.mu.Lock()
	s.down = true
	for l := range s.open {
		_ = l.Close() // Serve returns
	}
	s.mu.Unlock()
	done := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	safe.Go(&wg, func(error) {}, func() {
		defer close(done)
		s.wg.Wait()
	})
	defer s.stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A client is one connection to the proxy.
type client struct {
	s    *Server
	nc   net.Conn
	in   *bufio.Reader // of nc
	user string        // that Auth has admitted
}

// The errors of a handshake. None holds what the client sent.
var (
	errProtocol = errors.New("socks: malformed request")
	errAuth     = errors.New("socks: login refused")
	errCommand  = errors.New("socks: the command is not supported")
	errLimit    = errors.New("socks: limit MaxAssociations")
)

// ServeConn serves one client and closes nc. An error is one of the handshake or
// of the dial and holds no destination.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) error {
	s.init()
	defer func() { _ = nc.Close() }() // twice is harmless
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	if d := orDefault(s.HandshakeTimeout, defaultHandshakeTimeout); d > 0 {
		_ = nc.SetDeadline(time.Now().Add(d))
	}
	c := &client{s: s, nc: nc, in: bufio.NewReader(nc)}
	first, err := c.in.Peek(1)
	if err != nil {
		return nil // it came and went
	}
	switch b := first[0]; {
	case b == 5:
		return c.socks5(ctx)
	case b == 4:
		return c.socks4(ctx)
	case b >= 'A' && b <= 'Z', b >= 'a' && b <= 'z':
		return c.http(ctx)
	}
	return errProtocol
}

// dial asks the dialer, in its own time.
func (c *client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	_ = c.nc.SetDeadline(time.Time{}) // the dialer has its own limit
	if c.s.Dial == nil {
		return nil, &forward.Error{Code: forward.CodeDenied, Reason: "no dialer"}
	}
	return c.s.Dial(ctx, c.user, network, address)
}

// splice carries the connection.
func (c *client) splice(ctx context.Context, target net.Conn) {
	_, _, _ = forward.Splice(ctx, &buffered{Conn: c.nc, in: c.in}, target) // both ends see how it ended
}

// buffered reads first what came with the handshake.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// CloseWrite ends the writing direction.
func (b *buffered) CloseWrite() error {
	if cw, ok := b.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return b.Conn.Close()
}

// SetLinger is that of TCP, so that a reset can be passed on.
func (b *buffered) SetLinger(sec int) error {
	if tc, ok := b.Conn.(*net.TCPConn); ok {
		return tc.SetLinger(sec)
	}
	return nil
}

// codeOf is the reply for an error of the dialer.
func codeOf(err error) forward.Code {
	if e, ok := errors.AsType[*forward.Error](err); ok && e.Code != forward.CodeOK {
		return e.Code
	}
	return forward.CodeFailed
}

// dialFailed is the error of a dial without its destination.
func dialFailed(code forward.Code) error { return fmt.Errorf("socks: dial: %v", code) }
