package call

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/call/internal/guard"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/strictjson"
)

// An Import says which of a peer's operations become ours. The zero value takes
// none.
type Import struct {
	// Allow are globs on the peer's names: "box/*".
	Allow []string
	// Prefix "gpu" makes box/start "gpu/box/start" here.
	Prefix string
	// Export: our callers may reach them through us; else they are Internal.
	Export bool
	// Access is checked here first; the peer checks its own after.
	Access alknet.AccessControl
	// MaxOperations and MaxSchemaBytes bound what is taken. 0: 1,000 and 1 MiB.
	MaxOperations, MaxSchemaBytes int
	// Token is an auth_token for the questions and for every call.
	Token string
}

// The defaults of Import, and what a list may have.
const (
	defaultImportOperations = 1000
	defaultImportBytes      = 1 << 20
	maxImportPages          = 64
	maxImportProblems       = 32
	importAtOnce            = 16
)

// reserved are the namespaces that no import brings.
var reserved = []string{"services/", "test/", "channel/"}

func isReserved(name string) bool {
	return slices.ContainsFunc(reserved, func(p string) bool { return strings.HasPrefix(strings.ToLower(name), p) })
}

// Describe asks the peer for one operation. Its Func calls the peer.
func (c *Client) Describe(ctx context.Context, op string) (Operation, error) {
	var sp spec
	raw, err := Call[json.RawMessage](ctx, c, opSchema, schemaInput{Name: strings.TrimPrefix(op, "/")})
	if err != nil {
		return Operation{}, err
	}
	if sp, err = parseSpec(raw); err != nil {
		return Operation{}, errorf(codes.Internal, "the peer's description of %s is not one", printable.Quote(op)).ran(runYes).because(err)
	}
	return c.operation(sp, Import{})
}

// parseSpec reads a description. Members that are newer than we are, are ignored.
func parseSpec(raw []byte) (spec, error) {
	var sp spec
	err := strictjson.Decode(raw, &sp)
	return sp, err
}

// errImport is a peer's operation that was not taken.
var errImport = errors.New("not imported")

// operation makes one of ours of a peer's description.
func (c *Client) operation(sp spec, im Import) (Operation, error) {
	skip := func(why string) (Operation, error) {
		return Operation{}, fmt.Errorf("call: %s: %w: %s", printable.Quote(sp.Name), errImport, why)
	}
	switch {
	case !validName(sp.Name):
		return skip("its name is none")
	case sp.OpType != Query && sp.OpType != Mutation && sp.OpType != Subscription:
		return skip("its op_type " + printable.Quote(string(sp.OpType)) + " is not known")
	case sp.OpType == Query && sp.InputStream:
		return skip("a query has no stream of input")
	}
	name := sp.Name
	if im.Prefix != "" {
		name = im.Prefix + "/" + name
	}
	op := Operation{
		Name: name, Title: shorten(sp.Title, 200), Description: shorten(sp.Description, 8<<10), Deprecated: sp.Deprecated,
		Idempotent: sp.Idempotent || sp.OpType == Query, Additive: sp.Additive, Resumable: sp.Resumable && sp.OpType == Subscription,
		Internal: !im.Export, Access: im.Access,
		MaxInputBytes:  min(max(sp.MaxInput, 0), largestFrameBytes),
		MaxOutputBytes: min(max(sp.MaxOutput, 0), largestFrameBytes),
	}
	if !validName(op.Name) {
		return skip("its name is too long behind the prefix")
	}
	if len(sp.Tags) <= 32 {
		op.Tags = sp.Tags
	}
	for _, e := range sp.ErrorSchemas {
		if e.Code == "" || plainCode(e.Code) != e.Code || len(e.Code) > 64 || len(op.Errors) == 64 {
			continue
		}
		es := ErrorSpec{Code: e.Code, Description: shorten(e.Description, 1<<10)}
		if e.HTTPStatus != nil && *e.HTTPStatus >= 400 && *e.HTTPStatus <= 599 {
			es.HTTPStatus = *e.HTTPStatus
		}
		op.Errors = append(op.Errors, es)
	}
	for _, s := range []json.RawMessage{sp.InputSchema, sp.OutputSchema} {
		if len(absentNull([]byte(s))) == 0 {
			continue
		}
		if err := guard.Check(s); err != nil {
			return skip(err.Error())
		}
	}
	op.Func = Func{
		Type: sp.OpType, InputStream: sp.InputStream, Input: absentNull([]byte(sp.InputSchema)), Output: absentNull([]byte(sp.OutputSchema)),
		Serve: forwarder(c, sp, im.Token), forward: true,
	}
	return op, op.check()
}

// shorten cuts a text of the peer's at a bound.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// forwarder serves an operation by calling it at the peer, bytes for bytes.
func forwarder(c *Client, sp spec, token string) HandlerFunc {
	return func(ctx context.Context, s *Stream) error {
		return s.Forward(ctx, c, sp.Name, Options{Type: sp.OpType, InputStream: sp.InputStream, Token: token, MaxReplyBytes: sp.MaxOutput})
	}
}

// Import takes operations of the peer: what im allows, but no reserved names,
// no names that differ in letter case only, and nothing that cannot be
// understood. Their Func forwards to the peer over this connection, whose end
// makes them UNAVAILABLE. With the operations comes an error that lists what was
// skipped, or why nothing could be asked.
func (c *Client) Import(ctx context.Context, im Import) ([]Operation, error) {
	if len(im.Allow) == 0 {
		return nil, nil
	}
	if im.Prefix != "" && !validName(im.Prefix) {
		return nil, fmt.Errorf("call: import: Prefix %q: %w", im.Prefix, errName)
	}
	if im.MaxOperations == 0 {
		im.MaxOperations = defaultImportOperations
	}
	if im.MaxSchemaBytes == 0 {
		im.MaxSchemaBytes = defaultImportBytes
	}
	specs, problems, err := c.specs(ctx, im)
	if err != nil {
		return nil, fmt.Errorf("call: import: %w", err)
	}
	var ops []Operation
	names := make(map[string]string)
	for _, sp := range specs {
		op, err := c.operation(sp, im)
		if err == nil {
			if had, twin := names[strings.ToLower(op.Name)]; twin {
				err = fmt.Errorf("call: %s: %w: %w by %s", printable.Quote(sp.Name), errImport, ErrDuplicate, printable.Quote(had))
			}
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		names[strings.ToLower(op.Name)] = op.Name
		ops = append(ops, op)
	}
	if n := len(problems); n > maxImportProblems {
		problems = append(problems[:maxImportProblems], fmt.Errorf("call: and %d more: %w", n-maxImportProblems, errImport))
	}
	return ops, errors.Join(problems...)
}

// specs asks for what im allows.
func (c *Client) specs(ctx context.Context, im Import) (specs []spec, problems []error, err error) {
	caller := With(c, Options{Token: im.Token})
	in := listInput{Detail: true, Limit: defaultPage}
	bytes := 0
	for range maxImportPages {
		page, err := Call[listOutput](ctx, caller, opList, in)
		if err != nil {
			return nil, nil, err
		}
		for _, raw := range page.Operations {
			var short listed
			if err := strictjson.Decode(raw, &short); err != nil {
				problems = append(problems, fmt.Errorf("call: an entry of the list: %w: %w", errImport, err))
				continue
			}
			if !matchAny(im.Allow, short.Name) || isReserved(short.Name) {
				continue
			}
			if bytes += len(raw); bytes > im.MaxSchemaBytes || len(specs) >= im.MaxOperations {
				problems = append(problems, fmt.Errorf("call: %w: more than %d operations or %d bytes", errImport, im.MaxOperations, im.MaxSchemaBytes))
				return specs, problems, nil
			}
			sp, err := parseSpec(raw)
			if err != nil {
				problems = append(problems, fmt.Errorf("call: %s: %w: %w", printable.Quote(short.Name), errImport, err))
				continue
			}
			specs = append(specs, sp)
		}
		if page.Etag == "" { // a base peer lists names only
			return c.describeAll(ctx, caller, im, specs, problems)
		}
		if page.Next == "" || page.Next <= in.Cursor {
			return specs, problems, nil
		}
		in.Cursor = page.Next
	}
	return specs, problems, nil
}

// describeAll asks a base peer for each operation, some at a time.
func (c *Client) describeAll(ctx context.Context, caller Caller, im Import, names []spec, problems []error) ([]spec, []error, error) {
	var mu sync.Mutex
	out := make([]*spec, len(names))
	bytes := 0
	each(len(names), importAtOnce, func(i int) {
		raw, err := Call[json.RawMessage](ctx, caller, opSchema, schemaInput{Name: names[i].Name})
		var sp spec
		if err == nil {
			sp, err = parseSpec(raw)
		}
		mu.Lock()
		defer mu.Unlock()
		bytes += len(raw)
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("call: %s: %w: %w", printable.Quote(names[i].Name), errImport, err))
		case bytes > im.MaxSchemaBytes:
			problems = append(problems, fmt.Errorf("call: %s: %w: more than %d bytes of schemas", printable.Quote(names[i].Name), errImport, im.MaxSchemaBytes))
		case sp.Name != names[i].Name:
			problems = append(problems, fmt.Errorf("call: %s: %w: described as another", printable.Quote(names[i].Name), errImport))
		default:
			out[i] = &sp
		}
	})
	var specs []spec
	for _, sp := range out {
		if sp != nil {
			specs = append(specs, *sp)
		}
	}
	return specs, problems, ctx.Err()
}
