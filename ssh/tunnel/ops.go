package tunnel

import (
	"context"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// scopeAdmin is the scope of who runs the node.
const scopeAdmin = "node:admin"

// publishedOut is a name that a peer offers.
type publishedOut struct {
	Name     string    `json:"name"`
	Identity string    `json:"identity"`
	Since    time.Time `json:"since"`
	Flows    int       `json:"flows"`
}

// listenersOut counts what peers listen on.
type listenersOut struct {
	// ByIdentity counts listeners and published names.
	ByIdentity map[string]int `json:"by_identity"`
}

// Operations are the control plane of h, for callers with the scope node:admin:
//
//	tunnel/published   the names that peers offer
//	tunnel/listeners   how many listeners and names peers have
func Operations(h *Handler) []call.Operation {
	admin := alknet.AccessControl{RequiredScopes: []string{scopeAdmin}}
	return []call.Operation{
		{
			Name: "tunnel/published", Description: "the names that peers offer", Tags: []string{"tunnel"}, Access: admin,
			Func: call.QueryFunc(func(context.Context, struct{}) ([]publishedOut, error) {
				list := []publishedOut{}
				for _, p := range h.Published() {
					list = append(list, publishedOut{p.Name, who(&p.Identity), p.Since, p.Flows})
				}
				return list, nil
			}),
		},
		{
			Name: "tunnel/listeners", Description: "how many listeners and names peers have", Tags: []string{"tunnel"}, Access: admin,
			Func: call.QueryFunc(func(context.Context, struct{}) (listenersOut, error) { return h.listeners(), nil }),
		},
	}
}

func (h *Handler) listeners() listenersOut {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := listenersOut{ByIdentity: make(map[string]int)}
	for conn, n := range h.held {
		id := conn.Identity()
		out.ByIdentity[who(&id)] += n
	}
	return out
}
