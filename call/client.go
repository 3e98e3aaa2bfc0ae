package call

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/safe"
)

// A Client is one end of a connection, through which we call the peer. The end
// that dialled has it from [Dial] or [NewClient], the end that accepted from
// Handler.OnConnect or Request.Client. All methods may be called concurrently.
type Client struct{ l *link }

// Dial connects to a peer. h serves what the peer calls back and may be nil.
// to.Over 0 tries QUIC and, where UDP is blocked, a bare TLS connection. The
// caller closes the Client.
func Dial(ctx context.Context, e *alknet.Endpoint, to alknet.Addr, h *Handler) (*Client, error) {
	if to.Over == 0 {
		to.Over = alknet.QUIC | alknet.Raw
	}
	conn, err := e.Dial(ctx, to, ALPN)
	if err != nil {
		return nil, err
	}
	return NewClient(conn, h), nil
}

// NewClient takes over a connection of [ALPN] that we dialled. h serves what the
// peer calls back and may be nil.
func NewClient(conn *alknet.Conn, h *Handler) *Client {
	if h == nil {
		h = new(Handler)
	}
	l := newLink(context.Background(), h, conn, true)
	l.runner = new(sync.WaitGroup)
	safe.Go(l.runner, l.crashed, func() {
		_ = l.run()      // Conn says why it ended
		_ = conn.Close() // it is over either way
	})
	safe.Go(l.runner, l.crashed, l.greet)
	return l.client
}

// Conn is the connection.
func (c *Client) Conn() *alknet.Conn { return c.l.conn }

// Done is closed when the connection has ended and every call on it has heard.
func (c *Client) Done() <-chan struct{} { return c.l.donec }

// Close ends the connection. Calls on it fail with UNAVAILABLE, those that run
// here are aborted; at the end that dialled it returns when their handlers have,
// so that a handler must not call it.
func (c *Client) Close() error {
	c.l.sayLast()
	err := c.l.conn.Close()
	c.l.fail(nil)
	if r := c.l.runner; r != nil {
		r.Wait()
	}
	return err
}

// lastWords is how long Close waits for a peer that reads slowly.
const lastWords = time.Second

// sayLast lets what was appended, such as an abort, leave on a Raw connection
// before its end does: its peer cannot tell a connection that was closed from
// one that was lost, and would keep what may be resumed.
func (l *link) sayLast() {
	l.mu.Lock()
	one := l.one
	l.mu.Unlock()
	if one != nil {
		one.w.waitWritten(lastWords)
	}
}

// Open starts a call. The request goes out with the first Send or CloseSend.
func (c *Client) Open(ctx context.Context, op string, o Options) (*Stream, error) {
	out, err := c.l.prepare(ctx, strings.TrimPrefix(op, "/"), o)
	if err != nil {
		return nil, err
	}
	if o.InputStream && out.peer.input { // the request waits for no input
		if err := out.begin(nil, false); err != nil {
			return nil, err
		}
	}
	return &Stream{end: out}, nil
}

// Instance names the peer's process, new at each of its starts; "" for a base
// peer, and until it is known.
func (c *Client) Instance() string { return c.l.features().instance }

// Draining is closed when the peer drains: calls that begin are refused here.
func (c *Client) Draining() <-chan struct{} { return c.l.drainc }

// Settled waits until the peer has said what it understands, or is known to be
// one that says nothing, for at most five seconds after the connection began.
// [Client.Instance] is final then.
func (c *Client) Settled(ctx context.Context) error {
	c.l.settled(ctx)
	return ctx.Err()
}

// Ping asks the peer whether it lives, how long that takes, and how much it has
// to do: 0 nothing, 1 as much as its limits allow. It works while the peer drains.
func (c *Client) Ping(ctx context.Context) (rtt time.Duration, load float64, err error) {
	begun := time.Now()
	out, err := Call[pingOutput](ctx, c, opPing, struct{}{})
	rtt = time.Since(begun)
	if e, ok := errors.AsType[*Error](err); ok && e.Remote && e.Code == codes.NotFound {
		return rtt, 0, nil // a base peer lives too
	}
	return rtt, out.Load, err
}

// unary makes a call of one input and one output.
func (c *Client) unary(ctx context.Context, op string, o Options, in unaryInput, v any) error {
	out, err := c.l.prepare(ctx, op, o)
	if err != nil {
		return err
	}
	out.closed = true
	if err := out.begin(in.data, in.raw); err != nil {
		return err
	}
	it, err := out.recv()
	if err != nil {
		return err
	}
	err = decodeOutput(it.data, it.raw, v)
	c.l.putOut(out)
	return err
}

// A Caller can call: a [Client], a Handler as somebody ([Handler.As]), a
// Request's Env, a route of package peer.
type Caller interface {
	// Open starts a call of op. It may wait until it is known how the peer counts
	// items; the call itself begins with the first Send or CloseSend.
	Open(ctx context.Context, op string, o Options) (*Stream, error)
}

// Options are what a call may say beside its input.
type Options struct {
	// Type is what is expected: "" or Query or Mutation, one output; Subscription,
	// a stream. The typed functions set it.
	Type OpType
	// InputStream: the input is a stream of items. The typed functions set it.
	InputStream bool
	// Token is an auth_token for this call.
	Token string
	// IdempotencyKey has 1 to 128 printable ASCII bytes: a call that is repeated
	// with it towards the same Instance runs once.
	IdempotencyKey string
	// Trace is a W3C traceparent. Empty: that of the Request in ctx.
	Trace string
	// MaxReplyBytes bounds one output frame. 0: Limits.MaxFrameBytes of the
	// Handler that came with the Client, 1 MiB unless that is set.
	MaxReplyBytes int64
	// After resumes a Resumable subscription behind this item ([Stream.Last]).
	After uint64
	// ResumeToken is the token that item After had.
	ResumeToken string
	// Resume continues this subscription, whose connection was lost: exactly
	// behind the item last received, also where the operation is not Resumable, as
	// long as the peer keeps it (Limits.ResumeGrace). It wins over After.
	Resume *Stream
	// ContinueRunning is for Env only: the call survives its caller's abort, not
	// its deadline. One that has not begun by then never does.
	ContinueRunning bool
	// OnNotice gets what the callee thinks worth knowing: "rerouted", "lagging".
	// It must not block.
	OnNotice func(name string, detail json.RawMessage)
}

// check refuses options that no peer would accept.
func (o *Options) check(op string) error {
	switch {
	case !validRoute(op):
		return notFound(op).ran(runNo)
	case o.IdempotencyKey != "" && (len(o.IdempotencyKey) > maxIdempotencyKeyBytes || !printableASCII([]byte(o.IdempotencyKey))):
		return errorf(codes.InvalidRequest, "an IdempotencyKey has 1 to %d printable ASCII bytes", maxIdempotencyKeyBytes).ran(runNo)
	case len(o.Token) > maxTokenBytes:
		return errorf(codes.InvalidRequest, "Token is longer than %d bytes", maxTokenBytes).ran(runNo)
	case len(o.ResumeToken) > maxResumeTokenBytes:
		return errorf(codes.InvalidRequest, "ResumeToken is longer than %d bytes", maxResumeTokenBytes).ran(runNo)
	case o.MaxReplyBytes < 0 || o.MaxReplyBytes > largestFrameBytes:
		return errorf(codes.InvalidRequest, "MaxReplyBytes is from 0 to 64 MiB").ran(runNo)
	}
	return nil
}

// With returns c with options for the typed calls; what is set in o wins over
// what they pass, and over an earlier With.
func With(c Caller, o Options) Caller {
	if w, ok := c.(optioned); ok {
		return optioned{w.c, optioned{o: o}.merge(w.o)}
	}
	return optioned{c, o}
}

// optioned is a Caller with options.
type optioned struct {
	c Caller
	o Options
}

// Open opens with the options of both.
func (w optioned) Open(ctx context.Context, op string, o Options) (*Stream, error) {
	return w.c.Open(ctx, op, w.merge(o))
}

func (w optioned) merge(o Options) Options {
	m := w.o
	if m.Type == "" {
		m.Type = o.Type
	}
	m.InputStream = m.InputStream || o.InputStream
	if m.Token == "" {
		m.Token = o.Token
	}
	if m.IdempotencyKey == "" {
		m.IdempotencyKey = o.IdempotencyKey
	}
	if m.Trace == "" {
		m.Trace = o.Trace
	}
	if m.MaxReplyBytes == 0 {
		m.MaxReplyBytes = o.MaxReplyBytes
	}
	if m.After == 0 && m.ResumeToken == "" {
		m.After, m.ResumeToken = o.After, o.ResumeToken
	}
	if m.Resume == nil {
		m.Resume = o.Resume
	}
	m.ContinueRunning = m.ContinueRunning || o.ContinueRunning
	if m.OnNotice == nil {
		m.OnNotice = o.OnNotice
	}
	return m
}

var _ Caller = (*Client)(nil)
