package peer

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet/call"
)

// To returns a Caller that routes as r says. A name that is called may still end
// in "@peer", which must then be r's own if that has one.
func (g *Graph) To(r Ref) call.Caller {
	g.init()
	labels := make(map[string]string, len(r.Labels))
	for k, v := range r.Labels {
		labels[k] = v
	}
	r.Labels = labels
	return &caller{g: g, ref: &r}
}

// A caller routes calls.
type caller struct {
	g    *Graph
	ref  *Ref
	gate *spec // what call's gate has checked; nil: the program itself calls
}

// Open starts a routed call.
func (c *caller) Open(ctx context.Context, op string, o call.Options) (*call.Stream, error) {
	sel, err := c.selects(ctx, op, &o)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, ctxError(err)
	}
	if c.gate != nil && o.IdempotencyKey != "" {
		o.IdempotencyKey = keyFor(ctx, o.IdempotencyKey)
	}
	switch {
	case o.InputStream:
		return c.openThrough(ctx, sel, o)
	case o.Type == call.Subscription:
		return carry(newSubscription(ctx, sel, o)), nil
	}
	return carry(newUnary(ctx, sel, o)), nil
}

// A carrier is what a Stream of ours is carried by.
type carrier interface {
	Recv() (data []byte, raw bool, err error)
	Last() (seq uint64, token string)
	Send(data []byte, raw bool) error
	CloseSend() error
	Cancel(err *call.Error)
}

func carry(c carrier) *call.Stream {
	s := new(call.Stream)
	s.Carry(c)
	return s
}

// keyFor makes an idempotency key of the caller's its own: at the peer all our
// callers are one identity, and must not get each other's answers.
func keyFor(ctx context.Context, key string) string {
	id := ""
	if r, ok := call.RequestFromContext(ctx); ok {
		id = r.Caller.ID
	}
	sum := sha256.Sum256([]byte(strconv.Itoa(len(id)) + " " + id + " " + key))
	return base64.RawURLEncoding.EncodeToString(sum[:24])
}

// A troubled call hears that the link of an attempt is in trouble.
type troubled interface{ trouble(a *attempt, why string) }

// An attempt is one call that was sent to a peer.
type attempt struct {
	owner      troubled
	of         *offer
	l          *link
	st         *call.Stream
	begun      time.Time
	listed     bool // guarded by l.mu
	prev, next *attempt
	over       atomic.Bool
}

// open sends the call over a link. The input follows.
func (a *attempt) open(ctx context.Context, sel *selection, o call.Options) error {
	a.start()
	st, err := a.l.c.Open(ctx, a.name(sel), o)
	if err != nil {
		a.end(err)
		return err
	}
	a.st = st
	return nil
}

// start counts the attempt.
func (a *attempt) start() {
	a.over.Store(false)
	a.l.running.Add(1)
	a.of.n.running.Add(1)
	a.l.g.rouse()
	a.begun = time.Now()
}

// name is what the peer calls the operation.
func (a *attempt) name(sel *selection) string { return a.of.remote + sel.onward }

// list has the owner hear of trouble with the link.
func (a *attempt) list() {
	l := a.l
	l.mu.Lock()
	defer l.mu.Unlock()
	a.listed, a.prev, a.next = true, nil, l.first
	if l.first != nil {
		l.first.prev = a
	}
	l.first = a
}

func (a *attempt) unlist() {
	l := a.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if !a.listed {
		return
	}
	a.listed = false
	if a.prev != nil {
		a.prev.next = a.next
	} else {
		l.first = a.next
	}
	if a.next != nil {
		a.next.prev = a.prev
	}
	a.prev, a.next = nil, nil
}

// end notes how the attempt ended, once.
func (a *attempt) end(err error) {
	if !a.over.CompareAndSwap(false, true) {
		return
	}
	a.unlist()
	a.l.running.Add(-1)
	a.of.n.running.Add(-1)
	g := a.l.g
	if g.drains.Load() > 0 {
		g.drained()
	}
	if err == nil {
		g.budget.success()
	}
}

// measured notes how long a unary call took.
func (a *attempt) measured() {
	now := time.Now()
	d := now.Sub(a.begun)
	a.of.lat.add(d, now)
	if rt := a.l.g.route(a.of.name); rt != nil {
		rt.times.add(d)
	}
}
