package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/libp2p/go-yamux/v5"
)

// A StreamError is a stream that one end reset or stopped reading.
type StreamError struct {
	Code   uint64 // below 2^62
	Remote bool   // the peer did it
}

// Error names the code.
func (e *StreamError) Error() string { return fmt.Sprintf("mux: stream reset with code %#x", e.Code) }

// wideCode stands in yamux's 32-bit field for codes that do not fit; the
// control stream has carried the whole one before it.
const wideCode = 1<<32 - 1

// A Stream is one bidirectional stream of a Session. One goroutine may read
// while another writes; the other methods may be called at any time.
type Stream struct {
	ys       *yamux.Stream
	s        *Session
	incoming bool
	abortc   chan struct{} // closed when the peer stops or resets the stream, or the session ends

	// All below is guarded by s.mu.
	stopped   *StreamError       // the peer no longer reads, or reset the stream
	reset     *StreamError       // the stream was reset, by us or by the peer
	readDone  bool               // the end was read, or we no longer read
	writeDone bool               // we sent our last byte
	closed    bool               // Close or Reset was called
	aborted   bool               // abortc is closed
	aborts    context.Context    // ends when aborted; nil: nobody has asked
	abort     context.CancelFunc // of aborts
}

// Read reads into b. It returns io.EOF after the peer's last byte, a
// *StreamError after a reset, os.ErrDeadlineExceeded after the deadline.
func (st *Stream) Read(b []byte) (int, error) {
	n, err := st.ys.Read(b)
	if err == nil || n > 0 {
		return n, nil
	}
	if err == io.EOF {
		// The peer ends its streams when we close the session under them: that
		// is not the end of what it had to say.
		if ce, ok := errors.AsType[*CloseError](st.s.Err()); ok && !ce.Remote {
			return 0, ce
		}
	}
	err = st.streamError(err, true)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		st.finish(true, false)
	}
	return n, err
}

// Write writes b. It blocks while the peer's window is full.
func (st *Stream) Write(b []byte) (int, error) {
	if err := st.stopError(); err != nil {
		return 0, err
	}
	n, err := st.ys.Write(b)
	if err != nil {
		err = st.streamError(err, false)
	}
	return n, err
}

// stopError is what a writer gets once the peer stopped reading or the session
// ended.
func (st *Stream) stopError() error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	switch {
	case st.stopped != nil:
		return st.stopped
	default:
		return st.s.err
	}
}

// streamError translates yamux's error of one Read or Write.
func (st *Stream) streamError(err error, read bool) error {
	if err == io.EOF { // a session that was lost wraps it, and is no end of a stream
		return io.EOF
	}
	se, isReset := errors.AsType[*yamux.StreamError](err)
	if isReset && se.Remote && se.ErrorCode == wideCode {
		st.awaitCode()
	}
	st.s.mu.Lock()
	stopped, reset := st.stopped, st.reset
	st.s.mu.Unlock()
	switch {
	case reset != nil:
		return reset
	case stopped != nil && !read:
		return stopped
	case errors.Is(err, yamux.ErrTimeout):
		return os.ErrDeadlineExceeded
	}
	if isReset {
		return &StreamError{Code: uint64(se.ErrorCode), Remote: se.Remote}
	}
	if errors.Is(err, yamux.ErrStreamClosed) || errors.Is(err, yamux.ErrStreamReset) {
		select {
		case <-st.s.donec:
			return st.s.Err()
		default:
			return fmt.Errorf("mux: stream: %w", net.ErrClosed)
		}
	}
	return st.s.translate(err)
}

// awaitCode waits for the control message that carries a wide code: it was sent
// first, but is read by another goroutine.
func (st *Stream) awaitCode() {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-st.abortc:
	case <-t.C:
	}
}

// CloseWrite ends the writing direction; the peer reads io.EOF after what was written.
func (st *Stream) CloseWrite() error {
	if err := st.s.Err(); err != nil {
		return err // an end sent now would make what was cut look whole
	}
	err := st.ys.CloseWrite()
	st.finish(false, true)
	if err != nil {
		return st.streamError(err, false)
	}
	return nil
}

// Close ends both directions: what was written is still delivered, what was not
// read is discarded and the peer told to stop.
func (st *Stream) Close() error {
	if err := st.s.Err(); err != nil {
		return err // as in CloseWrite
	}
	st.s.mu.Lock()
	stop := !st.closed && !st.readDone && st.reset == nil
	st.closed = true
	st.s.mu.Unlock()
	if stop {
		_ = st.s.send(message{kind: msgStop, stream: st.ys.StreamID(), n: codeClosed}, time.Time{}) // fails only with the session
	}
	_ = st.ys.CloseRead() // cannot fail
	err := st.ys.CloseWrite()
	st.s.remove(st)
	if err != nil && st.stopError() == nil {
		return st.streamError(err, false)
	}
	return nil
}

// codeClosed tells the peer that a stream was closed before its end was read:
// alknet's CodeOK, as on QUIC.
const codeClosed = 0x616c6b00

// Reset ends both directions at once with code.
func (st *Stream) Reset(code uint64) {
	code &= maxCode
	st.s.mu.Lock()
	known := st.closed || st.reset != nil
	st.closed = true
	if st.reset == nil {
		st.reset = &StreamError{Code: code}
	}
	st.s.mu.Unlock()
	if !known {
		_ = st.s.send(message{kind: msgReset, stream: st.ys.StreamID(), n: code}, time.Time{}) // fails only with the session
	}
	_ = st.ys.ResetWithError(uint32(min(code, wideCode))) // cannot fail
	st.s.remove(st)
}

// finish notes the end of a direction and forgets the stream after both.
func (st *Stream) finish(read, write bool) {
	st.s.mu.Lock()
	st.readDone = st.readDone || read
	st.writeDone = st.writeDone || write
	over := st.readDone && st.writeDone
	st.s.mu.Unlock()
	if over {
		st.s.remove(st)
	}
}

// stopLocked is called when the peer stopped reading or reset the stream.
func (st *Stream) stopLocked(code uint64, reset bool) {
	e := &StreamError{Code: code, Remote: true}
	if st.stopped == nil {
		st.stopped = e
	}
	if reset && st.reset == nil {
		st.reset = e
	}
	_ = st.ys.SetWriteDeadline(time.Unix(1, 0)) // frees a writer that waits for the window
	st.abortLocked()
}

// OnAbort calls f in its own goroutine, at most once, when the peer resets the
// stream or stops reading it, or the session ends. The returned function
// withdraws f and reports whether it was still waiting.
func (st *Stream) OnAbort(f func()) (stop func() bool) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.aborts == nil {
		st.aborts, st.abort = context.WithCancel(context.Background())
	}
	if st.s.err != nil && !st.aborted {
		st.abortLocked()
	}
	if st.aborted {
		st.abort()
	}
	return context.AfterFunc(st.aborts, f)
}

// abortLocked runs the functions given to OnAbort, now or when they are given.
func (st *Stream) abortLocked() {
	if st.aborted {
		return
	}
	st.aborted = true
	close(st.abortc)
	if st.abort != nil {
		st.abort()
	}
}

// SetDeadline sets both deadlines.
func (st *Stream) SetDeadline(t time.Time) error {
	return errors.Join(st.SetReadDeadline(t), st.SetWriteDeadline(t))
}

// SetReadDeadline bounds reads under way and to come; zero: no bound.
func (st *Stream) SetReadDeadline(t time.Time) error { return st.ys.SetReadDeadline(t) }

// SetWriteDeadline bounds writes under way and to come; zero: no bound.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.stopped != nil {
		return nil
	}
	return st.ys.SetWriteDeadline(t)
}

// LocalAddr is the address of the connection's near end.
func (st *Stream) LocalAddr() net.Addr { return st.ys.LocalAddr() }

// RemoteAddr is the address of the connection's far end.
func (st *Stream) RemoteAddr() net.Addr { return st.ys.RemoteAddr() }

var _ net.Conn = (*Stream)(nil)
