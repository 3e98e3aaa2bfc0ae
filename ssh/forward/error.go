package forward

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"syscall"
)

// A Code says how a request ended. The values are those of a SOCKS5 reply
// (RFC 1928, section 6).
type Code uint8

// The codes.
const (
	CodeOK              Code = iota // it succeeded
	CodeFailed                      // for another reason
	CodeDenied                      // by the policy
	CodeNetUnreachable              // no route to the network
	CodeHostUnreachable             // no route to the host, or no such name
	CodeRefused                     // nobody listens there
	CodeExpired                     // no answer in time
	CodeCommand                     // the operation is not supported
	CodeAddress                     // the kind of address is not supported
)

// String is what an error says of the code.
func (c Code) String() string {
	switch c {
	case CodeOK:
		return "ok"
	case CodeDenied:
		return "denied"
	case CodeNetUnreachable:
		return "network unreachable"
	case CodeHostUnreachable:
		return "host unreachable"
	case CodeRefused:
		return "connection refused"
	case CodeExpired:
		return "timed out"
	case CodeCommand:
		return "operation not supported"
	case CodeAddress:
		return "not a valid address"
	}
	return "failed"
}

// An Error is a request that was not granted or did not succeed. Its text never
// contains a destination, so that it may be logged and sent to a peer; Err may,
// and may not.
type Error struct {
	Code   Code   // what went wrong
	Rule   int    // that denied it, from 1; 0: the default, or not denied
	Reason string // what is missing, or the limit; never a destination
	Err    error  // the cause, for Is and As; not in the text
}

// Error is such as "denied: rule 3 (ssh:forward)".
func (e *Error) Error() string {
	s := e.Code.String()
	if e.Rule > 0 {
		s += ": rule " + strconv.Itoa(e.Rule)
		if e.Reason != "" {
			s += " (" + e.Reason + ")"
		}
		return s
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// denied is the error of a verdict.
func denied(v verdict) *Error { return &Error{Code: CodeDenied, Rule: v.rule, Reason: v.why} }

// limitError is a refusal because of a limit.
func limitError(name string, max int) *Error {
	return &Error{Code: CodeFailed, Reason: "limit " + name + " " + strconv.Itoa(max)}
}

// dialError gives the failure of a dial its code.
func dialError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := &Error{Code: CodeFailed, Err: err}
	dns, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case isDNS && !dns.IsTimeout:
		e.Code = CodeHostUnreachable
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Code = CodeRefused
	case errors.Is(err, syscall.ENETUNREACH):
		e.Code = CodeNetUnreachable
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, os.ErrNotExist):
		e.Code = CodeHostUnreachable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), isDNS, isTimeout(err):
		e.Code = CodeExpired
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		e.Reason = "out of file descriptors"
	case errors.Is(err, syscall.EADDRINUSE):
		e.Reason = "address in use"
	}
	return e
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}
