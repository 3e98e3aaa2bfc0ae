package session

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/alkdev/alknet/internal/mux"
)

// muxSession is a Session of many streams in one TLS connection on TCP.
type muxSession struct {
	*mux.Session
	tc    *tls.Conn
	watch *WatchedConn
}

// MuxConfig is what a Mux session may use.
type MuxConfig = mux.Config

// NewMux makes a Session of a TLS connection over watch, multiplexed.
func NewMux(tc *tls.Conn, watch *WatchedConn, dialled bool, c MuxConfig) (Session, error) {
	start := mux.Server
	if dialled {
		start = mux.Client
	}
	ms, err := start(&gatheredTLS{tc, watch}, c)
	if err != nil {
		return nil, err
	}
	return &muxSession{Session: ms, tc: tc, watch: watch}, nil
}

func (s *muxSession) Open(ctx context.Context) (Stream, error) {
	st, err := s.Session.Open(ctx)
	if err != nil {
		return nil, s.translate(err)
	}
	return muxStream{st, s}, nil
}

func (s *muxSession) Accept(ctx context.Context) (Stream, error) {
	st, err := s.Session.Accept(ctx)
	if err != nil {
		return nil, s.translate(err)
	}
	return muxStream{st, s}, nil
}

func (s *muxSession) Close(code uint64, reason string) error {
	hurry := time.AfterFunc(2*lingerTime, func() { _ = s.watch.Close() })
	defer hurry.Stop()
	return s.Session.Close(code, reason)
}

func (s *muxSession) Err() error {
	if err := s.Session.Err(); err != nil {
		return s.translate(err)
	}
	return nil
}

func (s *muxSession) TLS() tls.ConnectionState { return s.tc.ConnectionState() }
func (s *muxSession) LocalAddr() net.Addr      { return s.watch.LocalAddr() }
func (s *muxSession) RemoteAddr() net.Addr     { return s.watch.RemoteAddr() }
func (s *muxSession) Underlying() any          { return s.tc }

// translate makes the multiplexer's errors those of this package.
func (s *muxSession) translate(err error) error {
	if ce, ok := errors.AsType[*mux.CloseError](err); ok {
		return &Error{Code: ce.Code, Reason: ce.Reason, Remote: ce.Remote, Err: err}
	}
	if se, ok := errors.AsType[*mux.StreamError](err); ok {
		return &Error{Code: se.Code, Remote: se.Remote, Stream: true, Err: err}
	}
	select {
	case <-s.Done():
		// The peer vanished, or the connection was idle for too long.
		return &Error{Code: codeUnknown, Remote: s.watch.cause() == nil, Err: errors.Join(err, s.watch.cause())}
	default:
		return err
	}
}

// muxStream is a Stream of a muxSession.
type muxStream struct {
	*mux.Stream
	s *muxSession
}

func (m muxStream) Read(b []byte) (int, error) {
	n, err := m.Stream.Read(b)
	if err != nil && err != io.EOF { // the end of a stream may be read after the session's
		err = m.s.translate(err)
	}
	return n, err
}

func (m muxStream) Write(b []byte) (int, error) {
	n, err := m.Stream.Write(b)
	if err != nil {
		err = m.s.translate(err)
	}
	return n, err
}

func (s *muxSession) OnDone(f func()) (stop func() bool) { return context.AfterFunc(s.watch.ctx, f) }

func (s *muxSession) Context() context.Context { return s.watch.ctx }
