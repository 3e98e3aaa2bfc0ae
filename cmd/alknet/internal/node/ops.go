package node

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
)

// SignIn is the input of node/sign.
type SignIn struct {
	Message []byte `json:"message"` // for people
}

// SignOut is its output.
type SignOut struct {
	Signature []byte `json:"signature"` // 64 bytes
}

// StopIn is the input of node/stop.
type StopIn struct {
	Now bool `json:"now,omitzero"` // cut what runs
}

// ReloadOut is the output of node/reload.
type ReloadOut struct {
	Problems []config.Problem `json:"problems"` // what is wrong
	Changed  []string         `json:"changed"`  // keys with other values
	Restart  []string         `json:"restart"`  // keys that only a restart applies
	Before   string           `json:"before"`   // SHA-256 of the configuration
	After    string           `json:"after"`    // the same of the new one
}

// ResolveIn is the input of node/resolve.
type ResolveIn struct {
	Peer string `json:"peer"` // its id, or empty
}

// Resolved is where a peer is.
type Resolved struct {
	ID    string   `json:"id"`    // in the book; empty: nobody we know
	Keys  []string `json:"keys"`  // that may answer
	Addrs []string `json:"addrs"` // HOST:PORT
}

// controlOperations are for the operator only.
func (n *Node) controlOperations(ag *agent) []call.Operation {
	sign := func(_ context.Context, in SignIn) (SignOut, error) {
		sig, err := ag.sign(in.Message)
		return SignOut{sig}, remote(err)
	}
	stop := func(_ context.Context, in StopIn) (string, error) {
		n.requestStop(in.Now)
		return "stopping", nil
	}
	resolve := func(_ context.Context, in ResolveIn) (Resolved, error) {
		r, err := n.known.resolve(in.Peer)
		return r, remote(err)
	}
	ops := []call.Operation{
		{Name: "node/sign", Description: "signs the handshake of a TLS client with the node's key", Func: call.MutationFunc(sign)},
		{Name: "node/stop", Description: "drains and ends the node", Func: call.MutationFunc(stop)},
		{Name: "node/resolve", Description: "where a peer is and which keys may answer", Func: call.QueryFunc(resolve), Errors: nodeErrors},
	}
	ops = append(append(ops, n.operatorPeerOperations()...), n.vaultOperations()...)
	return append(ops, n.sharedOperations()...)
}

// networkOperations are the ones that peers with the scopes may use too.
func (n *Node) networkOperations() []call.Operation {
	ops := n.sharedOperations()
	for i := range ops {
		scope := "node:admin"
		if ops[i].Func.Type != call.Mutation && !strings.HasPrefix(ops[i].Name, "node/peers/") {
			scope = "node:read"
		}
		ops[i].Access = alknet.AccessControl{RequiredScopes: []string{scope}}
	}
	return ops
}

func (n *Node) sharedOperations() []call.Operation {
	status := func(context.Context, struct{}) (Status, error) { return n.Status(), nil }
	explain := func(context.Context, struct{}) ([]config.Setting, error) { return n.File().Explain(), nil }
	reload := func(context.Context, struct{}) (ReloadOut, error) { return n.Reload(), nil }
	drain := func(context.Context, struct{}) (string, error) {
		n.requestStop(false)
		return "draining", nil
	}
	return append([]call.Operation{
		{Name: "node/status", Description: "the status document alknet.status/1", Func: call.QueryFunc(status)},
		{Name: "node/events", Description: "what happens from now on", Func: call.SubscriptionFunc(n.watchEvents)},
		{Name: "node/explain", Description: "value and origin of every key of the configuration", Func: call.QueryFunc(explain)},
		{Name: "node/reload", Description: "applies the configuration as it is now, or nothing of it", Func: call.MutationFunc(reload)},
		{Name: "node/drain", Description: "refuses new work, finishes what runs, ends the node", Func: call.MutationFunc(drain)},
	}, n.peerOperations()...)
}

// requestStop tells whoever started the node that it is to stop.
func (n *Node) requestStop(now bool) {
	select {
	case n.stopRequests <- now:
	default: // it has been told
	}
}

// StopRequests are the stops that were asked for over the control socket; true:
// at once. Whoever started the node obeys them.
func (n *Node) StopRequests() <-chan bool { return n.stopRequests }

func (n *Node) watchEvents(ctx context.Context, _ struct{}) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		events, stop := n.events.watch()
		if events == nil {
			yield(Event{}, &call.Error{Code: codes.ResourceExhausted, Message: "64 watch already"})
			return
		}
		defer stop()
		for {
			select {
			case e := <-events:
				if !yield(e, nil) {
					return
				}
			case <-ctx.Done():
				return
			case <-n.ctx.Done():
				return
			}
		}
	}
}

// remote makes an error that the operator may read in full.
func remote(err error) error {
	if err == nil {
		return nil
	}
	f := fault.Of(err)
	code := codes.Internal
	switch f.Exit {
	case fault.Denied:
		code = codes.Forbidden
	case fault.Unknown:
		code = "UNKNOWN_PEER"
	case fault.Usage, fault.Config:
		code = codes.InvalidInput
	case fault.Busy:
		code = codes.ResourceExhausted
	case fault.Unreachable:
		code = codes.Unavailable
	case fault.Deadline:
		code = codes.Timeout
	case fault.NotServed:
		code = codes.NotFound
	case fault.Integrity:
		code = codes.DataLoss
	case fault.Passphrase:
		code = "PASSPHRASE"
	case fault.Failed:
		code = "FAILED"
	}
	if ce, ok := errors.AsType[*call.Error](err); ok {
		return ce
	}
	return &call.Error{Code: code, Message: f.Error(), Err: err}
}

// nodeErrors are what node operations declare.
var nodeErrors = []call.ErrorSpec{{Code: "PASSPHRASE", Description: "the passphrase or the phrase is wrong"}, {Code: "UNKNOWN_PEER", Description: "nobody of that name is known"}, {Code: "FAILED", Description: "the message says why"}}
