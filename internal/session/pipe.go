package session

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// pipeStreams is how many streams one end of a pipe may have open at once, the
// default of the other transports.
const pipeStreams = 256

// A pipe is two sessions in memory. It uses no sockets and no goroutines of its
// own, so that it works in a testing/synctest bubble.
type pipe struct {
	ctx  context.Context // ends with the pipe
	stop context.CancelCauseFunc
}

// pipeSession is one end of a pipe.
type pipeSession struct {
	p     *pipe
	peer  *pipeSession
	queue chan *pipeStream // opened by the peer, not yet accepted
	slots chan struct{}    // one token per stream this end has open

	mu  sync.Mutex
	err error // guarded by mu; what this end sees once the pipe is closed
}

// NewPipe returns the two ends of a connection in memory.
func NewPipe() (dialled, accepted Session) {
	p := &pipe{}
	p.ctx, p.stop = context.WithCancelCause(context.Background())
	end := func() *pipeSession {
		return &pipeSession{p: p, queue: make(chan *pipeStream, pipeStreams), slots: make(chan struct{}, pipeStreams)}
	}
	a, b := end(), end()
	a.peer, b.peer = b, a
	return a, b
}

func (s *pipeSession) Open(ctx context.Context) (Stream, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.p.ctx.Done():
		return nil, s.Err()
	}
	mine, theirs := newPipeStreams(s)
	s.peer.queue <- theirs // never full: a slot was taken
	return mine, nil
}

func (s *pipeSession) Accept(ctx context.Context) (Stream, error) {
	select {
	case <-s.p.ctx.Done():
		return nil, s.Err()
	default:
	}
	select {
	case st := <-s.queue:
		return st, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.p.ctx.Done():
		return nil, s.Err()
	}
}

func (s *pipeSession) Close(code uint64, reason string) error {
	code &= MaxCode
	if s.end(&Error{Code: code, Reason: reason}) {
		s.peer.end(&Error{Code: code, Reason: reason, Remote: true})
	}
	s.p.stop(net.ErrClosed)
	return nil
}

func (s *pipeSession) end(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	s.err = err
	return true
}

func (s *pipeSession) Done() <-chan struct{} { return s.p.ctx.Done() }

func (s *pipeSession) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *pipeSession) TLS() tls.ConnectionState { return tls.ConnectionState{} }
func (s *pipeSession) LocalAddr() net.Addr      { return pipeAddr{} }
func (s *pipeSession) RemoteAddr() net.Addr     { return pipeAddr{} }
func (s *pipeSession) RTT() time.Duration       { return 0 }
func (s *pipeSession) Underlying() any          { return nil }

// pipeAddr is the address of both ends of a pipe.
type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// pipeStream is one end of an in-memory stream.
type pipeStream struct {
	s       *pipeSession
	opener  *pipeSession
	in, out *halfPipe
	rd, wd  deadline

	mu      sync.Mutex
	aborted bool               // guarded by mu
	aborts  context.Context    // guarded by mu; ends when aborted; nil: nobody has asked
	stop    context.CancelFunc // guarded by mu; of aborts
	peer    *pipeStream
	unwatch func() bool
}

func newPipeStreams(opener *pipeSession) (mine, theirs *pipeStream) {
	there, back := newHalfPipe(), newHalfPipe()
	mine = &pipeStream{s: opener, opener: opener, in: back, out: there}
	theirs = &pipeStream{s: opener.peer, opener: opener, in: there, out: back}
	mine.peer, theirs.peer = theirs, mine
	mine.unwatch = context.AfterFunc(opener.p.ctx, mine.sessionEnded)
	theirs.unwatch = context.AfterFunc(opener.p.ctx, theirs.sessionEnded)
	return mine, theirs
}

func (st *pipeStream) sessionEnded() {
	err := st.s.Err()
	if e, ok := errors.AsType[*Error](err); !ok || !e.Remote || !st.in.whole() {
		st.in.fail(err, nil) // what the peer ended before may still be read
	}
	st.out.fail(nil, err)
	st.abort()
}

func (st *pipeStream) Read(b []byte) (int, error) {
	n, err := st.in.read(b, &st.rd)
	if err != nil {
		st.release()
	}
	return n, err
}

func (st *pipeStream) Write(b []byte) (int, error) { return st.out.write(b, &st.wd) }

// TryWrite writes b if there is room for it.
func (st *pipeStream) TryWrite(b []byte) (bool, error) { return st.out.tryWrite(b, &st.wd) }

func (st *pipeStream) CloseWrite() error {
	if err := st.s.Err(); err != nil {
		return err // an end now would make what was cut look whole
	}
	st.out.closeWrite()
	st.release()
	return nil
}

// release frees the end once both directions are over.
func (st *pipeStream) release() {
	if st.out.ended() && st.in.drained() {
		st.free()
	}
}

// free ends the end's use of the session. As on the other transports the
// accepting end decides when the opener may have another stream.
func (st *pipeStream) free() {
	st.mu.Lock()
	unwatch := st.unwatch
	st.unwatch = nil
	st.mu.Unlock()
	if unwatch == nil {
		return
	}
	unwatch()
	if st.s != st.opener {
		<-st.opener.slots
	}
}

func (st *pipeStream) Close() error {
	if err := st.s.Err(); err != nil {
		return err
	}
	st.out.closeWrite()
	if !st.in.drained() {
		stop := &Error{Code: codeClosed, Remote: true, Stream: true}
		st.in.fail(net.ErrClosed, stop)
		st.peer.abort()
	}
	st.free()
	return nil
}

func (st *pipeStream) Reset(code uint64) {
	if st.s.Err() != nil {
		return // as on a network, where the peer hears how the connection ended
	}
	code &= MaxCode
	here, there := &Error{Code: code, Stream: true}, &Error{Code: code, Remote: true, Stream: true}
	st.in.fail(here, there)
	st.out.fail(there, here)
	st.peer.abort()
	st.free()
}

// OnAbort runs f in a goroutine of its own, at most once.
func (st *pipeStream) OnAbort(f func()) (stop func() bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.aborts == nil {
		st.aborts, st.stop = context.WithCancel(context.Background())
	}
	if st.aborted || st.s.p.ctx.Err() != nil {
		st.stop()
	}
	return context.AfterFunc(st.aborts, f)
}

func (st *pipeStream) abort() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.aborted = true
	if st.stop != nil {
		st.stop()
	}
}

func (st *pipeStream) SetDeadline(t time.Time) error {
	return errors.Join(st.SetReadDeadline(t), st.SetWriteDeadline(t))
}
func (st *pipeStream) SetReadDeadline(t time.Time) error  { st.rd.set(t); return nil }
func (st *pipeStream) SetWriteDeadline(t time.Time) error { st.wd.set(t); return nil }
func (st *pipeStream) LocalAddr() net.Addr                { return pipeAddr{} }
func (st *pipeStream) RemoteAddr() net.Addr               { return pipeAddr{} }

func (s *pipeSession) OnDone(f func()) (stop func() bool) { return context.AfterFunc(s.p.ctx, f) }

func (s *pipeSession) Context() context.Context { return s.p.ctx }
