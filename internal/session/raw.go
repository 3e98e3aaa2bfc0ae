package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// rawSession is a Session of one stream: the bytes of one connection.
type rawSession struct {
	conn  net.Conn // what carries the bytes: the *tls.Conn, or watch itself
	watch *WatchedConn
	ends  RawEnds
	first chan struct{} // holds a token until the stream was handed out

	mu  sync.Mutex
	err error // guarded by mu; why the session ended
}

// RawEnds says how the one stream of a raw session may be had.
type RawEnds uint8

// The ways to the stream.
const (
	RawOpens   RawEnds = 1 << iota // by Open
	RawAccepts                     // by Accept
)

// NewRaw makes a Session of one TLS connection over watch, or of watch itself
// if tc is nil.
func NewRaw(tc *tls.Conn, watch *WatchedConn, ends RawEnds) Session {
	s := &rawSession{conn: watch, watch: watch, ends: ends, first: make(chan struct{}, 1)}
	if tc != nil {
		s.conn = tc
	}
	s.first <- struct{}{}
	return s
}

// Open returns the stream to the end that opens it, once.
func (s *rawSession) Open(ctx context.Context) (Stream, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	if s.ends&RawOpens != 0 {
		select {
		case <-s.first:
			return &rawStream{s: s}, nil
		default:
		}
	}
	return nil, fmt.Errorf("a raw connection has one stream: %w", errors.ErrUnsupported)
}

// Accept returns the stream to the end that accepts it, once; after that it waits
// for the end of the connection.
func (s *rawSession) Accept(ctx context.Context) (Stream, error) {
	first := s.first
	if s.ends&RawAccepts == 0 {
		first = nil
	}
	select {
	case <-s.watch.Done():
		return nil, s.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-first:
		return &rawStream{s: s}, nil
	}
}

// Close says goodbye after a clean end and aborts after any other, since the
// bytes of the stream are all that a Raw peer can see.
func (s *rawSession) Close(code uint64, reason string) error {
	s.end(&Error{Code: code, Reason: reason})
	if code != codeClosed && code != 0 {
		return s.watch.Abort()
	}
	hurry := time.AfterFunc(lingerTime, func() { _ = s.watch.Close() })
	defer hurry.Stop()
	if tc, ok := s.conn.(*tls.Conn); ok {
		_ = tc.CloseWrite() // the peer may be gone
	}
	return s.watch.lingerClose()
}

func (s *rawSession) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *rawSession) Done() <-chan struct{} { return s.watch.Done() }

func (s *rawSession) Err() error {
	select {
	case <-s.watch.Done():
	default:
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = &Error{Code: codeClosed, Err: s.watch.cause()}
	}
	return s.err
}

func (s *rawSession) TLS() tls.ConnectionState {
	if tc, ok := s.conn.(*tls.Conn); ok {
		return tc.ConnectionState()
	}
	return tls.ConnectionState{}
}

func (s *rawSession) LocalAddr() net.Addr  { return s.watch.LocalAddr() }
func (s *rawSession) RemoteAddr() net.Addr { return s.watch.RemoteAddr() }
func (s *rawSession) RTT() time.Duration   { return 0 }

func (s *rawSession) Underlying() any {
	if tc, ok := s.conn.(*tls.Conn); ok {
		return tc
	}
	return s.watch.Conn
}

// rawStream is the one stream of a rawSession.
type rawStream struct{ s *rawSession }

func (r *rawStream) Read(b []byte) (int, error) {
	n, err := r.s.conn.Read(b)
	return n, r.s.streamError(err)
}

func (r *rawStream) Write(b []byte) (int, error) {
	n, err := r.s.conn.Write(b)
	return n, r.s.streamError(err)
}

// streamError translates an error of the connection; one that is the end of the
// connection is noted as the reason.
func (s *rawSession) streamError(err error) error {
	if err == nil {
		return nil
	}
	select {
	case <-s.watch.Done():
		return s.Err()
	default:
	}
	err = netError(err)
	if se, ok := errors.AsType[*Error](err); ok {
		s.end(se)
		_ = s.watch.Close() // it is gone
	}
	return err
}

// CloseWrite sends TLS's close_notify, or half-closes the connection below.
func (r *rawStream) CloseWrite() error {
	if cw, ok := r.s.conn.(interface{ CloseWrite() error }); ok {
		return r.s.streamError(cw.CloseWrite())
	}
	if cw, ok := r.s.watch.Conn.(interface{ CloseWrite() error }); ok {
		return r.s.streamError(cw.CloseWrite())
	}
	return fmt.Errorf("half-close of %T: %w", r.s.watch.Conn, errors.ErrUnsupported)
}

// Close ends the stream, which is the connection.
func (r *rawStream) Close() error { return r.s.Close(codeClosed, "") }

// Reset ends the connection. Raw cannot carry the code.
func (r *rawStream) Reset(code uint64) {
	r.s.end(&Error{Code: code, Stream: true})
	_ = r.s.watch.Abort() // it is over either way
}

// OnAbort watches the end of the connection.
func (r *rawStream) OnAbort(f func()) (stop func() bool) {
	return context.AfterFunc(r.s.watch.ctx, f)
}

func (r *rawStream) LocalAddr() net.Addr                { return r.s.LocalAddr() }
func (r *rawStream) RemoteAddr() net.Addr               { return r.s.RemoteAddr() }
func (r *rawStream) SetDeadline(t time.Time) error      { return r.s.conn.SetDeadline(t) }
func (r *rawStream) SetReadDeadline(t time.Time) error  { return r.s.conn.SetReadDeadline(t) }
func (r *rawStream) SetWriteDeadline(t time.Time) error { return r.s.conn.SetWriteDeadline(t) }

func (s *rawSession) OnDone(f func()) (stop func() bool) { return context.AfterFunc(s.watch.ctx, f) }

func (s *rawSession) Context() context.Context { return s.watch.ctx }
