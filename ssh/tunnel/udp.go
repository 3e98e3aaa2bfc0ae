package tunnel

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/safe"
)

const (
	maxQueued = 64 // datagrams that wait for the stream; then the oldest is dropped
	udpIdle   = 60 * time.Second
	resetIdle = alknet.ErrorCode(3)
)

// A queue holds datagrams that wait for a stream. A datagram that is late is
// worth less than one that is new.
type queue struct {
	some chan struct{} // has an element while there may be something

	mu   sync.Mutex
	list [][]byte // guarded by mu
	over bool     // guarded by mu
}

func newQueue() *queue { return &queue{some: make(chan struct{}, 1)} }

// push adds a copy of a datagram.
func (q *queue) push(d []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == maxQueued {
		q.list = q.list[1:]
	}
	q.list = append(q.list, appendDatagram(make([]byte, 0, 2+len(d)), d))
	q.wakeLocked()
}

func (q *queue) wakeLocked() {
	select {
	case q.some <- struct{}{}:
	default:
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.over = true
	q.wakeLocked()
}

// pop waits for what has gathered; false: it is over.
func (q *queue) pop() ([][]byte, bool) {
	for {
		q.mu.Lock()
		list, over := q.list, q.over
		q.list = nil
		if over {
			q.wakeLocked()
		}
		q.mu.Unlock()
		if len(list) > 0 || over {
			return list, !over
		}
		<-q.some
	}
}

// drain writes what is queued to w, until it is over.
func (q *queue) drain(w io.Writer) error {
	for {
		list, more := q.pop()
		if !more {
			return nil
		}
		for _, d := range list {
			if _, err := w.Write(d); err != nil {
				return err
			}
		}
	}
}

// datagrams carries datagrams between a stream and one destination.
func (r *request) datagrams(ctx context.Context) error {
	nc, err := r.h.Gate.DialContext(ctx, r.id, "udp", r.header.address)
	if err != nil {
		return r.refuse(err)
	}
	defer func() { _ = nc.Close() }() // twice is harmless
	if err := r.answer(answer{}); err != nil {
		return err
	}
	end := func(code alknet.ErrorCode) {
		_ = nc.Close() // reads of both end
		r.s.Reset(code)
	}
	idle := time.AfterFunc(udpIdle, func() { end(resetIdle) })
	defer idle.Stop()
	defer context.AfterFunc(ctx, func() { end(resetClosed) })()
	q := newQueue()
	var wg sync.WaitGroup
	fail := func(error) { end(resetClosed) }
	safe.Go(&wg, fail, func() {
		if q.drain(r.s) != nil {
			end(resetClosed)
		}
	})
	safe.Go(&wg, fail, func() {
		defer q.close()
		buf := make([]byte, maxDatagram)
		for {
			n, err := nc.Read(buf)
			if err != nil && !isRefused(err) {
				end(resetPolicyOr(err))
				return
			}
			if err == nil {
				idle.Reset(udpIdle)
				q.push(buf[:n])
			}
		}
	})
	in := bufio.NewReader(r.s)
	buf := make([]byte, maxDatagram)
	for {
		n, err := readDatagram(in, buf)
		if err != nil {
			break
		}
		idle.Reset(udpIdle)
		_, _ = nc.Write(buf[:n]) // a datagram may be lost
	}
	end(resetClosed)
	wg.Wait()
	return nil
}

// A udpConn is a stream of datagrams: one Read or Write is one.
type udpConn struct {
	*alknet.Stream
	in     *bufio.Reader
	q      *queue
	remote net.Addr
	rd     sync.Mutex // held while a datagram is read
}

func (c *udpConn) Read(b []byte) (int, error) {
	c.rd.Lock()
	defer c.rd.Unlock()
	return readDatagram(c.in, b)
}

func (c *udpConn) Write(b []byte) (int, error) {
	if len(b) > maxDatagram {
		return 0, errTooLong
	}
	c.q.push(b)
	return len(b), nil
}

func (c *udpConn) Close() error {
	c.q.close()
	return c.Stream.Close()
}

// Reset ends both directions at once.
func (c *udpConn) Reset(code alknet.ErrorCode) {
	c.q.close()
	c.Stream.Reset(code)
}

func (c *udpConn) RemoteAddr() net.Addr { return c.remote }
