package session

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/quic-go/quic-go"
)

// quicSession is a Session on QUIC (RFC 9000): its streams are QUIC's.
type quicSession struct{ conn *quic.Conn }

func (s quicSession) Open(ctx context.Context) (Stream, error) {
	st, err := s.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, quicError(err)
	}
	return quicStream{Stream: st, conn: s.conn}, nil
}

func (s quicSession) Accept(ctx context.Context) (Stream, error) {
	st, err := s.conn.AcceptStream(ctx)
	if err != nil {
		return nil, quicError(err)
	}
	return quicStream{Stream: st, conn: s.conn}, nil
}

func (s quicSession) Close(code uint64, reason string) error {
	return s.conn.CloseWithError(quic.ApplicationErrorCode(code&MaxCode), reason)
}

func (s quicSession) Done() <-chan struct{}    { return s.conn.Context().Done() }
func (s quicSession) TLS() tls.ConnectionState { return s.conn.ConnectionState().TLS }
func (s quicSession) LocalAddr() net.Addr      { return s.conn.LocalAddr() }
func (s quicSession) RemoteAddr() net.Addr     { return s.conn.RemoteAddr() }
func (s quicSession) RTT() time.Duration       { return s.conn.ConnectionStats().SmoothedRTT }
func (s quicSession) Underlying() any          { return s.conn }

func (s quicSession) Err() error {
	if s.conn.Context().Err() == nil {
		return nil
	}
	return quicError(context.Cause(s.conn.Context()))
}

// refuseUniStreams answers every unidirectional stream with STOP_SENDING until
// the connection ends: no protocol of ours but HTTP/3 has any.
func (s quicSession) refuseUniStreams(code uint64) {
	for {
		st, err := s.conn.AcceptUniStream(s.conn.Context())
		if err != nil {
			return
		}
		st.CancelRead(quic.StreamErrorCode(code))
	}
}

// quicStream is a Stream on QUIC. Read and Write are the library's own, whose
// errors [AsError] knows: a goroutine that waits in Read for days has a call
// less on its stack.
type quicStream struct {
	*quic.Stream
	conn *quic.Conn
}

// TryWrite queues b within the peer's window.
func (s quicStream) TryWrite(b []byte) (bool, error) {
	switch err := s.Stream.TryWriteAll(b); {
	case err == nil:
		return true, nil
	case errors.Is(err, quic.ErrWouldBlock):
		return false, nil
	default:
		return false, quicError(err)
	}
}

func (s quicStream) LocalAddr() net.Addr  { return s.conn.LocalAddr() }
func (s quicStream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

func (s quicStream) CloseWrite() error {
	if err := s.Stream.Close(); err != nil {
		return quicError(err)
	}
	return nil
}

// Close ends both directions; the library's own Close ends only the writing one.
func (s quicStream) Close() error {
	s.CancelRead(codeClosed)
	return s.CloseWrite()
}

func (s quicStream) Reset(code uint64) {
	s.CancelRead(quic.StreamErrorCode(code & MaxCode))
	s.CancelWrite(quic.StreamErrorCode(code & MaxCode))
}

// OnAbort watches the context of the sending side: STOP_SENDING ends it, and so
// does our own FIN, which is not an abort.
func (s quicStream) OnAbort(f func()) (stop func() bool) {
	ctx := s.Stream.Context()
	return context.AfterFunc(ctx, func() {
		if !errors.Is(context.Cause(ctx), quic.ErrStreamClosed) {
			f()
		}
	})
}

// codeClosed is what STOP_SENDING carries when a stream is closed before its
// end was read: alknet's CodeOK.
const codeClosed = 0x616c6b00

// AsError finds the [*Error] that err is or stands for: what a Stream's Read and
// Write return on QUIC are the library's errors.
func AsError(err error) (*Error, bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e, true
	}
	return errors.AsType[*Error](quicError(err))
}

// quicError translates the library's errors into this package's.
func quicError(err error) error {
	if se, ok := errors.AsType[*quic.StreamError](err); ok {
		return &Error{Code: uint64(se.ErrorCode), Remote: se.Remote, Stream: true, Err: err}
	}
	if ae, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return &Error{Code: uint64(ae.ErrorCode), Reason: ae.ErrorMessage, Remote: ae.Remote, Err: err}
	}
	return err
}

func (s quicSession) OnDone(f func()) (stop func() bool) {
	return context.AfterFunc(s.conn.Context(), f)
}

func (s quicSession) Context() context.Context { return s.conn.Context() }
