package session

import (
	"crypto/tls"
	"sync"
)

const (
	// recordBytes is what TLS puts in one record (RFC 8446, section 5.1), and
	// crypto/tls in one write.
	recordBytes = 16 << 10
	// gatherBytes is what is gathered at most: a frame of the multiplexer, with
	// what TLS adds.
	gatherBytes = 72 << 10
)

var gatherBuffers = sync.Pool{New: func() any { return new([gatherBytes]byte) }}

// A gather holds records that crypto/tls writes one by one, so that they leave
// with one system call. On a fast network that is most of what a record costs.
type gather struct {
	mu  sync.Mutex
	buf *[gatherBytes]byte // guarded by mu; nil: nothing is gathered
	n   int                // guarded by mu; bytes in buf
}

// addLocked takes b, and writes what it has no room for.
func (g *gather) addLocked(w *WatchedConn, b []byte) (int, error) {
	if g.n+len(b) > len(g.buf) {
		if err := g.flushLocked(w); err != nil {
			return 0, err
		}
	}
	if len(b) > len(g.buf) {
		return w.write(b)
	}
	g.n += copy(g.buf[g.n:], b)
	return len(b), nil
}

// flushLocked writes what was gathered.
func (g *gather) flushLocked(w *WatchedConn) error {
	n := g.n
	g.n = 0
	if n == 0 {
		return nil
	}
	_, err := w.write(g.buf[:n])
	return err
}

// A gatheredTLS is a TLS connection whose writes of more than one record are one
// write below. One goroutine writes; what TLS writes by itself meanwhile keeps
// its place.
type gatheredTLS struct {
	*tls.Conn
	watch *WatchedConn
}

func (c *gatheredTLS) Write(b []byte) (int, error) {
	if len(b) <= recordBytes {
		return c.Conn.Write(b)
	}
	g := &c.watch.gather
	g.mu.Lock()
	g.buf, g.n = gatherBuffers.Get().(*[gatherBytes]byte), 0
	g.mu.Unlock()
	n, err := c.Conn.Write(b)
	g.mu.Lock()
	defer g.mu.Unlock()
	if ferr := g.flushLocked(c.watch); err == nil && ferr != nil {
		n, err = 0, ferr
	}
	gatherBuffers.Put(g.buf)
	g.buf = nil
	return n, err
}
