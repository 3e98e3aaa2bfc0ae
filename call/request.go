package call

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/safe"
)

// A Request is the call that a handler serves. It is read-only, and so is what
// its fields share.
type Request struct {
	// ID is the caller's, unique on its connection.
	ID string
	// Operation is the name as called, with "@peer" if it had one.
	Operation string
	// Caller is whom the gate checked.
	Caller alknet.Identity
	// Originator is who asked first, proven by a delegation. Nil: unknown.
	Originator *alknet.Identity
	// Claimed is the unproven forwarded_for of a peer with scope call:forward. It
	// is for logs only.
	Claimed *alknet.Identity
	// Path are the peers that handed the call on, first the farthest.
	Path []alknet.PeerID
	// Trace is the W3C traceparent, and IdempotencyKey the caller's key.
	Trace, IdempotencyKey string
	// ResumeToken is the token of item After.
	ResumeToken string
	// After says where a Resumable subscription is to begin: behind this item.
	// 0: at the beginning.
	After uint64
	// Env calls on under Operation.Authority, within MayCall.
	Env Caller
	// Client is the connection's. Nil: the call was made in this process.
	Client *Client

	c *inCall
}

// RequestFromContext returns the Request that a handler's context belongs to.
func RequestFromContext(ctx context.Context) (*Request, bool) {
	r, ok := ctx.Value(requestKey{}).(*Request)
	return r, ok
}

// request is the Request of the call. It is made when somebody asks for it: most
// handlers do not.
func (c *inCall) request() *Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requestLocked()
}

func (c *inCall) requestLocked() *Request {
	if c.req == nil {
		c.req = &Request{c: c, ID: c.id}
		if c.decided {
			c.req.fill()
		}
	}
	return c.req
}

// fill says what every call has, once its operation is decided.
func (r *Request) fill() {
	c := r.c
	r.Operation, r.Caller, r.Env = c.entry.op.Name, *c.who.id, env{c}
	if c.l != nil {
		r.Client = c.l.client
	}
}

// describe sees to it that the Request says what this call has and others have
// not, while its frame is there.
func (c *inCall) describe(e *entry) {
	forward := c.l != nil && c.l.caller().forward
	c.mu.Lock()
	defer c.mu.Unlock()
	c.decided = true
	m := &c.meta
	pinned := string(m.op) != e.op.Name // with "@peer"
	if c.req == nil && m.some == nil && !pinned && m.after == 0 {
		return
	}
	r, x := c.requestLocked(), m.rare()
	r.fill()
	if pinned {
		r.Operation = string(m.op)
	}
	r.IdempotencyKey = string(x.key)
	if e.op.Resumable {
		r.After, r.ResumeToken = m.after, string(x.resume)
	}
	if validTrace(x.trace) {
		r.Trace = string(x.trace)
	}
	if forward && len(x.claimed) > 0 {
		r.Claimed = parseClaimed(x.claimed)
	}
}

// Capability returns one of the operation's own secrets.
func (r *Request) Capability(name string) (Secret, bool) {
	s, ok := r.c.entry.op.Capabilities[name]
	return s, ok
}

// Go runs f in a goroutine that ends before the call does: the answer waits for
// it. An error of f is the call's if the handler itself has none; a panic ends
// the call at once. It is called by the handler, not by what Go has started.
func (r *Request) Go(f func(ctx context.Context) error) { r.c.spawn(f) }

// spawn is Request.Go.
func (c *inCall) spawn(f func(ctx context.Context) error) {
	failed := func(err error) {
		if pe, ok := errors.AsType[*safe.PanicError](err); ok {
			err = c.panicked(pe)
		}
		c.endWith(asError(err))
	}
	safe.Go(&c.work, failed, func() {
		if err := f(&c.ctx); err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.workErr == nil {
				c.workErr = err
			}
		}
	})
}

// Notice tells the caller what may interest it, such as "lagging". detail is JSON
// or nil. Who does not understand notices gets none.
func (r *Request) Notice(name string, detail []byte) { r.c.notice(name, detail) }

// onward fills in what a call that is handed on inherits.
func (r *Request) onward(o Options) Options {
	op := &r.c.entry.op
	if o.Type == "" {
		o.Type = op.Func.Type
	}
	o.InputStream = op.Func.InputStream
	if o.IdempotencyKey == "" {
		o.IdempotencyKey = r.IdempotencyKey
	}
	if o.After == 0 && o.ResumeToken == "" {
		o.After, o.ResumeToken = r.After, r.ResumeToken
	}
	if o.MaxReplyBytes == 0 {
		o.MaxReplyBytes = op.MaxOutputBytes
	}
	if o.OnNotice == nil {
		o.OnNotice = func(name string, detail json.RawMessage) { r.c.notice(name, detail) }
	}
	return o
}

// An env calls other operations for one that runs.
type env struct{ c *inCall }

// Open calls op under the Authority of the operation that asks.
func (e env) Open(ctx context.Context, op string, o Options) (*Stream, error) {
	c := e.c
	me := &c.entry.op
	op = strings.TrimPrefix(op, "/")
	if me.Authority == nil || !validRoute(op) || !matchAny(me.MayCall, op) {
		return nil, notFound(op).ran(runNo)
	}
	if err := ctx.Err(); err != nil {
		return nil, asError(err).ran(runNo)
	}
	if c.done.Load() {
		return nil, errorf(codes.Cancelled, "the call is over").ran(runNo)
	}
	if o.Trace == "" {
		o.Trace = c.request().Trace
	}
	if o.ContinueRunning {
		var cancel context.CancelFunc
		if ctx, cancel = outlive(ctx); cancel != nil {
			context.AfterFunc(ctx, cancel)
		}
	}
	child := c.h.open(ctx, op, o, c.s.callerFor(*me.Authority))
	child.parent = c
	return child.loc.stream()
}

// outlive is ctx without its end, but with its deadline.
func outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	until, ok := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if !ok {
		return ctx, nil
	}
	return context.WithDeadline(ctx, until)
}

// A caller is an identity, with what is asked of it for every call worked out
// once.
type caller struct {
	id      *alknet.Identity
	count   *running // its running calls; nil: anonymous
	explain bool     // scope call:explain
	forward bool     // scope call:forward

	claimed atomic.Pointer[[]byte] // forwarded_for; nil: not yet made
}

// The scopes that the protocol itself knows.
const (
	scopeExplain  = "call:explain"
	scopeForward  = "call:forward"
	scopeDelegate = "call:delegate"
)

// Operations are what the caller may call, sorted by name, as services/list has
// them.
func (r *Request) Operations() []*Operation {
	ops, _ := r.c.s.visibleTo(r.c.who)
	return ops
}

// Explain is services/explain of an operation for the caller, or for whom the
// token as means: for who puts an operation of its own in its place.
func (r *Request) Explain(ctx context.Context, op, as string) (json.RawMessage, error) {
	out, err := r.c.s.explain(ctx, explainInput{Operation: op, As: as})
	if err != nil {
		return nil, err
	}
	return encoded(&out), nil
}
