package ssh

import (
	"net"
	"sync"
	"time"
)

// libraryBuffer is the size of the library's buffer of writes. Of a packet that
// does not fit into it, such as with AES-GCM, whose length is written first, it
// writes so much and then the rest.
const libraryBuffer = 4096

// holdTime is how long a write that looks like the beginning of a packet is held
// back: much longer than the library needs to write the rest, much less than
// anybody notices. Only a packet of just that size has to wait for it.
const holdTime = 200 * time.Microsecond

// closeTime is how long a close may wait for a packet to be written.
const closeTime = time.Second

// wholeWrites puts the two parts of a packet into one write: one system call, one
// segment that wakes the other end, one frame of Mux. Were the library's buffer
// of another size, the parts would be written as they come.
type wholeWrites struct {
	mu   sync.Mutex
	held []byte      // guarded by mu; the first part
	late *time.Timer // guarded by mu; writes it alone; nil: never needed yet
	err  error       // guarded by mu; of a write that late has done
}

func (w *wholeWrites) write(nc net.Conn, b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	if len(w.held) == 0 {
		if len(b) != libraryBuffer {
			return nc.Write(b)
		}
		w.held = append(w.held, b...)
		if w.late == nil {
			w.late = time.AfterFunc(holdTime, func() { w.flush(nc) })
		} else {
			w.late.Reset(holdTime)
		}
		return len(b), nil
	}
	w.late.Stop()
	first := w.held
	w.held = w.held[:0]
	var n int64
	var err error
	if tc, ok := nc.(*net.TCPConn); ok {
		parts := net.Buffers{first, b}
		n, err = parts.WriteTo(tc)
	} else {
		var m int
		w.held = append(first, b...)
		m, err = nc.Write(w.held)
		w.held, n = w.held[:0], int64(m)
	}
	if err != nil {
		w.err = err
	}
	return max(int(n)-len(first), 0), err
}

// close writes a first part that is alone before its connection is closed, unless
// something is being written, and does not wait long for that.
func (w *wholeWrites) close(nc net.Conn) {
	if !w.mu.TryLock() {
		return // who closes it now gives it up
	}
	defer w.mu.Unlock()
	if len(w.held) > 0 && w.err == nil {
		_ = nc.SetWriteDeadline(time.Now().Add(closeTime))
		_, w.err = nc.Write(w.held)
		w.held = w.held[:0]
	}
}

// flush writes a first part that is alone.
func (w *wholeWrites) flush(nc net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.held) == 0 {
		return
	}
	_, w.err = nc.Write(w.held)
	w.held = w.held[:0]
}
