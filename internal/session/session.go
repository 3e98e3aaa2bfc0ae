// Package session is the seam between alknet's Conn and Stream and what
// carries them: QUIC, a multiplexer in TLS on TCP, one bare TLS connection, or
// memory. Each has a file; what they share is the two interfaces here.
//
// Errors that a peer or the transport caused come back as what [AsError] finds an
// [*Error] in; timeouts
// wrap [os.ErrDeadlineExceeded], a clean end is [io.EOF], and everything after
// the end of a session wraps [net.ErrClosed].
package session

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// A Session is one connection to one peer, whatever carries it. All methods
// may be called concurrently.
type Session interface {
	// Open opens a stream, waiting while the peer's limit is reached.
	Open(ctx context.Context) (Stream, error)
	// Accept waits for a stream that the peer opened.
	Accept(ctx context.Context) (Stream, error)
	// Close ends the session and all its streams and tells the peer code and
	// reason where the transport can. The first call wins. It returns when the
	// session has ended, after at most a second.
	Close(code uint64, reason string) error
	// Done is closed when the session has ended.
	Done() <-chan struct{}
	// Context ends when the session has ended.
	Context() context.Context
	// OnDone calls f in its own goroutine once the session has ended. The
	// returned function withdraws f.
	OnDone(f func()) (stop func() bool)
	// Err says why it ended; nil while it lives.
	Err() error
	// TLS is the state of the finished handshake; zero for sessions without one.
	TLS() tls.ConnectionState
	// LocalAddr is the address of this end.
	LocalAddr() net.Addr
	// RemoteAddr is the address of the other end.
	RemoteAddr() net.Addr
	// RTT is the smoothed round-trip time; 0: not measured.
	RTT() time.Duration
	// Underlying is the library's connection: *quic.Conn, *tls.Conn or nil.
	Underlying() any
}

// A Stream is one bidirectional stream of a Session. Its net.Conn methods
// behave as those of net.TCPConn; Close ends both directions: what was written
// is still delivered, what was not read is discarded.
type Stream interface {
	net.Conn
	// CloseWrite ends the writing direction.
	CloseWrite() error
	// Reset ends both directions at once; the peer sees code.
	Reset(code uint64)
	// OnAbort calls f, in its own goroutine and at most once, when the peer
	// resets the stream or stops reading it. The end of the session may call
	// it too: who needs to know watches that. The returned function withdraws f.
	OnAbort(f func()) (stop func() bool)
}

// A TryWriter is a Stream that can tell whether a write would wait.
type TryWriter interface {
	// TryWrite writes all of b if that takes no waiting, and else nothing.
	TryWrite(b []byte) (ok bool, err error)
}

// An Error is the end of a session or of a stream, as code and reason.
type Error struct {
	Code   uint64 // below 2^62
	Reason string // from the peer where Remote: to be quoted before it is printed
	Remote bool   // the peer decided it
	Stream bool   // it ended one stream, not the session
	Err    error  // the library's error, for logs
}

// Error names the code, never the reason, which a peer may have chosen.
func (e *Error) Error() string {
	what, who := "session", "here"
	if e.Stream {
		what = "stream"
	}
	if e.Remote {
		who = "by the peer"
	}
	return fmt.Sprintf("%s closed %s with code %#x", what, who, e.Code)
}

// Unwrap is the cause; an ended session wraps [net.ErrClosed].
func (e *Error) Unwrap() []error {
	if e.Stream {
		return []error{e.Err}
	}
	return []error{net.ErrClosed, e.Err}
}

// MaxCode is the largest code that every transport carries unchanged: QUIC's
// variable-length integers end there (RFC 9000, section 16).
const MaxCode = 1<<62 - 1
