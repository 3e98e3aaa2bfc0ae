package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/safe"
)

// bufferBytes is what is read at once in each direction of a Splice: with the 12
// bytes of its header it is one frame of Mux.
const bufferBytes = 64<<10 - 12

var buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

// The codes with which Splice resets an [alknet.Stream].
const (
	resetByTarget alknet.ErrorCode = 1 // the other connection broke off
	resetByPolicy alknet.ErrorCode = 2 // a new policy does not allow it
	resetByIdle   alknet.ErrorCode = 3 // nothing moved for too long
)

type closeWriter interface{ CloseWrite() error }

// Splice copies between a and b until both directions have ended, and closes
// both. The end of one direction is passed on with CloseWrite, where the
// connection has it, while the other goes on. A direction that breaks off, and
// the end of ctx, break off the other: then a and b are reset where they can be,
// so that neither end takes what was cut for whole. It returns how much went
// each way and the first error; what an end of ctx causes is context.Cause.
func Splice(ctx context.Context, a, b net.Conn) (aToB, bToA int64, err error) {
	s := &splice{a: a, b: b}
	stop := context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })
	var wg sync.WaitGroup
	safe.Go(&wg, s.fail, func() { bToA = s.copy(a, b) })
	aToB = s.copy(b, a)
	wg.Wait()
	if !stop() && s.failed() == nil {
		s.fail(context.Cause(ctx))
	}
	if err = s.failed(); err == nil {
		_ = a.Close() // both directions ended well: nothing is lost
		_ = b.Close()
	}
	return aToB, bToA, err
}

// A splice is two connections that end together.
type splice struct {
	a, b net.Conn

	mu  sync.Mutex
	err error // guarded by mu
}

func (s *splice) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// fail ends both connections for the first error.
func (s *splice) fail(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
	}
	s.mu.Unlock()
	if first {
		abort(s.a, err)
		abort(s.b, err)
	}
}

// copy moves what src says to dst, and the end of it.
func (s *splice) copy(dst, src net.Conn) int64 {
	n, err := copyBuffer(dst, src)
	if err != nil {
		s.fail(err)
		return n
	}
	if cw, ok := dst.(closeWriter); ok {
		err = cw.CloseWrite()
	} else {
		err = dst.Close()
	}
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		s.fail(err)
	}
	return n
}

// copyBuffer is io.Copy with a buffer of ours, whatever the connections offer:
// their own ways allocate, or read in smaller pieces.
func copyBuffer(dst io.Writer, src io.Reader) (n int64, err error) {
	buf := buffers.Get().(*[bufferBytes]byte)
	defer buffers.Put(buf)
	for {
		nr, rerr := src.Read(buf[:])
		if nr > 0 {
			nw, werr := dst.Write(buf[:nr])
			n += int64(nw)
			if werr != nil {
				return n, werr
			}
		}
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

// abort ends a connection so that its peer sees that it was cut.
func abort(c net.Conn, why error) {
	switch c := c.(type) {
	case interface{ Reset(alknet.ErrorCode) }:
		c.Reset(resetCode(why))
		return
	case interface{ SetLinger(int) error }:
		_ = c.SetLinger(0) // Close then sends a reset
	}
	_ = c.Close() // it is given up
}

func resetCode(why error) alknet.ErrorCode {
	e, ours := errors.AsType[*Error](why)
	switch {
	case ours && e.Code == CodeDenied:
		return resetByPolicy
	case ours && e.Code == CodeExpired:
		return resetByIdle
	}
	return resetByTarget
}
