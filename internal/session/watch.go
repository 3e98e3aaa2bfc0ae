package session

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// errIdle ends a connection on which nothing moved for the idle timeout.
var errIdle = errors.New("idle timeout")

// lingerTime is how long a close waits to be heard, as on Mux.
const lingerTime = 500 * time.Millisecond

// lingerBytes is how much of what the peer still sends is read and dropped
// meanwhile: about what a connection has under way.
const lingerBytes = 512 << 10

// A WatchedConn is the connection below TLS. It notices its own end, whoever
// caused it, and ends itself when nothing was read or written for too long.
type WatchedConn struct {
	net.Conn
	ctx   context.Context // ends when the connection was closed
	stop  context.CancelFunc
	once  sync.Once
	start time.Time
	moved atomic.Int64 // when a byte was last read or written, since start

	mu   sync.Mutex
	idle *time.Timer // guarded by mu
	err  error       // guarded by mu; why it ended, if not by Close

	gather gather // what is written and has not left
}

// Watch wraps nc. [WatchedConn.SetIdleTimeout] starts the watching.
func Watch(nc net.Conn) *WatchedConn {
	ctx, stop := context.WithCancel(context.Background())
	return &WatchedConn{Conn: nc, ctx: ctx, stop: stop, start: time.Now()}
}

// SetIdleTimeout ends the connection when nothing was read or written for d. 0: never.
func (w *WatchedConn) SetIdleTimeout(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle != nil {
		w.idle.Stop()
		w.idle = nil
	}
	if d <= 0 || w.ctx.Err() != nil {
		return
	}
	w.moved.Store(int64(time.Since(w.start)))
	w.idle = time.AfterFunc(d, func() { w.checkIdle(d) })
}

func (w *WatchedConn) checkIdle(d time.Duration) {
	quiet := time.Since(w.start) - time.Duration(w.moved.Load())
	if quiet >= d {
		w.end(errIdle)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle != nil {
		w.idle.Reset(d - quiet)
	}
}

// Read counts as movement when it brings bytes.
func (w *WatchedConn) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if n > 0 {
		w.moved.Store(int64(time.Since(w.start)))
	}
	return n, err
}

// Write counts as movement when it takes bytes.
func (w *WatchedConn) Write(b []byte) (int, error) {
	w.gather.mu.Lock()
	defer w.gather.mu.Unlock()
	if w.gather.buf == nil {
		return w.write(b)
	}
	return w.gather.addLocked(w, b)
}

func (w *WatchedConn) write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	if n > 0 {
		w.moved.Store(int64(time.Since(w.start)))
	}
	return n, err
}

// Close closes the connection.
func (w *WatchedConn) Close() error { return w.end(nil) }

// Abort closes the connection so that the peer sees an error, not an end: what
// was not yet delivered is dropped.
func (w *WatchedConn) Abort() error {
	if tc, ok := w.Conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tc.SetLinger(0) // best effort: without it the peer sees an early end
	}
	return w.end(nil)
}

func (w *WatchedConn) end(cause error) error {
	var err error
	w.once.Do(func() {
		w.mu.Lock()
		w.err = cause
		if w.idle != nil {
			w.idle.Stop()
			w.idle = nil
		}
		w.mu.Unlock()
		err = w.Conn.Close()
		w.stop()
	})
	return err
}

// Done is closed when the connection was closed.
func (w *WatchedConn) Done() <-chan struct{} { return w.ctx.Done() }

// cause is why the connection ended, if not by Close.
func (w *WatchedConn) cause() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// lingerClose closes the connection after the peer had a chance to read what
// was written: closing with bytes unread would make the kernel send a reset
// that overtakes them.
func (w *WatchedConn) lingerClose() error {
	if cw, ok := w.Conn.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
		end := time.Now().Add(lingerTime)
		buf := make([]byte, 16<<10)
		for left := lingerBytes; left > 0; {
			now := time.Now()
			_ = w.Conn.SetReadDeadline(now.Add(5 * time.Millisecond))
			n, err := w.Conn.Read(buf)
			if left -= n; err != nil || now.After(end) {
				break
			}
		}
	}
	return w.end(nil)
}

// netError translates the errors of a byte stream: a reset, and an end without
// TLS's goodbye, are the peer's abort.
func netError(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), isReset(err):
		return &Error{Code: codeUnknown, Remote: true, Err: err}
	}
	return err
}

// codeUnknown stands for a code that the transport could not carry: alknet's
// CodeInternal.
const codeUnknown = codeClosed + 1
