// Package call lets a program offer named, typed operations to its peers and
// use theirs, over any [alknet.Conn] and in both directions of one connection.
// ALPN "alknet/call", on QUIC and on one bare TLS connection (Raw).
//
// An operation is a Go function:
//
//	var reg call.Registry
//	err := reg.Register(call.Operation{Name: "math/add", Description: "adds two integers", Func: call.QueryFunc(add)})
//	err = router.Register(call.Service(&call.Handler{Registry: &reg}))
//
// and a call is one too:
//
//	c, err := call.Dial(ctx, ep, addr, nil)
//	sum, err := call.Call[int](ctx, c, "math/add", Sum{2, 3})
//	for now, err := range call.Subscribe[time.Time](ctx, c, "clock/ticks", time.Second) { … }
//
// The wire, the schemas, discovery (services/list, services/schema), access
// control, deadlines, cancellation across nodes, back-pressure and resumption of
// streams come with it. The frames are in docs/protocol.md, section "Call": a
// plain implementation of the base frames in any language is a full client and
// server, and everything newer is negotiated.
//
// Safe by default: an operation needs a caller with an identity unless it says
// AllowAnonymous; what a caller may not call it cannot see either; input is
// decoded once, strictly, and checked against the operation's schema before the
// function runs; every call has a deadline; a token that does not verify is an
// error and never a downgrade; text of a failure leaves the node only in an
// [*Error]; everything that a peer can make us hold has a limit ([Limits]).
package call
