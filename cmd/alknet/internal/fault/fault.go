// Package fault holds how the program fails: an error with an exit status, a
// word for programs, and what to do next. One function maps the errors of the
// libraries to these.
package fault

import (
	"context"
	"encoding/json"
	"errors"
	iofs "io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/durable"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/vault"
)

// The exit statuses. They are an interface: numbers are added, never changed.
const (
	OK          = 0   // it may
	Failed      = 1   // for no reason below
	Usage       = 2   // the command line is wrong
	Partly      = 3   // some of it was done
	Config      = 4   // the configuration is invalid
	Unknown     = 10  // no such peer or name
	Busy        = 11  // locked, in use or at a limit: try later
	Passphrase  = 12  // wrong passphrase or phrase
	Denied      = 13  // not allowed
	Unreachable = 14  // a peer cannot be reached, or the node does not run
	Deadline    = 15  // the time is over
	NotServed   = 16  // no such service or operation there
	Remote      = 17  // the peer's application failed
	Integrity   = 18  // data is not what it should be
	Interrupted = 130 // by a signal
)

// words are the codes for programs, by exit status.
var words = map[int]string{
	Failed: "failed", Usage: "usage", Partly: "partly", Config: "config", Unknown: "unknown", Busy: "busy",
	Passphrase: "passphrase", Denied: "denied", Unreachable: "unreachable", Deadline: "deadline", NotServed: "not_served",
	Remote: "remote", Integrity: "integrity", Interrupted: "interrupted",
}

// An Error is how a command failed.
type Error struct {
	Exit    int    `json:"exit"`           // the exit status
	Code    string `json:"code"`           // a word for Exit, or the code of a call
	Message string `json:"message"`        // for people
	Peer    string `json:"peer,omitzero"`  // its id, or empty
	Limit   string `json:"limit,omitzero"` // that was reached
	Hint    string `json:"hint,omitzero"`  // a command that helps
	Err     error  `json:"-"`              // the cause
}

// Error is one line: what, why, and what to do next.
func (e *Error) Error() string {
	s := strings.Map(harmless, e.Message)
	if e.Hint != "" {
		s += " (try: " + e.Hint + ")"
	}
	return s
}

// harmless replaces what would move a terminal's cursor, or turn its text around.
func harmless(r rune) rune {
	switch {
	case r == '\n' || r == '\t':
		return ' '
	case r < 0x20, r >= 0x7f && r < 0xa0, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f, r == 0x61c:
		return '\ufffd'
	}
	return r
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an Error.
func New(exit int, message, hint string) *Error {
	return &Error{Exit: exit, Code: words[exit], Message: message, Hint: hint}
}

// Of maps any error to an Error; nil to nil.
func Of(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := &Error{Message: err.Error(), Err: err}
	if ce, ok := errors.AsType[*call.Error](err); ok {
		e.fromCall(ce)
	} else {
		e.Exit = exitOf(err)
	}
	if e.Code == "" {
		e.Code = words[e.Exit]
	}
	return e
}

// fromCall maps the codes of calls.
func (e *Error) fromCall(ce *call.Error) {
	e.Code = ce.Code
	if ce.Message != "" {
		e.Message = ce.Code + ": " + trim(ce)
	} else {
		e.Message = ce.Code
	}
	var details struct {
		Limit  string `json:"limit"`
		Closed string `json:"closed"`
	}
	if json.Unmarshal(ce.Details, &details) == nil {
		e.Limit = details.Limit
	}
	switch ce.Code {
	case codes.NotFound, codes.InvalidOperationType:
		e.Exit = NotServed
	case codes.Forbidden, codes.Unauthenticated:
		e.Exit = Denied
	case codes.Timeout:
		e.Exit = Deadline
	case codes.ResourceExhausted:
		e.Exit = Busy
	case codes.Unavailable:
		e.Exit = Unreachable
		if ae, ok := errors.AsType[*alknet.Error](ce.Err); ok && ae.Remote {
			if exit, ok := closeCodes[ae.Code]; ok {
				e.Exit, e.Code, e.Message = exit, words[exit], "the peer said "+ae.Code.String()+": "+printable.Quote(ae.Reason)
			}
		} else if refusing(details.Closed) {
			e.Exit, e.Code, e.Message = Denied, words[Denied], trim(ce)
		}
	case codes.DataLoss:
		e.Exit = Integrity
	case codes.Cancelled:
		e.Exit = Interrupted
	case "UNKNOWN_PEER": // of the node's own operations, and as those of a few lines above
		e.Exit = Unknown
	case "PASSPHRASE":
		e.Exit = Passphrase
	case "FAILED":
		e.Exit = Failed
	case codes.InvalidInput, codes.InvalidRequest:
		e.Exit = Usage
	default:
		e.Exit = Remote
	}
}

// Refusal is the word for a code with which a peer ends the connection of somebody
// whom it does not, or no longer, admit; empty for any other. A node that hands on a
// call which ended so puts it into details.closed.
func Refusal(code alknet.ErrorCode) string {
	if closeCodes[code] != Denied {
		return ""
	}
	return code.String()
}

// refusing reports whether a word is one of Refusal's.
func refusing(word string) bool {
	for code := range closeCodes {
		if word != "" && Refusal(code) == word {
			return true
		}
	}
	return false
}

// trim is the message of a call's error, quoted where a peer wrote it.
func trim(ce *call.Error) string {
	if ce.Remote {
		q := printable.Quote(ce.Message)
		if len(q) >= 2 && !strings.ContainsAny(q[1:len(q)-1], `\"`) && strings.HasSuffix(q, `"`) {
			return q[1 : len(q)-1] // nothing in it had to be escaped
		}
		return q
	}
	return ce.Message
}

// exitOf maps errors that are not of calls.
func exitOf(err error) int {
	if ae, ok := errors.AsType[*alknet.Error](err); ok {
		if exit, ok := closeCodes[ae.Code]; ok && !errors.Is(err, alknet.ErrNoService) {
			return exit
		}
	}
	if fe, ok := errors.AsType[*forward.Error](err); ok && fe.Code == forward.CodeDenied {
		return Denied
	}
	for _, row := range causes {
		if errors.Is(err, row.cause) {
			return row.exit
		}
	}
	if _, ok := errors.AsType[*alknet.AccessError](err); ok {
		return Denied
	}
	if _, ok := errors.AsType[*vault.PhraseError](err); ok {
		return Passphrase
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return Unreachable
	}
	return Failed
}

// closeCodes are the exit statuses of the codes that end connections.
var closeCodes = map[alknet.ErrorCode]int{
	alknet.CodeRefused:         Denied,
	alknet.CodeUnauthenticated: Denied,
	alknet.CodeRevoked:         Denied,
	alknet.CodeLimit:           Busy,
	alknet.CodeShutdown:        Unreachable,
	alknet.CodeProtocol:        Remote,
	alknet.CodeInternal:        Remote,
}

// causes are the exit statuses of the errors that libraries wrap; the first match
// decides.
var causes = []struct {
	cause error
	exit  int
}{
	{alknet.ErrNoService, NotServed},
	{context.Canceled, Interrupted},
	{context.DeadlineExceeded, Deadline},
	{os.ErrDeadlineExceeded, Deadline},
	{vault.ErrNoSlot, Passphrase},
	{vault.ErrWrongPhrase, Passphrase},
	{vault.ErrInUse, Busy},
	{vault.ErrLocked, Busy},
	{vault.ErrNotFound, Unknown},
	{vault.ErrDecrypt, Integrity},
	{vault.ErrMalformed, Integrity},
	{durable.ErrLocked, Busy},
	{syscall.EADDRINUSE, Busy},
	{syscall.ECONNREFUSED, Unreachable},
	{exec.ErrNotFound, Usage},
	{iofs.ErrPermission, Denied},
	{net.ErrClosed, Unreachable},
}
