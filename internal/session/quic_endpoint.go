package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/quic-go/quic-go"
)

// ErrRefused is in the error of a dial that the peer refused before the
// handshake: it is at a limit.
var ErrRefused = errors.New("refused before the handshake")

// A UDP is one UDP socket for QUIC: connections are dialled from it and
// accepted on it.
type UDP struct {
	tr   quic.Transport
	gro  bool
	conn net.PacketConn
}

// NewUDP takes pc over; [UDP.Close] closes it. resetKey makes stateless resets
// that survive a restart (RFC 9000, section 10.3).
func NewUDP(pc net.PacketConn, resetKey [32]byte) *UDP {
	u := &UDP{conn: pc}
	u.tr.Conn, u.gro = receiveGRO(pc)
	key := quic.StatelessResetKey(resetKey)
	u.tr.StatelessResetKey = &key
	return u
}

// LocalAddr is the address of the socket.
func (u *UDP) LocalAddr() net.Addr { return u.conn.LocalAddr() }

// GRO reports whether the kernel merges received datagrams for us (Linux).
func (u *UDP) GRO() bool { return u.gro }

// Close ends all connections of the socket and closes it.
func (u *UDP) Close() error {
	err := u.tr.Close()
	if cerr := u.conn.Close(); err == nil && !errors.Is(cerr, net.ErrClosed) {
		err = cerr
	}
	return err
}

// Params are the settings of a QUIC connection that alknet decides.
type Params struct {
	HandshakeTimeout time.Duration // from the first packet
	IdleTimeout      time.Duration // 0: none
	KeepAlive        time.Duration // 0: none
	MaxStreams       int64         // that the peer may have open; 0: none at all
	UniStreams       int64         // the same for unidirectional ones
	MaxConnWindow    uint64        // bytes the peer may have under way on one connection
	// GrowWindow is asked before a connection's window grows by delta bytes;
	// ctx is the connection's. Nil: it may.
	GrowWindow func(ctx context.Context, delta uint64) bool
}

// Flow-control windows in bytes: where a stream and a connection start, and how
// far the library's auto-tuning may take them.
const (
	initialWindow   = 512 << 10
	maxStreamWindow = 6 << 20
	// DefaultConnWindow is how far the window of a connection grows.
	DefaultConnWindow = 15 << 20
)

// forever is longer than any process runs and still fits the wire format.
const forever = 10 * 365 * 24 * time.Hour

func (p Params) config() *quic.Config {
	maxConn := p.MaxConnWindow
	if maxConn == 0 {
		maxConn = DefaultConnWindow
	}
	c := &quic.Config{
		HandshakeIdleTimeout:             p.HandshakeTimeout / 2, // the library aborts at twice this
		MaxIdleTimeout:                   p.IdleTimeout,
		KeepAlivePeriod:                  p.KeepAlive,
		InitialStreamReceiveWindow:       min(initialWindow, maxConn),
		MaxStreamReceiveWindow:           min(maxStreamWindow, maxConn),
		InitialConnectionReceiveWindow:   min(initialWindow, maxConn),
		MaxConnectionReceiveWindow:       maxConn,
		MaxIncomingStreams:               p.MaxStreams,
		MaxIncomingUniStreams:            p.UniStreams,
		EnableDatagrams:                  true,
		EnableStreamResetPartialDelivery: true,
	}
	if c.MaxIdleTimeout == 0 {
		c.MaxIdleTimeout = forever
	}
	if c.HandshakeIdleTimeout == 0 {
		c.HandshakeIdleTimeout = forever
	}
	if p.MaxStreams == 0 {
		c.MaxIncomingStreams = -1
	}
	if p.UniStreams == 0 {
		c.MaxIncomingUniStreams = -1
	}
	if grow := p.GrowWindow; grow != nil {
		c.AllowConnectionWindowIncrease = func(qc *quic.Conn, delta uint64) bool { return grow(qc.Context(), delta) }
	}
	return c
}

// Dial opens a QUIC connection to addr. The handshake is complete when it returns.
func (u *UDP) Dial(ctx context.Context, addr *net.UDPAddr, conf *tls.Config, p Params) (Session, error) {
	conn, err := u.tr.Dial(ctx, addr, conf, p.config())
	if err != nil {
		return nil, dialError(err)
	}
	return quicSession{conn}, nil
}

// dialError marks the errors of a QUIC dial with what the caller tests for.
func dialError(err error) error {
	te, ok := errors.AsType[*quic.TransportError](err)
	switch {
	case !ok:
		return quicError(err)
	case te.Remote && te.ErrorCode == quic.ConnectionRefused:
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case te.Remote && te.ErrorCode.IsCryptoError():
		return fmt.Errorf("%w: %w", tls.AlertError(te.ErrorCode&0xff), err)
	default:
		return err
	}
}

// A ListenConfig is what a listener asks for each new connection. All functions
// must be quick: they run on the listener's only goroutine.
type ListenConfig struct {
	// TLS is the configuration of all handshakes.
	TLS *tls.Config
	// Params are those of the next connection.
	Params func() Params
	// Admit counts a new connection and may refuse it. The returned context
	// is that of the connection and of its tls.ClientHelloInfo.
	Admit func(ctx context.Context, remote net.Addr) (context.Context, error)
	// Retry says whether the source address must be proven first (RFC 9000, section 8.1.2).
	Retry func(remote net.Addr) bool
}

// A Listener accepts the QUIC connections of one socket.
type Listener struct{ ln *quic.Listener }

// Listen starts to accept connections. One Listener at a time per socket.
func (u *UDP) Listen(c ListenConfig) (*Listener, error) {
	u.tr.VerifySourceAddress = c.Retry
	u.tr.ConnContext = func(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
		return c.Admit(ctx, info.RemoteAddr)
	}
	qc := c.Params().config()
	qc.GetConfigForClient = func(*quic.ClientInfo) (*quic.Config, error) { return c.Params().config(), nil }
	ln, err := u.tr.Listen(c.TLS, qc)
	if err != nil {
		return nil, err
	}
	return &Listener{ln: ln}, nil
}

// Accept waits for a connection whose handshake is complete. ctx is what Admit
// returned for it.
func (l *Listener) Accept(ctx context.Context) (Session, context.Context, error) {
	conn, err := l.ln.Accept(ctx)
	if err != nil {
		return nil, nil, err
	}
	return quicSession{conn}, conn.Context(), nil
}

// Close refuses new connections and handshakes under way; accepted connections go on.
func (l *Listener) Close() error { return l.ln.Close() }

// RefuseUniStreams answers each unidirectional stream of s with STOP_SENDING
// until s ends. It does nothing for sessions that are not QUIC.
func RefuseUniStreams(s Session, code uint64) {
	if q, ok := s.(quicSession); ok {
		q.refuseUniStreams(code)
	}
}
