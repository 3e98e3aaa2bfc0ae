package call

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/strictjson"
)

// An Error is how a call failed. A handler returns one to choose what its
// caller sees; any other error reaches the caller as INTERNAL without text.
// Programs switch on Code ([github.com/alkdev/alknet/call/codes]), never on
// Message.
type Error struct {
	// Code is one of package codes, or one that the operation declares in Errors.
	Code string
	// Message is for people. It goes to the caller, or came from the callee.
	Message string
	// Retryable: the same call may succeed later or elsewhere.
	Retryable bool
	// Remote: the peer said so.
	Remote bool
	// MayHaveRun: the operation may have been executed. False is certain.
	MayHaveRun bool
	// RetryAfter is when to try again, if the callee said so.
	RetryAfter time.Duration
	// Details are for programs: an object whose members depend on Code.
	Details json.RawMessage
	// Reason is a machine-readable why; sent only to callers with scope call:explain.
	Reason string
	// Origin are the peers from us to the one that failed; sent as Reason is.
	Origin []string
	// Err is our cause, for our log. It is never sent.
	Err error

	executed executed
}

// executed is what is known of whether the operation ran.
type executed uint8

const (
	runUnsaid  executed = iota
	runNo               // it surely did not
	runYes              // it did
	runUnknown          // nobody can tell
)

var executedNames = [...]string{runNo: "no", runYes: "yes", runUnknown: "unknown"}

// Error is "call: CODE: message", with a remote message quoted.
func (e *Error) Error() string {
	s := "call: " + e.Code
	if e.Remote {
		s = "call: " + plainCode(e.Code) + " (said the peer)"
	}
	switch {
	case e.Message == "":
	case e.Remote:
		s += ": " + printable.Quote(e.Message)
	default:
		s += ": " + e.Message
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// plainCode is a code as the peer wrote it, quoted unless it is a plain word.
func plainCode(code string) string {
	for _, r := range code {
		if (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' {
			return printable.Quote(code)
		}
	}
	return code
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// errorf makes an Error of one of the protocol's codes.
func errorf(code, format string, args ...any) *Error {
	msg := format
	if len(args) > 0 {
		msg = fmt.Sprintf(format, args...)
	}
	return &Error{Code: code, Message: msg, Retryable: codes.Retryable(code)}
}

// ran notes whether the operation was executed.
func (e *Error) ran(x executed) *Error {
	e.executed = x
	e.MayHaveRun = x == runYes || x == runUnknown
	return e
}

// because adds our own cause.
func (e *Error) because(err error) *Error {
	e.Err = err
	return e
}

// limitError is a refusal because of a limit of ours; nothing has run.
func limitError(limit string, max int64) *Error {
	e := errorf(codes.ResourceExhausted, "limit reached: %s", limit).ran(runNo)
	e.Details = json.RawMessage(`{"limit":` + strconv.Quote(limit) + `}`)
	e.Err = fmt.Errorf("%s = %d", limit, max)
	return e
}

// notFound is the one answer for absent, internal and invisible operations.
func notFound(name string) *Error { return errorf(codes.NotFound, "operation not found: %s", name) }

// internal is what a caller hears of a failure that is nobody's business.
func internal(cause error) *Error {
	return errorf(codes.Internal, "internal error").ran(runYes).because(cause)
}

// asError makes an *Error of whatever a handler returned.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return errorf(codes.Timeout, "deadline exceeded").ran(runUnknown).because(err)
	case errors.Is(err, context.Canceled):
		return errorf(codes.Cancelled, "cancelled").ran(runUnknown).because(err)
	}
	return internal(err)
}

// errorBody is the payload of call.error. The members that every peer sends
// come first; extensions are left out where they say nothing.
type errorBody struct {
	Code         string          `json:"code"`
	Message      string          `json:"message"`
	Retryable    bool            `json:"retryable"`
	Details      json.RawMessage `json:"details,omitzero"`
	Executed     string          `json:"executed,omitzero"`
	RetryAfterMS int64           `json:"retry_after_ms,omitzero"`
	Reason       string          `json:"reason,omitzero"`
	Origin       []string        `json:"origin,omitzero"`
}

// appendPayload appends the payload of call.error. explain adds what only
// callers with scope call:explain may know.
func (e *Error) appendPayload(b []byte, explain bool) []byte {
	b = appendString(append(b, `{"code":`...), e.Code)
	b = appendString(append(b, `,"message":`...), e.Message)
	b = strconv.AppendBool(append(b, `,"retryable":`...), e.Retryable)
	if len(e.Details) > 0 && strictjson.Check(e.Details) == nil {
		b = append(append(b, `,"details":`...), e.Details...)
	}
	if e.executed != runUnsaid {
		b = append(append(append(b, `,"executed":"`...), executedNames[e.executed]...), '"')
	}
	if e.RetryAfter > 0 {
		b = strconv.AppendInt(append(b, `,"retry_after_ms":`...), e.RetryAfter.Milliseconds(), 10)
	}
	if explain && e.Reason != "" {
		b = appendString(append(b, `,"reason":`...), e.Reason)
	}
	if explain && len(e.Origin) > 0 {
		b = append(b, `,"origin":[`...)
		for i, id := range e.Origin {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, id)
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

// parseError reads the payload of call.error. A malformed one is an INTERNAL
// error too: it ends the call.
func parseError(payload []byte) *Error {
	var body errorBody
	if err := strictjson.Decode(payload, &body); err != nil || body.Code == "" {
		return &Error{Code: codes.Internal, Message: "malformed call.error", Remote: true, MayHaveRun: true, Err: err}
	}
	e := &Error{
		Code: body.Code, Message: body.Message, Retryable: body.Retryable, Remote: true, Details: body.Details,
		RetryAfter: time.Duration(min(body.RetryAfterMS, maxRetryAfter)) * time.Millisecond, Reason: body.Reason, Origin: body.Origin,
	}
	switch e.Code {
	case codes.Timeout:
		e.Err = context.DeadlineExceeded
	case codes.Cancelled:
		e.Err = context.Canceled
	}
	switch body.Executed {
	case "no":
		e.ran(runNo)
	case "yes":
		e.ran(runYes)
	case "unknown":
		e.ran(runUnknown)
	default:
		e.MayHaveRun = !beforeRun(e.Code)
	}
	return e
}

// maxRetryAfter bounds what a peer may ask us to wait, in milliseconds.
const maxRetryAfter = 24 * 60 * 60 * 1000

// beforeRun reports whether a code is given before an operation runs, where the
// callee does not say.
func beforeRun(code string) bool {
	switch code {
	case codes.NotFound, codes.Forbidden, codes.Unauthenticated, codes.InvalidRequest, codes.InvalidInput,
		codes.InvalidOperationType, codes.ResourceExhausted, codes.LoopDetected:
		return true
	}
	return false
}

// appendString appends s as a JSON string; bytes that are not UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	if plainText(s) {
		return append(append(append(b, '"'), s...), '"')
	}
	out, _ := jsontext.AppendQuote(b, s) // its error is of bytes that it has replaced
	return out
}

// plainText reports whether s needs no escapes in JSON.
func plainText[T string | []byte](s T) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
