package call

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/printable"
)

// An Operation is a function under a name, and who may use it. What is
// registered is a copy.
type Operation struct {
	// Name is "fs/read": segments of letters, digits, ".", "_" and "-" that begin
	// with a letter or digit, at most 64 bytes each and 200 in all.
	Name string
	// Title and Description are for people and models; at most 200 bytes and 8 KiB.
	Title, Description string
	// Tags group operations in documents.
	Tags []string
	// Deprecated says what to use instead.
	Deprecated string
	// Idempotent: running it twice is the same as once. Always true for a Query.
	Idempotent bool
	// Additive: a Mutation that destroys nothing.
	Additive bool
	// Resumable: a Subscription that can start after item n (Request.After,
	// Request.ResumeToken).
	Resumable bool
	// Internal: reached by other operations only, and NOT_FOUND from outside.
	Internal bool
	// AllowAnonymous: callers without an identity may use it.
	AllowAnonymous bool
	// Access is checked for every call.
	Access alknet.AccessControl
	// ResourceID is a JSON Pointer into the input (RFC 6901): the id of the
	// resource that Access is about.
	ResourceID string
	// Errors are what it may fail with, beside the codes of the protocol.
	Errors []ErrorSpec
	// Func runs.
	Func Func
	// Authority is whom it acts as when it calls on. Nil: it may call nothing.
	Authority *alknet.Identity
	// MayCall is what it may call: "fs/read", "fs/*", "box/start@worker-a".
	MayCall []string
	// Capabilities are its own outbound secrets, never its caller's or its
	// children's ([Request.Capability]).
	Capabilities map[string]Secret
	// MaxInputBytes and MaxOutputBytes bound one frame. 0: Limits.MaxFrameBytes.
	// At most 64 MiB.
	MaxInputBytes, MaxOutputBytes int64
	// MaxRunning bounds concurrent runs. 0: only the Handler's limits do.
	MaxRunning int
	// Timeout bounds a run. 0: Limits.Timeout, and none for a stream. The
	// caller's deadline wins when it is shorter.
	Timeout time.Duration

	reg *entry // where it is registered
}

// An ErrorSpec is an error that an operation declares.
type ErrorSpec struct {
	// Code is what callers switch on: capital letters, digits and "_".
	Code string
	// Description is for people.
	Description string
	// Schema is that of Error.Details; nil: anything.
	Schema json.RawMessage
	// HTTPStatus is for gateways; 0: they choose.
	HTTPStatus int
}

// An OpType says how often an operation answers.
type OpType string

// The types of operations.
const (
	Query        OpType = "query"        // one answer, nothing changes
	Mutation     OpType = "mutation"     // one answer, something changes
	Subscription OpType = "subscription" // any number of items, then an end
)

// The bounds of a name, in bytes.
const (
	maxNameBytes    = 200
	maxSegmentBytes = 64
)

// errName is a text that is no operation's name.
var errName = errors.New("segments are letters, digits, '.', '_' and '-' that begin with a letter or digit, at most 64 bytes each and 200 in all")

// validName reports whether s is a name without "@".
func validName[T string | []byte](s T) bool {
	if len(s) == 0 || len(s) > maxNameBytes {
		return false
	}
	start := 0
	for i := range len(s) + 1 {
		if i == len(s) || s[i] == '/' {
			if n := i - start; n == 0 || n > maxSegmentBytes || !alphanumeric(s[start]) {
				return false
			}
			start = i + 1
			continue
		}
		if c := s[i]; !alphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// validRoute is validName with peers behind it: "box/start@worker-a@head-b".
func validRoute(s string) bool {
	if len(s) > maxRouteBytes {
		return false
	}
	name, peers, routed := strings.Cut(s, "@")
	if !routed {
		return validName(name)
	}
	for p := range strings.SplitSeq(peers, "@") {
		if len(p) > maxSegmentBytes || !validName(p) || strings.Contains(p, "/") {
			return false
		}
	}
	return validName(name)
}

// maxRouteBytes bounds a name with its peers.
const maxRouteBytes = maxNameBytes + maxHops*(maxSegmentBytes+1)

// namespace is a name without its last segment.
func namespace(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return ""
}

// validGlob reports whether g is a name, a name with "*" as its last segment,
// "*", or a pinned name.
func validGlob(g string) bool {
	if g == "*" {
		return true
	}
	if p, ok := strings.CutSuffix(g, "/*"); ok {
		return validName(p)
	}
	return validRoute(g)
}

// matchGlob reports whether name is meant by glob g. "fs/*" means everything
// below fs/; pinned names match themselves only.
func matchGlob(g, name string) bool {
	if g == name {
		return true
	}
	if strings.Contains(name, "@") {
		return false
	}
	if g == "*" {
		return true
	}
	p, ok := strings.CutSuffix(g, "*")
	return ok && strings.HasSuffix(p, "/") && strings.HasPrefix(name, p)
}

// matchAny reports whether one of globs means name.
func matchAny(globs []string, name string) bool {
	for _, g := range globs {
		if matchGlob(g, name) {
			return true
		}
	}
	return false
}

// check refuses an operation that cannot be registered.
func (op *Operation) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("call: operation %s: %s", printable.Quote(op.Name), fmt.Sprintf(format, args...))
	}
	f := &op.Func
	switch {
	case !validName(op.Name):
		return bad("%v", errName)
	case f.err != nil:
		return bad("%v", f.err)
	case f.Serve == nil:
		return bad("Func.Serve is nil")
	case f.Type != Query && f.Type != Mutation && f.Type != Subscription:
		return bad("Func.Type %q is none of query, mutation, subscription", f.Type)
	case f.Input != nil && f.shape == nil && f.Check == nil && !f.forward:
		return bad("Func.Input was not inferred: set Func.Check, which package call/schema makes")
	case f.InputStream && f.Type == Query:
		return bad("a query has no stream of input")
	case len(op.Title) > 200 || len(op.Description) > 8<<10:
		return bad("Title has at most 200 bytes and Description 8 KiB")
	case op.Resumable && f.Type != Subscription:
		return bad("only a subscription is Resumable")
	case op.MaxInputBytes < 0 || op.MaxInputBytes > largestFrameBytes || op.MaxOutputBytes < 0 || op.MaxOutputBytes > largestFrameBytes:
		return bad("MaxInputBytes and MaxOutputBytes are from 0 to 64 MiB")
	case op.MaxRunning < 0 || op.Timeout < 0:
		return bad("MaxRunning and Timeout are not negative")
	case op.ResourceID != "" && (op.ResourceID[0] != '/' || op.Access.ResourceType == ""):
		return bad("ResourceID is a JSON Pointer that begins with \"/\", and needs Access.ResourceType")
	case op.ResourceID != "" && f.InputStream:
		return bad("a stream of input has no ResourceID")
	case op.Authority != nil && op.Authority.ID == "":
		return bad("Authority has no ID")
	}
	for _, g := range op.MayCall {
		if !validGlob(g) {
			return bad("MayCall %q is no name and no \"namespace/*\"", g)
		}
	}
	for _, e := range op.Errors {
		if e.Code == "" || plainCode(e.Code) != e.Code {
			return bad("error code %q is not of capital letters, digits and \"_\"", e.Code)
		}
	}
	return nil
}
