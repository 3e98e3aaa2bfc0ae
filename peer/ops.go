package peer

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"strings"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// The scopes of a graph's operations.
const (
	scopeWatch   = "peer:watch"
	scopeAdmin   = "peer:admin"
	scopeExplain = "call:explain"
)

// Operations are the graph's own, for the Registry of the Handler whose Source it
// is: services/list-peers, services/watch-peers, services/explain and
// services/drain-peer.
func (g *Graph) Operations() []call.Operation {
	needs := func(scope string) alknet.AccessControl { return alknet.AccessControl{RequiredScopes: []string{scope}} }
	return []call.Operation{
		{
			Name: "services/list-peers", Description: "the peers, with the operations of each that the caller may call", AllowAnonymous: true,
			Func: call.QueryFunc(g.listPeers),
		}, {
			Name: "services/watch-peers", Description: "the peers of this moment, then every change", Access: needs(scopeWatch),
			Func: call.SubscriptionFunc(g.watchPeers),
		}, {
			Name: "services/explain", Description: "what the gate decides, step by step, and who would get the call", Access: needs(scopeExplain),
			Func: call.QueryFunc(g.explain),
		}, {
			Name: "services/drain-peer", Description: "gives a peer no new calls and waits until it is idle", Access: needs(scopeAdmin),
			Func: call.MutationFunc(g.drainPeer), Idempotent: true, Timeout: maxDrain + time.Second,
		},
	}
}

// listedOperation is an operation as services/list has it.
type listedOperation struct {
	Name      string      `json:"name"`
	Namespace string      `json:"namespace"`
	OpType    call.OpType `json:"op_type"`
}

type listedPeer struct {
	PeerID     string            `json:"peer_id"`
	Operations []listedOperation `json:"operations"`
}

type peerList struct {
	Peers []listedPeer `json:"peers"`
}

// listPeers is services/list-peers: what the caller may call here and at each
// peer. Peers without any are left out, except this node.
func (g *Graph) listPeers(ctx context.Context, _ struct{}) (peerList, error) {
	r, ok := call.RequestFromContext(ctx)
	if !ok {
		return peerList{}, errors.New("peer: no request")
	}
	local := listedPeer{PeerID: "local", Operations: []listedOperation{}}
	for _, op := range r.Operations() {
		if mine, ok := g.Lookup(op.Name); ok && mine == op {
			continue // a peer's
		}
		local.Operations = append(local.Operations, listOperation(op))
	}
	out := peerList{Peers: []listedPeer{local}}
	for _, i := range g.Peers() {
		p := listedPeer{PeerID: i.ID}
		for _, name := range i.Operations {
			of := g.offerOf(i.ID, name)
			if of == nil || of.spec.op.Internal || r.Caller.ID == "" || of.spec.op.Access.Check(&r.Caller) != nil {
				continue
			}
			p.Operations = append(p.Operations, listOperation(&of.spec.op))
		}
		if len(p.Operations) > 0 {
			out.Peers = append(out.Peers, p)
		}
	}
	return out, nil
}

func listOperation(op *call.Operation) listedOperation {
	space := ""
	if i := strings.LastIndexByte(op.Name, '/'); i >= 0 {
		space = op.Name[:i]
	}
	return listedOperation{op.Name, space, op.Func.Type}
}

// wireEvent is an Event in services/watch-peers.
type wireEvent struct {
	Kind       string    `json:"kind"`
	Peer       string    `json:"peer,omitzero"`
	Reason     string    `json:"reason,omitzero"`
	Generation uint64    `json:"generation,omitzero"`
	At         time.Time `json:"at"`
}

func (g *Graph) watchPeers(ctx context.Context, _ struct{}) iter.Seq2[wireEvent, error] {
	return func(yield func(wireEvent, error) bool) {
		for e := range g.Watch(ctx) {
			if !yield(wireEvent(e), nil) {
				return
			}
		}
		if ctx.Err() == nil {
			yield(wireEvent{}, &call.Error{Code: codes.ResourceExhausted, Message: "limit reached: max_watchers", Retryable: true})
		}
	}
}

// explainInput is the input of services/explain.
type explainInput struct {
	Operation string `json:"operation"`
	As        string `json:"as,omitzero"`
}

type explainOutput struct {
	Gate       json.RawMessage    `json:"gate"`
	Winner     string             `json:"winner,omitzero"`
	Why        string             `json:"why,omitzero"`
	Candidates []explainCandidate `json:"candidates,omitzero"`
}

type explainCandidate struct {
	Peer  string  `json:"peer"`
	OK    bool    `json:"ok"`
	Why   string  `json:"why"`
	Score float64 `json:"score"`
}

// explain is services/explain: the gate's steps, then who would get the call.
func (g *Graph) explain(ctx context.Context, in explainInput) (explainOutput, error) {
	r, ok := call.RequestFromContext(ctx)
	if !ok {
		return explainOutput{}, errors.New("peer: no request")
	}
	var out explainOutput
	var err error
	if out.Gate, err = r.Explain(ctx, in.Operation, in.As); err != nil {
		return out, err
	}
	name := strings.TrimPrefix(in.Operation, "/")
	if base, _ := innermost(name); g.route(base) == nil {
		return out, nil
	}
	ex := g.Explain(name, g.Default)
	out.Winner, out.Why = ex.Winner, ex.Why
	for _, c := range ex.Candidates {
		out.Candidates = append(out.Candidates, explainCandidate(c))
	}
	return out, nil
}

// maxDrain is how long services/drain-peer may wait.
const maxDrain = 10 * time.Minute

type drainInput struct {
	Peer    string `json:"peer"`
	GraceMS int64  `json:"grace_ms,omitzero"`
}

func (g *Graph) drainPeer(ctx context.Context, in drainInput) (struct{}, error) {
	grace := maxDrain
	if in.GraceMS > 0 {
		grace = min(time.Duration(in.GraceMS)*time.Millisecond, maxDrain)
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if g.node(in.Peer) == nil {
		return struct{}{}, &call.Error{Code: codes.NotFound, Message: "no such peer"}
	}
	if err := g.Drain(ctx, in.Peer); err != nil {
		return struct{}{}, &call.Error{Code: codes.Timeout, Message: "calls are still running there", Retryable: true, Err: err}
	}
	return struct{}{}, nil
}

// Operations are the Book's own, for a Handler's Registry: services/rotate-key,
// with which a known peer replaces a key of its own.
func (b *Book) Operations() []call.Operation {
	return []call.Operation{{
		Name: "services/rotate-key", Description: "takes a successor statement for a key of the caller's own", Idempotent: true,
		Func: call.MutationFunc(b.rotateKey),
	}}
}

type rotateInput struct {
	Statement string `json:"statement"`
}

func (b *Book) rotateKey(ctx context.Context, in rotateInput) (struct{}, error) {
	r, ok := call.RequestFromContext(ctx)
	if !ok || r.Caller.ID == "" {
		return struct{}{}, &call.Error{Code: codes.Forbidden, Message: "authentication required"}
	}
	return struct{}{}, statementError(b.succeed(in.Statement, r.Caller.ID))
}

// statementError is what the sender of a statement hears.
func statementError(err error) error {
	if errors.Is(err, ErrSuccessor) {
		return &call.Error{Code: codes.Forbidden, Message: "the statement is not taken", Err: err}
	}
	return err
}
