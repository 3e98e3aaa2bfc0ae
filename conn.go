package alknet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/session"
)

// A Conn is one connection to one peer, the same to a handler whatever carries
// it. All methods may be called concurrently. Who dialled a Conn closes it; one
// that a Router serves is closed by the Router when its handler returned.
type Conn struct {
	s          session.Session
	alpn       string
	over       Transport
	maxStreams int
	since      time.Time
	identity   atomic.Pointer[Identity]
	local      PeerID // of this end; zero: it has shown none
	log        *slog.Logger
	drainc     chan struct{} // closed when the Router drains
	// ctx is the Router's context of the handler if it ends when the connection
	// has ended and never before: whoever is given it need not watch it too.
	ctx     context.Context
	dialled *dialledConn // nil for connections that were not dialled

	mu       sync.Mutex
	drained  bool                        // guarded by mu; drainc is closed
	revoked  bool                        // guarded by mu; identity is the last one
	watchers map[*identityWatch]struct{} // guarded by mu

	bytesIn, bytesOut atomic.Int64
	streams           atomic.Int64
	lastClose         atomic.Int64 // nanoseconds since since, of the last stream that ended
}

// A ConnStats is what a connection has done so far.
type ConnStats struct {
	RTT      time.Duration // smoothed round-trip time; 0: not measured
	Since    time.Time     // when the handshake was complete
	BytesIn  int64         // read from its streams
	BytesOut int64         // written to its streams
	Streams  int           // open now
}

// discard is the log of a connection that no Router serves.
var discard = slog.New(slog.DiscardHandler)

func newConn(s session.Session, alpn string, over Transport, id Identity) *Conn {
	c := &Conn{s: s, alpn: alpn, over: over, since: time.Now(), maxStreams: defaultMaxStreams, drainc: make(chan struct{}), log: discard}
	c.identity.Store(&id)
	return c
}

// drain tells the handler to finish; idempotent.
func (c *Conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drained {
		return
	}
	c.drained = true
	close(c.drainc)
}

// isDraining reports whether drain was called.
func (c *Conn) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drained
}

// ALPN is the name that the handshake agreed on.
func (c *Conn) ALPN() string { return c.alpn }

// Identity is who the other end is. On a Conn that a Router serves it may
// change when the Router authenticates its peers again.
func (c *Conn) Identity() Identity { return c.identity.Load().clone() }

// An identityWatch is a function that hears of changes of the identity.
type identityWatch struct{ f func() }

// OnIdentity calls f each time that the Router has authenticated the peer again,
// after Identity has changed and before [Router.Reauthenticate] returns, so that
// what the peer may no longer have is ended. A peer that is no longer welcome
// loses its scopes and resources with the connection. Reauthenticate waits for f,
// which must be quick. The returned function withdraws f, which may still be running.
func (c *Conn) OnIdentity(f func()) (stop func()) {
	w := &identityWatch{f}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers == nil {
		c.watchers = make(map[*identityWatch]struct{})
	}
	c.watchers[w] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, w)
	}
}

// setIdentity changes the identity, unless it was said to be the last: who is
// asked may answer after the time for it.
func (c *Conn) setIdentity(id *Identity, last bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.revoked {
		return false
	}
	c.revoked = last
	c.identity.Store(id)
	return true
}

// tellIdentity calls who wants to hear that the identity has changed.
func (c *Conn) tellIdentity() {
	c.mu.Lock()
	list := slices.Collect(maps.Keys(c.watchers))
	c.mu.Unlock()
	for _, w := range list {
		w.f()
	}
}

// SharedIdentity is Identity without the copy, for handlers that judge every
// request. What it points to is never changed, by nobody: a new Identity is a
// new pointer.
func (c *Conn) SharedIdentity() *Identity { return c.identity.Load() }

// LocalID is the key with which this end is known to its peer; zero for
// [NewConn] and for an end without a key.
func (c *Conn) LocalID() PeerID { return c.local }

// Transport is what carries the connection; 0 for a [Pipe].
func (c *Conn) Transport() Transport { return c.over }

// TLS is the state of the handshake; zero for a [Pipe] and for [NewConn].
func (c *Conn) TLS() tls.ConnectionState { return c.s.TLS() }

// LocalAddr is the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.s.LocalAddr() }

// RemoteAddr is the address of the other end. It proves nothing.
func (c *Conn) RemoteAddr() net.Addr { return c.s.RemoteAddr() }

// Stats is what the connection has done so far.
func (c *Conn) Stats() ConnStats {
	return ConnStats{
		RTT: c.s.RTT(), Since: c.since, BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), Streams: int(c.streams.Load()),
	}
}

// OpenStream opens a stream, waiting while the peer's limit is reached. On QUIC
// the peer does not see the stream until something is written to it. On [Raw]
// the end that dialled gets the one stream; any other call fails with an error
// that wraps [errors.ErrUnsupported].
func (c *Conn) OpenStream(ctx context.Context) (*Stream, error) {
	st, err := c.s.Open(ctx)
	if err != nil {
		return nil, opError{"open stream", wrapError(err)}
	}
	return c.stream(st), nil
}

// AcceptStream waits for a stream that the peer opens. On [Raw] the end that
// accepted gets the one stream at once; the next call waits for the end.
func (c *Conn) AcceptStream(ctx context.Context) (*Stream, error) {
	st, err := c.s.Accept(ctx)
	if err != nil {
		return nil, opError{"accept stream", wrapError(err)}
	}
	return c.stream(st), nil
}

func (c *Conn) stream(st session.Stream) *Stream {
	c.streams.Add(1)
	return &Stream{st: st, conn: c}
}

// Draining is closed when the Router that serves the connection, or its ALPN,
// shuts down: the handler finishes what it began and returns.
func (c *Conn) Draining() <-chan struct{} { return c.drainc }

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.s.Done() }

// Close ends the connection with CodeOK. Streams still open are cut; what was
// written to one that was closed before is given a few round trips to arrive.
// To know that it did, wait for the peer's answer or end of stream first.
func (c *Conn) Close() error {
	c.linger()
	return c.CloseWithError(CodeOK, "")
}

// CloseWithError ends the connection at once with any code below 2^62 and a
// reason of at most 256 bytes, both for the peer to see. The first call wins.
func (c *Conn) CloseWithError(code ErrorCode, reason string) error {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	if d := c.dialled; d != nil && d.withdraw() {
		defer d.e.forget(c)
	}
	err := c.s.Close(uint64(code), reason)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("alknet: close: %w", wrapError(err))
	}
	return nil
}

// maxReason bounds the reason of a close, in bytes, on every transport.
const maxReason = 256

// The bounds of linger: what it waits at least and at most.
const (
	minLinger = 5 * time.Millisecond
	maxLinger = 250 * time.Millisecond
)

// linger waits a few round trips after the last stream was closed: QUIC drops
// what is under way when the connection is closed, and tells nobody what has
// been delivered.
func (c *Conn) linger() {
	if c.over != QUIC || c.lastClose.Load() == 0 || c.s.Context().Err() != nil {
		return
	}
	enough := min(max(3*c.s.RTT(), minLinger), maxLinger)
	wait := enough - (time.Since(c.since) - time.Duration(c.lastClose.Load()))
	if wait <= 0 {
		return
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.s.Done():
	}
}

// Underlying is the connection of the library below, for protocols that need
// more than streams: *quic.Conn on QUIC (which is accepted from by nobody else
// where the ALPN is "h3"), *tls.Conn on Raw and Mux (to be read by nobody else
// on Mux), the net.Conn given to [NewConn]; nil for a [Pipe]. Closing the
// *tls.Conn of a Raw connection ends it.
func (c *Conn) Underlying() any { return c.s.Underlying() }

// NewConn makes a Conn of one stream (Raw) from a connection whose other end
// the caller has authenticated as peer, such as a WebSocket. The stream is had
// once, by OpenStream or AcceptStream. Closing the Conn closes nc.
func NewConn(nc net.Conn, alpn string, peer Identity) *Conn {
	w := session.Watch(nc)
	return newConn(session.NewRaw(nil, w, session.RawOpens|session.RawAccepts), alpn, Raw, peer.clone())
}

// Pipe returns the two ends of a connection in memory: c, as if it had dialled,
// sees server as its peer and s sees client. It has many streams, each of which
// holds 256 KiB each way, and works in a testing/synctest bubble.
func Pipe(alpn string, client, server Identity) (c, s *Conn) {
	dialled, accepted := session.NewPipe()
	c, s = newConn(dialled, alpn, 0, server.clone()), newConn(accepted, alpn, 0, client.clone())
	c.local, s.local = client.Peer, server.Peer
	return c, s
}

// logFailure logs what a handler reported about this connection.
func (c *Conn) logFailure(ctx context.Context, msg string, err error) {
	id := c.identity.Load()
	attrs := []slog.Attr{
		slog.String("alpn", c.alpn),
		slog.Any("peer", id.Peer),
		slog.Any("id", printable.Text(id.ID)),
		slog.String("addr", c.RemoteAddr().String()),
		slog.Any("err", printable.Text(err.Error())),
	}
	attrs = append(attrs, panicAttrs(err)...)
	c.log.LogAttrs(ctx, slog.LevelWarn, msg, attrs...)
}
