package alknet

import (
	"errors"
	"fmt"
	"net"

	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/session"
)

// ErrorCode is why a connection or a stream was ended. The codes below are
// alknet's own; protocols may use any value below 2^62 (docs/protocol.md,
// section "Error codes").
type ErrorCode uint64

// The codes that alknet closes connections with.
const (
	CodeOK              ErrorCode = 0x616c6b00 + iota // a normal end
	CodeInternal                                      // the handler failed; it says no more
	CodeRefused                                       // the peer may not use the service, or it does not exist
	CodeUnauthenticated                               // the service needs a known peer
	CodeRevoked                                       // the peer was known and is no longer
	CodeLimit                                         // a limit was reached; the reason begins with its name
	CodeShutdown                                      // the node is draining; retry here later or elsewhere now
	CodeProtocol                                      // the peer did not keep to the protocol
)

// String is the code's name, or its value in hexadecimal.
func (c ErrorCode) String() string {
	if i := int64(c) - int64(CodeOK); i >= 0 && i < int64(len(codeNames)) {
		return codeNames[i]
	}
	return fmt.Sprintf("%#x", uint64(c))
}

// Retryable reports whether the same request may succeed later or elsewhere:
// it was refused before anything was done.
func (c ErrorCode) Retryable() bool { return c == CodeLimit || c == CodeShutdown }

var codeNames = [...]string{
	"ok", "internal error", "refused", "unauthenticated", "revoked", "limit reached", "shutting down", "protocol error",
}

// An Error ends a connection or a stream. A handler returns one to choose what
// its peer sees; reads, writes and dials return one with what the peer or the
// transport decided.
type Error struct {
	Code   ErrorCode // any value below 2^62
	Reason string    // goes to the peer, or came from it; at most 256 bytes arrive everywhere
	Remote bool      // the peer decided it
	Err    error     // the cause, for our log only; never sent
}

// Error names the code, the reason (quoted where it is the peer's) and the cause.
func (e *Error) Error() string {
	s := "alknet: " + e.Code.String()
	if e.Remote {
		s += " (said the peer)"
	}
	switch {
	case e.Reason == "":
	case e.Remote:
		s += ": " + printable.Quote(e.Reason)
	default:
		s += ": " + e.Reason
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// The errors that callers test for with [errors.Is].
var (
	// ErrRouterClosed is what a Router returns after Shutdown or Close.
	ErrRouterClosed = errors.New("alknet: router closed")
	// ErrALPNInUse is what Register returns for a name that is taken.
	ErrALPNInUse = errors.New("alknet: ALPN in use")
	// ErrNoService is in the error of a dial to an ALPN that the peer does not
	// serve on any transport that was tried.
	ErrNoService = errors.New("no such service")
)

// wrapError makes an error of the session layer the public one.
func wrapError(err error) error {
	se, ok := session.AsError(err)
	if !ok {
		return err
	}
	e := &Error{Code: ErrorCode(se.Code), Reason: se.Reason, Remote: se.Remote, Err: se.Err}
	if !se.Stream {
		e.Err = closedError{se.Err}
	}
	return e
}

// opError says what failed. Unlike fmt.Errorf it makes its text only when that
// is asked for: every connection ends with one.
type opError struct {
	op  string
	err error
}

func (e opError) Error() string { return "alknet: " + e.op + ": " + e.err.Error() }
func (e opError) Unwrap() error { return e.err }

// closedError is the cause of an ended connection: whatever it was, it tests
// as [net.ErrClosed].
type closedError struct{ err error }

func (e closedError) Error() string {
	if e.err == nil {
		return "connection closed"
	}
	return "connection closed: " + e.err.Error()
}

func (e closedError) Unwrap() []error {
	if e.err == nil {
		return []error{net.ErrClosed}
	}
	return []error{net.ErrClosed, e.err}
}

// closeCode is what a handler's result says to the peer.
func closeCode(err error) (ErrorCode, string) {
	if err == nil {
		return CodeOK, ""
	}
	if e, ok := errors.AsType[*Error](err); ok && !e.Remote {
		return e.Code, e.Reason
	}
	return CodeInternal, ""
}

// limitError is a refusal because a limit was reached. name is the setting
// within [Limits] in snake case; it is all that the peer hears.
func limitError(name string, max int64) *Error {
	return &Error{Code: CodeLimit, Reason: name, Err: fmt.Errorf("limits.%s = %d", name, max)}
}
