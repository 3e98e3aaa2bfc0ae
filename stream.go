package alknet

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet/internal/session"
)

// A Stream is one bidirectional stream of a Conn and a [net.Conn]. One
// goroutine may read while another writes; the other methods may be called at
// any time. Whoever opened or accepted it closes it.
//
// Read returns io.EOF after the peer's last byte, an *Error with Remote set if
// the peer reset the stream or closed the connection, and an error that wraps
// os.ErrDeadlineExceeded after the deadline. After the connection was closed
// every method returns an error that wraps net.ErrClosed.
type Stream struct {
	st    session.Stream
	conn  *Conn
	ended atomic.Bool
}

// Conn is the connection that the stream belongs to.
func (s *Stream) Conn() *Conn { return s.conn }

// Read reads up to len(b) bytes, waiting for at least one.
func (s *Stream) Read(b []byte) (int, error) {
	n, err := s.st.Read(b)
	s.conn.bytesIn.Add(int64(n))
	if err != nil {
		err = wrapError(err)
	}
	return n, err
}

// Write writes b, waiting while the peer's window is full. It fails with an
// *Error with Remote set once the peer has stopped reading.
func (s *Stream) Write(b []byte) (int, error) {
	n, err := s.st.Write(b)
	s.conn.bytesOut.Add(int64(n))
	if err != nil {
		err = wrapError(err)
	}
	return n, err
}

// TryWrite writes all of b if that takes no waiting, and nothing otherwise: ok is
// then false, and always on transports that cannot tell, [Mux] and [Raw]. What was
// taken may still wait for the peer in memory of ours: who writes much calls Write
// from time to time, which waits until it was sent. It must not run beside Write.
func (s *Stream) TryWrite(b []byte) (ok bool, err error) {
	t, can := s.st.(session.TryWriter)
	if !can {
		return false, nil
	}
	if ok, err = t.TryWrite(b); ok {
		s.conn.bytesOut.Add(int64(len(b)))
	}
	if err != nil {
		err = wrapError(err)
	}
	return ok, err
}

// CloseWrite ends the writing direction: the peer reads io.EOF after what was
// written. Reading goes on.
func (s *Stream) CloseWrite() error {
	err := s.st.CloseWrite()
	s.conn.noteClose()
	if err != nil {
		return wrapError(err)
	}
	return nil
}

// Close ends both directions: what was written is still delivered, what was not
// read is discarded and the peer told to stop sending. A [Raw] connection ends
// with its stream.
func (s *Stream) Close() error {
	s.end()
	if err := s.st.Close(); err != nil {
		return wrapError(err)
	}
	return nil
}

// Reset ends both directions at once. The peer's reads and writes fail with an
// *Error that holds code, any value below 2^62; on [Raw] without the code.
func (s *Stream) Reset(code ErrorCode) {
	s.end()
	s.st.Reset(uint64(code))
}

func (s *Stream) end() {
	if !s.ended.Swap(true) {
		s.conn.streams.Add(-1)
		s.conn.noteClose()
	}
}

// noteClose remembers when a stream last ended, for Conn.Close.
func (c *Conn) noteClose() { c.lastClose.Store(max(1, int64(time.Since(c.since)))) }

// OnAbort calls f, in its own goroutine and at most once, when the peer resets
// the stream or stops reading it; the end of the connection may call it too.
// The returned function withdraws f and reports whether it was still waiting.
func (s *Stream) OnAbort(f func()) (stop func() bool) { return s.st.OnAbort(f) }

// SetDeadline bounds reads and writes under way and to come; zero: no bound. On
// [Raw] a write that timed out ends the connection.
func (s *Stream) SetDeadline(t time.Time) error { return s.st.SetDeadline(t) }

// SetReadDeadline bounds reads under way and to come; zero: no bound.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.st.SetReadDeadline(t) }

// SetWriteDeadline bounds writes under way and to come; zero: no bound.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.st.SetWriteDeadline(t) }

// LocalAddr is the connection's.
func (s *Stream) LocalAddr() net.Addr { return s.st.LocalAddr() }

// RemoteAddr is the connection's.
func (s *Stream) RemoteAddr() net.Addr { return s.st.RemoteAddr() }

var _ net.Conn = (*Stream)(nil)
