package forward

import (
	"context"
	"fmt"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// scopeAdmin is the scope of who runs the node.
const scopeAdmin = "node:admin"

// explainIn is the input of forward/explain.
type explainIn struct {
	Identity string   `json:"identity"`
	Scopes   []string `json:"scopes"`
	Op       string   `json:"op"`
	Network  string   `json:"network"`
	Address  string   `json:"address"`
}

// explainOut is what would be decided for one address.
type explainOut struct {
	Address string `json:"address"`
	Allow   bool   `json:"allow"`
	Rule    int    `json:"rule"`
	Reason  string `json:"reason"`
}

// flowsOut is the output of forward/flows.
type flowsOut struct {
	Flows int `json:"flows"`
	// ByIdentity counts them; where they lead is nobody's business here.
	ByIdentity map[string]int `json:"by_identity"`
}

// Operations are the control plane of g, for callers with the scope node:admin:
//
//	forward/explain   what the policy would decide for an identity, and by which rule
//	forward/flows     how many flows are open, by identity, never where they lead
func Operations(g *Gate) []call.Operation {
	admin := alknet.AccessControl{RequiredScopes: []string{scopeAdmin}}
	return []call.Operation{
		{
			Name: "forward/explain", Description: "what the policy decides for an identity", Tags: []string{"forward"}, Access: admin,
			Func: call.QueryFunc(g.explain), Errors: []call.ErrorSpec{{Code: "BAD_TARGET", Description: "no operation, network or address"}},
		},
		{
			Name: "forward/flows", Description: "how many flows are open", Tags: []string{"forward"}, Access: admin,
			Func: call.QueryFunc(func(context.Context, struct{}) (flowsOut, error) { return g.flowCounts(), nil }),
		},
	}
}

func (g *Gate) explain(ctx context.Context, in explainIn) ([]explainOut, error) {
	var op Op
	for _, o := range []Op{OpDial, OpListen, OpPublish} {
		if o.String() == in.Op {
			op = o
		}
	}
	if op == 0 {
		return nil, &call.Error{Code: "BAD_TARGET", Message: "the operation is none of dial, listen, publish"}
	}
	list, err := g.Explain(ctx, &alknet.Identity{ID: in.Identity, Scopes: in.Scopes}, op, in.Network, in.Address)
	if err != nil {
		return nil, &call.Error{Code: "BAD_TARGET", Message: fmt.Sprint(err)}
	}
	out := make([]explainOut, 0, len(list))
	for _, d := range list {
		o := explainOut{Address: d.Address, Allow: d.Allow, Rule: d.Rule, Reason: d.Reason}
		if d.Addr.IsValid() {
			o.Address = d.Addr.String()
		}
		out = append(out, o)
	}
	return out, nil
}

func (g *Gate) flowCounts() flowsOut {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := flowsOut{Flows: len(g.flows), ByIdentity: make(map[string]int, len(g.counts))}
	for id, n := range g.counts {
		out.ByIdentity[id] = n
	}
	return out
}
