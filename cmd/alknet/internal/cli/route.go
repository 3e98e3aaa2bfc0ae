package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
)

// splitOp is the operation and the peer of "ns/verb@peer".
func splitOp(s string) (op, peer string) {
	if i := strings.IndexByte(s, '@'); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
}

// A route is how an operation is reached: over the node here, or over a connection
// of our own.
type route struct {
	call.Caller
	op    string           // by which name
	peer  string           // who is asked; empty: whoever the node chooses
	over  alknet.Transport // of a connection of our own; 0: the node's
	close func()
}

// route finds the first way to an operation.
func (a *app) route(ctx context.Context, w *way, full string) (*route, error) {
	op, peer := splitOp(full)
	chosen := peer == "" || peer == "any" || peer == "all"
	if w.node != nil {
		if chosen {
			return &route{Caller: w.node, op: full, close: func() {}}, nil
		}
		_, err := w.resolve(ctx, peer)
		if w.routes(ctx, full) {
			return &route{Caller: w.node, op: full, peer: peer, close: func() {}}, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if chosen {
		return nil, noRouter(full)
	}
	return w.direct(ctx, op, peer, transports(call.ALPN))
}

// noRouter: only a node knows who serves an operation.
func noRouter(full string) error {
	return fault.New(fault.Unreachable, "no node runs here that could route "+quoted(full), "alknet serve")
}

// direct is a connection of our own.
func (w *way) direct(ctx context.Context, op, peer string, over alknet.Transport) (*route, error) {
	conn, err := w.dial(ctx, peer, over, call.ALPN)
	if err != nil {
		return nil, err
	}
	c := call.NewClient(conn, nil)
	return &route{Caller: c, op: op, peer: peer, over: conn.Transport(), close: func() { _ = c.Close() }}, nil // the process ends
}

// routes reports whether the node has a route to an operation of a peer.
func (w *way) routes(ctx context.Context, full string) bool {
	_, err := w.node.Describe(ctx, full)
	return err == nil
}

// atPeer runs f with a route to an operation. If the route ended before anything ran,
// and nobody said why, the peer is asked over another one, once: the node's link may
// be one that the peer has just cut, and on plain TCP the end of a connection carries
// no reason (docs/protocol.md), so that a refusal looks like a lost connection there.
// f reports whether what may be done only once has begun.
func (a *app) atPeer(ctx context.Context, w *way, full string, f func(*route) (begun bool, err error)) error {
	r, err := a.route(ctx, w, full)
	if err != nil {
		return err
	}
	begun, err := f(r)
	r.close()
	over := r.another(begun, err)
	if over == 0 || ctx.Err() != nil {
		return err
	}
	a.detail("%v: asking %s again over %s", err, plain(r.peer), over)
	op, _ := splitOp(full)
	second, derr := w.direct(ctx, op, r.peer, over)
	if derr != nil {
		if fault.Of(derr).Exit == fault.Denied {
			return derr
		}
		return err // the first failure is what the command was about
	}
	defer second.close()
	_, err = f(second)
	return err
}

// another is over what to try again after err; 0: not at all.
func (r *route) another(begun bool, err error) alknet.Transport {
	ce, ok := errors.AsType[*call.Error](err)
	if !ok || ce.Code != codes.Unavailable || begun && ce.MayHaveRun || r.peer == "" {
		return 0
	}
	if fault.Of(err).Exit != fault.Unreachable {
		return 0 // the peer said why
	}
	switch r.over {
	case 0:
		return transports(call.ALPN)
	case alknet.Raw:
		return alknet.QUIC
	}
	return 0
}
