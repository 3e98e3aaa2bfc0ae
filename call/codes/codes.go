// Package codes holds the codes of call errors (docs/protocol.md, section
// "Call"). Programs switch on the code and never on a message; an unknown code
// counts as Internal.
package codes

// The codes that the protocol itself gives. Operations may declare others.
const (
	NotFound             = "NOT_FOUND"              // no such operation, or none that the caller may see
	Forbidden            = "FORBIDDEN"              // the caller lacks a scope or a resource
	Unauthenticated      = "UNAUTHENTICATED"        // a token or a delegation that does not verify
	InvalidRequest       = "INVALID_REQUEST"        // a frame that is not one strict envelope; a live id used again
	InvalidInput         = "INVALID_INPUT"          // the input does not fit the operation; details say where
	InvalidOperationType = "INVALID_OPERATION_TYPE" // a stream was asked for and there is none, or the reverse
	Timeout              = "TIMEOUT"                // the deadline passed
	ResourceExhausted    = "RESOURCE_EXHAUSTED"     // a limit was reached; details.limit names it
	Unavailable          = "UNAVAILABLE"            // the peer drains, or the connection to it was lost
	Cancelled            = "CANCELLED"              // the caller aborted the call
	DataLoss             = "DATA_LOSS"              // an item is missing or came twice
	SlowConsumer         = "SLOW_CONSUMER"          // a peer without credit read too slowly
	NotResumable         = "NOT_RESUMABLE"          // the subscription cannot go on after that item
	LoopDetected         = "LOOP_DETECTED"          // the call came back, or went over too many hops
	Internal             = "INTERNAL"               // the handler failed; it says no more
)

// Known reports whether code is one of the protocol's own.
func Known(code string) bool {
	switch code {
	case NotFound, Forbidden, Unauthenticated, InvalidRequest, InvalidInput, InvalidOperationType, Timeout,
		ResourceExhausted, Unavailable, Cancelled, DataLoss, SlowConsumer, NotResumable, LoopDetected, Internal:
		return true
	}
	return false
}

// Retryable reports whether the same call may succeed later or elsewhere.
func Retryable(code string) bool {
	return code == Timeout || code == ResourceExhausted || code == Unavailable
}
