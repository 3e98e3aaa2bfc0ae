package peer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"
	"strconv"

	"github.com/alkdev/alknet/call"
)

// A spec is an imported operation without the connection it came over. Peers
// that offer the same have the same spec, so that a thousand workers hold one copy.
type spec struct {
	op   call.Operation // Func.Serve is not to be used
	sum  specSum
	refs int // guarded by Graph.mu
}

type specSum [sha256.Size]byte

// interned are the specs in use.
type interned map[specSum]*spec

// intern returns the spec of an imported operation, with one reference more.
func (t interned) intern(op call.Operation) *spec {
	sum := sumOf(&op)
	sp := t[sum]
	if sp == nil {
		op.Func.Serve = nil // it holds the connection
		sp = &spec{op: op, sum: sum}
		t[sum] = sp
	}
	sp.refs++
	return sp
}

// release gives a reference back.
func (t interned) release(sp *spec) {
	if sp.refs--; sp.refs == 0 {
		delete(t, sp.sum)
	}
}

// sumOf is a hash over everything that an import may bring or say.
func sumOf(op *call.Operation) (sum specSum) {
	h := sha256.New()
	text(h, op.Name, op.Title, op.Description, op.Deprecated, op.ResourceID, string(op.Func.Type), string(op.Func.Input), string(op.Func.Output))
	text(h, op.Tags...)
	for _, b := range []bool{op.Idempotent, op.Additive, op.Resumable, op.Internal, op.Func.InputStream} {
		text(h, strconv.FormatBool(b))
	}
	for _, n := range []int64{op.MaxInputBytes, op.MaxOutputBytes, int64(op.MaxRunning), int64(op.Timeout)} {
		text(h, strconv.FormatInt(n, 10))
	}
	text(h, op.Access.RequiredScopes...)
	text(h, op.Access.RequiredScopesAny...)
	text(h, op.Access.ResourceType, op.Access.ResourceAction)
	for _, e := range op.Errors {
		text(h, e.Code, e.Description, string(e.Schema), strconv.Itoa(e.HTTPStatus))
	}
	h.Sum(sum[:0])
	return sum
}

// text adds a list of texts so that no two lists are alike.
func text(h hash.Hash, list ...string) {
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(list)))
	_, _ = h.Write(n[:]) // it never fails
	for _, s := range list {
		binary.BigEndian.PutUint32(n[:], uint32(len(s)))
		_, _ = h.Write(n[:])
		_, _ = h.Write([]byte(s))
	}
}

// admits reports whether two operations are the same to call's gate and to its
// caller: what may stand in for each other under one name.
func (sp *spec) admits(o *spec) bool {
	if sp == o {
		return true
	}
	a, b := &sp.op, &o.op
	return a.Func.Type == b.Func.Type && a.Func.InputStream == b.Func.InputStream && a.Internal == b.Internal &&
		slices.Equal(a.Access.RequiredScopes, b.Access.RequiredScopes) && slices.Equal(a.Access.RequiredScopesAny, b.Access.RequiredScopesAny) &&
		a.Access.ResourceType == b.Access.ResourceType && a.Access.ResourceAction == b.Access.ResourceAction
}

// operation is what call's gate gets for a spec: it serves by routing route, a
// name with or without "@peer".
func (g *Graph) operation(sp *spec, route string) *call.Operation {
	op := sp.op
	o := call.Options{Type: op.Func.Type, InputStream: op.Func.InputStream, MaxReplyBytes: op.MaxOutputBytes}
	to := &caller{g: g, ref: &g.Default, gate: sp}
	op.Func.Serve = func(ctx context.Context, s *call.Stream) error { return s.Forward(ctx, to, route, o) }
	if sel, err := to.selects(g.ctx, route, &o); err == nil && o.Type != call.Subscription && !o.InputStream && g.Default.Hedge == 0 {
		op.Func.HandOn(func(r *call.Request) hop { return sel.handOn(r, &o) })
	}
	return &op
}
