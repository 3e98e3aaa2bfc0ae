package session

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeBuffer is what one direction of an in-memory stream holds, in bytes: SSH
// and others deadlock when both ends write first into nothing.
const pipeBuffer = 256 << 10

// A halfPipe is one direction of an in-memory stream.
type halfPipe struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	buf     []byte
	eof     bool  // the writer is done
	readErr error // what the reader gets at once: a reset, or its own Close
	wrErr   error // what the writer gets: a reset, or that nobody reads
}

func newHalfPipe() *halfPipe { return &halfPipe{changed: make(chan struct{})} }

func (h *halfPipe) changedLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *halfPipe) read(b []byte, d *deadline) (int, error) {
	for {
		h.mu.Lock()
		switch {
		case h.readErr != nil:
			defer h.mu.Unlock()
			return 0, h.readErr
		case d.expired():
			h.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > 0 || len(b) == 0:
			n := copy(b, h.buf)
			h.buf = h.buf[n:]
			if len(h.buf) == 0 {
				h.buf = nil
			}
			h.changedLocked()
			h.mu.Unlock()
			return n, nil
		case h.eof:
			h.mu.Unlock()
			return 0, io.EOF
		}
		changed := h.changed
		h.mu.Unlock()
		select {
		case <-changed:
		case <-d.wait():
		}
	}
}

func (h *halfPipe) write(b []byte, d *deadline) (int, error) {
	total := 0
	for {
		h.mu.Lock()
		switch {
		case h.wrErr != nil:
			defer h.mu.Unlock()
			return total, h.wrErr
		case h.eof:
			h.mu.Unlock()
			return total, net.ErrClosed
		case d.expired():
			h.mu.Unlock()
			return total, os.ErrDeadlineExceeded
		}
		if n := min(len(b)-total, pipeBuffer-len(h.buf)); n > 0 {
			h.buf = append(h.buf, b[total:total+n]...)
			total += n
			h.changedLocked()
		}
		changed := h.changed
		h.mu.Unlock()
		if total == len(b) {
			return total, nil
		}
		select {
		case <-changed:
		case <-d.wait():
		}
	}
}

// tryWrite writes all of b or, if it would have to wait, nothing.
func (h *halfPipe) tryWrite(b []byte, d *deadline) (bool, error) {
	h.mu.Lock()
	room := pipeBuffer - len(h.buf)
	h.mu.Unlock()
	if len(b) > room { // it only grows: there is one writer
		return false, nil
	}
	_, err := h.write(b, d)
	return err == nil, err
}

// closeWrite ends the direction after what was written.
func (h *halfPipe) closeWrite() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.eof {
		h.eof = true
		h.changedLocked()
	}
}

// fail ends the direction at once; the first errors stay.
func (h *halfPipe) fail(readErr, wrErr error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readErr == nil {
		h.readErr = readErr
	}
	if h.wrErr == nil {
		h.wrErr = wrErr
	}
	h.buf = nil
	h.changedLocked()
}

// drained reports whether the reader has nothing more to get but the end.
func (h *halfPipe) drained() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.readErr != nil || h.eof && len(h.buf) == 0
}

// A deadline closes a channel at a time that may be moved.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	c     chan struct{} // closed when the time has come
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.c != nil {
		select {
		case <-d.c: // it had come: who waits now waits on a new one
			d.c = nil
		default:
		}
	}
	if t.IsZero() {
		return
	}
	if d.c == nil {
		d.c = make(chan struct{})
	}
	c := d.c
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { d.fire(c) })
	} else {
		close(c)
	}
}

func (d *deadline) fire(c chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.c == c {
		select {
		case <-c:
		default:
			close(c)
		}
	}
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.c == nil {
		d.c = make(chan struct{})
	}
	return d.c
}

func (d *deadline) expired() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.c == nil {
		return false
	}
	select {
	case <-d.c:
		return true
	default:
		return false
	}
}

// ended reports whether the writer is done or was stopped.
func (h *halfPipe) ended() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.eof || h.wrErr != nil
}

// whole reports whether the writer ended the direction after its last byte.
func (h *halfPipe) whole() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.eof
}
